"""Which points the camera is solved from and by which solver: the published way, or a steadier one for small networks.

Settings (`camera` in a configuration), all optional:
  points        "occupied" (published): the UV cube at the occupied voxels; "support": at every voxel that the UV
                decoder says is in the picture. A camera belongs to the whole cube: flat objects stay solvable.
  solver        "dlt" (published): algebraic, skew kept; "calibrate": least reprojection error, no skew; "steady": that
                with one focal length (the crop is square, and so are most photos' pixels), started from an affine
                camera and held near usual lenses. With a noisy UV cube the DLT ends at absurdly short focal lengths.
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

MOST_POINTS = 1500  # more points do not move the solution, they only cost time
BORDER = 0.01  # uv closer than this to the picture's edge may have been clamped in training
USUAL_FOCAL = 2.5  # of a crop around the object; the training views have 0.9 to 6
FOCAL_SPREAD = 0.7  # in log focal
CENTRE_SPREAD = 0.15  # of the principal point around the middle of the crop, in crop sizes
FOCAL_RANGE = (0.4, 40.0)
MIN_DEPTH = 0.5  # the object's centre is at least this far from the camera: the camera is outside the object
PRIOR_ERROR = 0.003  # how far, in image sizes a point, the fit may move for the priors' sake
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
    solver = settings.get("solver", "dlt")
    if solver == "steady":
        pose.check_points(points, uv)
        return _steady(points, uv, focal)
    if focal is None and solver == "dlt":
        return pose.solve_dlt(points, uv)
    try:
        return pose.calibrate(points, uv, focal=focal)
    except np.linalg.LinAlgError as error:
        raise ValueError("The camera cannot be solved: the points contradict each other; try another seed.") from error


def _affine_start(points: np.ndarray, uv: np.ndarray, focal: float) -> np.ndarray:
    """`world_to_camera` [4,4] from the best affine projection, which is linear and has no bias towards short focals."""
    design = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    solution = np.linalg.lstsq(design, uv, rcond=None)[0]  # [4,2]
    rows, offset = solution[:3].T, solution[3]
    u, scales, vt = np.linalg.svd(rows, full_matrices=False)
    if scales[0] <= 1e-9:
        raise ValueError("The camera cannot be solved: all points fall on one place; try another seed.")
    right, down = u @ vt  # the nearest orthonormal pair
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, down, np.cross(right, down)])
    depth = focal / scales.mean()
    matrix[:3, 3] = [*((offset - 0.5) * depth / focal), depth]
    return matrix


def _steady(points: np.ndarray, uv: np.ndarray, focal: float | None) -> pose.Camera:
    """Least robust reprojection error with one focal length, kept near what photos have while the points say little."""
    base = _affine_start(points, uv, focal or USUAL_FOCAL)
    first = np.array([np.log(focal or USUAL_FOCAL), 0.5, 0.5, 0, 0, 0, *base[:3, 3]])
    free = np.array([focal is None, *[True] * 8])
    low, high = np.full(9, -np.inf), np.full(9, np.inf)
    low[0], high[0] = np.log(FOCAL_RANGE)
    low[8] = MIN_DEPTH
    low[1:3], high[1:3] = -1.0, 2.0
    strength = PRIOR_ERROR * np.sqrt(len(points))

    def camera(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = first.copy()
        values[free] = step
        f = np.exp(values[0])
        matrix = np.eye(4)
        matrix[:3, :3] = pose.rotation_from_vector(values[3:6]) @ base[:3, :3]
        matrix[:3, 3] = values[6:9]
        return np.array([[f, 0.0, values[1]], [0.0, f, values[2]], [0.0, 0.0, 1.0]]), matrix

    def residuals(step: np.ndarray) -> np.ndarray:
        intrinsics, matrix = camera(step)
        seen = np.nan_to_num(pose.project(points, intrinsics, matrix) - uv, nan=10.0, posinf=10.0, neginf=-10.0)
        prior = [
            (np.log(intrinsics[0, 0] / USUAL_FOCAL)) / FOCAL_SPREAD,
            (intrinsics[0, 2] - 0.5) / CENTRE_SPREAD,
            (intrinsics[1, 2] - 0.5) / CENTRE_SPREAD,
        ]
        return np.concatenate([seen.clip(-10, 10).ravel(), strength * np.array(prior)])

    start = np.clip(first[free], low[free] + 1e-6, high[free] - 1e-6)
    fitted = least_squares(
        residuals, start, bounds=(low[free], high[free]), loss="soft_l1", f_scale=ROBUST_SCALE, x_scale="jac",
        max_nfev=40,
    )  # fmt: skip
    intrinsics, world_to_camera = camera(fitted.x)
    error = pose.reprojection_error(points, uv, intrinsics, world_to_camera)
    return pose.Camera(intrinsics, world_to_camera, error)
