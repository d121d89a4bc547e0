"""`python -m backend evaluate cupid --assets DIR --out report.json`: CUPID and two baselines on unseen views.

Shapes are compared after a scale-shift fit: `chamfer_visible`, `fscore_01` and `fscore_05` between the surfaces that
the camera sees, each in its own camera's frame; `chamfer_full` between whole surfaces in the object's frame, where
`voxel_iou` compares surface voxels as they are. With `--occluded` all is measured against the whole, uncovered object.
Without a camera an answer gets the worst score where one is needed (180 degrees, mask IoU 0, Chamfer 1).
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backend.contract.errors import MaquetteError
from backend.contract.frames import uncrop_intrinsics
from backend.contract.meshes import MeshData, mesh_from_bytes
from backend.data.blender import BlenderNotFound
from backend.evaluation import metrics
from backend.evaluation.baselines import BANK_FILE, Bank, Baselines, load_bank, make_bank, render_bank, save_bank
from backend.evaluation.contact_sheet import Recorder, contact_sheet
from backend.evaluation.occluders import occluder
from backend.evaluation.reports import save_report, save_sheet
from backend.evaluation.views import TestView, views_from_assets, views_from_shards
from backend.formats.images import encode_png, photo_on_white
from backend.nn.devices import peak_mib
from backend.rendering.rasterizer import rasterize
from backend.rendering.views import interpolate, render_mesh
from backend.systems.base import Hooks
from backend.systems.cutout.crop import crop_to_content

logger = logging.getLogger(__name__)

SAMPLES = 4000  # points on a predicted surface
NO_CAMERA = {
    "rotation_error_deg": 180.0, "rotation_error_sym_deg": 180.0, "focal_error": 1.0, "mask_iou": 0.0,
    "psnr": 0.0, "ssim": 0.0, "chamfer_visible": 1.0, "fscore_01": 0.0, "fscore_05": 0.0,
}  # fmt: skip
NOTHING = {"chamfer_full": 1.0, "voxel_iou": 0.0, **NO_CAMERA}
MEANS = ("mask_iou", "psnr", "ssim", "chamfer_visible", "fscore_01", "fscore_05", "chamfer_full", "voxel_iou")
MEDIANS = ("rotation_error_deg", "rotation_error_sym_deg", "focal_error")
OTHER_MEASURES = {
    "cupid-match": "backend.evaluation.match",
    "cupid-photos": "backend.evaluation.photos",
    "cupid-pose": "backend.evaluation.pose",
    "cupid-finish": "backend.evaluation.finish",
    "cupid-scenes": "backend.evaluation.scenes",
    "kiss3dgen": "backend.evaluation.kiss3dgen",
    "kiss3dgen-reconstruct": "backend.evaluation.kiss3dgen_reconstruct",
    "kiss3dgen-sheet": "backend.evaluation.text_sheet",
    "refany3d": "backend.evaluation.refany3d",
}
"""What else can be measured: `evaluate NAME`, each in a module with a `main` of its own."""

Answer = tuple[MeshData, np.ndarray | None, np.ndarray | None]
"""A mesh, world_to_camera [4,4] and intrinsics [3,3] of the picture (None when there is no camera)."""


def score(view: TestView, mesh: MeshData, camera: np.ndarray | None, intrinsics: np.ndarray | None) -> dict[str, float]:
    """All measures of one answer."""
    points = metrics.surface_points(mesh.vertices, mesh.faces, SAMPLES)
    result = {
        "chamfer_full": metrics.shape_score(points, view.surface).chamfer,
        "voxel_iou": metrics.voxel_iou(points, view.occupancy),
    }
    if camera is None or intrinsics is None:
        return {**result, **NO_CAMERA}
    size = view.rgba.shape[1], view.rgba.shape[0]
    shown = render_mesh(mesh, camera, intrinsics, size)
    truth, alpha = photo_on_white(view.rgba, size)
    raster = rasterize(mesh.vertices, mesh.faces, camera, intrinsics, (96, 96))
    seen = interpolate(raster, mesh.faces, mesh.vertices)[raster.mask].astype(np.float64)
    visible = metrics.shape_score(_in_camera(seen, camera), _in_camera(view.visible, view.world_to_camera))
    turns = metrics.symmetry_angles(view.occupancy)
    found, right = camera[:3, :3], view.world_to_camera[:3, :3]
    return {
        **result,
        "rotation_error_deg": metrics.rotation_error(found, right),
        "rotation_error_sym_deg": metrics.symmetric_rotation_error(found, right, turns),
        "focal_error": float(abs(intrinsics[0, 0] / view.intrinsics[0, 0] - 1.0)),
        "mask_iou": metrics.mask_iou(shown.mask, alpha >= 0.5),
        "psnr": metrics.psnr(shown.color, truth),
        "ssim": metrics.ssim(shown.color, truth),
        "chamfer_visible": visible.chamfer,
        "fscore_01": visible.fscore_01,
        "fscore_05": visible.fscore_05,
    }


def summarise(entries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The summary of scored entries: means, medians, seconds, memory and the count."""
    if not entries:
        return {"count": 0}
    summary = {name: float(np.mean([entry[name] for entry in entries])) for name in MEANS}
    summary |= {f"{name}_median": float(np.median([entry[name] for entry in entries])) for name in MEDIANS}
    summary["seconds_median"] = float(np.median([entry["seconds"] for entry in entries]))
    summary["peak_mib"] = float(max(entry["peak_mib"] for entry in entries))
    summary["count"] = len(entries)
    return summary


