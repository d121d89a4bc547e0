"""Training of Kiss3DGen mini on true bundles (`backend.data.bundles`), spec section 11 at small numbers.

Stages, in the order they need each other: `vae`; `base`, the transformer with the Redux encoder; then `controlnet`
(the tile condition) and `lora` (the bundle LoRA) on the frozen base. Each writes its run below `OUT/kiss3dgen/<stage>`
and, with export, its averaged weights into the folder that the pipeline loads.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from backend.contract.errors import MaquetteError
from backend.data.bundles import BundleDataset
from backend.training.checkpoints import load_strict, load_tensors, save_model
from backend.training.loop import LoopSettings, TrainingLoop

from .flux.config import build, read_config, read_settings
from .flux.latents import decode_tokens, encode_pictures, image_ids, text_ids
from .flux.places import MINI_FOLDER
from .train_data import BundleTraining

logger = logging.getLogger(__name__)

DROP_TEXT = 0.1  # share of pictures that are learnt without their sentence, for guidance
PHOTO_SHARE = 0.4  # of the batches: with photo tokens
PHOTO_ONLY = 0.5  # of the pictures in those: without their sentence
NOISE_SHIFT = 2.0  # noisy times are drawn more often, half as strongly as they are sampled (shift 3)
LATENT_NOISE = 0.03  # added to latents before they are decoded: what the flow makes is never exact
LATENT_LIMIT = 12.0  # larger latents cost
LINEAR_TILES = 4000  # whose principal components the autoencoder starts as
CROP = 32  # pixels of what the autoencoder learns from: most of a tile is white
EDGE_WEIGHT = 0.25  # of the difference of neighbouring pixels, against the pixels themselves
LORA_RANK = 16
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
BLUR = 4  # the tile condition's bundle is blurred down and up by at most this


@dataclass(frozen=True)
class KissTrainRequest:
    """What the command line asks for. `batch`, `rate` 0 take the stage's own."""

    stage: str
    data: Path
    out: Path
    config: str
    minutes: float
    resume: bool
    export: bool
    device: str
    batch: int
    rate: float
    total: int
    seed: int
    photos: Path | None = None
    export_to: Path | None = None
    steps: int = 0

    @property
    def folder(self) -> Path:
        """Where the exported weights lie."""
        return self.export_to or MINI_FOLDER


