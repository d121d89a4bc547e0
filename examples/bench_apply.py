"""How long a 50,000-triangle textured result takes to enter Blender, beside Blender's own glTF importer.

Run by `build.py bench` with a Python that has bpy. The last line of standard output is JSON, times in milliseconds.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

import bpy
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SIDE = 158  # 2 * 158^2 = 49,928 triangles
REPEATS = 5


def extension_module(name: str) -> types.ModuleType:
    """A module of the add-on, found as it is in an extension: below a root package."""
    root = types.ModuleType("maquette_bench")
    root.__path__ = [str(ROOT)]
    sys.modules.setdefault(root.__name__, root)
    return importlib.import_module(f"maquette_bench.{name}")


def texture_png(folder: Path) -> bytes:
    """A noisy 1024 x 1024 PNG, about what a result carries."""
    image = bpy.data.images.new("noise", 1024, 1024)
    pixels = np.random.default_rng(0).random((1024, 1024, 4), np.float32)
    image.pixels.foreach_set(pixels.ravel())
    image.filepath_raw, image.file_format = str(folder / "noise.png"), "PNG"
    image.save()
    return (folder / "noise.png").read_bytes()


def sheet(meshes: types.ModuleType, texture: bytes) -> object:
    """A bumpy sheet of 49,928 triangles with UVs and a texture, as MeshData."""
    u, v = np.meshgrid(np.linspace(0, 1, SIDE + 1), np.linspace(0, 1, SIDE + 1))
    vertices = np.stack([u - 0.5, v - 0.5, 0.05 * np.sin(9 * u) * np.cos(7 * v)], -1).reshape(-1, 3)
    corner = (np.arange(SIDE)[:, None] * (SIDE + 1) + np.arange(SIDE)).ravel()
    a, b, c, d = corner, corner + 1, corner + SIDE + 2, corner + SIDE + 1
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)
    uvs = np.stack([u, v], -1).reshape(-1, 2)[faces.ravel()].astype(np.float32)
    return meshes.MeshData(vertices.astype(np.float32), faces, uvs, None, texture)


def best_ms(action: Callable[[], object]) -> float:
    """The shortest of some runs in milliseconds, each in an empty file: what the machine can do, without its noise."""
    best = float("inf")
    for _ in range(REPEATS):
        bpy.ops.wm.read_factory_settings(use_empty=True)
        started = time.perf_counter()
        action()
        best = min(best, 1000 * (time.perf_counter() - started))
    return round(best, 1)


def main() -> None:
    """Measure both ways and write the result."""
    meshes, importing = extension_module("backend.contract.meshes"), extension_module("blender_addon.scene.importing")
    from backend.contract.meshes import MeshData
    from backend.formats.glb import mesh_to_glb

    with tempfile.TemporaryDirectory() as folder:
        mesh = sheet(meshes, texture_png(Path(folder)))
        wire = meshes.mesh_to_bytes(mesh)
        file = Path(folder) / "sheet.glb"
        file.write_bytes(mesh_to_glb(MeshData(mesh.vertices, mesh.faces, mesh.uvs, None, mesh.texture)))
        apply_ms = best_ms(lambda: importing.build_mesh("sheet", meshes.mesh_from_bytes(wire)))
        gltf_ms = best_ms(lambda: bpy.ops.import_scene.gltf(filepath=str(file)))
    result = {"triangles": 2 * SIDE**2, "apply_ms": apply_ms, "blenders_gltf_importer_ms": gltf_ms}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
