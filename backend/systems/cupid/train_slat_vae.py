"""Training of the structured latent's VAE: encoder, mesh decoder and Gaussian decoder together (specification 12).

Where this departs from the published losses: those compare renderings (mask, depth, normal, SSIM, LPIPS) of whole
objects, which takes a differentiable rasteriser and a GPU. Here the mesh decoder is told signed distance, colour and
normal at the corners of its cubes, and the splats where the nearest surface point is, its colour and normal; that needs
no rendering and works on windows of an object, so that a step takes about a second on one core. Deformation and weights
of the extraction get no target and stay neutral.

With an encoder of `SURFACE_CHANNELS` inputs a voxel's features are its surface points' colour, normal and place. With
any other number they are image tokens averaged over the views, as published; then the image encoder comes first.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from backend.contract.errors import MaquetteError
from backend.nn.sparse_tensor import SparseTensor
from backend.training.checkpoints import load_strict, load_tensors, tensor_files

from . import slat_data
from .losses import kl_loss
from .model import build
from .networks import random_network
from .slat_data import SURFACE_CHANNELS, Surface, SurfaceSet
from .slat_flow import SPECIAL_TOKENS, sample_at
from .slat_mesh import SLatMeshDecoder
from .slat_vae import Gaussians, SLatEncoder, SLatGaussianDecoder
from .structure_decode import voxel_uv
from .train import MINI_WEIGHTS, PUBLISHED_ENCODER, Stage, TrainRequest, image_tokens, model_config
from .train_draws import resized

logger = logging.getLogger(__name__)

KL_WEIGHT = 1e-3  # published 1e-6: a mini flow errs more, so the decoders must bear more noise
LOGVAR_START = -6.0
WINDOW = 10  # voxels along the side of the training windows
FEWEST = 24  # voxels: smaller windows are not worth a step
SUPERVISED = 24  # voxels of a window whose cubes get targets: finding those takes longer than the network
GAUSSIAN_WEIGHT = 0.2
GROWN, DROPPED = 0.1, 0.02  # shares of voxels that differ from the surface's, as stage 1's do
VALIDATED = 8  # whole validation objects
SPLAT_SCALES = (0.35, 0.35, 0.06)  # voxels: flat along the normal
SPLAT_OPACITY = 0.95


@dataclass(frozen=True)
class Batch:
    """Windows of several objects: voxel features, their surfaces, and the rows of the voxels that get targets."""

    voxels: SparseTensor
    surfaces: list[Surface]
    rows: list[np.ndarray]


class SLatAutoencoder(nn.Module):
    """The structured latent's encoder and its two trained decoders."""

    def __init__(self, encoder: SLatEncoder, mesh: SLatMeshDecoder, gaussian: SLatGaussianDecoder) -> None:
        super().__init__()
        # zero heads and unit noise would drown the latent for hundreds of steps: start with one that says something
        nn.init.xavier_uniform_(encoder.out_layer.weight[: encoder.latent_channels])
        nn.init.constant_(encoder.out_layer.bias[encoder.latent_channels :], LOGVAR_START)
        self.encoder = encoder
        self.mesh = mesh
        self.gaussian = gaussian


class TokenFeatures:
    """Image tokens of all views of an object averaged at each voxel's projections (specification 12.1 c)."""

    def __init__(self, objects: SurfaceSet, encoder: nn.Module) -> None:
        self.shards, self.encoder, self.resolution = objects.shards, encoder, objects.resolution

    def __call__(self, index: int, coords: np.ndarray) -> Tensor:
        """Features [L,C] of the voxels [L,3]."""
        shards = self.shards
        image = premultiplied(torch.from_numpy(shards.images[index]))
        with torch.no_grad():
            tokens = encode_pictures(self.encoder, image)[:, SPECIAL_TOKENS:].float().cpu()
        side = round(tokens.shape[1] ** 0.5)
        patches = tokens.transpose(1, 2).reshape(len(image), -1, side, side)
        total = torch.zeros(len(coords), tokens.shape[-1])
        places = torch.from_numpy(np.pad(coords, ((0, 0), (1, 0)))).int()
        for view in range(len(image)):
            matrices = (torch.from_numpy(x[index, view])[None] for x in (shards.world_to_camera, shards.intrinsics))
            uv = voxel_uv(places, *matrices, self.resolution)
            total += sample_at(patches[view : view + 1], uv, [slice(0, len(coords))])
        return total / len(image)


