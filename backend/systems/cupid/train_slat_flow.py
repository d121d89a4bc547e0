"""Training of stage 2's flow over the structured latent (specification 12.3), on the true voxels and the true camera.

The image encoder and the SLat encoder are frozen. Latents are made afresh for every draw, because the voxels are
disturbed as stage 1 disturbs them, and objects are mirrored. The voxels' image coordinates come from a camera that is a
little off. The local latent condition f_h needs an SLat encoder that reads image tokens; without one (mini) it is zero,
as it is when the pipeline runs.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from backend.contract.errors import MaquetteError
from backend.data.crops import decode_image
from backend.data.shards import ShardDataset
from backend.nn.sparse_tensor import SparseTensor
from backend.training.loop import TrainingLoop

from . import slat_data
from .losses import flow_loss, flow_times, flow_training_pair
from .model import build, read_config
from .slat_data import SurfaceSet
from .slat_vae import SLatEncoder
from .structure_decode import voxel_uv
from .train import DROP_CONDITION, Stage, TrainRequest
from .train_slat_vae import DROPPED, GROWN, encode_pictures, frozen, premultiplied, voxel_features

logger = logging.getLogger(__name__)

CAMERA_NOISE = 0.02  # radians, share of the distance, and half of it of the picture
EXPOSURE = 0.15
MEASURED = 48  # objects that the normalisation is measured on


@dataclass(frozen=True)
class View:
    """Objects as one picture each shows them: normalised latents of voxels, uv [L,2], image [B,4,S,S]."""

    latent: SparseTensor
    uv: Tensor
    image: Tensor


class Pictures:
    """Single pictures of a split, read when they are asked for."""

    def __init__(self, shards: ShardDataset) -> None:
        self.views = shards.views
        self.places: list[tuple[int, int]] = []
        self.files, self.offsets = [], []
        for number, shard in enumerate(shards.shards):
            self.files.append(safe_open(shards.folder / shard["file"], framework="np"))
            self.offsets.append(self.files[-1].get_tensor("image_offsets"))
            self.places.extend((number, item) for item in range(shard["count"]))

    def read(self, index: int, view: int) -> np.ndarray:
        """RGBA [S,S,4] uint8."""
        number, item = self.places[index]
        start, end = self.offsets[number][item * self.views + view :][:2]
        return decode_image(self.files[number].get_slice("images")[int(start) : int(end)].tobytes())


class ViewSet:
    """Random views of a split's objects."""

    def __init__(self, objects: SurfaceSet, latents: SLatEncoder, images: torch.nn.Module | None) -> None:
        """latents: the frozen SLat encoder; images: the image encoder if that one reads image tokens."""
        self.objects, self.latents, self.images = objects, latents, images
        self.pictures = Pictures(objects.shards)
        self.mean, self.std = torch.zeros(1), torch.ones(1)

    def encode(self, index: int, voxels: np.ndarray, mirrored: bool) -> Tensor:
        """The latent [L,C] of the voxels [L,3]."""
        surface = self.objects.surface(index)
        if mirrored:
            surface = surface.turned(slat_data.MIRROR)
        feats = voxel_features(self.objects, index, surface, voxels, self.images)
        sparse = SparseTensor.from_batch([torch.from_numpy(voxels).int()], [feats])
        with torch.no_grad():
            latent: Tensor = self.latents(sparse.to(self.latents.out_layer.weight.device)).feats.float().cpu()
        return latent

    def measure(self) -> None:
        """Set the mean and standard deviation of every latent channel."""
        random = np.random.default_rng(0)
        chosen = random.choice(len(self.objects), min(MEASURED, len(self.objects)), replace=False)
        latents = torch.cat([self.encode(int(index), self.objects.voxels(int(index)), False) for index in chosen])
        self.mean, self.std = latents.mean(0), latents.std(0).clamp_min(1e-3)

    def draw(self, count: int, generator: torch.Generator, augment: bool) -> View:
        """Random views; ``augment`` mirrors, disturbs voxels and cameras, and changes the exposure."""
        random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        shards, resolution = self.objects.shards, self.objects.resolution
        coords, latents, images, cameras, intrinsics = [], [], [], [], []
        for _ in range(count):
            index, view = int(random.integers(len(self.objects))), int(random.integers(shards.views))
            mirrored = augment and self.images is None and random.random() < 0.5
            voxels, picture = self.objects.voxels(index), self.pictures.read(index, view)
            camera, matrix = shards.world_to_camera[index, view], shards.intrinsics[index, view]
            if mirrored:  # another object at no cost, seen in the mirrored picture
                voxels = slat_data.turn_voxels(voxels, slat_data.MIRROR, resolution)
                picture = picture[:, ::-1].copy()
                camera, matrix = slat_data.mirrored_camera(camera, matrix)
            if augment and random.random() < 0.5:
                voxels = slat_data.disturb_voxels(voxels, resolution, random, GROWN, DROPPED)
            coords.append(torch.from_numpy(voxels).int())
            latents.append((self.encode(index, voxels, mirrored) - self.mean) / self.std)
            images.append(torch.from_numpy(picture))
            cameras.append(torch.from_numpy(camera))
            intrinsics.append(torch.from_numpy(matrix))
        image = premultiplied(torch.stack(images))
        world_to_camera, matrices = torch.stack(cameras), torch.stack(intrinsics)
        if augment:
            exposure = 1 + EXPOSURE * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
            image[:, :3] = (image[:, :3] * exposure).clamp(max=1)
            world_to_camera, matrices = slat_data.disturb_cameras(world_to_camera, matrices, generator, CAMERA_NOISE)
        latent = SparseTensor.from_batch(coords, latents)
        return View(latent, voxel_uv(latent.coords, world_to_camera, matrices, resolution), image)


