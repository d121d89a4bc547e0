"""Render a folder of GLB files to training shards: ``python -m backend.data.prepare --assets DIR --out DIR``.

Resumable: finished shards are kept, the others are made. Objects that cannot be used are skipped, logged and listed in
index.json under the shard's ``failed``. No Blender is needed once the shards exist.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import blender, crops, shards, surface

log = logging.getLogger(__name__)

SPLITS = ("train", "val")
_VAL_AFTER = 10  # train shards come first, then all of val, then the rest: early runs have a fair sample of both


@dataclass(frozen=True)
class AssetRow:
    """One object of the pool."""

    id: str
    path: Path
    split: str
    caption: str


@dataclass(frozen=True)
class Chunk:
    """The objects of one shard."""

    split: str
    number: int
    rows: tuple[AssetRow, ...]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"


def read_assets(folder: Path) -> list[AssetRow]:
    """Objects of ``folder``: the rows of its objects.csv (id, path, split, caption), else every GLB, all in split val.

    Raises FileNotFoundError when there is none.
    """
    table = folder / "objects.csv"
    if table.exists():
        with table.open(newline="", encoding="utf-8") as stream:
            return [
                AssetRow(row["id"], folder / row["path"], row.get("split") or "val", row.get("caption") or "")
                for row in csv.DictReader(stream)
            ]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".glb")
    if not paths:
        raise FileNotFoundError(f"{folder} holds no objects.csv and no GLB file; give --assets a folder of GLB files.")
    return [
        AssetRow(path.relative_to(folder).with_suffix("").as_posix(), path, "val", path.stem.replace("_", " "))
        for path in paths
    ]


def object_seed(object_id: str, seed: int) -> int:
    """A seed for the views of one object, independent of the order of the objects."""
    return zlib.crc32(f"{seed}/{object_id}".encode())


def plan_chunks(rows: list[AssetRow], split: str, seed: int, limit: int | None) -> list[Chunk]:
    """The shards to make, in order; rows are shuffled within a split by ``seed`` and cut to ``limit`` a split."""
    chunks: dict[str, list[Chunk]] = {}
    for name in SPLITS:
        if split not in (name, "all"):
            continue
        chosen = [row for row in rows if row.split == name]
        np.random.default_rng(seed).shuffle(chosen)  # type: ignore[arg-type]
        chosen = chosen[:limit]
        step = shards.OBJECTS_PER_SHARD
        chunks[name] = [Chunk(name, i // step, tuple(chosen[i : i + step])) for i in range(0, len(chosen), step)]
    train, val = chunks.get("train", []), chunks.get("val", [])
    return train[:_VAL_AFTER] + val + train[_VAL_AFTER:]


def digest(rendered: blender.RenderedObject) -> dict[str, np.ndarray | list[bytes]]:
    """What a shard keeps of one rendered object, see shards; images as a list of encoded crops. Raises ValueError."""
    arrays = rendered.arrays
    pairs = [
        crops.crop_view(color, intrinsics, shards.CROP_SIZE)
        for color, intrinsics in zip(arrays["color"], arrays["intrinsics"], strict=True)
    ]
    mask = arrays["mask"]
    points, normals = arrays["points"][mask], arrays["normals"][mask]
    outward = normals.astype(np.float32) / 127.0
    occupancy = surface.surface_occupancy(points, outward, 32)
    if len(points) < 64 or not occupancy.any():
        raise ValueError("Hardly any surface is visible.")
    solid = surface.carve_solid(
        arrays["points"], mask, arrays["color"][..., 3], arrays["world_to_camera"], arrays["intrinsics"]
    )
    chosen = surface.stratified_choice(points, shards.SURFACE_POINTS, np.random.default_rng(rendered.asset.seed))
    return {
        "images": [crops.encode_image(picture) for picture, _ in pairs],
        "intrinsics": np.stack([intrinsics for _, intrinsics in pairs]),
        "world_to_camera": arrays["world_to_camera"],
        "occupancy": shards.pack_cube(occupancy),
        "occupancy64": shards.pack_cube(surface.surface_occupancy(points, outward, 64, min_points=1)),
        "solid": shards.pack_cube(solid),
        "points": points[chosen].astype(np.float16),
        "normals": normals[chosen],
        "colors": arrays["albedo"][mask][chosen],
    }


def join(digests: list[dict]) -> dict[str, np.ndarray]:
    """Stack the digests of a shard's objects; pictures become one blob with offsets."""
    pictures = [picture for item in digests for picture in item["images"]]
    tensors = {name: np.stack([item[name] for item in digests]) for name in digests[0] if name != "images"}
    tensors["images"] = np.frombuffer(b"".join(pictures), dtype=np.uint8)
    tensors["image_offsets"] = np.cumsum([0] + [len(picture) for picture in pictures], dtype=np.int64)
    return tensors


