"""`python -m backend evaluate cupid-match --assets DIR --out report.json`: known meshes matched to unseen views.

Each object's true mesh, turned about its up axis, scaled and moved at random, stands for the artist's mesh; one
rendered view of the object is the photo. Measured against the true camera, in the artist's coordinates: the rotation
error, also up to the object's own symmetry; the overlap of the masks; how far the camera puts points of the mesh from
where they are seen, in % of the picture's width. `guess_*` are those of CUPID's own camera carried over by the
registration.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from backend.contract.errors import MaquetteError
from backend.contract.frames import Y_UP_TO_Z_UP, project
from backend.contract.meshes import MeshData, mesh_to_bytes
from backend.data import prepare
from backend.data.blender import BlenderNotFound
from backend.evaluation import metrics
from backend.evaluation.reports import save_report
from backend.evaluation.views import TestView, views_from_assets, views_from_shards
from backend.formats.images import encode_png
from backend.systems.base import Hooks

logger = logging.getLogger(__name__)

MOVED_POINTS = 1000  # of the surface, whose places in the picture are compared
SCALES = (0.05, 20.0)  # of the artist's mesh against the unit cube
MEDIANS = ("rotation_error_deg", "rotation_error_sym_deg", "reprojection_percent", "focal_error", "mask_iou")
Answer = Callable[[TestView, MeshData], dict[str, Any]]
"""Names of artifacts to their JSON, of one matched view."""


def mesh_of(path: Path) -> MeshData:
    """The object of a GLB file in the cube (z up, longest side 1, centred), with vertex colours."""
    loaded = trimesh.load(path)
    parts = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
    parts = [part for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not parts:
        raise ValueError(f"{path.name} holds no surface.")
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    vertices = np.concatenate([part.vertices for part in parts]) @ Y_UP_TO_Z_UP[:3, :3].T
    faces = np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=False)])
    colors = np.concatenate([_vertex_colors(part) for part in parts])
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    centred = (vertices - (low + high) / 2) / float((high - low).max())
    return MeshData(centred.astype(np.float32), faces.astype(np.int32), None, colors)


def _vertex_colors(part: trimesh.Trimesh) -> np.ndarray:
    """uint8 [V,4] sRGB of the part's material; grey where it has none."""
    count, visual = len(part.vertices), part.visual
    material = getattr(visual, "material", None)
    factor = getattr(material, "baseColorFactor", None)
    if visual.kind == "vertex" or getattr(visual, "uv", None) is not None and _textured(material):
        colors = np.asarray(visual.to_color().vertex_colors)
        if colors.shape == (count, 4):
            return colors
    if factor is not None:
        srgb = (np.asarray(factor, np.float64) / 255.0) ** (1 / 2.2)  # glTF factors are linear
        return np.tile(np.rint(srgb * 255).astype(np.uint8), (count, 1))
    return np.full((count, 4), 180, np.uint8)


def _textured(material: Any) -> bool:
    return getattr(material, "baseColorTexture", None) is not None or getattr(material, "image", None) is not None


def random_place(rng: np.random.Generator) -> np.ndarray:
    """cube_to_artist [4,4]: a turn about z, a scale, and a place up to five sizes away."""
    angle, scale = rng.uniform(0, 2 * np.pi), float(np.exp(rng.uniform(*np.log(SCALES))))
    matrix = np.eye(4)
    matrix[:3, :3] = scale * metrics.up_rotation(angle)
    matrix[:3, 3] = scale * rng.uniform(-5, 5, 3)
    return matrix


def score(view: TestView, cube_to_artist: np.ndarray, answer: dict[str, Any]) -> dict[str, Any]:
    """All measures of one match. answer: `match` and `camera`, the JSON of match.json and camera.json."""
    match = answer["match"]
    matched = np.array(match["world_to_camera"]) @ cube_to_artist
    scores = _camera_scores(view, matched, np.array(match["intrinsics"]))
    names = ("mask_iou", "color", "origin", "residual", "shapes_agree", "trusted")
    entry = {**scores, **{name: match[name] for name in names}, "symmetric": len(match["symmetric"])}
    camera = answer.get("camera") or {}
    if camera.get("world_to_camera") is not None and match["mesh_to_canonical"] is not None:
        carried = np.array(camera["world_to_camera"]) @ np.array(match["mesh_to_canonical"]) @ cube_to_artist
        guess = _camera_scores(view, carried, np.array(camera["intrinsics"]))
        entry |= {f"guess_{name}": value for name, value in guess.items()}
    return entry


