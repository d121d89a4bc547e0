"""True bundle pictures of the objects of a dataset: ``python -m backend.data.bundles --assets DIR --out DIR``.

A bundle (kiss3dgen spec 4) shows an object's base colours from four sides above and its normals below. Base colours,
not lit ones: what is generated becomes a texture, and a texture must hold no light. Shards beside an ``index.json``,
as `backend.data.shards` writes them, with

  bundles        uint8 [bytes]   lossless WebP pictures [2S, 4S, RGBA], one after the other, alpha = the mask
  bundle_offsets int64 [n + 1]   where each picture starts

With ``--degraded`` the same objects are made worse first (`degradation.py`), each to a degree drawn by its id, and
drawn without Blender: what a tile ControlNet learns to make good again, paired by id with the true bundles.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from safetensors import safe_open

from ..contract import bundle_views
from ..rendering.bundle_views import draw_bundle
from . import blender, crops, degradation, objects, prepare, shards

log = logging.getLogger(__name__)

SUPERSAMPLING = 2  # rendered at twice the tile's size: normals and mask have one sample a pixel
TEXELS_PER_PIXEL = 4  # side of a degraded object's texture: half of the texels show other sides
DEGREE_SEED = 1
NOTHING_VISIBLE = "Nothing of it is visible."

Pictures = Callable[[Sequence[prepare.AssetRow], int], Iterator[np.ndarray | str]]
"""Bundle pictures uint8 [2S,4S,4] of objects at tiles of S pixels, in order; a sentence where there is none."""


def render_bundles(assets: Sequence[blender.Asset], size: int, samples: int = 4) -> Iterator[blender.RenderedObject]:
    """Render assets with Blender as `blender.render_assets` does, in the four views, at SUPERSAMPLING x ``size``."""
    options = blender.RenderOptions(
        bundle=True, size=size * SUPERSAMPLING, samples=samples, tight=False, random_light=False
    )
    return blender.render_assets(assets, options)


def bundle_picture(rendered: blender.RenderedObject) -> np.ndarray:
    """The bundle picture uint8 [2S,4S,4] of one rendered object: white where nothing is, alpha = the mask."""
    arrays = rendered.arrays
    mask = arrays["mask"].astype(np.float32)[..., None]
    colors = arrays["albedo"].astype(np.float32) / 255.0
    world = arrays["normals"].astype(np.float32) / 127.0
    normals = np.stack(
        [
            bundle_views.encode_normals(view, camera)
            for view, camera in zip(world, arrays["world_to_camera"], strict=True)
        ]
    )
    rows = [_shrink(np.concatenate([part * mask + 1.0 - mask, mask], axis=-1)) for part in (colors, normals)]
    picture = bundle_views.join_tiles(*rows)
    return np.rint(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)


def true_pictures(rows: Sequence[prepare.AssetRow], size: int) -> Iterator[np.ndarray | str]:
    """The bundle picture of each object, or why there is none."""
    for rendered in render_bundles([blender.Asset(row.id, row.path, 0) for row in rows], size):
        if rendered.error or not rendered.arrays["mask"].any():
            yield rendered.error or NOTHING_VISIBLE
        else:
            yield bundle_picture(rendered)


def degraded_pictures(rows: Sequence[prepare.AssetRow], size: int) -> Iterator[np.ndarray | str]:
    """The bundle picture of each object made worse, or why there is none."""
    for row in rows:
        degree = degradation.random_degree(np.random.default_rng(prepare.object_seed(row.id, DEGREE_SEED)))
        try:
            mesh = objects.read_object(row.path, TEXELS_PER_PIXEL * size)
            worse = degradation.degraded(mesh, degree, TEXELS_PER_PIXEL * size)
        except ValueError as error:
            yield str(error)
            continue
        picture = draw_bundle(worse, size)
        yield np.rint(picture.clip(0.0, 1.0) * 255.0).astype(np.uint8) if picture[..., 3].any() else NOTHING_VISIBLE


def _shrink(tiles: np.ndarray) -> np.ndarray:
    """Box filter of tiles [4,H,W,C] by SUPERSAMPLING."""
    count, height, width, channels = tiles.shape
    blocks = (count, height // SUPERSAMPLING, SUPERSAMPLING, width // SUPERSAMPLING, SUPERSAMPLING, channels)
    return tiles.reshape(blocks).mean(axis=(2, 4))


def make_shard(chunk: prepare.Chunk, out: Path, size: int, make: Pictures = true_pictures) -> dict | None:
    """Draw and write one shard; None when no object of it could be used."""
    failed: dict[str, str] = {}
    pictures: list[bytes] = []
    kept: list[prepare.AssetRow] = []
    for row, picture in zip(chunk.rows, make(chunk.rows, size), strict=True):
        if isinstance(picture, str):
            failed[row.id] = picture
            continue
        pictures.append(crops.encode_image(picture))
        kept.append(row)
    if not kept:
        log.error("no object of %s could be rendered", chunk.name)
        return None
    tensors = {
        "bundles": np.frombuffer(b"".join(pictures), dtype=np.uint8),
        "bundle_offsets": np.cumsum([0] + [len(picture) for picture in pictures], dtype=np.int64),
    }
    entry = {
        "split": chunk.split, "views": len(bundle_views.AZIMUTHS_DEGREES), "seed": 0, "size": size, "failed": failed,
        "ids": [row.id for row in kept], "captions": [row.caption for row in kept],
    }  # fmt: skip
    return shards.write_shard(out / f"{chunk.name}.safetensors", tensors, entry)


class BundleDataset:
    """The bundle pictures of one split. Raises FileNotFoundError when the folder holds none."""

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder = Path(folder)
        index = self.folder / shards.INDEX_NAME
        entries = json.loads(index.read_text(encoding="utf-8"))["shards"] if index.exists() else []
        self.shards = [entry for entry in entries if entry["split"] == split and entry["count"]]
        if not self.shards:
            raise FileNotFoundError(f"{folder} holds no {split} bundle; make it with `python -m backend.data.bundles`.")
        self.ids: list[str] = [item for shard in self.shards for item in shard["ids"]]
        self.captions: list[str] = [item for shard in self.shards for item in shard["captions"]]
        self.size: int = self.shards[0]["size"]

    def __len__(self) -> int:
        return len(self.ids)

    def pictures(self) -> np.ndarray:
        """uint8 [n, 2S, 4S, 4]: colours and normals on white, the mask as alpha."""
        pictures = np.empty((len(self), 2 * self.size, 4 * self.size, 4), dtype=np.uint8)
        done = 0
        for shard in self.shards:
            with safe_open(self.folder / shard["file"], framework="np") as stored:
                blob, offsets = stored.get_tensor("bundles"), stored.get_tensor("bundle_offsets")
            for start, end in zip(offsets[:-1], offsets[1:], strict=True):
                pictures[done] = crops.decode_image(blob[start:end].tobytes())
                done += 1
        pictures[pictures[..., 3] == 0] = (255, 255, 255, 0)  # the encoder blackens what is transparent
        return pictures


def main(argv: list[str] | None = None) -> int:
    """Command line; 0 when at least one object is in the shards."""
    parser = argparse.ArgumentParser(prog="python -m backend.data.bundles", description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, required=True, help="folder with objects.csv or GLB files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--split", choices=[*prepare.SPLITS, "all"], default="all")
    parser.add_argument("--size", type=int, default=64, help="pixels of a tile")
    parser.add_argument("--limit", type=int, default=None, help="objects a split")
    parser.add_argument("--workers", type=int, default=2, help="Blender processes of one thread each")
    parser.add_argument("--degraded", action="store_true", help="made worse on purpose, drawn without Blender")
    arguments = parser.parse_args(argv)
    make = degraded_pictures if arguments.degraded else true_pictures
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    lock = threading.Lock()

    def work(chunk: prepare.Chunk) -> None:
        if (arguments.out / f"{chunk.name}.json").exists():
            return
        make_shard(chunk, arguments.out, arguments.size, make)
        with lock:
            log.info("%s done, objects so far %s", chunk.name, shards.write_index(arguments.out)["counts"])

    try:
        chunks = prepare.plan_chunks(prepare.read_assets(arguments.assets), arguments.split, 0, arguments.limit)
        arguments.out.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(max_workers=arguments.workers) as pool:
            for _ in pool.map(work, chunks):
                pass
    except (FileNotFoundError, blender.BlenderNotFound) as error:
        log.error("%s", error)
        return 1
    return 0 if shards.write_index(arguments.out)["counts"] else 1


if __name__ == "__main__":
    sys.exit(main())
