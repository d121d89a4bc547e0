"""`python -m backend evaluate cupid-pose --shards DIR --out report.json`: the camera solvers on true correspondences.

Occupied voxels of validation objects and their image points under the true camera, as they are, with Gaussian noise,
and with a share of them anywhere in the picture. For each solver: median rotation and focal errors, median seconds of
processor time, and how often it had no answer (counted as half a turn).
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.contract.errors import MaquetteError
from backend.contract.frames import project
from backend.evaluation.reports import write_report
from backend.evaluation.views import TestView, views_from_shards
from backend.geometry.pose import Camera, solve_dlt
from backend.geometry.robust_pose import solve_robust
from backend.systems.cupid.camera_solver import MOST_POINTS
from backend.systems.cupid.data_prep import grid_centres

logger = logging.getLogger(__name__)

Solver = Callable[[np.ndarray, np.ndarray, np.ndarray, float], Camera]
"""(points [N,3], uv [N,2], occupied [M,3], side of a voxel) -> camera; ValueError if there is none."""

SOLVERS: dict[str, Solver] = {
    "dlt": lambda points, uv, occupied, voxel: solve_dlt(points, uv),
    "robust": lambda points, uv, occupied, voxel: solve_robust(points, uv, occupied=occupied, voxel=voxel),
}


@dataclass(frozen=True)
class Case:
    """Image points with Gaussian `noise` (of the picture's side, each coordinate) and a share `wrong` anywhere."""

    noise: float = 0.0
    wrong: float = 0.0


CASES = {
    "clean": Case(),
    "noise 0.5 %": Case(noise=0.005),
    "noise 1 %": Case(noise=0.01),
    "noise 2 %": Case(noise=0.02),
    "20 % wrong": Case(wrong=0.2),
    "20 % wrong, noise 1 %": Case(noise=0.01, wrong=0.2),
}


def spoiled(uv: np.ndarray, case: Case, random: np.random.Generator) -> np.ndarray:
    """`uv` [N,2] as `case` has it."""
    found = uv + case.noise * random.normal(size=uv.shape)
    wrong = random.permutation(len(uv))[: round(case.wrong * len(uv))]
    found[wrong] = random.uniform(0.0, 1.0, (len(wrong), 2))
    return found


def measure(views: Iterable[TestView], seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Case -> solver -> measures over all views."""
    random = np.random.default_rng(seed)
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for view in views:
        resolution = view.occupancy.shape[0]
        occupied = grid_centres(resolution)[view.occupancy.astype(bool)]
        points = occupied[np.linspace(0, len(occupied) - 1, min(len(occupied), MOST_POINTS)).astype(int)]
        truth = exact_pose(view.world_to_camera)
        true_uv, _ = project(points, truth, view.intrinsics)
        for name, case in CASES.items():
            uv = spoiled(true_uv, case, random)
            for solver, solve in SOLVERS.items():
                started = time.process_time()
                try:
                    camera = solve(points, uv, occupied, 1 / resolution)
                    errors = angle(camera.world_to_camera, truth), focal_error(camera, view)
                except (ValueError, np.linalg.LinAlgError):
                    errors = 180.0, 1.0
                found.setdefault((name, solver), []).append((*errors, time.process_time() - started))
    report: dict[str, dict[str, dict[str, float]]] = {}
    for (name, solver), rows in found.items():
        rotation, focal, seconds = np.median(rows, axis=0)
        report.setdefault(name, {})[solver] = {
            "rotation_error_deg_median": float(rotation), "focal_error_median": float(focal),
            "seconds_median": float(seconds), "unsolved": sum(row[0] == 180.0 for row in rows), "count": len(rows),
        }  # fmt: skip
    return report


def exact_pose(world_to_camera: np.ndarray) -> np.ndarray:
    """A stored `world_to_camera` [4,4] with its rotation orthonormal to the last digit."""
    matrix = np.asarray(world_to_camera, np.float64).copy()
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    matrix[:3, :3] = u @ vt
    return matrix


def angle(first: np.ndarray, second: np.ndarray) -> float:
    """Degrees between the rotations of two poses [4,4], exact for small ones too (an arc cosine is not)."""
    apart = np.linalg.norm(first[:3, :3] - second[:3, :3]) / np.sqrt(8.0)
    return float(np.degrees(2.0 * np.arcsin(min(apart, 1.0))))


def focal_error(camera: Camera, view: TestView) -> float:
    """Relative error of fx."""
    return float(abs(camera.intrinsics[0, 0] / view.intrinsics[0, 0] - 1.0))


def main(arguments: Sequence[str]) -> int:
    """The command. Errors: `MaquetteError`."""
    parser = argparse.ArgumentParser(prog="python -m backend evaluate cupid-pose", description=__doc__)
    parser.add_argument("--shards", type=Path, required=True, help="prepared shards")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, help="objects at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        views = views_from_shards(options.shards, options.split, 1, options.limit, options.seed)
        report: dict[str, Any] = {"seed": options.seed, "cases": measure(views, options.seed)}
    except FileNotFoundError as error:
        raise MaquetteError("bad_input", str(error)) from error
    write_report(options.out, report)
    for name, solvers in report["cases"].items():
        for solver, row in solvers.items():
            logger.info(
                "%s, %s: rotation %.3g degrees, focal %.2g, %.0f ms", name, solver, row["rotation_error_deg_median"],
                row["focal_error_median"], 1000 * row["seconds_median"],
            )  # fmt: skip
    return 0
