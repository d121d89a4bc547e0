"""The unseen views of an evaluation: rendered by Blender from a folder of GLB files, or taken from prepared shards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.data import blender, prepare, surface
from backend.data.shards import ShardDataset

logger = logging.getLogger(__name__)

PICTURE_SIZE = 256  # pixels of a rendered input
SURFACE_VIEWS = 12  # views whose point maps together are the whole surface
POINTS = 4000  # points kept of a surface
DEPTH_CELLS = 64  # cells of the grid that decides which points of a shard a view sees
DEPTH_SLACK = 0.03


@dataclass(frozen=True)
class TestView:
    """One input with its answer. rgba [H,W,4] uint8; camera matrices; points [N,3] whole and visible surface."""

    object_id: str
    view: int
    rgba: np.ndarray
    intrinsics: np.ndarray
    world_to_camera: np.ndarray
    occupancy: np.ndarray
    surface: np.ndarray
    visible: np.ndarray


def views_from_assets(folder: Path, split: str, views: int, limit: int | None, seed: int) -> Iterator[TestView]:
    """Render `views` unseen views of each object of `folder` in `split`. Errors: FileNotFoundError, BlenderNotFound."""
    rows = [row for row in prepare.read_assets(folder) if split == "all" or row.split == split][:limit]
    if not rows:
        raise FileNotFoundError(f"{folder} holds no object of the split {split!r}; choose another --split.")
    options = blender.RenderOptions(views=max(views, SURFACE_VIEWS), size=PICTURE_SIZE)
    assets = [blender.Asset(row.id, row.path, prepare.object_seed(row.id, seed + 7919)) for row in rows]
    rng = np.random.default_rng(seed)
    for rendered in blender.render_assets(assets, options):
        if rendered.error:
            logger.warning("%s is left out: %s", rendered.asset.id, rendered.error)
            continue
        arrays = rendered.arrays
        mask = arrays["mask"]
        normals = arrays["normals"][mask].astype(np.float32) / 127.0
        occupancy = surface.surface_occupancy(arrays["points"][mask], normals, 32)
        whole = _some(arrays["points"][mask], rng)
        order = rng.permutation(len(mask))  # Hammersley order starts at a pole; any view may be asked for
        for index in order[:views]:
            if mask[index].any():
                visible = _some(arrays["points"][index][mask[index]], rng)
                yield TestView(
                    rendered.asset.id, int(index), arrays["color"][index], arrays["intrinsics"][index],
                    arrays["world_to_camera"][index], occupancy, whole, visible,
                )  # fmt: skip


def views_from_shards(folder: Path, split: str, views: int, limit: int | None, seed: int) -> Iterator[TestView]:
    """The first `limit` objects of prepared shards, `views` random views each. Errors: FileNotFoundError."""
    data = ShardDataset(folder, split, limit)
    rng = np.random.default_rng(seed)
    for item, object_id in enumerate(data.ids):
        whole = _some(data.points[item].astype(np.float64), rng)
        for view in rng.permutation(data.views)[:views]:
            camera, intrinsics = data.world_to_camera[item, view], data.intrinsics[item, view]
            visible = whole[_seen(whole, camera, intrinsics)]
            yield TestView(
                object_id, int(view), data.images[item, view], intrinsics, camera, data.occupancy[item], whole, visible
            )


def _some(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return points[rng.permutation(len(points))[:POINTS]].astype(np.float64)


def _seen(points: np.ndarray, world_to_camera: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Which points [N,3] are the nearest in their cell of the picture [N] bool."""
    camera = points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    image = camera @ intrinsics.T
    cell = np.floor(image[:, :2] / image[:, 2:] * DEPTH_CELLS).astype(int).clip(0, DEPTH_CELLS - 1)
    index = cell[:, 1] * DEPTH_CELLS + cell[:, 0]
    nearest = np.full(DEPTH_CELLS**2, np.inf)
    np.minimum.at(nearest, index, camera[:, 2])
    return np.asarray(camera[:, 2] <= nearest[index] + DEPTH_SLACK)
