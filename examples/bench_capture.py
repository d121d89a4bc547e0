"""How long RefAny3D's 8 colour views and 8 point maps of a textured mesh take, and how long one holds the main thread.

Run by `build.py bench` with a Python that has bpy. The last line of standard output is JSON, times in seconds.
`--triangles N` and `--threads N` (2) change what is measured; `--pictures FOLDER` keeps the two strips.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
import types
from pathlib import Path

import bpy
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TEXTURE = 2048


def extension_module(name: str) -> types.ModuleType:
    """A module of the add-on, found as it is in an extension: below a root package."""
    root = types.ModuleType("maquette_bench")
    root.__path__ = [str(ROOT)]
    sys.modules.setdefault(root.__name__, root)
    return importlib.import_module(f"maquette_bench.{name}")


def texture_png(folder: Path) -> bytes:
    """A noisy, coloured PNG of TEXTURE pixels a side."""
    image = bpy.data.images.new("noise", TEXTURE, TEXTURE)
    rng, across = np.random.default_rng(0), np.linspace(0, 1, TEXTURE, dtype=np.float32)
    pixels = np.ones((TEXTURE, TEXTURE, 4), np.float32)
    pixels[..., 0], pixels[..., 1] = across, across[:, None]
    pixels[..., 2] = rng.random((TEXTURE, TEXTURE), np.float32)
    image.pixels.foreach_set(pixels.ravel())
    image.filepath_raw, image.file_format = str(folder / "noise.png"), "PNG"
    image.save()
    return (folder / "noise.png").read_bytes()


def ball(meshes: types.ModuleType, triangles: int, texture: bytes) -> object:
    """A bumpy ball of some `triangles` triangles with UVs and a texture, as MeshData."""
    rows = round(np.sqrt(triangles / 4))
    u, v = np.meshgrid(np.linspace(0, 1, 2 * rows + 1), np.linspace(0.001, 0.999, rows + 1))
    radius = 1 + 0.08 * np.sin(40 * np.pi * u) * np.sin(23 * np.pi * v)
    flat = radius * np.sin(np.pi * v)
    vertices = np.stack([flat * np.cos(2 * np.pi * u), flat * np.sin(2 * np.pi * u), -radius * np.cos(np.pi * v)], -1)
    corner = (np.arange(rows)[:, None] * (2 * rows + 1) + np.arange(2 * rows)).ravel()
    a, b, c, d = corner, corner + 1, corner + 2 * rows + 2, corner + 2 * rows + 1
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)
    uvs = np.stack([u, v], -1).reshape(-1, 2)[faces.ravel()].astype(np.float32)
    return meshes.MeshData(vertices.reshape(-1, 3).astype(np.float32), faces, uvs, None, texture)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--triangles", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    meshes, importing = extension_module("backend.contract.meshes"), extension_module("blender_addon.scene.importing")
    capture = extension_module("blender_addon.scene.reference_capture")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    with tempfile.TemporaryDirectory() as folder:
        mesh = ball(meshes, options.triangles, texture_png(Path(folder)))
        item = bpy.data.objects.new("Ball", importing.build_mesh("Ball", mesh))
        bpy.context.scene.collection.objects.link(item)
        bpy.context.view_layer.update()
        times = [time.perf_counter()]
        looking = capture.begin_capture(bpy.context, [item], capture.ReferenceOptions(threads=options.threads))
        times.append(time.perf_counter())
        while True:
            finished = looking.step()
            times.append(time.perf_counter())
            if finished:
                break
        pngs = looking.result.color_png(), looking.result.points_png()
        times.append(time.perf_counter())
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        for name, png in zip(("views.png", "points.png"), pngs, strict=True):
            (options.pictures / name).write_bytes(png)
    held = np.diff(times)
    result = {
        "triangles": len(mesh.faces), "threads": options.threads, "seconds": round(times[-1] - times[0], 2),
        "copy": round(held[0], 3), "views": [round(value, 2) for value in held[1:-1]], "files": round(held[-1], 3),
    }  # fmt: skip
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
