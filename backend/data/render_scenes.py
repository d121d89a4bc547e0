"""The script that Blender's Python runs: photos of several objects on a ground, with masks, depth and the truth.

Usage like ``render_objects.py``; job keys are those of ``backend.data.scenes.SceneJob``. One ``.npz`` a scene.
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
from mathutils import Matrix  # noqa: E402

from backend.data import render_objects, scene_layouts  # noqa: E402

TRIES = 12  # layouts that are tried until every object is seen well
LEAST_VISIBLE = 0.7  # share of an object that others leave visible
LEAST_PIXELS = 0.01  # of the picture that an object covers
SAME_DEPTH = 0.01  # of the depth: surfaces this close are the same
GROUND_SIDE = 60.0


def import_apart(path: str) -> tuple[list[bpy.types.Object], np.ndarray]:
    """Import a GLB into its unit cube and take it off the scene, free of parents; meshes and their vertices [N,3]."""
    meshes, vertices, _ = render_objects.import_normalised(path)
    for item in meshes:
        world = item.matrix_world.copy()
        item.parent = None
        item.matrix_world = world
        for collection in list(item.users_collection):
            collection.objects.unlink(item)
    bpy.data.batch_remove(list(bpy.context.scene.objects))
    return meshes, vertices


def make_ground(rng: np.random.Generator) -> bpy.types.Object:
    """A large square at z = 0 of a random muted colour."""
    half = GROUND_SIDE / 2.0
    mesh = bpy.data.meshes.new("ground")
    corners = [(-half, -half, 0.0), (half, -half, 0.0), (half, half, 0.0), (-half, half, 0.0)]
    mesh.from_pydata(corners, [], [(0, 1, 2, 3)])
    material = bpy.data.materials.new("ground")
    if not material.node_tree:
        material.use_nodes = True
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Base Color"].default_value = (*rng.uniform(0.25, 0.6, 3).tolist(), 1.0)
    shader.inputs["Roughness"].default_value = 0.9
    mesh.materials.append(material)
    return bpy.data.objects.new("ground", mesh)


def render(capture: types.ModuleType, scene: dict, job: dict) -> dict[str, np.ndarray]:
    """One scene; see backend.data.scenes.RenderedScene for the layout. Raises ValueError when no layout shows all."""
    render_objects.clear()
    rng = np.random.default_rng(scene["seed"])
    parts = [import_apart(path) for path in scene["paths"]]
    at_home = [[item.matrix_world.copy() for item in meshes] for meshes, _ in parts]
    ground = make_ground(rng)
    size = (job["width"], job["height"])
    for _ in range(TRIES):
        matrices = scene_layouts.standing([vertices for _, vertices in parts], rng)
        for (meshes, _), homes, matrix in zip(parts, at_home, matrices, strict=True):
            for item, home in zip(meshes, homes, strict=True):
                item.matrix_world = Matrix(matrix.tolist()) @ home
        points = np.concatenate([
            vertices @ matrix[:3, :3].T + matrix[:3, 3] for (_, vertices), matrix in zip(parts, matrices, strict=True)
        ])  # fmt: skip
        camera = scene_layouts.camera_for(points, size[0] / size[1], rng)
        view = [capture.CaptureCamera(camera.world_to_camera, camera.intrinsics, size)]
        options = {"samples": 1, "threads": job["threads"]}
        alone = [capture.capture(meshes, view, **options)[0] for meshes, _ in parts]
        depths = np.stack([np.where(shot.mask, shot.depth, np.inf) for shot in alone])
        nearest = depths.min(axis=0)
        masks = np.stack([shot.mask for shot in alone]) & (depths <= nearest * (1.0 + SAME_DEPTH))
        masks &= np.arange(len(parts))[:, None, None] == np.where(masks, depths, np.inf).argmin(axis=0)
        whole = np.stack([shot.mask for shot in alone])
        share = masks.sum((1, 2)) / np.maximum(whole.sum((1, 2)), 1)
        if (share >= LEAST_VISIBLE).all() and (whole.mean((1, 2)) >= LEAST_PIXELS).all():
            break
    else:
        raise ValueError("No layout shows every object well.")
    everything = [item for meshes, _ in parts for item in meshes] + [ground]
    light = [capture.Lighting(scene["seed"])]
    shot = capture.capture(everything, view, lighting=light, samples=job["samples"], threads=job["threads"])[0]
    sky = rng.uniform(0.6, 0.95, 3)
    color = shot.color * shot.alpha[..., None] + sky * (1.0 - shot.alpha[..., None])
    return {
        "color": np.rint(color * 255).astype(np.uint8),
        "masks": masks,
        "whole_masks": whole,
        "depth": shot.depth,
        "world_to_camera": camera.world_to_camera,
        "intrinsics": camera.intrinsics,
        "object_to_world": np.stack(matrices),
        "bounds": np.stack([[vertices.min(axis=0), vertices.max(axis=0)] for _, vertices in parts]),
    }


def main(arguments: list[str]) -> int:
    """Render every scene of the job file; 0 even when some scenes failed."""
    job = json.loads(Path(arguments[-1]).read_text(encoding="utf-8"))
    capture = render_objects.load_capture()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    done = 0
    for scene in job["scenes"]:
        if done == job["wanted"]:
            break
        render_objects.report("start", scene["id"])
        try:
            arrays = render(capture, scene, job)
        except Exception as error:  # the border: one bad scene must not stop the others
            render_objects.report("failed", scene["id"], f"{type(error).__name__}: {error}")
            continue
        target = Path(job["out"]) / scene["file"]
        partial = target.with_suffix(".part.npz")
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
        partial.rename(target)
        render_objects.report("done", scene["id"])
        done += 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