def premultiplied(rgba: Tensor) -> Tensor:
    """Pictures [B,S,S,4] uint8 as network input [B,4,S,S] in [0,1]: premultiplied colour, alpha."""
    values = rgba.permute(0, 3, 1, 2).float() / 255
    return torch.cat([values[:, :3] * values[:, 3:], values[:, 3:]], dim=1)


def encode_pictures(encoder: nn.Module, image: Tensor) -> Tensor:
    """Tokens of pictures [B,4,S,S] of any size; without gradients."""
    device = next(encoder.parameters()).device
    image = image[:, : encoder.in_channels].to(device)
    if image.shape[-1] != encoder.image_size:
        image = resized(image, encoder.image_size)
    with torch.no_grad():
        tokens: Tensor = encoder(image)
    return tokens


def frozen(request: TrainRequest, role: str) -> nn.Module:
    """The exported model `role`, not trainable: from `--export-to`, else from the shipped weights; random in a trial.

    Its sizes are those of the file beside the weights, in a trial those of the configuration. Errors: `MaquetteError`
    model_missing: its stage comes first.
    """
    entry = model_config(request.config)[role]
    if role == "image_encoder" and entry["name"] == PUBLISHED_ENCODER:
        return image_tokens(request, entry).to(request.device)
    if request.random:
        trial = random_network(partial(build, entry), role, request.seed)
        return trial.to(request.device).eval().requires_grad_(False)
    own = (request.export_to or MINI_WEIGHTS) / role
    place = own if tensor_files(own) else MINI_WEIGHTS / role
    try:
        tensors = load_tensors(place)
    except MaquetteError as error:
        raise MaquetteError(
            "model_missing", f"The weights of {role} are not there; train and export its stage first.", str(error),
            "install_model",
        ) from error
    model = build(json.loads(place.with_name(f"{role}.json").read_text(encoding="utf-8")))
    load_strict(model, {name: tensor.float() for name, tensor in tensors.items()}, role)
    return model.to(request.device).eval().requires_grad_(False)


