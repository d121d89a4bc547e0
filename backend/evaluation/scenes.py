"""`python -m backend evaluate cupid-scenes --assets DIR --out report.json`: scenes of three unseen objects each.

Blender renders the scenes: objects of a split stand on a ground, photo, visible masks and depth are given. The objects
are made once and placed four times: with and without the depth, with and without the photo's focal length.

The placement error of an object is the distance between the centres of its true and its found box in the camera's
frame, over the longest side of the true box. Without depth the unit is free: one factor for the whole scene, the
least-squares one of all centres, is applied first, and nothing else. An object that could not be made has error 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.contract.errors import MaquetteError
from backend.data import prepare
from backend.data.blender import BlenderNotFound
from backend.data.scenes import RenderedScene, random_jobs, render_scenes
from backend.evaluation import metrics
from backend.evaluation.reports import save_report, save_sheet
from backend.evaluation.scene_sheet import SceneResult, scene_sheet
from backend.formats.images import encode_png
from backend.systems.base import Hooks
from backend.systems.cupid import model, results, scene
from backend.systems.cupid.request import Request
from backend.systems.cupid.scene_placement import PlacedScene

logger = logging.getLogger(__name__)

SPARE = 1.5  # jobs a wanted scene: some objects never show together well
FAILED = {"centre_error": 1.0, "size_ratio": 0.0, "mask_iou": 0.0, "depth_source": "none"}
MODES = {"depth": (True, False), "depth_focal": (True, True), "no_depth": (False, False),
         "no_depth_focal": (False, True)}  # fmt: skip


@dataclass(frozen=True)
class PlacedObjects:
    """A scene as one mode answered it: entries of the task, their placements by mask index."""

    entries: Sequence[scene.SceneEntry]
    placed: PlacedScene

    def by_mask(self) -> Iterator[tuple[int, np.ndarray, np.ndarray, str]]:
        """(mask, object_to_camera [4,4], box [2,3] in the object's frame, depth source) of what was made."""
        there = [(index, entry.made) for index, entry in enumerate(self.entries) if entry.made is not None]
        for (index, made), found in zip(there, self.placed.placements, strict=True):
            vertices = np.asarray(made.mesh.vertices, np.float64)
            box = np.stack([vertices.min(axis=0), vertices.max(axis=0)])
            yield index, found.object_to_camera, box, found.depth_source

    def parts(self) -> list[tuple[Any, np.ndarray]]:
        """Meshes with their poses, for `scene.composed`."""
        there = [entry.made.mesh for entry in self.entries if entry.made is not None]
        return [(mesh, found.object_to_camera) for mesh, found in zip(there, self.placed.placements, strict=True)]


def scene_inputs(truth: RenderedScene) -> dict[str, bytes]:
    """The task's inputs for a rendered scene: image, one mask an object, depth."""
    stream = io.BytesIO()
    np.save(stream, truth.depth)
    masks = {f"mask_{index}": encode_png(mask.astype(np.uint8) * 255) for index, mask in enumerate(truth.masks)}
    return {"image": encode_png(truth.color), "depth": stream.getvalue(), **masks}


def score(truth: RenderedScene, answer: PlacedObjects, free_scale: bool) -> dict[str, Any]:
    """Errors of every object of the scene, in the masks' order, and IoU of the composed picture."""
    found = {index: (pose, box, source) for index, pose, box, source in answer.by_mask()}
    centres = {index: pose[:3, :3] @ box.mean(axis=0) + pose[:3, 3] for index, (pose, box, _) in found.items()}
    factor = 1.0
    if free_scale:
        pairs = [(centres[index], truth.centres[index]) for index in centres]
        factor = sum(c @ t for c, t in pairs) / sum(c @ c for c, _ in pairs)
    size = results.fit_size((truth.color.shape[1], truth.color.shape[0]))
    _, alpha, front = scene.composed(answer.parts(), answer.placed.intrinsics, size)
    masks = [_nearest(mask, size) for mask in truth.masks]
    order = list(found)
    objects = []
    for index, mask in enumerate(masks):
        if index not in found:
            objects.append(dict(FAILED))
            continue
        pose, box, source = found[index]
        size_found = factor * float(np.cbrt(np.linalg.det(pose[:3, :3])) * np.ptp(box, axis=0).max())
        objects.append({
            "centre_error": float(np.linalg.norm(factor * centres[index] - truth.centres[index]) / truth.sizes[index]),
            "size_ratio": size_found / float(truth.sizes[index]),
            "mask_iou": metrics.mask_iou(front == order.index(index), mask),
            "depth_source": source,
        })  # fmt: skip
    return {
        "objects": objects, "union_iou": metrics.mask_iou(alpha >= 0.5, np.any(masks, axis=0)), "factor": float(factor),
        "focal_ratio": float(answer.placed.intrinsics[0, 0] / truth.intrinsics[0, 0]), "ground": answer.placed.ground,
    }  # fmt: skip


def summarise(scenes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians and quartiles over all objects of all scenes, a mode."""
    summary: dict[str, Any] = {"scenes": len(scenes)}
    for mode in MODES:
        seen = [entry["modes"][mode] for entry in scenes if mode in entry["modes"]]
        objects = [item for each in seen for item in each["objects"]]
        if objects:
            errors = np.array([item["centre_error"] for item in objects])
            summary[mode] = {
                "objects": len(objects),
                "centre_error_median": float(np.median(errors)),
                "centre_error_quartiles": [float(value) for value in np.quantile(errors, (0.25, 0.75))],
                "object_iou_median": float(np.median([item["mask_iou"] for item in objects])),
                "union_iou_median": float(np.median([each["union_iou"] for each in seen])),
                "focal_ratio_median": float(np.median([each["focal_ratio"] for each in seen])),
            }
    return summary


def evaluate(
    truths: Sequence[RenderedScene] | Iterator[RenderedScene], networks: model.CupidModel, request: Request
) -> tuple[dict[str, Any], list[SceneResult]]:
    """Make and place the objects of every scene; the report, and what the sheet shows."""
    entries: list[dict[str, Any]] = []
    shown: list[SceneResult] = []
    for truth in truths:
        started = time.perf_counter()
        with torch.inference_mode():
            read = scene.read_inputs(scene_inputs(truth), networks.device)
            try:
                made = scene.make_objects(networks, read, request, Hooks())
            except MaquetteError as error:
                lost = {"objects": [dict(FAILED) for _ in truth.masks], "union_iou": 0.0, "focal_ratio": 0.0}
                entries.append({"id": truth.id, "error": str(error), "modes": dict.fromkeys(MODES, lost)})
                continue
        seconds = time.perf_counter() - started
        modes: dict[str, Any] = {}
        answers = {}
        for mode, (with_depth, with_focal) in MODES.items():
            given = read if with_depth else dataclasses.replace(read, depth=None)
            focal = float(truth.intrinsics[0, 0]) if with_focal else None
            answers[mode] = PlacedObjects(made, scene.place_entries(made, given, focal))
            modes[mode] = score(truth, answers[mode], free_scale=not with_depth)
        entries.append({"id": truth.id, "error": "", "seconds": seconds, "modes": modes})
        shown.append(_sheet_entry(truth, answers, modes))
        worst = max(item["centre_error"] for item in modes["depth"]["objects"])
        logger.info("%d %s: union IoU %.2f, worst placement error with depth %.2f", len(entries), truth.id,
                    modes["depth"]["union_iou"], worst)  # fmt: skip
    return {"summary": summarise(entries), "scenes": entries}, shown


def _sheet_entry(truth: RenderedScene, answers: dict[str, PlacedObjects], modes: dict[str, Any]) -> SceneResult:
    size = results.fit_size((truth.color.shape[1], truth.color.shape[0]))
    drawn, found = [], []
    for mode in ("depth", "no_depth"):
        answer = answers[mode]
        color, alpha, _ = scene.composed(answer.parts(), answer.placed.intrinsics, size)
        drawn.append(np.dstack([color, alpha]))
        factor = np.diag([modes[mode]["factor"]] * 3 + [1.0])
        camera_to_world = np.linalg.inv(truth.world_to_camera)
        found.append([(camera_to_world @ factor @ pose, box) for _, pose, box, _ in answer.by_mask()])
    errors = [[item["centre_error"] for item in modes[mode]["objects"]] for mode in ("depth", "no_depth")]
    return SceneResult(truth, tuple(drawn), tuple(found), tuple(errors))


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = ((np.arange(size[1]) + 0.5) / size[1] * mask.shape[0]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) / size[0] * mask.shape[1]).astype(int)
    return np.asarray(mask[rows[:, None], columns[None]])


def main(arguments: Sequence[str]) -> int:
    """The command. Errors: `MaquetteError`."""
    parser = argparse.ArgumentParser(prog="python -m backend evaluate cupid-scenes", description=__doc__)
    parser.add_argument("--assets", type=Path, required=True, help="folder of GLB files, maybe with an objects.csv")
    parser.add_argument("--split", default="val")
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--each", type=int, default=3, help="objects a scene")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--weights", default="mini")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, help="PNG: photo, result, and both from above, of every scene")
    options = parser.parse_args(arguments)
    try:
        rows = [row for row in prepare.read_assets(options.assets) if options.split in (row.split, "all")]
        if len(rows) < options.each:
            raise FileNotFoundError(f"{options.assets} holds too few objects of the split {options.split!r}.")
        objects = [(row.id, row.path) for row in rows]
        jobs = random_jobs(objects, round(SPARE * options.scenes), options.seed, options.each)
        networks = model.load_model(options.weights, "mini", "cpu", options.seed)
        request = Request(seed=options.seed, steps=options.steps, weights=options.weights)
        report, shown = evaluate(render_scenes(jobs, options.scenes), networks, request)
    except (FileNotFoundError, BlenderNotFound) as error:
        raise MaquetteError("bad_input", str(error)) from error
    save_report(options.out, report)
    if options.sheet:
        title = f"CUPID, weights {options.weights}, split {options.split}: scenes, not chosen"
        save_sheet(options.sheet, scene_sheet(shown, title))
    return 0
