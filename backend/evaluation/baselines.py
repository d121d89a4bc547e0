"""What a system must beat: the nearest training view by image embedding, and the mean training shape.

Both come from a bank made of training shards: for some training views a small embedding of the picture, the camera, and
the object's voxels. The embedding is the premultiplied RGBA crop at 24 pixels, free of any network.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

from backend.contract.meshes import MeshData
from backend.data import blender, prepare
from backend.data.crops import decode_image
from backend.data.shards import ShardDataset, pack_cube, unpack_cubes
from backend.systems.cupid.occupancy_mesh import mesh_from_occupancy
from backend.systems.cupid.photo_texture import textured_mesh

logger = logging.getLogger(__name__)

BANK_FILE = Path(__file__).parents[2] / "build" / "baselines.safetensors"  # made once; training objects are not shipped
EMBEDDING_SIZE = 24
VIEWS_IN_BANK = 2
OBJECTS_IN_BANK = 2048
RENDERED_OBJECTS = 256  # when there are no shards: about a second each
RENDER_VIEWS = 8  # together they show an object's whole surface


@dataclass(frozen=True)
class Bank:
    """embeddings [N,24*24*4] uint8, world_to_camera [N,4,4], intrinsics [N,3,3], item [N], occupancy bits [n,4096]."""

    embeddings: np.ndarray
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    item: np.ndarray
    occupancy: np.ndarray


@dataclass(frozen=True)
class Guess:
    """A baseline's answer in the crop: mesh and camera."""

    mesh: MeshData
    world_to_camera: np.ndarray
    intrinsics: np.ndarray


def embed(crop: np.ndarray) -> np.ndarray:
    """Embedding [24*24*4] uint8 of a crop [S,S,4] uint8."""
    small = Image.fromarray(crop).resize((EMBEDDING_SIZE, EMBEDDING_SIZE), Image.Resampling.BOX)
    rgba = np.asarray(small, np.float32)
    rgba = np.concatenate([rgba[..., :3] * rgba[..., 3:] / 255.0, rgba[..., 3:]], axis=-1)
    return np.rint(rgba).astype(np.uint8).reshape(-1)


def make_bank(shards: Path) -> Bank:
    """A bank of the training split of `shards`. Errors: FileNotFoundError."""
    data = ShardDataset(shards, "train", OBJECTS_IN_BANK)
    views = min(VIEWS_IN_BANK, data.views)
    images = data.images[:, :views].reshape(-1, *data.images.shape[2:])
    return Bank(
        np.stack([embed(image) for image in images]),
        data.world_to_camera[:, :views].reshape(-1, 4, 4),
        data.intrinsics[:, :views].reshape(-1, 3, 3),
        np.repeat(np.arange(len(data)), views),
        np.stack([pack_cube(cube) for cube in data.occupancy]),
    )


def render_bank(assets: Path, seed: int, limit: int = RENDERED_OBJECTS) -> Bank | None:
    """A bank of the training split of a folder of GLB files, rendered by Blender; None without training objects."""
    rows = [row for row in prepare.read_assets(assets) if row.split == "train"]
    np.random.default_rng(seed).shuffle(rows)  # type: ignore[arg-type]
    chosen = [blender.Asset(row.id, row.path, prepare.object_seed(row.id, seed)) for row in rows[:limit]]
    options = blender.RenderOptions(views=RENDER_VIEWS)
    digests = []
    for rendered in blender.render_assets(chosen, options) if chosen else ():
        if rendered.error:
            continue
        try:
            digests.append(prepare.digest(rendered))
        except ValueError as error:
            logger.info("%s is left out: %s", rendered.asset.id, error)
    if not digests:
        return None
    views = min(VIEWS_IN_BANK, RENDER_VIEWS)
    return Bank(
        np.stack([embed(decode_image(data)) for item in digests for data in item["images"][:views]]),
        np.concatenate([item["world_to_camera"][:views] for item in digests]),
        np.concatenate([item["intrinsics"][:views] for item in digests]),
        np.repeat(np.arange(len(digests)), views),
        np.stack([item["occupancy"] for item in digests]),
    )


def save_bank(bank: Bank, path: Path = BANK_FILE) -> None:
    """Write a bank for later evaluations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value) for name, value in vars(bank).items()}, path)


def load_bank(path: Path = BANK_FILE) -> Bank | None:
    """The stored bank, or None."""
    return Bank(**load_file(path)) if path.exists() else None


class Baselines:
    """Answers of both baselines for crops."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self._embeddings = bank.embeddings.astype(np.float32)
        cubes = unpack_cubes(bank.occupancy, 32)
        mean = cubes.mean(axis=0)
        count = int(cubes.sum(axis=(1, 2, 3)).mean())  # as many voxels as a training object has
        self._mean_shape = mean >= np.partition(mean.ravel(), -count)[-count]
        self._mean_camera = _central_camera(bank.world_to_camera)

    def answer(self, name: str, crop: np.ndarray) -> Guess:
        """The answer of `nearest` or `mean_shape` for a crop [S,S,4] uint8, coloured from it as the system's own."""
        if name == "nearest":
            distance = ((self._embeddings - embed(crop).astype(np.float32)) ** 2).sum(axis=1)
            row = int(distance.argmin())
            occupancy = unpack_cubes(self.bank.occupancy[self.bank.item[row]], 32)
        else:
            row, occupancy = self._mean_camera, self._mean_shape
        camera, intrinsics = self.bank.world_to_camera[row], self.bank.intrinsics[row]
        vertices, faces = mesh_from_occupancy(occupancy)
        matrices = camera.astype(np.float64), intrinsics.astype(np.float64)
        return Guess(textured_mesh(vertices, faces, crop, *matrices), camera, intrinsics)


def _central_camera(cameras: np.ndarray) -> int:
    """The camera [4,4] with the least sum of rotation differences to all others."""
    rotations = cameras[:, :3, :3].reshape(len(cameras), 9).astype(np.float64)
    cosine = ((rotations @ rotations.T) - 1.0) / 2.0
    return int(np.arccos(cosine.clip(-1, 1)).sum(axis=1).argmin())
