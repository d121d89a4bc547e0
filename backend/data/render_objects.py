"""The script that Blender's Python runs: renders views of a list of GLB files to ``.npz`` files.

Usage: ``<python with bpy> render_objects.py JOB.json`` or ``blender -b --python render_objects.py -- JOB.json``.
Progress goes to standard output as lines ``MAQUETTE {json}`` with the keys event (start, done, failed), id, message.
A failed object is reported and skipped. Job keys are those of ``backend.data.blender.RenderJob``.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np

_ROOT = Path(__file__).resolve().parents[2]
if str(_ROOT) not in sys.path:
    sys.path.insert(0, str(_ROOT))

import bpy  # noqa: E402

from backend.data import views  # noqa: E402


def load_capture() -> types.ModuleType:
    """The add-on's capture module, without running the add-on's own __init__ (which registers its user interface)."""
    import importlib

    package = types.ModuleType("maquette_capture")
    package.__path__ = [str(_ROOT / "blender_addon" / "scene")]
    sys.modules[package.__name__] = package
    return importlib.import_module("maquette_capture.capture")


def report(event: str, object_id: str, message: str = "") -> None:
    sys.stdout.write("MAQUETTE " + json.dumps({"event": event, "id": object_id, "message": message}) + "\n")
    sys.stdout.flush()


def clear() -> None:
    """Remove every object, mesh, material and picture of the file."""
    for collection in (bpy.data.objects, bpy.data.meshes, bpy.data.materials, bpy.data.images, bpy.data.collections):
        bpy.data.batch_remove(list(collection))


def world_vertices(objects: list[bpy.types.Object]) -> np.ndarray:
    """Vertices [N, 3] of all meshes in world space."""
    parts = []
    for item in objects:
        local = np.empty(len(item.data.vertices) * 3, dtype=np.float32)
        item.data.vertices.foreach_get("co", local)
        matrix = np.array(item.matrix_world)
        parts.append(local.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3])
    return np.concatenate(parts) if parts else np.zeros((0, 3))


def import_normalised(path: str) -> tuple[list[bpy.types.Object], np.ndarray, np.ndarray]:
    """Import a GLB (y up becomes z up), centred with the longest bounding-box side 1.

    Returns the mesh objects, their world vertices [N, 3] and the applied normalisation [4, 4].
    Raises ValueError for a file without a surface.
    """
    from mathutils import Matrix

    bpy.ops.import_scene.gltf(filepath=path)
    bpy.context.view_layer.update()
    meshes = [item for item in bpy.context.scene.objects if item.type == "MESH" and len(item.data.polygons)]
    vertices = world_vertices(meshes)
    if not len(vertices) or not np.isfinite(vertices).all():
        raise ValueError("The file holds no usable surface.")
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    side = float((high - low).max())
    if side <= 0:
        raise ValueError("The object has no size.")
    normalise = np.eye(4)
    normalise[:3, :3] /= side
    normalise[:3, 3] = -(low + high) / 2.0 / side
    for item in bpy.context.scene.objects:
        if item.parent is None:
            item.matrix_world = Matrix(normalise.tolist()) @ item.matrix_world
    bpy.context.view_layer.update()
    return meshes, world_vertices(meshes), normalise


def render(capture: types.ModuleType, item: dict, job: dict) -> dict[str, np.ndarray]:
    """All views of one object, packed small; see backend.data.blender.RenderedObject for the layout."""
    clear()
    meshes, vertices, normalise = import_normalised(item["path"])
    cameras = views.bundle_cameras() if job["bundle"] else views.random_cameras(job["views"], item["seed"])
    if job["tight"] and not job["bundle"]:
        cameras = [views.tighten(camera, vertices) for camera in cameras]
    size = (job["size"], job["size"])
    requests = [capture.CaptureCamera(camera.world_to_camera, camera.intrinsics, size) for camera in cameras]
    lights = [capture.Lighting(item["seed"] + index if job["random_light"] else None) for index in range(len(cameras))]
    shots = capture.capture(meshes, requests, lighting=lights, samples=job["samples"], threads=job["threads"])
    color = np.stack([np.concatenate([shot.color, shot.alpha[..., None]], axis=-1) for shot in shots])
    return {
        "color": np.rint(color * 255).astype(np.uint8),
        "albedo": np.rint(np.stack([shot.albedo for shot in shots]) * 255).astype(np.uint8),
        "normals": np.rint(np.stack([shot.normals for shot in shots]) * 127).astype(np.int8),
        "points": np.stack([shot.points for shot in shots]),
        "mask": np.stack([shot.mask for shot in shots]),
        "world_to_camera": np.stack([camera.world_to_camera for camera in cameras]).astype(np.float32),
        "intrinsics": np.stack([camera.intrinsics for camera in cameras]).astype(np.float32),
        "fov": np.array([camera.fov for camera in cameras], dtype=np.float32),
        "normalise": normalise.astype(np.float32),
    }


def main(arguments: list[str]) -> int:
    """Render every object of the job file; 0 even when some objects failed."""
    job = json.loads(Path(arguments[-1]).read_text(encoding="utf-8"))
    capture = load_capture()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    for item in job["objects"]:
        report("start", item["id"])
        try:
            arrays = render(capture, item, job)
        except Exception as error:  # the border: one bad file must not stop the others
            report("failed", item["id"], f"{type(error).__name__}: {error}")
            continue
        target = Path(job["out"]) / item["file"]
        partial = target.with_suffix(".part.npz")
        np.savez(partial, **arrays)  # type: ignore[arg-type]
        partial.rename(target)
        report("done", item["id"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