def _camera_scores(view: TestView, cube_to_camera: np.ndarray, intrinsics: np.ndarray) -> dict[str, float]:
    """Errors of a camera [4,4] whose rotation may hold a scale."""
    scale = np.cbrt(np.linalg.det(cube_to_camera[:3, :3]))
    found, right = cube_to_camera[:3, :3] / scale, view.world_to_camera[:3, :3]
    turns = metrics.symmetry_angles(view.occupancy)
    points = view.surface[:MOVED_POINTS]
    seen, depth = project(points, cube_to_camera, intrinsics)
    away = []
    for turn in turns:  # the points of a symmetric object may have changed places
        wanted, _ = project(points @ metrics.up_rotation(turn).T, view.world_to_camera, view.intrinsics)
        away.append(float(np.linalg.norm(np.clip(seen, -5, 5) - wanted, axis=1).mean()))
    return {
        "rotation_error_deg": metrics.rotation_error(found, right),
        "rotation_error_sym_deg": metrics.symmetric_rotation_error(found, right, turns),
        "reprojection_percent": 100 * min(away) if (depth > 0).all() else 100.0,
        "focal_error": float(abs(intrinsics[0, 0] / view.intrinsics[0, 0] - 1.0)),
    }


def cupid_answer(parameters: dict[str, Any]) -> Answer:
    """CUPID's task match_mesh as a function of a view and a mesh."""
    from backend.systems.cupid.match_mesh import TASK
    from backend.systems.cupid.pipeline import CupidSystem

    system = CupidSystem()

    def answer(view: TestView, mesh: MeshData) -> dict[str, Any]:
        inputs = {"image": encode_png(view.rgba), "mesh": mesh_to_bytes(mesh)}
        result = system.run(TASK, inputs, parameters, Hooks())
        files = {artifact.name: artifact.data for artifact in result.artifacts}
        wanted = (("match", "match.json"), ("camera", "camera.json"))
        return {key: json.loads(files[name]) for key, name in wanted if name in files}

    return answer


def summarise(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians, shares and counts of the scored entries."""
    scored = [entry for entry in entries if not entry["error"]]
    if not scored:
        return {"count": len(entries), "failed": len(entries)}
    summary: dict[str, Any] = {"count": len(entries), "failed": len(entries) - len(scored)}
    for name in MEDIANS:
        summary[f"{name}_median"] = float(np.median([entry[name] for entry in scored]))
        guesses = [entry[f"guess_{name}"] for entry in scored if f"guess_{name}" in entry]
        if guesses:
            summary[f"guess_{name}_median"] = float(np.median(guesses))
    errors = np.array([entry["rotation_error_sym_deg"] for entry in scored])
    trusted = np.array([entry["trusted"] for entry in scored], bool)
    return summary | {
        "mask_iou_mean": float(np.mean([entry["mask_iou"] for entry in scored])),
        "below_10_deg": float((errors < 10).mean()),
        "trusted": float(trusted.mean()),
        "below_10_deg_of_trusted": float((errors[trusted] < 10).mean()) if trusted.any() else 0.0,
        "shapes_agree": float(np.mean([bool(entry["shapes_agree"]) for entry in scored])),
        "won": {name: sum(entry["origin"] == name for entry in scored) for name in ("search", "cupid")},
        "seconds_median": float(np.median([entry["seconds"] for entry in scored])),
    }


def evaluate(views: Iterable[TestView], meshes: dict[str, Path], answer: Answer, seed: int, colors: bool) -> dict:
    """Match every view; the report. A failed match counts as failed and has no measures."""
    rng = np.random.default_rng(seed)
    entries = []
    for view in views:
        place = random_place(rng)
        entry: dict[str, Any] = {"id": view.object_id, "view": view.view, "error": ""}
        started = time.perf_counter()
        try:
            mesh = mesh_of(meshes[view.object_id])
            moved = np.asarray(mesh.vertices, np.float64) @ place[:3, :3].T + place[:3, 3]
            mesh = replace(mesh, vertices=moved.astype(np.float32), colors=mesh.colors if colors else None)
            entry |= score(view, place, answer(view, mesh))
        except (MaquetteError, ValueError) as error:
            entry["error"] = str(error)
        entry["seconds"] = time.perf_counter() - started
        entries.append(entry)
        logger.info("%d %s: %s", len(entries), view.object_id, entry["error"] or (
            f"{entry['rotation_error_sym_deg']:.1f} deg, mask IoU {entry['mask_iou']:.3f}, {entry['origin']}"))
    return {"objects": entries, "summary": summarise(entries)}


def main(arguments: Sequence[str]) -> int:
    """The command. Errors: `MaquetteError`."""
    parser = argparse.ArgumentParser(prog="python -m backend evaluate cupid-match", description=__doc__)
    parser.add_argument("--assets", type=Path, required=True, help="folder of GLB files, with objects.csv or without")
    parser.add_argument("--shards", type=Path, help="prepared shards: views are taken from there instead of rendered")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, help="objects at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--weights", default="mini")
    parser.add_argument("--without-colors", action="store_true", help="the artist's mesh is bare")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    parameters = {"seed": options.seed, "steps": options.steps, "weights": options.weights}
    try:
        paths = {row.id: row.path for row in prepare.read_assets(options.assets)}
        source, folder = (views_from_shards, options.shards) if options.shards else (views_from_assets, options.assets)
        views = source(folder, options.split, 1, options.limit, options.seed)
        report = evaluate(views, paths, cupid_answer(parameters), options.seed, not options.without_colors)
    except (FileNotFoundError, BlenderNotFound) as error:
        raise MaquetteError("bad_input", str(error)) from error
    save_report(options.out, report)
    return 0
