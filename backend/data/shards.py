"""Packed training shards: ``<split>-NNNNN.safetensors`` of at most 64 objects and 50 MiB, beside an ``index.json``.

Tensors of a shard with n objects and V views, in object space (cube [-0.5, 0.5]^3, z up):
  images          uint8   [bytes]            lossless WebP pictures, RGBA crops of 96 px, one after the other
  image_offsets   int64   [n * V + 1]        where each picture starts
  intrinsics      float32 [n, V, 3, 3]       of the crop, normalised
  world_to_camera float32 [n, V, 4, 4]       OpenCV
  occupancy       uint8   [n, 32^3 / 8]      surface voxels, bits in order i, j, k (numpy.packbits)
  occupancy64     uint8   [n, 64^3 / 8]
  solid           uint8   [n, ceil(65^3/8)]  inside test of the grid vertices v / 64 - 0.5
  points          float16 [n, 4096, 3]       surface points, with normals int8 (x 127) and colors uint8 (sRGB albedo)
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from .crops import decode_image

GENERATOR_VERSION = 1
OBJECTS_PER_SHARD = 64
CROP_SIZE = 96
SURFACE_POINTS = 4096
MAX_SHARD_BYTES = 50 * 2**20
INDEX_NAME = "index.json"
_CUBES = {"occupancy": 32, "occupancy64": 64, "solid": 65}


def pack_cube(cube: np.ndarray) -> np.ndarray:
    """A bool cube [R, R, R] as packed bits [ceil(R^3 / 8)] uint8."""
    return np.packbits(np.ascontiguousarray(cube, dtype=bool).reshape(-1))


def unpack_cubes(bits: np.ndarray, resolution: int) -> np.ndarray:
    """Packed bits [n, ceil(R^3 / 8)] uint8 as bool cubes [n, R, R, R]."""
    flat = np.unpackbits(bits, axis=-1, count=resolution**3)
    return flat.reshape(*bits.shape[:-1], resolution, resolution, resolution).astype(bool)


def write_shard(path: Path, tensors: dict[str, np.ndarray], entry: dict) -> dict:
    """Write one shard and its description (``.json`` beside it), both complete or not at all.

    entry: what index.json says about the shard (ids, captions, ...). Returns it with the file's name and size.
    Raises ValueError when the shard is larger than MAX_SHARD_BYTES.
    """
    size = sum(array.nbytes for array in tensors.values())
    if size > MAX_SHARD_BYTES:
        raise ValueError(f"Shard {path.name} would take {size >> 20} MiB; use fewer views or objects a shard.")
    partial = path.with_suffix(".part")
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, partial)
    partial.replace(path)
    entry = {**entry, "file": path.name, "bytes": path.stat().st_size, "count": len(entry["ids"])}
    description = path.with_suffix(".json.part")
    description.write_text(json.dumps(entry), encoding="utf-8")
    description.replace(path.with_suffix(".json"))
    return entry


def write_index(folder: Path) -> dict:
    """Rebuild index.json from the shards that are complete; returns it."""
    shards = []
    for path in sorted(folder.glob("*-*.json")):
        if path.with_suffix(".safetensors").exists():
            shards.append(json.loads(path.read_text(encoding="utf-8")))
    counts: dict[str, int] = {}
    for shard in shards:
        counts[shard["split"]] = counts.get(shard["split"], 0) + shard["count"]
    index = {
        "generator_version": GENERATOR_VERSION,
        "crop_size": CROP_SIZE,
        "views": shards[0]["views"] if shards else 0,
        "seed": shards[0]["seed"] if shards else 0,
        "counts": counts,
        "shards": shards,
    }
    partial = folder / (INDEX_NAME + ".part")
    partial.write_text(json.dumps(index), encoding="utf-8")
    partial.replace(folder / INDEX_NAME)
    return index


class ShardDataset:
    """All shards of one split as numpy arrays; each array is read on first use and then kept.

    Shards written after the dataset was opened are not seen. Raises FileNotFoundError when the split has none.
    """

    def __init__(self, folder: str | Path, split: str, limit: int | None = None) -> None:
        """limit: use only the first shards that hold at least this many objects, cut to that number."""
        self.folder, self.split = Path(folder), split
        index_path = self.folder / INDEX_NAME
        if not index_path.exists():
            raise FileNotFoundError(f"{index_path} does not exist; make it with `python -m backend.data.prepare`.")
        self.index = json.loads(index_path.read_text(encoding="utf-8"))
        self.shards: list[dict] = []
        found = 0
        for shard in self.index["shards"]:
            if shard["split"] == split and shard["count"] and (limit is None or found < limit):
                self.shards.append(shard)
                found += shard["count"]
        if not found:
            raise FileNotFoundError(f"{folder} holds no {split} shard; make it with `python -m backend.data.prepare`.")
        self.count = found if limit is None else min(found, limit)
        self.ids: list[str] = [item for shard in self.shards for item in shard["ids"]][: self.count]
        self.captions: list[str] = [item for shard in self.shards for item in shard["captions"]][: self.count]
        self.views: int = self.shards[0]["views"]

    def __len__(self) -> int:
        return self.count

    def _read(self, name: str) -> np.ndarray:
        """One tensor of all shards, joined along the objects. safetensors maps the files, so nothing else is read."""
        parts = []
        for shard in self.shards:
            with safe_open(self.folder / shard["file"], framework="np") as stored:
                parts.append(stored.get_tensor(name))
        return np.concatenate(parts)[: self.count]

    def _cubes(self, name: str) -> np.ndarray:
        return unpack_cubes(self._read(name), _CUBES[name])

    @functools.cached_property
    def intrinsics(self) -> np.ndarray:
        """float32 [n, V, 3, 3], normalised to the crop."""
        return self._read("intrinsics")

    @functools.cached_property
    def world_to_camera(self) -> np.ndarray:
        """float32 [n, V, 4, 4]."""
        return self._read("world_to_camera")

    @functools.cached_property
    def occupancy(self) -> np.ndarray:
        """bool [n, 32, 32, 32] surface voxels."""
        return self._cubes("occupancy")

    @functools.cached_property
    def occupancy64(self) -> np.ndarray:
        """bool [n, 64, 64, 64] surface voxels."""
        return self._cubes("occupancy64")

    def occupancy_at(self, resolution: int) -> np.ndarray:
        """Surface voxels bool [n, R, R, R]. Raises ValueError for a resolution that the shards do not hold."""
        if resolution not in (32, 64):
            raise ValueError(f"Shards hold voxels at 32 and 64, not at {resolution}; choose one of these.")
        return self.occupancy if resolution == 32 else self.occupancy64

    @functools.cached_property
    def solid(self) -> np.ndarray:
        """bool [n, 65, 65, 65] grid vertices inside the object."""
        return self._cubes("solid")

    @functools.cached_property
    def points(self) -> np.ndarray:
        """float16 [n, 4096, 3] surface points."""
        return self._read("points")

    @functools.cached_property
    def normals(self) -> np.ndarray:
        """int8 [n, 4096, 3] surface normals times 127."""
        return self._read("normals")

    @functools.cached_property
    def colors(self) -> np.ndarray:
        """uint8 [n, 4096, 3] surface albedo, sRGB."""
        return self._read("colors")

    @functools.cached_property
    def images(self) -> np.ndarray:
        """uint8 [n, V, 96, 96, 4] crops, straight alpha, black where transparent."""
        images = np.zeros((self.count, self.views, CROP_SIZE, CROP_SIZE, 4), dtype=np.uint8)
        done = 0
        for shard in self.shards:
            with safe_open(self.folder / shard["file"], framework="np") as stored:
                blob, offsets = stored.get_tensor("images"), stored.get_tensor("image_offsets")
            for item in range(min(shard["count"], self.count - done)):
                for view in range(self.views):
                    start, end = offsets[item * self.views + view : item * self.views + view + 2]
                    images[done + item, view] = decode_image(blob[start:end].tobytes())
            done += min(shard["count"], self.count - done)
        return images