def published_normalization(config: str) -> tuple[Tensor, Tensor] | None:
    """(mean, std), each [C], that belong to the configuration's own SLat encoder; None where they are measured."""
    known = read_config(config).get("slat_normalization")
    return None if known is None else (torch.tensor(known["mean"]), torch.tensor(known["std"]))


class SLatFlow(Stage):
    """Rectified flow of the structured latent."""

    batch = 3
    rate = 2e-3
    bf16_on_cpu = True
    muon = True
    warmup = 50
    parts = {"slat_flow": ""}

    def __init__(self, request: TrainRequest) -> None:
        super().__init__(request)
        self.module = build(self.models["slat_flow"])
        self.module.checkpointing = self.checkpointing
        self.image_encoder = frozen(request, "image_encoder")
        latents = frozen(request, "slat_enc")
        entry = self.models["slat_flow"]["args"]
        if self.image_encoder.channels != entry["cond_channels"]:
            raise MaquetteError(
                "bad_input",
                f"The image encoder answers {self.image_encoder.channels} channels, the flow reads "
                f"{entry['cond_channels']}; train both with one configuration.",
            )
        reads_tokens = latents.input_layer.in_features == self.image_encoder.channels
        self.latent_encoder = latents if reads_tokens else None
        images = self.image_encoder if reads_tokens else None
        train_set, held_out = (
            SurfaceSet(request.data, name, entry["resolution"], request.limit) for name in ("train", "val")
        )
        self.train_set = ViewSet(train_set, latents, images)
        known = published_normalization(request.config)
        if known is None:
            self.train_set.measure()
        else:
            self.train_set.mean, self.train_set.std = known
        self.held_out = ViewSet(held_out, latents, images)
        self.held_out.mean, self.held_out.std = self.train_set.mean, self.train_set.std
        logger.info("%d objects for training, %d for validation", len(train_set), len(held_out))

    def loss(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return self._velocity_loss(self.train_set.draw(self.size, generator, True), generator, DROP_CONDITION), {}

    def _velocity_loss(self, view: View, generator: torch.Generator, drop: float) -> Tensor:
        x, count = view.latent.to(self.device), view.latent.batch_size
        image, uv = view.image.to(self.device), view.uv.to(self.device)
        keep = (torch.rand(count, generator=generator) >= drop).to(self.device)
        tokens = encode_pictures(self.image_encoder, image) * keep.view(-1, 1, 1)
        shown = image[:, :3] * keep.view(-1, 1, 1, 1)
        times = flow_times(count, generator).to(self.device)
        noise = torch.randn(x.feats.shape, generator=generator).to(self.device)
        mixed, velocity = flow_training_pair(x.feats, times[x.batch_index], noise)
        local = self.module.local_features(x, tokens, shown, uv, self.latent_encoder)
        return flow_loss(self.module(x.replace(mixed), 1000 * times, tokens, local).feats, velocity)

    def validate(self) -> dict[str, float]:
        generator = torch.Generator().manual_seed(1)
        losses = []
        for _ in range(6):
            losses.append(float(self._velocity_loss(self.held_out.draw(2, generator, False), generator, 0.0)))
        return {"loss": float(np.mean(losses))}

    def export(self, loop: TrainingLoop) -> None:
        super().export(loop)
        path = self.folder / "pipeline.json"
        pipeline = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        pipeline["slat_normalization"] = {"mean": self.train_set.mean.tolist(), "std": self.train_set.std.tolist()}
        path.write_text(json.dumps(pipeline, indent=2) + "\n", encoding="utf-8")
