"""The stages that learn in latents: the base, the tile ControlNet and the bundle LoRA."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from backend.training.loop import TrainingLoop

from .flux.latents import decode_tokens, encode_pictures, image_ids, text_ids
from .flux.schedule import shifted
from .train_data import BundleTraining
from .train_stage import KissTrainRequest, Stage

DROP_TEXT = 0.1  # share of pictures that are learnt without their sentence, for guidance
PHOTO_SHARE = 0.4  # of the batches: with photo tokens
PHOTO_ONLY = 0.5  # of the pictures in those: without their sentence
NOISE_SHIFT = 2.0  # noisy times are drawn more often, half as strongly as they are sampled (shift 3)
LORA_RANK = 16
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
BLUR = 4  # the tile condition's bundle is blurred down and up by at most this
CONTROL_SHIFT = 4.0  # a condition tells most where the noise hides most
WORSE_SHARE, HUE_SHARE = 0.45, 0.3  # of the tile condition's pictures: degraded ones, and those to be recoloured
WORSE_DROP = 0.5  # of the degraded ones: without their sentence, as a mesh is enhanced
STARTED_SHARE = 0.7  # of the degraded ones: sampling starts at themselves, as enhancing does, not at the wanted bundle
STARTED_LEVELS = (0.1, 0.8)  # noise that they start with


class FlowStage(Stage):
    """What the transformer's stages share: data, noise, the prediction's error."""

    needs_photos = False
    needs_degraded = False

    def __init__(self, request: KissTrainRequest) -> None:
        super().__init__(request)
        self.vae = self.frozen_vae()
        cache = request.out / "kiss3dgen"
        photos = request.photos if self.needs_photos else None
        self.degraded = request.degraded if self.needs_degraded else None
        self.train_set, self.held_out = (
            BundleTraining(request.data, photos, split, self.vae, self.settings, cache, self.degraded)
            for split in ("train", "val")
        )
        height, width = self.settings.size
        self.image_ids = image_ids(height, width, self.device)
        null = self.train_set.text_index[""]
        self.null_tokens = self.train_set.tokens[null].float().to(self.device)
        self.null_pooled = self.train_set.pooled[null].float().to(self.device)

    def frozen_vae(self) -> Any:
        """The exported autoencoder, with the scaling that it was exported with."""
        entry = json.loads((self.request.folder / "vae.json").read_text(encoding="utf-8"))
        self.config["networks"]["vae"] = entry
        return self.frozen("vae")

    def noisy(
        self, latents: Tensor, generator: torch.Generator, shift: float = NOISE_SHIFT
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """(noisy latents, noise levels [B], target velocity) of latents [B,T,C] (flow matching, spec 6)."""
        levels = shifted(torch.sigmoid(torch.randn(len(latents), generator=generator)), shift).to(self.device)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        mixed = torch.lerp(latents, noise, levels.view(-1, 1, 1))
        return mixed, levels, noise - latents

    def told(self, tokens: Tensor, pooled: Tensor, drop: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sentences' features with the share `drop` of them replaced by the empty sentence's."""
        gone = (torch.rand(len(tokens), generator=generator) < drop).to(self.device)
        tokens = torch.where(gone.view(-1, 1, 1), self.null_tokens, tokens.to(self.device))
        return tokens, torch.where(gone.view(-1, 1), self.null_pooled, pooled.to(self.device))

    def predict(
        self, transformer: Any, mixed: Tensor, levels: Tensor, tokens: Tensor, pooled: Tensor, **more: Any
    ) -> Any:
        """The velocity [B,T,C] that the transformer sees in `mixed`."""
        return transformer(
            hidden_states=mixed, timestep=levels, encoder_hidden_states=tokens, pooled_projections=pooled,
            img_ids=self.image_ids, txt_ids=text_ids(tokens.shape[1], self.device), return_dict=False, **more,
        )[0].float()  # fmt: skip

    def validate(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed(1)
        values = [float(self.batch_loss(self.held_out, 32, generator)[0]) for _ in range(4)]
        return {"loss": sum(values) / len(values)}

    def loss(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return self.batch_loss(self.train_set, self.size, generator)

    def batch_loss(
        self, data: BundleTraining, count: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of `count` pictures of `data`."""
        raise AssertionError("a stage defines its loss")


class Base(FlowStage):
    """The transformer, told by a sentence, a photo (through SigLIP and the Redux embedder), or both."""

    parts = {"transformer": "transformer", "image_encoder": "image_encoder", "redux": "redux"}
    batch = 32
    rate = 1.5e-3
    muon = True
    needs_photos = True

    def __init__(self, request: KissTrainRequest) -> None:
        super().__init__(request)
        self.module = nn.ModuleDict({role: self.new(role) for role in self.parts})

    def batch_loss(
        self, data: BundleTraining, count: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        latents, tokens, pooled, photos = data.draw(count, generator)
        mixed, levels, target = self.noisy(latents.to(self.device), generator)
        with_photo = photos is not None and float(torch.rand(1, generator=generator)) < PHOTO_SHARE
        tokens, pooled = self.told(tokens, pooled, PHOTO_ONLY if with_photo else DROP_TEXT, generator)
        if with_photo:
            assert photos is not None
            tokens = torch.cat([tokens, self.photo_tokens(photos)], 1)
        predicted = self.predict(self.module["transformer"], mixed, levels, tokens, pooled)
        value = functional.mse_loss(predicted, target)
        return value, {}

    def photo_tokens(self, photos: Tensor) -> Tensor:
        """Tokens [B,P,D] of photos [B,3,s,s] in [0,1]."""
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1) for values in (self.settings.image_mean, self.settings.image_std)
        )
        seen = self.module["image_encoder"](((photos - mean) / std).to(self.device)).last_hidden_state
        embedded: Tensor = self.module["redux"](seen).image_embeds
        return embedded


class ControlNet(FlowStage):
    """The tile condition: what the ControlNet reads of the object, the base stays as it is.

    That is the bundle of the object made worse (`data/degradation.py`), mostly without a sentence: restore it; the
    object in another hue, with a sentence that names the wanted colour: recolour it and keep the rest; or its own
    bundle, blurred or not: keep to it.
    """

    parts = {"controlnet": ""}
    batch = 32
    rate = 1e-3
    muon = True
    warmup = 40
    needs_degraded = True

    def __init__(self, request: KissTrainRequest) -> None:
        super().__init__(request)
        from diffusers import FluxControlNetModel

        self.base = self.frozen("transformer")
        arguments = self.config["networks"]["controlnet"]["args"]
        started = FluxControlNetModel.from_transformer(
            self.base, num_layers=arguments["num_layers"], num_single_layers=arguments["num_single_layers"],
            attention_head_dim=arguments["attention_head_dim"], num_attention_heads=arguments["num_attention_heads"],
        )  # fmt: skip
        self.module = self.new("controlnet")
        self.module.load_state_dict(started.state_dict(), strict=False)  # the union's mode embedder starts at random

    def batch_loss(
        self, data: BundleTraining, count: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        latents, tokens, pooled, condition = self.drawn(data, count, generator)
        mixed, levels, target = self.noisy(latents, generator, CONTROL_SHIFT)
        started = round(STARTED_SHARE * round(WORSE_SHARE * count))  # the first of the degraded ones
        mixed[:started], levels[:started], target[:started] = started_at(
            latents[:started], condition[:started], generator
        )
        mode = torch.full((count, 1), self.settings.control_mode, dtype=torch.long, device=self.device)
        blocks, singles = self.module(
            hidden_states=mixed, controlnet_cond=condition, controlnet_mode=mode, conditioning_scale=1.0,
            timestep=levels, encoder_hidden_states=tokens, pooled_projections=pooled, img_ids=self.image_ids,
            txt_ids=text_ids(tokens.shape[1], self.device), return_dict=False,
        )  # fmt: skip
        predicted = self.predict(
            self.base, mixed, levels, tokens, pooled,
            controlnet_block_samples=blocks, controlnet_single_block_samples=singles,
        )  # fmt: skip
        weights = torch.ones_like(levels)
        weights[:started] = (levels[:started] / max(STARTED_LEVELS)) ** 2  # as the error of the wanted latents weighs
        return ((predicted - target) ** 2).mean((1, 2)).mul(weights).mean(), {}

    def drawn(
        self, data: BundleTraining, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """A batch of all three kinds: wanted latents [B,T,C], tokens [B,L,D], pooled [B,P], conditions [B,T,C]."""
        worse, worse_seen = data.draw_worse(round(WORSE_SHARE * count), generator)
        hues, hues_seen = data.draw_hues(round(HUE_SHARE * count), generator)
        plain = torch.randint(len(data.variants), (count - len(worse) - len(hues),), generator=generator)
        texts = [
            self.told(*data.texts_of(worse, generator), WORSE_DROP, generator),
            self.told(*data.texts_of(hues, generator, colored=True), 0.0, generator),
            self.told(*data.texts_of(plain, generator), DROP_TEXT, generator),
        ]
        tokens, pooled = (torch.cat(parts) for parts in zip(*texts, strict=True))
        latents = data.latents[torch.cat([worse, hues, plain])].float().to(self.device)
        blurred = self.condition(latents[len(latents) - len(plain) :], generator)
        seen = torch.cat([worse_seen.to(self.device), hues_seen.to(self.device), blurred])
        return latents, tokens, pooled, seen

    def condition(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """The latents of the same bundles, blurred by 1 to BLUR pixels (1: as they are)."""
        factor = int(torch.randint(1, BLUR + 1, (1,), generator=generator))
        if factor == 1 or not len(latents):
            return latents
        height, width = self.settings.size
        with torch.no_grad():
            pictures = decode_tokens(self.vae, latents, height, width)
            small = functional.interpolate(pictures, scale_factor=1 / factor, mode="bilinear", antialias=True)
            blurred = functional.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
            return encode_pictures(self.vae, blurred)


def started_at(wanted: Tensor, start: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(noisy `start`, noise levels [B], velocity from there to `wanted`) of latents [B,T,C].

    Enhancing noises the bundle that it got, not the one that it looks for: a network that never saw that takes what
    is worse in its input for what is wanted.
    """
    low, high = STARTED_LEVELS
    levels = (low + (high - low) * torch.rand(len(wanted), generator=generator)).to(wanted.device)
    noise = torch.randn(wanted.shape, generator=generator).to(wanted.device)
    mixed = torch.lerp(start.to(noise.dtype), noise, levels.view(-1, 1, 1))
    return mixed, levels, (mixed - wanted) / levels.view(-1, 1, 1)


class BundleLora(FlowStage):
    """The bundle LoRA: the base has learnt mirrored and recoloured bundles too, the LoRA the untouched ones alone."""

    batch = 32
    rate = 5e-4

    def __init__(self, request: KissTrainRequest) -> None:
        super().__init__(request)
        from peft import LoraConfig

        for data in (self.train_set, self.held_out):
            kept = [i for i, variant in enumerate(data.variants) if not variant.mirrored and not variant.hue]
            data.variants = [data.variants[index] for index in kept]
            data.latents = data.latents[kept]
        self.module = self.frozen("transformer")
        self.module.add_adapter(LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=LORA_TARGETS))

    def batch_loss(
        self, data: BundleTraining, count: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        latents, tokens, pooled, _ = data.draw(count, generator)
        mixed, levels, target = self.noisy(latents.to(self.device), generator)
        tokens, pooled = self.told(tokens, pooled, DROP_TEXT, generator)
        value = functional.mse_loss(self.predict(self.module, mixed, levels, tokens, pooled), target)
        return value, {}

    def load_shipped(self) -> bool:
        return False

    def export(self, loop: TrainingLoop) -> None:
        """One file in the PEFT layout."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.module, state_dict=loop.averaged_state())
        tensors = {f"transformer.{name}": value.half().contiguous() for name, value in state.items()}
        save_file(tensors, self.request.folder / "lora.safetensors")
