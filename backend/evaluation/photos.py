"""`python -m backend evaluate cupid-photos --shards DIR --out report.json`: one, two and three photos of one object.

Every object of a split is made from the first of its prepared views, from the first two, and so on. `voxel_iou`,
`chamfer_full` and `fscore_05` compare the shape with the true one, `mask_iou` and `rotation_error_sym_deg` are means
over the photos given. `relative_error_deg` is how wrong the turn between two photos' cameras is, whatever the object's
own orientation (of symmetric objects the turn nearest to the truth counts); it needs two cameras. A photo without a
camera counts as 180 degrees and mask IoU 0.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData, mesh_from_bytes
from backend.data.shards import ShardDataset
from backend.evaluation import metrics
from backend.evaluation.reports import save_report
from backend.formats.images import encode_png, photo_on_white
from backend.rendering.views import render_mesh
from backend.systems.base import Hooks

logger = logging.getLogger(__name__)

SAMPLES = 4000  # points on a predicted surface
WORST = 180.0
MEANS = ("voxel_iou", "chamfer_full", "fscore_05", "mask_iou", "trusted")
MEDIANS = ("rotation_error_sym_deg", "relative_error_deg", "seconds")


@dataclass(frozen=True)
class View:
    """A photo rgba [H,W,4] uint8 with its true `world_to_camera` [4,4]."""

    rgba: np.ndarray
    world_to_camera: np.ndarray


@dataclass(frozen=True)
class Subject:
    """An object: its photos, true surface voxels [R,R,R] bool and surface points [N,3]."""

    object_id: str
    views: tuple[View, ...]
    occupancy: np.ndarray
    surface: np.ndarray


@dataclass(frozen=True)
class PhotoAnswer:
    """What was made: a mesh; per photo `world_to_camera` [4,4] and intrinsics [3,3] (None: no camera) and trust."""

    mesh: MeshData
    cameras: tuple[tuple[np.ndarray, np.ndarray] | None, ...]
    trusted: tuple[bool, ...]


def subjects(folder: Path, split: str, photos: int, limit: int | None) -> Iterator[Subject]:
    """The first objects of prepared shards with their first `photos` views. Errors: FileNotFoundError."""
    data = ShardDataset(folder, split, limit)
    for item, object_id in enumerate(data.ids):
        views = tuple(View(data.images[item, k], data.world_to_camera[item, k]) for k in range(photos))
        yield Subject(object_id, views, data.occupancy[item], data.points[item].astype(np.float64))


def cupid_answer(parameters: dict[str, Any]) -> Callable[[Sequence[View]], PhotoAnswer]:
    """CUPID as a function of the photos."""
    from backend.systems.cupid.pipeline import TASK, CupidSystem

    system = CupidSystem()

    def answer(views: Sequence[View]) -> PhotoAnswer:
        inputs = {_numbered("image", k): encode_png(view.rgba) for k, view in enumerate(views)}
        data = {artifact.name: artifact.data for artifact in system.run(TASK, inputs, parameters, Hooks()).artifacts}
        cameras = [json.loads(data[f"{_numbered('camera', k)}.json"]) for k in range(len(views))]
        return PhotoAnswer(
            mesh_from_bytes(data["asset.mesh"]),
            tuple(
                None if camera["world_to_camera"] is None
                else (np.array(camera["world_to_camera"]), np.array(camera["intrinsics"]))
                for camera in cameras
            ),
            tuple(camera["trusted"] for camera in cameras),
        )  # fmt: skip

    return answer


def score(subject: Subject, views: Sequence[View], answer: PhotoAnswer) -> dict[str, Any]:
    """All measures of one answer from the first `views` of the subject."""
    points = metrics.surface_points(answer.mesh.vertices, answer.mesh.faces, SAMPLES)
    shape = metrics.shape_score(points, subject.surface)
    turns = metrics.symmetry_angles(subject.occupancy)
    masks, rotations = [], []
    for view, camera in zip(views, answer.cameras, strict=True):
        if camera is None:
            masks.append(0.0)
            rotations.append(WORST)
            continue
        size = view.rgba.shape[1], view.rgba.shape[0]
        shown = render_mesh(answer.mesh, *camera, size)
        masks.append(metrics.mask_iou(shown.mask, photo_on_white(view.rgba, size)[1] >= 0.5))
        rotations.append(metrics.symmetric_rotation_error(camera[0][:3, :3], view.world_to_camera[:3, :3], turns))
    return {
        "voxel_iou": metrics.voxel_iou(points, subject.occupancy),
        "chamfer_full": shape.chamfer,
        "fscore_05": shape.fscore_05,
        "mask_iou": float(np.mean(masks)),
        "rotation_error_sym_deg": float(np.mean(rotations)),
        "relative_error_deg": relative_error(views, answer.cameras, turns),
        "trusted": float(np.mean(answer.trusted)),
        "by_photo": {"mask_iou": masks, "rotation_error_sym_deg": rotations},
    }


def relative_error(
    views: Sequence[View], cameras: Sequence[tuple[np.ndarray, np.ndarray] | None], turns: np.ndarray
) -> float | None:
    """Mean angle in degrees between the true and the found turn from the first camera to each other one.

    None for a single photo. An object that looks the same after `turns` about its up axis cannot tell them apart.
    """
    if len(views) < 2:
        return None
    errors = []
    for view, camera in zip(views[1:], cameras[1:], strict=True):
        if camera is None or cameras[0] is None:
            errors.append(WORST)
            continue
        found = camera[0][:3, :3] @ cameras[0][0][:3, :3].T
        first, second = views[0].world_to_camera[:3, :3], view.world_to_camera[:3, :3]
        errors.append(min(
            metrics.rotation_error(found, second @ metrics.up_rotation(angle) @ first.T) for angle in turns))
    return float(np.mean(errors))


def summarise(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and medians of the entries made from one number of photos."""
    summary: dict[str, Any] = {name: float(np.mean([entry[name] for entry in entries])) for name in MEANS}
    for name in MEDIANS:
        values = [entry[name] for entry in entries if entry[name] is not None]
        summary[f"{name}_median"] = float(np.median(values)) if values else None
    return {**summary, "count": len(entries)}


