"""Training of CUPID's stages on shards (specification section 12), at any configuration.

Stages, in the order they need each other: `uv_vae` and `structure_vae` (12.2), `view_reader` where the configuration
has one, `structure_flow` (12.3, with an encoder that starts as the reader's). Each stage writes its run below
`OUT/<stage>` and, with `--export`, its averaged weights into the folder that the pipeline loads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from backend.contract.errors import MaquetteError
from backend.data.shards import ShardDataset
from backend.training.checkpoints import load_strict, load_tensors, tensor_files
from backend.training.loop import TrainingLoop
from backend.training.stage import StageRequest, TrainingStage, train_stage

from . import uv_vae_start
from .dinov2 import find_dinov2, load_dinov2
from .image_encoder import SPECIAL_TOKENS
from .losses import dice_loss, flow_loss, flow_times, flow_training_pair, kl_loss, uv_vae_losses
from .model import MINI_FOLDER as MINI_WEIGHTS
from .model import build, read_config
from .networks import random_network
from .occlusion import OCCLUDER_CHANNELS, hide, random_occluders, token_weights
from .structure_latents import LatentSet
from .structure_vae import SparseStructureDecoder, SparseStructureEncoder
from .train_draws import random_crops, random_quarter_turns, resized
from .uv_cube import uv_volumes

LATENT_CHANNELS = 8
DROP_CONDITION = 0.1
KL_WEIGHT = 1e-3
NOISY_SHIFT = 20.0  # of the noisy share of times: their median is 0.95
PUBLISHED_ENCODER = "DinoV2"


@dataclass(frozen=True)
class TrainRequest(StageRequest):
    """What the command line asks for. `limit` is how many objects of each split are used, None all.

    `random` is a trial: frozen networks have random weights, and nothing is validated or saved.
    """

    limit: int | None = None
    random: bool = False


def model_config(config: str) -> dict[str, dict]:
    """The `models` of the configuration `config`: role to {"name", "args"}."""
    models: dict[str, dict] = read_config(config)["models"]
    return models


class Autoencoder(nn.Module):
    """Encoder and decoder of one dense VAE, trained together."""

    def __init__(self, encoder: SparseStructureEncoder, decoder: SparseStructureDecoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, volume: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """volume [B,C,R,R,R], noise like the latent: (logits, mean, logvar), the posterior sampled with `noise`."""
        mean, logvar = self.encoder.distribution(volume)
        logvar = logvar.clamp(-20, 10)
        return self.decoder(mean + noise * torch.exp(0.5 * logvar)), mean, logvar


class StructureModel(nn.Module):
    """The flow of stage 1 and the image encoder it is conditioned on."""

    def __init__(self, encoder: nn.Module, flow: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.flow = flow


class Stage(TrainingStage):
    """One stage of CUPID.

    What stands in its class is mini's; a configuration's `training` goes before it (the published numbers, spec 12).
    """

    exact = ("pos_emb",)
    checkpointing = False
    noisy_share = 0.0
    """Share of a flow's training times that lie where the noise all but hides the latent."""
    normalized = True
    """Whether the flow's target is normalised by its own spread; published stage-1 latents are not."""

    def __init__(self, request: TrainRequest) -> None:
        self.request = request
        config = read_config(request.config)
        self.models = config["models"]
        for name, value in config.get("training", {}).get(request.stage, {}).items():
            if not hasattr(Stage, name):
                raise MaquetteError("bad_input", f"The configuration's training of {request.stage} has no {name!r}.")
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        super().__init__(request, self.models, request.export_to or MINI_WEIGHTS, MINI_WEIGHTS)


