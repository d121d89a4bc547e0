"""Which points the camera is solved from and by which solver: the published way, or a steadier one for small networks.

Settings (`camera` in a configuration), all optional:
  points        "occupied" (published): the UV cube at the occupied voxels; "support": at every voxel that the UV
                decoder says is in the picture. A camera belongs to the whole cube: flat objects stay solvable.
  solver        "dlt" (published): algebraic, skew kept; "calibrate": least reprojection error, no skew.
  square_pixels true: one focal length (the crop is square, and so are the pixels of nearly all photos). With calibrate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from backend.systems.cupid import pose
from backend.systems.cupid.structure_decode import Structure, voxel_centres

MOST_POINTS = 6000  # more points do not move the solution, they only cost time
BORDER = 0.01  # uv closer than this to the picture's edge may have been clamped in training
ROBUST_SCALE = 0.02  # residual, in image sizes, from which on a point counts less


def pose_points(
    structure: Structure, uv_logits: Tensor, settings: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Points [N,3] in object space and their uv [N,2] of the first batch item, from uv_logits [B,3,R,R,R]."""
    resolution = uv_logits.shape[-1]
    coords, uv = structure.uv_coords[structure.uv_coords[:, 0] == 0], structure.uv[structure.uv_coords[:, 0] == 0]
    if settings.get("points", "occupied") == "support":
        values = torch.sigmoid(uv_logits[0])
        inside = ((values[1:] > BORDER) & (values[1:] < 1 - BORDER)).all(0) & (values[0] > 0.5)
        found = torch.argwhere(inside)
        if len(found) >= pose.MIN_POINTS:
            coords, uv = found, values[1:][:, inside].T
    points, uv_array = voxel_centres(coords, resolution).cpu().numpy(), uv.float().cpu().numpy()
    if len(points) > MOST_POINTS:
        chosen = np.linspace(0, len(points) - 1, MOST_POINTS).astype(int)
        points, uv_array = points[chosen], uv_array[chosen]
    return points.astype(np.float64), uv_array.astype(np.float64)


def solve_camera(
    points: np.ndarray, uv: np.ndarray, settings: Mapping[str, Any], focal: float | None = None
) -> pose.Camera:
    """The crop's camera. `focal` locks fx (normalised to the crop). Errors: ValueError with a sentence."""
    if focal is None and settings.get("solver", "dlt") == "dlt":
        return pose.solve_dlt(points, uv)
    try:
        camera = pose.calibrate(points, uv, focal=focal)
    except np.linalg.LinAlgError as error:
        raise ValueError("The camera cannot be solved: the points contradict each other; try another seed.") from error
    return _one_focal(points, uv, camera, focal) if settings.get("square_pixels") else camera


def _one_focal(points: np.ndarray, uv: np.ndarray, start: pose.Camera, focal: float | None) -> pose.Camera:
    """`start` refined robustly with fx = fy (= `focal` when that is given)."""
    k, base = start.intrinsics, start.world_to_camera
    first = np.array([np.log(focal or np.sqrt(k[0, 0] * k[1, 1])), k[0, 2], k[1, 2], 0, 0, 0, *base[:3, 3]])
    free = np.array([focal is None, *[True] * 8])

    def camera(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = first.copy()
        values[free] = step
        f = np.exp(values[0])
        matrix = np.eye(4)
        matrix[:3, :3] = pose.rotation_from_vector(values[3:6]) @ base[:3, :3]
        matrix[:3, 3] = values[6:9]
        return np.array([[f, 0.0, values[1]], [0.0, f, values[2]], [0.0, 0.0, 1.0]]), matrix

    def residuals(step: np.ndarray) -> np.ndarray:
        return np.nan_to_num(pose.project(points, *camera(step)) - uv, nan=10.0, posinf=10.0, neginf=-10.0).ravel()

    fitted = least_squares(residuals, first[free], loss="soft_l1", f_scale=ROBUST_SCALE, x_scale="jac", max_nfev=40)
    intrinsics, world_to_camera = camera(fitted.x)
    error = pose.reprojection_error(points, uv, intrinsics, world_to_camera)
    return pose.Camera(intrinsics, world_to_camera, error)
