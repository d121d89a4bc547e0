"""Scenes that RefAny3D learns from: ``python -m backend.data.reference_scenes --assets DIR --out DIR``.

Blender puts each object of a dataset into scenes of many kinds (`reference_words.py`), among other objects of the same
shard, and renders a picture and the object's point map as the published training data has it (refany3d spec 10): the
whole object, also where something stands before it; scenes that hide too much of it are drawn anew. Resumable. Shards
beside an ``index.json``, as `backend.data.shards` writes them, of n scenes with

  pictures      uint8 [bytes]    lossless WebP pictures [S, S, RGB], one after the other
  points        uint8 [bytes]    lossless WebP point maps [S, S, RGBA], alpha = the whole object's mask
  picture_offsets, point_offsets int64 [n + 1]
  visible       uint8 [n, S * S / 8]   the mask of what is seen of the object, bits by row
  words         int8 [n, 5]      `reference_words.SceneWords.numbers`
  world_to_camera float32 [n, 4, 4]    OpenCV, from the object's cube [-0.5, 0.5]^3 (z up); intrinsics float32 [n, 3, 3]
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open

from . import blender, crops, prepare, reference_words, shards

log = logging.getLogger(__name__)

DEFAULTS = blender.SceneOptions()


@dataclass(frozen=True)
class Scene:
    """One scene. picture uint8 [S,S,3]; points uint8 [S,S,3] on white; whole, visible bool [S,S]: the object's mask
    alone, and what is seen of it; world_to_camera [4,4] from the object's cube; intrinsics [3,3]."""

    id: str
    caption: str
    words: reference_words.SceneWords
    picture: np.ndarray
    points: np.ndarray
    whole: np.ndarray
    visible: np.ndarray
    world_to_camera: np.ndarray
    intrinsics: np.ndarray


def read_scenes(row: prepare.AssetRow, arrays: dict[str, np.ndarray], captions: list[str]) -> list[Scene]:
    """The scenes of one object from the arrays of `render_reference.py`; captions: of what may stand beside it.

    arrays, S scenes each: color, points uint8 [S,H,W,3]; whole, visible bool [S,H,W]; words int8 [S,5]; neighbours
    int16 [S,3], places in `captions` or -1; world_to_camera float32 [S,4,4]; intrinsics float32 [S,3,3].
    """
    scenes = []
    for number, numbers in enumerate(arrays["words"]):
        words = reference_words.SceneWords.of_numbers(numbers)
        beside = [captions[place] for place in arrays["neighbours"][number] if place >= 0]
        scenes.append(
            Scene(
                row.id,
                reference_words.caption(row.caption, words, beside),
                words,
                arrays["color"][number],
                arrays["points"][number],
                arrays["whole"][number],
                arrays["visible"][number],
                arrays["world_to_camera"][number],
                arrays["intrinsics"][number],
            )  # fmt: skip
        )
    return scenes


def make_shard(chunk: prepare.Chunk, out: Path, options: blender.SceneOptions, seed: int) -> dict | None:
    """Render and write one shard; None when no object of it could be used."""
    failed: dict[str, str] = {}
    scenes: list[Scene] = []
    captions = [row.caption for row in chunk.rows]
    assets = [blender.Asset(row.id, row.path, prepare.object_seed(row.id, seed)) for row in chunk.rows]
    for row, rendered in zip(chunk.rows, blender.render_assets(assets, options, blender.SCENE_SCRIPT), strict=True):
        if rendered.error:
            failed[row.id] = rendered.error
        else:
            scenes += read_scenes(row, rendered.arrays, captions)
    if not scenes:
        log.error("no object of %s could be rendered", chunk.name)
        return None
    return write_scenes(scenes, out, chunk.split, chunk.name, seed, failed)


def write_scenes(
    scenes: list[Scene], out: Path, split: str, name: str, seed: int = 0, failed: dict[str, str] | None = None
) -> dict:
    """Write one shard; returns its entry of the index."""
    pictures = [_webp(scene.picture) for scene in scenes]
    points = [
        crops.encode_image(np.concatenate([scene.points, scene.whole[..., None].astype(np.uint8) * 255], axis=-1))
        for scene in scenes
    ]
    tensors = {
        "pictures": np.frombuffer(b"".join(pictures), dtype=np.uint8),
        "picture_offsets": np.cumsum([0] + [len(picture) for picture in pictures], dtype=np.int64),
        "points": np.frombuffer(b"".join(points), dtype=np.uint8),
        "point_offsets": np.cumsum([0] + [len(picture) for picture in points], dtype=np.int64),
        "visible": np.stack([np.packbits(scene.visible) for scene in scenes]),
        "words": np.stack([scene.words.numbers() for scene in scenes]),
        "world_to_camera": np.stack([scene.world_to_camera for scene in scenes]).astype(np.float32),
        "intrinsics": np.stack([scene.intrinsics for scene in scenes]).astype(np.float32),
    }
    entry = {
        "split": split, "views": 0, "seed": seed, "size": len(scenes[0].picture), "failed": failed or {},
        "ids": [scene.id for scene in scenes], "captions": [scene.caption for scene in scenes],
    }  # fmt: skip
    return shards.write_shard(out / f"{name}.safetensors", tensors, entry)