def _digests(
    chunk: Chunk, options: blender.RenderOptions, seed: int, failed: dict[str, str]
) -> Iterator[tuple[AssetRow, dict]]:
    """Digest of each usable object of a chunk; the others go to ``failed`` with the reason."""
    assets = [blender.Asset(row.id, row.path, object_seed(row.id, seed)) for row in chunk.rows]
    for row, rendered in zip(chunk.rows, blender.render_assets(assets, options), strict=True):
        if rendered.error:
            failed[row.id] = rendered.error
            continue
        try:
            yield row, digest(rendered)
        except ValueError as error:
            failed[row.id] = str(error)
            log.warning("object %s was skipped: %s", row.id, error)


def make_shard(chunk: Chunk, out: Path, options: blender.RenderOptions, seed: int) -> dict | None:
    """Render and write one shard; None when no object of it could be used."""
    failed: dict[str, str] = {}
    kept = list(_digests(chunk, options, seed, failed))
    if not kept:
        log.error("no object of %s could be rendered", chunk.name)
        return None
    entry = {
        "split": chunk.split, "views": options.views, "seed": seed, "samples": options.samples,
        "generator_version": shards.GENERATOR_VERSION, "failed": failed,
        "ids": [row.id for row, _ in kept], "captions": [row.caption for row, _ in kept],
    }  # fmt: skip
    return shards.write_shard(out / f"{chunk.name}.safetensors", join([item for _, item in kept]), entry)


def prepare(chunks: list[Chunk], out: Path, options: blender.RenderOptions, seed: int, workers: int) -> dict:
    """Make every missing shard with ``workers`` Blender processes; returns the index."""
    out.mkdir(parents=True, exist_ok=True)
    lock = threading.Lock()
    started, made = time.monotonic(), 0

    def work(chunk: Chunk) -> None:
        nonlocal made
        if (out / f"{chunk.name}.json").exists():
            return
        entry = make_shard(chunk, out, options, seed)
        with lock:
            counts = shards.write_index(out)["counts"]
            made += entry["count"] if entry else 0
            speed = made / (time.monotonic() - started)
            line = f"{chunk.name} done, objects so far {counts}, {speed:.2f} objects a second"
            log.info(line)
            (out / "STATUS.txt").write_text(f"{time.strftime('%H:%M:%S')} {line}\n", encoding="utf-8")

    with ThreadPoolExecutor(max_workers=workers) as pool:
        for _ in pool.map(work, chunks):
            pass
    return shards.write_index(out)


def main(argv: list[str] | None = None) -> int:
    """Command line; 0 when at least one object is in the shards."""
    parser = argparse.ArgumentParser(prog="python -m backend.data.prepare", description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, required=True, help="folder with objects.csv or GLB files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--split", choices=[*SPLITS, "all"], default="all")
    parser.add_argument("--views", type=int, default=8, help="views an object")
    parser.add_argument("--size", type=int, default=128, help="render size in pixels")
    parser.add_argument("--samples", type=int, default=4, help="Cycles samples a pixel")
    parser.add_argument("--limit", type=int, default=None, help="objects a split")
    parser.add_argument("--workers", type=int, default=2, help="Blender processes of one thread each")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        rows = read_assets(arguments.assets)
        chunks = plan_chunks(rows, arguments.split, arguments.seed, arguments.limit)
        options = blender.RenderOptions(views=arguments.views, size=arguments.size, samples=arguments.samples)
        index = prepare(chunks, arguments.out, options, arguments.seed, arguments.workers)
    except (FileNotFoundError, blender.BlenderNotFound) as error:
        log.error("%s", error)
        return 1
    return 0 if index["counts"] else 1


if __name__ == "__main__":
    sys.exit(main())