class SLatVae(Stage):
    """Encoder and decoders of stage 2 on windows of random objects."""

    batch = 4
    rate = 3e-3
    bf16_on_cpu = True
    muon = True
    warmup = 50
    parts = {"slat_enc": "encoder", "slat_dec_mesh": "mesh", "slat_dec_gs": "gaussian"}

    def __init__(self, request: TrainRequest) -> None:
        super().__init__(request)
        self.module = SLatAutoencoder(*(build(self.models[role]) for role in self.parts))
        entry = self.models["slat_enc"]["args"]
        self.resolution: int = entry["resolution"]
        self.objects, self.held_out = (
            SurfaceSet(request.data, split, self.resolution, request.limit) for split in ("train", "val")
        )
        self.images = None
        if entry["in_channels"] != SURFACE_CHANNELS:
            self.images = frozen(request, "image_encoder")
            if self.images.channels != entry["in_channels"]:
                raise MaquetteError(
                    "bad_input",
                    f"The SLat encoder reads {entry['in_channels']} channels and the image encoder answers "
                    f"{self.images.channels}; export an image encoder of that width first.",
                )
        logger.info("%d objects for training, %d for validation", len(self.objects), len(self.held_out))

    def features(self, objects: SurfaceSet, index: int, surface: Surface, coords: np.ndarray) -> Tensor:
        """What the encoder sees at the voxels [L,3] of one object."""
        return voxel_features(objects, index, surface, coords, self.images)

    def draw(self, generator: torch.Generator) -> Batch:
        """Windows of random objects, turned, with voxels that stage 1 may get wrong."""
        random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        coords, feats, surfaces, rows = [], [], [], []
        while len(surfaces) < self.size:
            index = int(random.integers(len(self.objects)))
            surface, voxels = self.objects.surface(index), self.objects.voxels(index)
            if self.images is None:  # image tokens belong to the object as it was seen
                turn = slat_data.cube_turn(random)
                surface = surface.turned(turn)
                voxels = slat_data.turn_voxels(voxels, turn, self.resolution)
            if random.random() < 0.5:
                voxels = slat_data.disturb_voxels(voxels, self.resolution, random, GROWN, DROPPED)
            window = random_window(voxels, self.resolution, random)
            count = int(window.sum())
            if count < min(FEWEST, len(voxels)):
                continue
            coords.append(torch.from_numpy(voxels[window]).int())
            feats.append(self.features(self.objects, index, surface, voxels[window]))
            surfaces.append(surface)
            rows.append(random.choice(count, min(SUPERVISED, count), replace=False))
        return Batch(SparseTensor.from_batch(coords, feats).to(self.device), surfaces, rows)

    def loss(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = self.draw(generator)
        mean, logvar = self.module.encoder.moments(batch.voxels)
        width = logvar.feats.float().clamp(-20, 10)
        noise = torch.randn(mean.feats.shape, generator=generator).to(self.device)
        latent = mean.replace(mean.feats + noise * torch.exp(0.5 * width))
        parts = mesh_losses(self.module.mesh, latent, batch)
        first = SparseTensor.from_batch(*([part] for part in latent.items()[0]))  # one window a step is enough
        splats = gaussian_losses(self.module.gaussian(first), batch.surfaces[:1], self.resolution)
        kl = kl_loss(mean.feats.float(), width)
        loss = parts["distance"] + 0.5 * parts["color"] + 0.1 * parts["normal"] + KL_WEIGHT * kl
        loss = loss + GAUSSIAN_WEIGHT * sum(splats.values())
        values = {**parts, **{f"splat_{name}": value for name, value in splats.items()}, "kl": kl}
        return loss, {name: float(value.detach()) for name, value in values.items()}

    def whole(self, count: int) -> Iterator[Batch]:
        """Whole validation objects, one at a time, always the same voxels supervised."""
        random = np.random.default_rng(1)
        for index in range(min(count, len(self.held_out))):
            surface, voxels = self.held_out.surface(index), self.held_out.voxels(index)
            feats = self.features(self.held_out, index, surface, voxels)
            rows = random.choice(len(voxels), min(2 * SUPERVISED, len(voxels)), replace=False)
            tensor = SparseTensor.from_batch([torch.from_numpy(voxels).int()], [feats]).to(self.device)
            yield Batch(tensor, [surface], [rows])

    def validate(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        batches = 0
        for batch in self.whole(VALIDATED):
            latent = self.module.encoder(batch.voxels)
            parts = mesh_losses(self.module.mesh, latent, batch)
            parts["latent_std"] = latent.feats.std()
            splats = gaussian_losses(self.module.gaussian(latent), batch.surfaces, self.resolution)
            parts["splat_color"] = splats["color"]
            batches += 1
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
        return {name: value / batches for name, value in sums.items()}


def voxel_features(
    objects: SurfaceSet, index: int, surface: Surface, coords: np.ndarray, images: nn.Module | None
) -> Tensor:
    """The SLat encoder's input [L,C] at voxels [L,3]: of the surface, or with `images` (an encoder) of its pictures."""
    if images is not None:
        return TokenFeatures(objects, images)(index, coords)
    return torch.from_numpy(slat_data.surface_features(surface, coords, objects.resolution))


def random_window(coords: np.ndarray, resolution: int, random: np.random.Generator) -> np.ndarray:
    """Which voxels [L] bool lie in a box of `WINDOW` voxels around a random one."""
    middle = coords[random.integers(len(coords))]
    low = np.clip(middle - random.integers(WINDOW // 4, WINDOW - WINDOW // 4, 3), 0, max(0, resolution - WINDOW))
    return ((coords >= low) & (coords < low + WINDOW)).all(axis=1)


def mesh_losses(decoder: SLatMeshDecoder, latent: SparseTensor, batch: Batch) -> dict[str, Tensor]:
    """Distance (voxels, weighted towards the surface), colour and normal errors, and the share of right signs."""
    fine = decoder.fine(latent)  # the output layer is as wide as everything before it: only where there are targets
    sums: dict[str, list[Tensor]] = {"distance": [], "color": [], "normal": [], "sign": []}
    for rows, surface, (coords, feats) in zip(batch.rows, batch.surfaces, fine.items(), strict=True):
        chosen = torch.from_numpy((rows[:, None] * 64 + np.arange(64)).reshape(-1)).to(feats.device)
        places = coords[chosen].cpu().numpy().astype(np.int64)
        wanted = slat_data.cube_targets(surface, places, decoder.grid_resolution)
        distance, attributes = (torch.from_numpy(x).float().to(feats.device) for x in wanted)
        said = decoder.out_layer(feats.index_select(0, chosen).float()).float()
        field = said[:, :8] - 1.0 / decoder.grid_resolution
        near = torch.exp(-(3 * distance).square())
        sums["distance"].append(((1 + 4 * near) * (field - distance).abs()).mean())
        sums["sign"].append(((field < 0) == (distance < 0)).float().mean())
        if decoder.use_color:
            shades = torch.sigmoid(said[:, 53:].view(-1, 8, 6))
            error = (shades - attributes).abs() * near[..., None]
            total = near.sum() * 3 + 1e-6
            sums["color"].append(error[..., :3].sum() / total)
            sums["normal"].append(error[..., 3:].sum() / total)
    return {name: torch.stack(values).mean() if values else latent.feats.new_zeros(()) for name, values in sums.items()}


def gaussian_losses(splats: list[Gaussians], surfaces: list[Surface], resolution: int) -> dict[str, Tensor]:
    """Splats lie on the surface and cover it, in its colour, flat along its normal and nearly opaque."""
    sums: dict[str, list[Tensor]] = {"place": [], "cover": [], "color": [], "flat": [], "size": [], "opacity": []}
    for item, surface in zip(splats, surfaces, strict=True):
        centres = item.raw_xyz.float() - 0.5
        rows = torch.from_numpy(surface.tree.query(centres.detach().cpu().numpy())[1])
        points, normals, colors = (
            torch.from_numpy(x)[rows].to(centres.device) for x in (surface.points, surface.normals, surface.colors)
        )
        apart = (centres - points) * resolution  # voxels
        height = (apart * normals).sum(1).abs()
        sums["place"].append(height.mean() + 0.1 * apart.norm(dim=1).mean())
        sums["cover"].append(_cover(centres, surface, resolution))
        sums["color"].append((item.colors.float() - colors).abs().mean())
        axis = _third_axis(item.rotations.float())
        sums["flat"].append(0.2 * (1 - (axis * normals).sum(1).abs()).mean())
        wanted = torch.log(torch.tensor(SPLAT_SCALES, device=centres.device) / resolution)
        sums["size"].append(0.1 * (torch.log(item.scales.float()) - wanted).abs().mean())
        target = SPLAT_OPACITY * torch.exp(-(2 * height.detach()).square())
        sums["opacity"].append(0.2 * (item.opacities.float()[:, 0] - target).abs().mean())
    return {name: torch.stack(values).mean() for name, values in sums.items()}


def _cover(centres: Tensor, surface: Surface, resolution: int) -> Tensor:
    """Mean distance in voxels from the surface points beside the splats to the nearest splat."""
    places = centres.detach().cpu().numpy()
    margin = 1.0 / resolution
    low, high = places.min(axis=0) - margin, places.max(axis=0) + margin
    points = surface.points[((surface.points > low) & (surface.points < high)).all(axis=1)]
    if not len(points):
        return centres.new_zeros(())
    tree = slat_data.cKDTree(places)
    distance, rows = tree.query(points)
    rows, points = rows[distance < 2 * margin], points[distance < 2 * margin]  # further away is another window
    if not len(points):
        return centres.new_zeros(())
    return ((centres[torch.from_numpy(rows)] - torch.from_numpy(points).to(centres.device)) * resolution).norm(
        dim=1
    ).mean()


def _third_axis(rotation: Tensor) -> Tensor:
    """Where unit quaternions [N,4] (w, x, y, z) take the z axis [N,3]."""
    w, x, y, z = rotation.unbind(1)
    return torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], dim=1)
