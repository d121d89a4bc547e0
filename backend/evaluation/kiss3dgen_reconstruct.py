"""`python -m backend evaluate kiss3dgen-reconstruct --assets DIR --out report.json`: meshes from true bundles.

Blender renders the bundle of each validation object (base colours and normals from four sides) and, for the truth, the
object from all around: its visible surface, and two pictures that the bundle does not hold. Stage II makes a mesh of
the bundle alone. Nothing is aligned before it is compared.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData, mesh_to_bytes
from backend.data import blender, prepare, surface
from backend.data.bundles import bundle_picture, render_bundles
from backend.evaluation.mesh_scores import SAMPLES, Picture, picture_scores, surface_scores
from backend.evaluation.reports import write_report
from backend.geometry.surface_sampling import sample_surface
from backend.systems.base import Hooks
from backend.systems.finishing import FinishOptions
from backend.systems.kiss3dgen.bundle import Bundle, split, view_cameras
from backend.systems.kiss3dgen.reconstruct import STARTS, ReconstructSettings, reconstruct

logger = logging.getLogger(__name__)

VIEWS, VIEW_SIZE = 14, 128  # of the truth: enough to see every side
OTHER_VIEWS = (5, 9)  # of these; from above and from below the horizon
MEASURES = (
    "fscore_05", "normal_consistency", "chamfer", "precision_05", "recall_05", "psnr", "psnr_others", "psnr_all",
    "mask_iou", "seconds", "cpu_seconds",
)  # fmt: skip
NOTHING = {"fscore_05": 0.0, "precision_05": 0.0, "recall_05": 0.0, "normal_consistency": 0.0, "chamfer": 1.0,
           "psnr": 0.0, "ssim": 0.0, "mask_iou": 0.0, "psnr_others": 0.0, "psnr_all": 0.0}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """An object: its true bundle; points [N,3] and unit normals [N,3] of its visible surface; pictures of the bundle's
    views and of others."""

    name: str
    bundle: Bundle
    points: np.ndarray
    normals: np.ndarray
    bundle_pictures: list[Picture]
    other_pictures: list[Picture]


def true_cases(assets: Path, size: int, limit: int, seed: int = 0) -> Iterator[Case]:
    """Validation objects of a folder, rendered at tiles of `size`. Errors: FileNotFoundError, BlenderNotFound."""
    rows = [row for row in prepare.read_assets(assets) if row.split == "val"]
    np.random.default_rng(seed).shuffle(rows)  # type: ignore[arg-type]
    chosen = [blender.Asset(row.id, row.path, prepare.object_seed(row.id, seed + 7919)) for row in rows[:limit]]
    around = blender.RenderOptions(views=VIEWS, size=VIEW_SIZE, tight=False, random_light=False)
    pairs = zip(render_bundles(chosen, size), blender.render_assets(chosen, around), strict=True)
    for bundle, rendered in pairs:
        if bundle.error or rendered.error or not bundle.arrays["mask"].any():
            logger.warning("%s is left out: %s", bundle.asset.id, bundle.error or rendered.error or "not visible")
            continue
        yield make_case(bundle.asset.id, bundle_picture(bundle), rendered.arrays)


def make_case(name: str, picture: np.ndarray, arrays: dict[str, np.ndarray]) -> Case:
    """A case of a bundle picture [2S,4S,4] uint8 and the arrays of `RenderedObject` with views all around."""
    values = picture.astype(np.float32) / 255.0
    size = len(picture) // 2
    mask = values[:size, :, 3].reshape(size, 4, size).swapaxes(0, 1)
    bundle = split(values[..., :3], mask)
    cameras, intrinsics = view_cameras()
    bundle_pictures = [
        Picture((camera, intrinsics), rgb, alpha >= 0.5)
        for camera, rgb, alpha in zip(cameras, bundle.rgb, bundle.mask, strict=True)
    ]
    others = []
    for view in OTHER_VIEWS:
        seen = arrays["mask"][view]
        color = np.where(seen[..., None], arrays["albedo"][view].astype(np.float32) / 255.0, 1.0)
        camera = (arrays["world_to_camera"][view].astype(float), arrays["intrinsics"][view].astype(float))
        others.append(Picture(camera, color.astype(np.float32), seen))
    points = arrays["points"][arrays["mask"]].astype(np.float64)
    normals = arrays["normals"][arrays["mask"]].astype(np.float64) / 127.0
    rows = surface.stratified_choice(points, SAMPLES, np.random.default_rng(0))
    unit = normals[rows] / np.maximum(np.linalg.norm(normals[rows], axis=1, keepdims=True), 1e-9)
    return Case(name, bundle, points[rows], unit, bundle_pictures, others)


def score(case: Case, mesh: MeshData) -> dict[str, float]:
    """All measures of a mesh."""
    found = sample_surface(mesh, SAMPLES)
    own, others = picture_scores(mesh, case.bundle_pictures), picture_scores(mesh, case.other_pictures)
    count = len(case.bundle_pictures), len(case.other_pictures)
    together = (own["psnr"] * count[0] + others["psnr"] * count[1]) / sum(count)
    surfaces = surface_scores(found.points, found.normals, case.points, case.normals)
    return {**surfaces, **own, "psnr_others": others["psnr"], "psnr_all": together}


def evaluate_case(case: Case, settings: ReconstructSettings) -> tuple[dict[str, Any], MeshData | None]:
    """The report's entry of a case and the mesh; without a mesh it has the worst scores."""
    started, busy = time.perf_counter(), time.process_time()
    entry: dict[str, Any] = {"id": case.name, "error": ""}
    hooks = Hooks()
    try:
        mesh = reconstruct(case.bundle, settings, hooks)
        hooks.finish()
        entry |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - busy}
        entry |= {"stages": hooks.seconds, "triangles": len(mesh.faces)}
        return entry | score(case, mesh), mesh
    except MaquetteError as error:
        entry |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - busy}
        return entry | {**NOTHING, "error": str(error)}, None