def evaluate(
    found: Iterator[Subject], answer: Callable[[Sequence[View]], PhotoAnswer], most: int
) -> dict[str, Any]:
    """Run `answer` on one to `most` photos of every subject; returns the report. A failure counts as the worst."""
    entries: list[dict[str, Any]] = []
    for subject in found:
        for count in range(1, most + 1):
            views, started = subject.views[:count], time.perf_counter()
            entry: dict[str, Any] = {"id": subject.object_id, "photos": count, "error": ""}
            try:
                made = answer(views)
                entry |= {"seconds": time.perf_counter() - started, **score(subject, views, made)}
            except MaquetteError as error:
                entry |= {
                    "seconds": time.perf_counter() - started, "error": str(error), "voxel_iou": 0.0,
                    "chamfer_full": 1.0, "fscore_05": 0.0, "mask_iou": 0.0, "rotation_error_sym_deg": WORST,
                    "relative_error_deg": WORST if count > 1 else None, "trusted": 0.0,
                }  # fmt: skip
            entries.append(entry)
            logger.info("%s, %d photos: voxel IoU %.3f, mask IoU %.3f, %.1f deg", subject.object_id, count,
                        entry["voxel_iou"], entry["mask_iou"], entry["rotation_error_sym_deg"])  # fmt: skip
    by_count = {count: [entry for entry in entries if entry["photos"] == count] for count in range(1, most + 1)}
    summary: dict[str, Any] = {str(count): summarise(chosen) for count, chosen in by_count.items() if chosen}
    pairs = list(zip(by_count[1], by_count[most], strict=True))
    if pairs and most > 1:
        summary["better_shape_share"] = float(np.mean([b["voxel_iou"] > a["voxel_iou"] for a, b in pairs]))
    return {"objects": entries, "summary": summary}


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def main(arguments: Sequence[str]) -> int:
    """The command. Errors: `MaquetteError`."""
    parser = argparse.ArgumentParser(prog="python -m backend evaluate cupid-photos", description=__doc__)
    parser.add_argument("--shards", type=Path, required=True, help="prepared shards")
    parser.add_argument("--split", default="val")
    parser.add_argument("--photos", type=int, default=3, help="photos of an object at most; default: 3")
    parser.add_argument("--limit", type=int, default=30, help="objects at most; default: 30")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--weights", default="mini")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    # Nothing here looks at the texture, so the smallest will do.
    parameters = {"seed": options.seed, "steps": options.steps, "weights": options.weights, "texture_size": 256}
    try:
        found = subjects(options.shards, options.split, options.photos, options.limit)
        report = evaluate(found, cupid_answer(parameters), options.photos)
    except FileNotFoundError as error:
        raise MaquetteError("bad_input", str(error)) from error
    save_report(options.out, report)
    return 0