def evaluate(
    views: Iterable[TestView], answer: Callable[[TestView], Answer], baselines: Baselines | None
) -> dict[str, Any]:
    """Run `answer` and the baselines on every view; returns the report. A failed view counts as an empty answer."""
    entries: list[dict[str, Any]] = []
    others: dict[str, list[dict[str, Any]]] = {"nearest": [], "mean_shape": []} if baselines else {}
    for view in views:
        started = time.perf_counter()
        entry: dict[str, Any] = {"id": view.object_id, "view": view.view, "error": ""}
        try:
            mesh, camera, intrinsics = answer(view)
            entry["seconds"] = time.perf_counter() - started
            entry |= score(view, mesh, camera, intrinsics)
        except MaquetteError as error:
            entry |= {"seconds": time.perf_counter() - started, "error": str(error), **NOTHING}
        entry["peak_mib"] = peak_mib()
        entries.append(entry)
        for name, found in others.items():
            found.append(_score_baseline(name, view, baselines))
        logger.info("%d %s: mask IoU %.3f, %.1f deg", len(entries), view.object_id, entry["mask_iou"],
                    entry["rotation_error_deg"])  # fmt: skip
    summary: dict[str, Any] = summarise(entries)
    summaries = {name: summarise(found) for name, found in others.items()}
    return {"objects": entries, "summary": {**summary, "baselines": summaries}, "baselines": summaries}


def _score_baseline(name: str, view: TestView, baselines: Baselines | None) -> dict[str, Any]:
    assert baselines is not None
    started = time.perf_counter()
    crop = crop_to_content(view.rgba)
    guess = baselines.answer(name, crop.image)
    height, width = view.rgba.shape[:2]
    left, top, right, bottom = crop.box
    box = (left / width, top / height, right / width, bottom / height)
    full = uncrop_intrinsics(guess.intrinsics, box)
    seconds = time.perf_counter() - started
    return {**score(view, guess.mesh, guess.world_to_camera, full), "seconds": seconds, "peak_mib": peak_mib()}


def cupid_answer(parameters: dict[str, Any], hidden: float = 0.0) -> Callable[[TestView], Answer]:
    """CUPID as a function of a view, of which it sees all but the share `hidden`, which an occluder covers."""
    from backend.systems.cupid.pipeline import TASK, CupidSystem

    system = CupidSystem()

    def answer(view: TestView) -> Answer:
        inputs = {"image": encode_png(view.rgba)}
        if hidden:
            cover = occluder(view.rgba, hidden, zlib.crc32(f"{view.object_id} {view.view}".encode()))
            inputs["occluder"] = encode_png(cover.astype(np.float32))
        result = system.run(TASK, inputs, parameters, Hooks())
        data = {artifact.name: artifact.data for artifact in result.artifacts}
        camera = json.loads(data["camera.json"])
        mesh = mesh_from_bytes(data["asset.mesh"])
        if camera["world_to_camera"] is None:
            return mesh, None, None
        return mesh, np.array(camera["world_to_camera"]), np.array(camera["intrinsics"])

    return answer


def _bank(shards: Path | None, assets: Path | None, path: Path, seed: int) -> Bank | None:
    """The baselines' bank: from training shards, else the stored one, else rendered from the train split."""
    if shards:
        return make_bank(shards)
    bank = load_bank(path)
    if bank is None and assets:
        logger.info("rendering training objects for the baselines")
        bank = render_bank(assets, seed)
        if bank is not None:
            save_bank(bank, path)
    return bank


def _in_camera(points: np.ndarray, world_to_camera: np.ndarray) -> np.ndarray:
    return np.asarray(points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3])


def main(arguments: Sequence[str]) -> int:
    """The command. Errors: `MaquetteError`."""
    if arguments and arguments[0] in OTHER_MEASURES:
        return int(importlib.import_module(OTHER_MEASURES[arguments[0]]).main(arguments[1:]))
    parser = argparse.ArgumentParser(prog="python -m backend evaluate", description=__doc__)
    parser.add_argument("system", choices=["cupid"])
    parser.add_argument("--assets", type=Path, help="folder of GLB files, with or without an objects.csv")
    parser.add_argument("--shards", type=Path, help="prepared shards: views are taken from there instead of rendered")
    parser.add_argument("--split", default="val")
    parser.add_argument("--views", type=int, default=1, help="views an object")
    parser.add_argument("--limit", type=int, help="objects at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--weights", default="mini")
    parser.add_argument(
        "--occluded", type=float, default=0.0, help="share of each object that an occluder hides; measured on the whole"
    )
    parser.add_argument("--bank", type=Path, default=BANK_FILE, help="the baselines' training views; made if missing")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, help="PNG of the first results: input, overlay and two other sides")
    parser.add_argument("--sheet-count", type=int, default=24, help="results on the sheet; default: 24")
    options = parser.parse_args(arguments)
    if not options.shards and not options.assets:
        raise MaquetteError("bad_input", "There is nothing to evaluate on; give --assets or --shards.")
    try:
        bank = _bank(options.shards, options.assets, options.bank, options.seed)
        source, folder = (views_from_assets, options.assets) if options.assets else (views_from_shards, options.shards)
        views = source(folder, options.split, options.views, options.limit, options.seed)
        if bank is None:
            logger.warning("no baselines: there are no training objects; give --shards or --bank")
        parameters = {"seed": options.seed, "steps": options.steps, "weights": options.weights}
        recorder = Recorder(options.sheet_count if options.sheet else 0)
        answer = recorder.watch(cupid_answer(parameters, options.occluded))
        report = evaluate(views, answer, Baselines(bank) if bank else None)
    except (FileNotFoundError, BlenderNotFound) as error:
        raise MaquetteError("bad_input", str(error)) from error
    save_report(options.out, report)
    if options.sheet:
        title = f"CUPID, weights {options.weights}, split {options.split}: the first results, not chosen"
        save_sheet(options.sheet, contact_sheet(recorder.results, report["objects"], title))
    return 0
