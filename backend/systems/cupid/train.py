"""Training of CUPID's stages on shards (specification section 12), at any configuration.

Stages, in the order they need each other: `uv_vae` and `structure_vae` (12.2), `structure_flow` (12.3, with the image
encoder where the configuration has one of ours). Each stage writes its run below `OUT/<stage>` and, with `--export`,
its averaged weights into the folder that the pipeline loads.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from backend.contract.errors import MaquetteError
from backend.data.shards import ShardDataset
from backend.data.views import random_cameras
from backend.training.checkpoints import load_strict, load_tensors, save_model
from backend.training.loop import LoopSettings, TrainingLoop

from . import uv_vae_start
from .image_encoder import SPECIAL_TOKENS, ImageEncoder
from .losses import dice_loss, flow_loss, flow_times, flow_training_pair, kl_loss, uv_vae_losses
from .occlusion import OCCLUDER_CHANNELS, hide, random_occluders, token_weights
from .structure_flow import SparseStructureFlowModel
from .structure_latents import LatentSet
from .structure_vae import SparseStructureDecoder, SparseStructureEncoder
from .uv_cube import uv_volumes

logger = logging.getLogger(__name__)

CONFIGS = Path(__file__).with_name("configs")
MINI_WEIGHTS = Path(__file__).parents[2] / "weights" / "mini"
LATENT_CHANNELS = 8
DROP_CONDITION = 0.1
KL_WEIGHT = 1e-3


@dataclass(frozen=True)
class TrainRequest:
    """What the command line asks for. `batch` 0 takes the stage's default; `rate` 0 likewise."""

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
    export_to: Path | None = None
    """Folder of the exported weights; None is the one that ships."""