def _random(shape: torch.Size, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    return torch.randn(shape, generator=generator).to(device)


class VaeStage(Stage):
    """What both dense VAEs share."""

    def __init__(self, request: TrainRequest) -> None:
        super().__init__(request)
        encoder, decoder = (self.models[role]["args"] for role in self.parts)
        self.module = Autoencoder(SparseStructureEncoder(**encoder), SparseStructureDecoder(**decoder))
        self.module = self.module.to(memory_format=torch.channels_last_3d)  # a fifth quicker on CPUs
        self.resolution = voxel_resolution(self.models)

    def run(self, volume: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits, mean and log-variance of `volume` [B,C,R,R,R], the posterior sampled with `generator`."""
        side = latent_resolution(self.models)
        noise = _random(torch.Size((len(volume), LATENT_CHANNELS, side, side, side)), generator, self.device)
        return self.module(volume, noise)


class UvVae(VaeStage):
    """UV-cube VAE. Its cubes depend on the camera alone, so it draws cameras as the data factory does (12.1)."""

    parts = {"uv_enc": "encoder", "uv_dec": "decoder"}
    rate = 1e-3

    def __init__(self, request: TrainRequest) -> None:
        super().__init__(request)
        if uv_vae_start.fits(self.module.encoder, self.module.decoder):
            uv_vae_start.start_as_pooling(self.module.encoder, self.module.decoder)

    def _volumes(self, generator: torch.Generator, count: int) -> torch.Tensor:
        seed = int(torch.randint(2**31, (1,), generator=generator))
        cameras, intrinsics = random_crops(count, seed)
        return uv_volumes(cameras.to(self.device), intrinsics.to(self.device), self.resolution)

    def loss(self, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        volume = self._volumes(generator, self.size)
        logits, mean, logvar = self.run(volume, generator)
        losses = uv_vae_losses(logits, volume[:, :1], volume[:, 1:], mean, logvar, KL_WEIGHT)
        parts = {"uv_error": float(losses["uv_volume_l1"].detach()) / 2, "dice": float(losses["ssuv_dice"].detach())}
        return losses["loss"], parts

    def validate(self) -> dict[str, float]:
        error = support = 0.0
        for volume in self._volumes(torch.Generator().manual_seed(1), 32).split(self.size):
            logits, mask = self.module.decoder(self.module.encoder(volume)), volume[:, :1]
            error += float(((torch.sigmoid(logits[:, 1:].float()) - volume[:, 1:]).abs() * mask).sum())
            support += float(mask.sum())
        return {"uv_error": error / support / 2}


class StructureVae(VaeStage):
    """Occupancy VAE on the surface voxels of the shards."""

    parts = {"ss_enc": "encoder", "ss_dec": "decoder"}

    def __init__(self, request: TrainRequest) -> None:
        super().__init__(request)
        shards = (ShardDataset(request.data, split, request.limit) for split in ("train", "val"))
        self.volumes, self.held_out = (torch.from_numpy(each.occupancy_at(self.resolution)) for each in shards)

    def loss(self, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        chosen = self.volumes[torch.randint(len(self.volumes), (self.size,), generator=generator)]
        volume = random_quarter_turns(chosen, generator)[:, None].float().to(self.device)
        logits, mean, logvar = self.run(volume, generator)
        dice = dice_loss(logits, volume)
        entropy = F.binary_cross_entropy_with_logits(logits.float(), volume)
        return dice + entropy + KL_WEIGHT * kl_loss(mean.float(), logvar.float()), {"dice": float(dice.detach())}

    def validate(self) -> dict[str, float]:
        both = either = 0
        for volumes in self.held_out[:64, None].split(self.size):
            volume = volumes.float().to(self.device)
            filled = self.module.decoder(self.module.encoder(volume)) > 0
            both += int((filled & (volume > 0)).sum())
            either += int((filled | (volume > 0)).sum())
        return {"iou": both / max(either, 1)}


class StructureFlow(Stage):
    """Rectified flow of [occupancy latent | UV latent] on cached latents, with the image encoder (12.3).

    Mini draws four fifths of its times near the noise. The UV latent, 4,096 numbers, tells the camera's few so
    redundantly that at t = 0.9 the noisy latent alone shows the view to 16 degrees, at 0.95 to 40: only above that is
    it for the picture to say, and 3 % of the published times lie there, enough for a training a hundred times as long.
    """

    batch = 64
    rate = 1e-3
    bf16_on_cpu = True
    muon = True
    most_workers = 8
    noisy_share = 0.8
    parts = {"image_encoder": "encoder", "structure_flow": "flow"}

    def __init__(self, request: TrainRequest) -> None:
        super().__init__(request)
        entry = self.models["image_encoder"]
        if entry["name"] == PUBLISHED_ENCODER:  # frozen, as published
            encoder = image_tokens(request, entry).to(self.device)
            self.parts = {"structure_flow": "flow"}
        else:
            encoder = build(entry)
            self._start_encoder(encoder)
        flow = build(self.models["structure_flow"])
        flow.checkpointing = self.checkpointing
        self.module = StructureModel(encoder, flow)
        seed = request.seed if request.random else None
        encoders = [
            frozen(SparseStructureEncoder, self.models, role, self.device, seed, request.export_to)
            for role in ("ss_enc", "uv_enc")
        ]
        cache = None if request.random else request.out / request.stage
        resolution = voxel_resolution(self.models)
        self.train_set, self.held_out = (
            LatentSet(request.data, split, *encoders, uv_volumes, self.device, cache, request.limit, resolution)
            for split in ("train", "val")
        )
        if not self.normalized:
            self.train_set.normalization = unit_normalization(flow.in_channels)
        self.held_out.normalization = self.train_set.normalization

    def _start_encoder(self, encoder: nn.Module) -> None:
        """A training from the start takes over what the view reader's encoder has learned, where there is one."""
        place = self.place("view_reader")
        if "view_reader" in self.models and tensor_files(place):
            prefix = "encoder."
            learned = {key: value.float() for key, value in load_tensors(place).items() if key.startswith(prefix)}
            load_strict(encoder, {key[len(prefix) :]: value for key, value in learned.items()}, "view_reader")

    def loss(self, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        image, target = self.train_set.draw(self.size, generator)
        occluder = random_occluders(image[:, 3:], generator) if self.sees_occluders else torch.zeros_like(image[:, 3:])
        return self._velocity_loss(
            image, occluder, target, self._times(len(target), generator), generator, DROP_CONDITION
        )

    def _times(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Training times [count]: the published ones, and mini's noisy share."""
        times = flow_times(count, generator)
        noisy = round(self.noisy_share * count)
        if noisy:
            even = torch.rand(noisy, generator=generator)
            times[:noisy] = NOISY_SHIFT * even / (1 + (NOISY_SHIFT - 1) * even)
        return times

    @property
    def sees_occluders(self) -> bool:
        """Whether the image encoder is told what is hidden (spec 8)."""
        return self.module.encoder.in_channels == OCCLUDER_CHANNELS

    def _velocity_loss(
        self,
        image: torch.Tensor,
        occluder: torch.Tensor,
        target: torch.Tensor,
        times: torch.Tensor,
        generator: torch.Generator,
        drop: float,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """`image` [B,4,S,S] behind `occluder` [B,1,S,S] against the latent `target` [B,16,r,r,r] at `times` [B]."""
        times = times.to(self.device)
        noise = _random(target.shape, generator, self.device)
        mixed, velocity = flow_training_pair(target, times, noise)
        keep = (torch.rand(len(target), generator=generator) >= drop).to(self.device)
        encoder = self.module.encoder
        if image.shape[-1] != encoder.image_size:
            image, occluder = (resized(each, encoder.image_size) for each in (image, occluder))
        tokens = encoder(hide(image, occluder)[:, : encoder.in_channels]) * keep.view(-1, 1, 1)
        weights = token_weights(occluder, encoder.patches, SPECIAL_TOKENS)
        weights = torch.where(keep.view(-1, 1), weights, torch.ones_like(weights))
        predicted = self.module.flow(mixed, 1000 * times, tokens, weights).float()
        error = (predicted.detach() - velocity).square()
        return flow_loss(predicted, velocity), {
            "occupancy": float(error[:, :LATENT_CHANNELS].mean()),
            "uv": float(error[:, LATENT_CHANNELS:].mean()),
        }

    def validate(self) -> dict[str, float]:
        result = {}
        count = self.size if self.checkpointing else 64  # of the published size, what a step takes fits
        for suffix, share, low in (("", 0.0, 0.0), ("_occluded", 1.0, 0.0), ("_noisy", 0.0, 0.95)):
            generator = torch.Generator().manual_seed(1)
            totals = np.zeros(3)
            for _ in range(4):
                image, target = self.held_out.draw(count, generator, augment=False)
                hidden = random_occluders(image[:, 3:], torch.Generator().manual_seed(2), share)
                times = flow_times(count, generator)
                times = low + (1 - low) * torch.rand(count, generator=generator) if low else times
                value, parts = self._velocity_loss(image, hidden, target, times, generator, 0.0)
                totals += [float(value), parts["occupancy"], parts["uv"]]
            names = (f"loss{suffix}", f"occupancy{suffix}", f"uv{suffix}")
            result |= dict(zip(names, totals / 4, strict=True))
        return result

    def export(self, loop: TrainingLoop) -> None:
        super().export(loop)
        mean, std = self.train_set.normalization
        path = self.folder / "pipeline.json"
        pipeline = json.loads(path.read_text()) if path.exists() else {}
        pipeline["structure_normalization"] = {"mean": mean.tolist(), "std": std.tolist()}
        path.write_text(json.dumps(pipeline, indent=2) + "\n")


def voxel_resolution(models: dict[str, dict]) -> int:
    """Voxels along a side of what the dense VAEs read and answer."""
    return latent_resolution(models) * 2 ** (len(models["ss_dec"]["args"]["channels"]) - 1)


def unit_normalization(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, std) that change nothing."""
    return torch.zeros(channels), torch.ones(channels)


def image_tokens(request: TrainRequest, entry: dict[str, Any]) -> nn.Module:
    """The published image encoder, not trainable: from the folder of `--export-to`, or random in a trial.

    Errors: `MaquetteError` model_missing.
    """
    if request.random:
        encoder = random_network(partial(build, entry), "image_encoder", request.seed)
    else:
        place = find_dinov2(request.export_to or MINI_WEIGHTS)
        if place is None:
            raise MaquetteError(
                "model_missing", "The image encoder's weights are not there; install DINOv2.", next_step="install_model"
            )
        encoder = load_dinov2(place)
    return encoder.eval().requires_grad_(False)


def latent_resolution(models: dict[str, dict]) -> int:
    """Voxels along a side of the stage-1 latent."""
    return models["structure_flow"]["args"]["resolution"]


def frozen(
    kind: Callable[..., nn.Module],
    models: dict[str, dict],
    role: str,
    device: torch.device,
    seed: int | None = None,
    folder: Path | None = None,
) -> nn.Module:
    """The exported model `role`, not trainable, from `folder` or the one that ships; with a `seed` a random one.

    Errors: `MaquetteError` model_missing: its stage comes first.
    """
    if seed is not None:
        model = random_network(partial(build, models[role]), role, seed)
    else:
        model = kind(**models[role]["args"])
        own = (folder or MINI_WEIGHTS) / role
        stored = load_tensors(own if tensor_files(own) else MINI_WEIGHTS / role)
        load_strict(model, {name: tensor.float() for name, tensor in stored.items()}, role)
    return model.to(device).eval().requires_grad_(False)


def _slat_vae(request: TrainRequest) -> Stage:
    from .train_slat_vae import SLatVae  # it needs this module

    return SLatVae(request)


def _slat_flow(request: TrainRequest) -> Stage:
    from .train_slat_flow import SLatFlow  # it needs this module

    return SLatFlow(request)


def _view_reader(request: TrainRequest) -> Stage:
    from .train_view_reader import ViewStage  # it needs this module

    return ViewStage(request)


STAGES: dict[str, Callable[[TrainRequest], Stage]] = {
    "view_reader": _view_reader,
    "uv_vae": UvVae,
    "structure_vae": StructureVae,
    "structure_flow": StructureFlow,
    "slat_vae": _slat_vae,
    "slat_flow": _slat_flow,
}


def train(request: TrainRequest) -> dict[str, float]:
    """Run one stage for the requested minutes; returns its last measures. Errors: `MaquetteError` bad_input."""
    if request.stage not in STAGES:
        raise MaquetteError("bad_input", f"CUPID has no stage {request.stage!r}; choose one of {', '.join(STAGES)}.")
    stage = STAGES[request.stage](request)
    return train_stage(stage, request, request.out / request.stage, trial=request.random)