def _webp(picture: np.ndarray) -> bytes:
    """RGB [H,W,3] uint8 as lossless WebP."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", lossless=True, quality=20, method=1)
    return stream.getvalue()


class SceneDataset:
    """The scenes of one split; each array is read on first use. Raises FileNotFoundError when there is none."""

    def __init__(self, folder: str | Path, split: str) -> None:
        self.folder = Path(folder)
        index = self.folder / shards.INDEX_NAME
        entries = json.loads(index.read_text(encoding="utf-8"))["shards"] if index.exists() else []
        self.shards = [entry for entry in entries if entry["split"] == split and entry["count"]]
        if not self.shards:
            raise FileNotFoundError(
                f"{folder} holds no {split} scene; make some with `python -m backend.data.reference_scenes`."
            )
        self.ids: list[str] = [item for shard in self.shards for item in shard["ids"]]
        self.captions: list[str] = [item for shard in self.shards for item in shard["captions"]]
        self.size: int = self.shards[0]["size"]

    def __len__(self) -> int:
        return len(self.ids)

    def _read(self, name: str) -> np.ndarray:
        """One tensor of all shards, joined along the scenes."""
        parts = []
        for shard in self.shards:
            with safe_open(self.folder / shard["file"], framework="np") as stored:
                parts.append(stored.get_tensor(name))
        return np.concatenate(parts)

    def _decoded(self, name: str, offsets: str, channels: int) -> np.ndarray:
        """The pictures of a blob, uint8 [n,S,S,channels]."""
        pictures = np.empty((len(self), self.size, self.size, channels), dtype=np.uint8)
        done = 0
        for shard in self.shards:
            with safe_open(self.folder / shard["file"], framework="np") as stored:
                blob, places = stored.get_tensor(name), stored.get_tensor(offsets)
            for start, end in zip(places[:-1], places[1:], strict=True):
                pictures[done] = crops.decode_image(blob[start:end].tobytes())[..., :channels]
                done += 1
        return pictures

    @functools.cached_property
    def pictures(self) -> np.ndarray:
        """uint8 [n,S,S,3]."""
        return self._decoded("pictures", "picture_offsets", 3)

    @functools.cached_property
    def coded(self) -> np.ndarray:
        """Point maps on white uint8 [n,S,S,4]; alpha is the whole object's mask."""
        points = self._decoded("points", "point_offsets", 4)
        points[points[..., 3] == 0] = (255, 255, 255, 0)
        return points

    @property
    def points(self) -> np.ndarray:
        """Point maps on white uint8 [n,S,S,3]."""
        return self.coded[..., :3]

    @property
    def whole(self) -> np.ndarray:
        """Masks bool [n,S,S] of the object as if nothing stood before it."""
        return np.asarray(self.coded[..., 3] > 0)

    @functools.cached_property
    def visible(self) -> np.ndarray:
        """Masks bool [n,S,S] of what is seen of the object."""
        bits = np.unpackbits(self._read("visible"), axis=-1, count=self.size**2)
        return bits.reshape(len(self), self.size, self.size).astype(bool)

    @functools.cached_property
    def words(self) -> list[reference_words.SceneWords]:
        """What each scene is made of."""
        return [reference_words.SceneWords.of_numbers(numbers) for numbers in self._read("words")]

    @functools.cached_property
    def world_to_camera(self) -> np.ndarray:
        """float32 [n,4,4] from the object's cube."""
        return self._read("world_to_camera")

    @functools.cached_property
    def intrinsics(self) -> np.ndarray:
        """float32 [n,3,3]."""
        return self._read("intrinsics")


def main(argv: list[str] | None = None) -> int:
    """Command line; 0 when at least one scene is in the shards."""
    parser = argparse.ArgumentParser(prog="python -m backend.data.reference_scenes", description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, required=True, help="folder with objects.csv or GLB files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--split", choices=[*prepare.SPLITS, "all"], default="all")
    parser.add_argument("--scenes", type=int, default=DEFAULTS.scenes, help="scenes an object")
    parser.add_argument("--size", type=int, default=DEFAULTS.size, help="pixels of a picture's side")
    parser.add_argument("--samples", type=int, default=DEFAULTS.samples, help="Cycles samples a pixel, denoised")
    parser.add_argument("--limit", type=int, default=None, help="objects a split")
    parser.add_argument("--workers", type=int, default=2, help="Blender processes of one thread each")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other scenes of the same objects")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    lock = threading.Lock()
    out: Path = arguments.out

    def work(chunk: prepare.Chunk) -> None:
        if (out / f"{chunk.name}.json").exists():
            return
        near = tuple(str(row.path.resolve()) for row in chunk.rows)
        started = time.monotonic()
        options = blender.SceneOptions(near, arguments.scenes, arguments.size, arguments.samples)
        entry = make_shard(chunk, out, options, arguments.seed)
        with lock:
            counts = shards.write_index(out)["counts"]
        if entry:
            speed = (time.monotonic() - started) / entry["count"]
            log.info("%s done, %.2f seconds a scene, scenes so far %s", chunk.name, speed, counts)

    try:
        chunks = prepare.plan_chunks(prepare.read_assets(arguments.assets), arguments.split, 0, arguments.limit)
        out.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(max_workers=arguments.workers) as pool:
            for _ in pool.map(work, chunks):
                pass
    except (FileNotFoundError, blender.BlenderNotFound) as error:
        log.error("%s", error)
        return 1
    return 0 if shards.write_index(out)["counts"] else 1


if __name__ == "__main__":
    sys.exit(main())