def model_config(config: str) -> dict[str, dict]:
    """The `models` of the configuration `config`: role to {"name", "args"}."""
    return json.loads((CONFIGS / f"{config}.json").read_text())["models"]


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

    def __init__(self, encoder: ImageEncoder, flow: SparseStructureFlowModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.flow = flow


class Stage:
    """One stage: its module, its loss on a random batch and what it exports."""

    batch = 16
    rate = 2e-3
    warmup = 200
    bf16_on_cpu = False
    muon = False
    most_workers = 1
    parts: dict[str, str] = {}
    """Role of each model that the stage trains, and its name inside `module`."""

    def __init__(self, request: TrainRequest) -> None:
        self.request = request
        self.device = torch.device(request.device)
        self.models = model_config(request.config)
        cores = os.cpu_count() or 1
        self.workers = min(cores, self.most_workers) if self.device.type == "cpu" else 1
        self.size = max(1, (request.batch or self.batch) // self.workers)  # what one worker draws
        torch.manual_seed(request.seed)

    module: nn.Module

    def loss(self, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of a batch drawn with `generator`."""
        raise AssertionError("a stage defines its loss")

    def validate(self) -> dict[str, float]:
        """Measures on validation objects."""
        return {}

    def export(self, loop: TrainingLoop) -> None:
        """Write the averaged weights where the pipeline finds them: matrices in half precision."""
        for role, submodule in self.parts.items():
            entry = self.models[role]
            tensors = loop.averaged_state(submodule)
            tensors = {k: v.half() if v.ndim > 1 and k != "pos_emb" else v for k, v in tensors.items()}
            save_model(self.request.export_to or MINI_WEIGHTS, role, entry["name"], entry["args"], tensors)

    def load_shipped(self) -> bool:
        """Start from the exported weights, where a run's own checkpoint is not at hand; False if they do not fit."""
        try:
            for role, submodule in self.parts.items():
                tensors = {name: tensor.float() for name, tensor in load_tensors(MINI_WEIGHTS / role).items()}
                load_strict(self.module.get_submodule(submodule), tensors, role)
        except MaquetteError as error:
            logger.info("%s", error)
            return False
        return True


def _random(shape: torch.Size, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    return torch.randn(shape, generator=generator).to(device)


class VaeStage(Stage):
    """What both dense VAEs share."""

    def __init__(self, request: TrainRequest) -> None:
        super().__init__(request)
        encoder, decoder = (self.models[role]["args"] for role in self.parts)
        self.module = Autoencoder(SparseStructureEncoder(**encoder), SparseStructureDecoder(**decoder))
        self.module = self.module.to(memory_format=torch.channels_last_3d)  # a fifth quicker on CPUs
        self.resolution = latent_resolution(self.models) * 2 ** (len(self.models["ss_dec"]["args"]["channels"]) - 1)

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
        volume = self._volumes(torch.Generator().manual_seed(1), 32)
        logits = self.module.decoder(self.module.encoder(volume))
        support = volume[:, :1]
        error = ((torch.sigmoid(logits[:, 1:].float()) - volume[:, 1:]).abs() * support).sum() / support.sum() / 2
        return {"uv_error": float(error)}


class StructureVae(VaeStage):
    """Occupancy VAE on the surface voxels of the shards."""

    parts = {"ss_enc": "encoder", "ss_dec": "decoder"}

    def __init__(self, request: TrainRequest) -> None:
        super().__init__(request)
        self.volumes = torch.from_numpy(ShardDataset(request.data, "train").occupancy)
        self.held_out = torch.from_numpy(ShardDataset(request.data, "val").occupancy)

    def loss(self, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        chosen = self.volumes[torch.randint(len(self.volumes), (self.size,), generator=generator)]
        volume = random_quarter_turns(chosen, generator)[:, None].float().to(self.device)
        logits, mean, logvar = self.run(volume, generator)
        dice = dice_loss(logits, volume)
        entropy = F.binary_cross_entropy_with_logits(logits.float(), volume)
        return dice + entropy + KL_WEIGHT * kl_loss(mean.float(), logvar.float()), {"dice": float(dice.detach())}

    def validate(self) -> dict[str, float]:
        volume = self.held_out[:64, None].float().to(self.device)
        filled = self.module.decoder(self.module.encoder(volume)) > 0
        both, either = (filled & (volume > 0)).sum(), (filled | (volume > 0)).sum()
        return {"iou": float(both / either.clamp_min(1))}


class StructureFlow(Stage):
    """Rectified flow of [occupancy latent | UV latent] on cached latents, with the image encoder (12.3)."""

    batch = 64
    rate = 1e-3
    bf16_on_cpu = True
    muon = True
    most_workers = 8
    parts = {"image_encoder": "encoder", "structure_flow": "flow"}

    def __init__(self, request: TrainRequest) -> None:
        super().__init__(request)
        self.module = StructureModel(
            ImageEncoder(**self.models["image_encoder"]["args"]),
            SparseStructureFlowModel(**self.models["structure_flow"]["args"]),
        )
        encoders = [frozen(SparseStructureEncoder, self.models, role, self.device) for role in ("ss_enc", "uv_enc")]
        cache = request.out / request.stage
        self.train_set = LatentSet(request.data, "train", *encoders, uv_volumes, self.device, cache=cache)
        known = self.train_set.normalization
        self.held_out = LatentSet(request.data, "val", *encoders, uv_volumes, self.device, known, cache)

    def loss(self, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        image, target = self.train_set.draw(self.size, generator)
        occluder = random_occluders(image[:, 3:], generator) if self.sees_occluders else torch.zeros_like(image[:, 3:])
        return self._velocity_loss(image, occluder, target, generator, DROP_CONDITION)

    @property
    def sees_occluders(self) -> bool:
        """Whether the image encoder is told what is hidden (spec 8)."""
        return self.module.encoder.in_channels == OCCLUDER_CHANNELS

    def _velocity_loss(
        self,
        image: torch.Tensor,
        occluder: torch.Tensor,
        target: torch.Tensor,
        generator: torch.Generator,
        drop: float,
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """`image` [B,4,S,S] behind `occluder` [B,1,S,S] against the latent `target` [B,16,r,r,r]."""
        times = flow_times(len(target), generator).to(self.device)
        noise = _random(target.shape, generator, self.device)
        mixed, velocity = flow_training_pair(target, times, noise)
        keep = (torch.rand(len(target), generator=generator) >= drop).to(self.device)
        encoder = self.module.encoder
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
        for suffix, share in (("", 0.0), ("_occluded", 1.0)):
            generator = torch.Generator().manual_seed(1)
            totals = np.zeros(3)
            for _ in range(4):
                image, target = self.held_out.draw(64, generator, augment=False)
                hidden = random_occluders(image[:, 3:], torch.Generator().manual_seed(2), share)
                value, parts = self._velocity_loss(image, hidden, target, generator, 0.0)
                totals += [float(value), parts["occupancy"], parts["uv"]]
            names = (f"loss{suffix}", f"occupancy{suffix}", f"uv{suffix}")
            result |= dict(zip(names, totals / 4, strict=True))
        return result

    def export(self, loop: TrainingLoop) -> None:
        super().export(loop)
        mean, std = self.train_set.normalization
        path = (self.request.export_to or MINI_WEIGHTS) / "pipeline.json"
        pipeline = json.loads(path.read_text()) if path.exists() else {}
        pipeline["structure_normalization"] = {"mean": mean.tolist(), "std": std.tolist()}
        path.write_text(json.dumps(pipeline, indent=2) + "\n")


def latent_resolution(models: dict[str, dict]) -> int:
    """Voxels along a side of the stage-1 latent."""
    return models["structure_flow"]["args"]["resolution"]


def frozen(kind: Callable[..., nn.Module], models: dict[str, dict], role: str, device: torch.device) -> nn.Module:
    """The exported model `role`, not trainable. Errors: `MaquetteError` model_missing: its stage comes first."""
    model = kind(**models[role]["args"])
    tensors = {name: tensor.float() for name, tensor in load_tensors(MINI_WEIGHTS / role).items()}
    load_strict(model, tensors, role)
    return model.to(device).eval().requires_grad_(False)


def random_crops(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cameras [N,4,4] and crop intrinsics [N,3,3] as in the shards: the crop follows a box of random proportions."""
    random = np.random.default_rng(seed)
    views = random_cameras(count, seed)
    cameras = np.stack([view.world_to_camera for view in views])
    intrinsics = np.stack([view.intrinsics for view in views])
    corners = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5])).reshape(3, -1).T
    extents = random.uniform(0.1, 1.0, (count, 1, 3))
    extents /= extents.max(-1, keepdims=True)
    camera = corners * extents @ cameras[:, :3, :3].transpose(0, 2, 1) + cameras[:, None, :3, 3]
    pixels = camera @ intrinsics.transpose(0, 2, 1)
    uv = pixels[..., :2] / pixels[..., 2:]
    low, high = uv.min(1), uv.max(1)
    side = (high - low).max(1) * random.uniform(1.0, 1.3, count)
    left, top = ((low + high) / 2 - side[:, None] / 2).T
    windows = np.zeros((count, 3, 3))
    windows[:, 0, 0] = windows[:, 1, 1] = 1 / side
    windows[:, 0, 2], windows[:, 1, 2], windows[:, 2, 2] = -left / side, -top / side, 1
    return torch.from_numpy(cameras).float(), torch.from_numpy(windows @ intrinsics).float()


def random_quarter_turns(volumes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Volumes [B,R,R,R] turned about z by the same random quarter and maybe mirrored: more shapes for the VAE."""
    volumes = torch.rot90(volumes, int(torch.randint(4, (1,), generator=generator)), (1, 2))
    return volumes.flip(1) if torch.rand((), generator=generator) < 0.5 else volumes


def _slat_vae(request: TrainRequest) -> Stage:
    from .train_slat_vae import SLatVae  # it needs this module

    return SLatVae(request)


def _slat_flow(request: TrainRequest) -> Stage:
    from .train_slat_flow import SLatFlow  # it needs this module

    return SLatFlow(request)


STAGES: dict[str, Callable[[TrainRequest], Stage]] = {
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
    folder = request.out / request.stage
    shipped = request.resume and not (folder / "state.json").exists() and stage.load_shipped()
    settings = LoopSettings(
        minutes=request.minutes,
        learning_rate=request.rate or stage.rate,
        total=request.total,
        seed=request.seed,
        bf16=stage.bf16_on_cpu or stage.device.type != "cpu",
        muon=stage.muon,
        warmup=stage.warmup,
        workers=stage.workers,
    )
    loop = TrainingLoop(stage.module, folder, settings, stage.device)
    if request.resume and not loop.resume():
        logger.info("no run in %s: starting %s", folder, "from the shipped weights" if shipped else "anew")
    result = loop.run(stage.loss, stage.validate)
    if request.export:
        stage.export(loop)
    return result
