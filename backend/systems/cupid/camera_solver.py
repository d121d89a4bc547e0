"""Which points the camera is solved from and by which solver (specs/cupid.md 7).

Settings (`camera` in a configuration), both optional:
  points        "occupied" (published): the UV cube at the occupied voxels; "support": at every voxel that the UV
                decoder says is in the picture. A camera belongs to the whole cube: flat objects stay solvable.
  solver        "dlt" (published): algebraic, skew kept; "robust": `robust_pose`, which stands noise and wrong points.
                A known focal length is always solved with the latter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.geometry import pose
from backend.geometry.robust_pose import judge_camera, solve_robust
from backend.systems.cupid.structure_decode import Structure, voxel_centres

MOST_POINTS = 1500  # more points do not move the solution, they only cost time
BORDER = 0.01  # uv closer than this to the picture's edge may have been clamped in training


@dataclass(frozen=True)
class Correspondences:
    """`points` [N,3] in object space and their `uv` [N,2] in the crop; the object's voxels `occupied` [M,3], which hide
    what is behind them, and their side `voxel`."""

    points: np.ndarray
    uv: np.ndarray
    occupied: np.ndarray
    voxel: float


def correspondences(structure: Structure, uv_logits: Tensor, settings: Mapping[str, Any]) -> Correspondences:
    """Those of the first batch item, from its voxels and uv_logits [B,3,R,R,R]."""
    resolution = uv_logits.shape[-1]
    coords, uv = structure.uv_coords[structure.uv_coords[:, 0] == 0], structure.uv[structure.uv_coords[:, 0] == 0]
    if settings.get("points", "occupied") == "support":
        values = torch.sigmoid(uv_logits[0])
        inside = ((values[1:] > BORDER) & (values[1:] < 1 - BORDER)).all(0) & (values[0] > 0.5)
        found = torch.argwhere(inside)
        if len(found) >= pose.MIN_POINTS:
            coords, uv = found, values[1:][:, inside].T
    if len(coords) > MOST_POINTS:
        chosen = torch.linspace(0, len(coords) - 1, MOST_POINTS, dtype=torch.float64).long().to(coords.device)
        coords, uv = coords[chosen], uv[chosen]
    occupied = structure.coords[structure.coords[:, 0] == 0]
    return Correspondences(
        _array(voxel_centres(coords, resolution)), _array(uv), _array(voxel_centres(occupied, resolution)),
        1.0 / resolution,
    )  # fmt: skip


def solve_camera(
    given: Correspondences,
    settings: Mapping[str, Any],
    focal: float | None = None,
    centre: tuple[float, float] = (0.5, 0.5),
) -> pose.Camera:
    """The crop's camera, with what is to be thought of it. Errors: ValueError with a sentence.

    `focal` locks the focal length (in crop sizes); `centre` is where in the crop the principal point is expected.
    """
    if focal is None and settings.get("solver", "dlt") == "dlt":
        camera = pose.solve_dlt(given.points, given.uv)
        return judge_camera(given.points, given.uv, camera.intrinsics, camera.world_to_camera)
    try:
        return solve_robust(given.points, given.uv, focal, centre, given.occupied, given.voxel)
    except np.linalg.LinAlgError as error:
        raise ValueError("The camera cannot be solved: the points contradict each other; try another seed.") from error


def _array(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.detach().float().cpu().numpy(), np.float64)