def summarise(entries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over the objects, the median of seconds and the count."""
    if not entries:
        return {"count": 0}
    summary = {name: float(np.mean([entry[name] for entry in entries])) for name in MEASURES}
    summary["seconds_median"] = float(np.median([entry["seconds"] for entry in entries]))
    return {**summary, "count": len(entries), "failed": sum(bool(entry["error"]) for entry in entries)}


def main(arguments: Sequence[str]) -> int:
    """The command. Errors: `MaquetteError`."""
    parser = argparse.ArgumentParser(prog="python -m backend evaluate kiss3dgen-reconstruct", description=__doc__)
    parser.add_argument("--assets", type=Path, required=True, help="folder with objects.csv or GLB files")
    parser.add_argument("--limit", type=int, default=20, help="objects at most; default: 20")
    parser.add_argument("--size", type=int, default=256, help="pixels of a tile; default: 256")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", choices=STARTS, default="hull", help="the start mesh")
    parser.add_argument("--triangles", type=int, help="budget of the finished mesh; default: as many as there are")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--meshes", type=Path, help="folder for the meshes made, as contract meshes")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    settings = ReconstructSettings(
        start=options.start, finish=FinishOptions(triangles=options.triangles), device=options.device
    )
    entries: list[dict[str, Any]] = []
    if options.meshes:
        options.meshes.mkdir(parents=True, exist_ok=True)
    try:
        for case in true_cases(options.assets, options.size, options.limit, options.seed):
            entry, mesh = evaluate_case(case, settings)
            entries.append(entry)
            if options.meshes and mesh is not None:
                (options.meshes / f"{case.name.replace('/', '_')}.mesh").write_bytes(mesh_to_bytes(mesh))
            logger.info("%d %s: %s", len(entries), case.name, {k: round(entry[k], 3) for k in MEASURES})
            report = {"size": options.size, "objects": entries, "summary": summarise(entries)}
            write_report(options.out, report)
    except (FileNotFoundError, blender.BlenderNotFound) as error:
        raise MaquetteError("bad_input", str(error)) from error
    logger.info("summary: %s", json.dumps(summarise(entries)))
    return 0 if entries else 1