class Stage:
    """One stage: its module, its loss on a random batch and what it exports."""

    batch = 32
    rate = 1e-3
    muon = False
    workers_on_cpu = 2
    parts: dict[str, str] = {}
    """Role of each network that the stage trains, and its name inside `module` ("" for the module itself)."""

    def __init__(self, request: KissTrainRequest) -> None:
        self.request, self.device = request, torch.device(request.device)
        self.config = read_config(request.config)
        self.settings = read_settings(self.config)
        self.workers = min(os.cpu_count() or 1, self.workers_on_cpu) if self.device.type == "cpu" else 1
        self.size = max(1, (request.batch or self.batch) // self.workers)
        torch.manual_seed(request.seed)

    module: nn.Module

    def new(self, role: str) -> nn.Module:
        """A network as its class starts it."""
        return build(self.config["networks"][role]).to(self.device)

    def frozen(self, role: str) -> Any:
        """The exported network `role`. Errors: `MaquetteError` model_missing: its stage comes first."""
        network = self.new(role)
        tensors = {name: tensor.float() for name, tensor in load_tensors(self.request.folder / role).items()}
        load_strict(network, tensors, role)
        return network.to(self.device).eval().requires_grad_(False)

    def loss(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch drawn with `generator`."""
        raise AssertionError("a stage defines its loss")

    def validate(self) -> dict[str, float]:
        """Measures on validation objects."""
        raise AssertionError("a stage defines its validation")

    def load_shipped(self) -> bool:
        """Start from the exported weights, where a run's own checkpoint is not at hand; False if they do not fit."""
        try:
            for role, name in self.parts.items():
                tensors = {key: value.float() for key, value in load_tensors(self.request.folder / role).items()}
                load_strict(self.module.get_submodule(name), tensors, role)
        except MaquetteError as error:
            logger.info("%s", error)
            return False
        return True

    def arguments(self, role: str) -> dict[str, Any]:
        """The arguments that `role` is exported with."""
        return dict(self.config["networks"][role]["args"])

    def export(self, loop: TrainingLoop) -> None:
        """Write the averaged weights where the pipeline finds them: matrices in half precision."""
        for role, name in self.parts.items():
            tensors = {key: v.half() if v.ndim > 1 else v for key, v in loop.averaged_state(name).items()}
            save_model(self.request.folder, role, self.config["networks"][role]["name"], self.arguments(role), tensors)


class Vae(Stage):
    """The autoencoder, on single tiles of colours and normals alike."""

    parts = {"vae": ""}
    batch = 64
    rate = 1e-3

    def __init__(self, request: KissTrainRequest) -> None:
        super().__init__(request)
        self.module = self.new("vae").to(memory_format=torch.channels_last)
        self.tiles = self._tiles(BundleDataset(request.data, "train"))
        self.held_out = self._tiles(BundleDataset(request.data, "val"))
        self.boxes = self._boxes()
        some = self.tiles[torch.randperm(len(self.tiles))[:LINEAR_TILES]]
        self.module.start_linear(2.0 * (some.float() / 255.0) - 1.0)  # type: ignore[operator]
        self.latent_mean, self.latent_std = 0.0, 1.0

    def _boxes(self) -> Tensor:
        """Where a crop may have its corner so that it shows some of the object: [N,2,2], first place and extent."""
        shown = (self.tiles < 250).any(1)
        side = shown.shape[-1]
        boxes = []
        for lines in (shown.any(2), shown.any(1)):
            low = lines.int().argmax(1)
            high = side - 1 - lines.flip(1).int().argmax(1)
            first = (low - CROP // 4).clamp(0, side - CROP)
            last = (high - 3 * CROP // 4).clamp(0, side - CROP)
            boxes.append(torch.stack([first, (last - first).clamp(min=0) + 1], 1))
        return torch.stack(boxes, 2)

    def _tiles(self, dataset: BundleDataset) -> Tensor:
        """Every tile that is not empty: uint8 [N,3,S,S]."""
        pictures, side = torch.from_numpy(dataset.pictures()[..., :3]), dataset.size
        tiles = pictures.reshape(len(dataset), 2, side, 4, side, 3).permute(0, 1, 3, 5, 2, 4).reshape(-1, 3, side, side)
        shown = (tiles < 250).flatten(1).any(1)
        return tiles[shown].contiguous()

    def _reconstruct(self, tiles: Tensor, generator: torch.Generator, noise: float) -> tuple[Tensor, Tensor, Tensor]:
        """(decoded, given, latents) of tiles uint8 [B,3,S,S]; the latents are disturbed before they are decoded."""
        pictures = (2.0 * (tiles.float() / 255.0) - 1.0).to(self.device, memory_format=torch.channels_last)
        latents = self.module.encode(pictures).latent_dist.mode()  # type: ignore[operator]
        disturbed = latents + noise * torch.randn(latents.shape, generator=generator).to(latents)
        decoded = self.module.decode(disturbed).sample  # type: ignore[operator]
        return decoded.float(), pictures, latents.float()

    def loss(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(self.tiles), (self.size,), generator=generator)
        corners = self.boxes[chosen, 0] + (torch.rand(self.size, 2, generator=generator) * self.boxes[chosen, 1]).long()
        tiles = torch.stack(
            [
                self.tiles[item, :, top : top + CROP, left : left + CROP]
                for item, (top, left) in zip(chosen.tolist(), corners.tolist(), strict=True)
            ]
        )
        if int(torch.randint(2, (1,), generator=generator)):
            tiles = tiles.flip(-1)
        decoded, pictures, latents = self._reconstruct(tiles, generator, LATENT_NOISE)
        squared = (decoded - pictures).square()
        pixels = (decoded - pictures).abs().mean() + 4.0 * squared.mean()
        edges = sum((decoded.diff(dim=axis) - pictures.diff(dim=axis)).abs().mean() for axis in (2, 3))
        size = functional.relu(latents.abs() - LATENT_LIMIT).mean()
        error = squared.detach().mean() / 4
        return pixels + EDGE_WEIGHT * edges + size, {"psnr": float(-10 * torch.log10(error))}

    def validate(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed(1)
        chosen = torch.randint(len(self.held_out), (64,), generator=generator)
        decoded, pictures, latents = self._reconstruct(self.held_out[chosen], generator, 0.0)
        error = ((decoded.clamp(-1, 1) - pictures) / 2).square().mean()
        return {"psnr": float(-10 * torch.log10(error)), "latent_std": float(latents.std())}

    def arguments(self, role: str) -> dict[str, Any]:
        """The latents' mean and spread become the scaling that the flow sees."""
        return super().arguments(role) | {
            "scaling_factor": round(1.0 / self.latent_std, 5), "shift_factor": round(self.latent_mean, 5),
        }  # fmt: skip

    def export(self, loop: TrainingLoop) -> None:
        load_strict(self.module, loop.averaged_state(), "vae")
        chosen = torch.randint(len(self.tiles), (256,), generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            _, _, latents = self._reconstruct(self.tiles[chosen], torch.Generator().manual_seed(3), 0.0)
        self.latent_mean, self.latent_std = float(latents.mean()), float(latents.std())
        super().export(loop)


class FlowStage(Stage):
    """What the transformer's stages share: data, noise, the prediction's error."""

    needs_photos = False

    def __init__(self, request: KissTrainRequest) -> None:
        super().__init__(request)
        self.vae = self.frozen_vae()
        cache = request.out / "kiss3dgen"
        photos = request.photos if self.needs_photos else None
        self.train_set, self.held_out = (
            BundleTraining(request.data, photos, split, self.vae, self.settings, cache) for split in ("train", "val")
        )
        height, width = self.settings.size
        self.image_ids = image_ids(height, width, self.device)
        null = self.train_set.text_index[""]
        self.null_tokens = self.train_set.tokens[null].float().to(self.device)
        self.null_pooled = self.train_set.pooled[null].float().to(self.device)

    def frozen_vae(self) -> Any:
        """The exported autoencoder, with the scaling that it was exported with."""
        import json

        entry = json.loads((self.request.folder / "vae.json").read_text(encoding="utf-8"))
        self.config["networks"]["vae"] = entry
        return self.frozen("vae")

    def noisy(self, latents: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """(noisy latents, noise levels [B], target velocity) of latents [B,T,C] (flow matching, spec 6)."""
        levels = torch.sigmoid(torch.randn(len(latents), generator=generator))
        levels = (NOISE_SHIFT * levels / (1 + (NOISE_SHIFT - 1) * levels)).to(self.device)
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
    """The tile condition: the ControlNet reads a blurred bundle of the object, the base stays as it is."""

    parts = {"controlnet": ""}
    batch = 32
    rate = 1e-3
    muon = True

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
        latents, tokens, pooled, _ = data.draw(count, generator)
        latents = latents.to(self.device)
        mixed, levels, target = self.noisy(latents, generator)
        tokens, pooled = self.told(tokens, pooled, DROP_TEXT, generator)
        condition = self.condition(latents, generator)
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
        value = functional.mse_loss(predicted, target)
        return value, {}

    def condition(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """The latents of the same bundles, blurred by 1 to BLUR pixels (1: as they are)."""
        factor = int(torch.randint(1, BLUR + 1, (1,), generator=generator))
        if factor == 1:
            return latents
        height, width = self.settings.size
        with torch.no_grad():
            pictures = decode_tokens(self.vae, latents, height, width)
            small = functional.interpolate(pictures, scale_factor=1 / factor, mode="bilinear", antialias=True)
            blurred = functional.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
            return encode_pictures(self.vae, blurred)


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


STAGES: dict[str, Callable[[KissTrainRequest], Stage]] = {
    "vae": Vae, "base": Base, "controlnet": ControlNet, "lora": BundleLora,
}  # fmt: skip


def train(request: KissTrainRequest) -> dict[str, float]:
    """Run one stage for the requested minutes; returns its last measures. Errors: `MaquetteError` bad_input."""
    if request.stage not in STAGES:
        raise MaquetteError("bad_input", f"Kiss3DGen has no stage {request.stage!r}; choose: {', '.join(STAGES)}.")
    stage = STAGES[request.stage](request)
    folder = request.out / "kiss3dgen" / request.stage
    shipped = request.resume and not (folder / "state.json").exists() and stage.load_shipped()
    settings = LoopSettings(
        minutes=request.minutes, learning_rate=request.rate or stage.rate, total=request.total, seed=request.seed,
        muon=stage.muon, workers=stage.workers, steps=request.steps,
    )  # fmt: skip
    loop = TrainingLoop(stage.module, folder, settings, stage.device)
    if request.resume and not loop.resume():
        logger.info("no run in %s: starting %s", folder, "from the shipped weights" if shipped else "anew")
    result = loop.run(stage.loss, stage.validate)
    if request.export:
        stage.export(loop)
    return result
