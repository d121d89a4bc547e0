"""The camera of a picture from its point map: each of the object's pixels says which place of the object it shows.

Square pixels, principal point in the middle, focal length unknown or given. Points in space: `geometry.robust_pose`
(affine RANSAC, then the reprojection error under a loss that wrong points lose their say in). Points in a plane: a
homography by RANSAC, taken apart and refined; its focal length is doubtful unless it is given. A camera in doubt is
moved until the object looks as it is painted (`picture_pose.py`), where its surface is known. Whatever comes out says
how far it can be trusted, in pixels, in the share of points that agree, and in a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.geometry import pose
from backend.geometry.robust_pose import FOCAL_RANGE, solve_robust
from backend.systems.refany3d import plane_pose
from backend.systems.refany3d.picture_pose import fit_picture
from backend.systems.refany3d.point_maps import Bounds, decode_points, foreground, inner
from backend.systems.refany3d.surface_dots import Surface, target_of

SURE_WHITE = 0.15
"""How far from white a pixel must be to be asked: grey background would else be thousands of equal false places."""
PIXELS_OF_BLEND = 256
"""One pixel at the silhouette is taken off for every so many of the picture's side, and one anyway."""
MOST_POINTS, LEAST_POINTS = 2000, 40
USUAL_FOCAL = 1.5
"""Focal length in picture widths of a picture that nothing is known of: a phone has 0.75, a portrait lens 3."""
AGREES_SIGMAS, LEAST_WIDTH, MOST_WIDTH = 3.0, 1e-6, 0.02
"""A point agrees that is this many times the noise off, between the two widths in picture sizes."""
TRUSTED_SHARE = 0.5  # of the points that must agree
TRUSTED_MISS = 0.05  # residual over the object's size in the picture
LEAST_SIZE = 0.06  # of the object in the picture, in picture sizes
FLAT_RATIO = 0.02  # thinnest over longest extent of the points that agree


@dataclass(frozen=True)
class PictureCamera:
    """A camera in world axes (OpenCV), or none, and what is to be thought of it.

    world_to_camera [4,4], intrinsics [3,3] normalised; residual_px: root mean square over the points that agree;
    inliers: their share; reason: a sentence why it should not be trusted, "" if it may be.
    """

    world_to_camera: np.ndarray | None
    intrinsics: np.ndarray | None
    residual_px: float
    inliers: float
    reason: str = ""

    @property
    def trusted(self) -> bool:
        """Whether the mesh may be put into the picture through it."""
        return self.world_to_camera is not None and not self.reason

    def to_json(self) -> dict[str, Any]:
        """As the report has it."""
        return {
            "world_to_camera": None if self.world_to_camera is None else self.world_to_camera.tolist(),
            "intrinsics": None if self.intrinsics is None else self.intrinsics.tolist(),
            "residual_px": round(self.residual_px, 4),
            "inliers": round(self.inliers, 4),
            "trusted": self.trusted,
            "reason": self.reason,
        }


def no_camera(reason: str) -> PictureCamera:
    """The answer where none can be solved."""
    return PictureCamera(None, None, 0.0, 0.0, reason)


def solve_picture(
    values: np.ndarray, bounds: Bounds, focal: float | None = None, y_rotation: float = 0.0, seed: int = 0,
    picture: np.ndarray | None = None, surface: Surface | None = None,
) -> PictureCamera:  # fmt: skip
    """The camera of a point map `values` [S,S,3] in [0,1] of an object with box `bounds`; `focal` locks the lens.

    picture [S,S,3] and the object's surface in world axes: for cameras that the places alone leave in doubt.
    """
    size = values.shape[0]
    shown = foreground(values)
    if shown.sum() < LEAST_POINTS:
        return no_camera("The point map shows no object; try another seed or say in the prompt where the object is.")
    sure = foreground(values, SURE_WHITE)
    kept = inner(sure, 1 + size // PIXELS_OF_BLEND)
    if kept.sum() < LEAST_POINTS:
        kept = sure if sure.sum() >= LEAST_POINTS else shown
    rows, columns = np.nonzero(kept)
    if len(rows) > MOST_POINTS:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), MOST_POINTS, replace=False))
        rows, columns = rows[chosen], columns[chosen]
    uv = (np.stack([columns, rows], axis=1) + 0.5) / size
    points = decode_points(values[rows, columns], bounds, y_rotation)
    found = solve_points(points, uv, size, bounds, focal, seed)
    if picture is None or surface is None or found.world_to_camera is None or found.intrinsics is None or found.trusted:
        return found
    scale = bounds.longest or 1.0
    normal, matrix = (points - bounds.centre) / scale, _of_box(found.world_to_camera, bounds, scale)
    own = Surface((surface.points - bounds.centre) / scale, surface.colors)
    moved = fit_picture(own, normal, uv, target_of(picture, shown), found.intrinsics, matrix)
    return _judged(normal, uv, size, found.intrinsics, moved, bounds, scale, focal is None)


def solve_points(
    points: np.ndarray, uv: np.ndarray, size: int, bounds: Bounds, focal: float | None = None, seed: int = 0
) -> PictureCamera:
    """The camera that shows world `points` [N,3] at `uv` [N,2] of a square picture of `size` pixels."""
    if len(points) < LEAST_POINTS:
        return no_camera(f"The point map has only {len(points)} usable pixels; try another seed or a closer view.")
    scale = bounds.longest or 1.0
    normal = (np.asarray(points, np.float64) - bounds.centre) / scale
    flat = plane_pose.lies_in_plane(normal, seed)
    try:
        if flat:
            intrinsics, matrix = plane_pose.solve_plane(normal, uv, focal, USUAL_FOCAL, seed)
        else:
            found = solve_robust(normal, uv, focal, seed=seed, centre_known=True, usual_focal=focal or USUAL_FOCAL)
            intrinsics, matrix = found.intrinsics, found.world_to_camera
    except (ValueError, np.linalg.LinAlgError):
        return no_camera("The point map fits no camera: its points contradict each other; try another seed.")
    return _judged(normal, uv, size, intrinsics, matrix, bounds, scale, focal is None)


def _judged(
    normal: np.ndarray,
    uv: np.ndarray,
    size: int,
    intrinsics: np.ndarray,
    matrix: np.ndarray,
    bounds: Bounds,
    scale: float,
    lens_unknown: bool,
) -> PictureCamera:
    """The camera [4,4] of the points in their box of longest side 1, in world axes, with what is to be said of it."""
    distances = np.nan_to_num(np.linalg.norm(pose.project(normal, intrinsics, matrix) - uv, axis=1), nan=np.inf)
    width = float(np.clip(AGREES_SIGMAS * np.median(distances) / 1.1774, LEAST_WIDTH, MOST_WIDTH))
    agree = distances <= width
    share = float(agree.mean())
    residual = float(np.sqrt((distances[agree] ** 2).mean())) if agree.any() else float(np.median(distances))
    reason = _doubt(normal[agree], uv[agree], intrinsics, matrix, share, residual, size, lens_unknown)
    return PictureCamera(_of_world(matrix, bounds, scale), intrinsics, residual * size, share, reason)


def _of_world(matrix: np.ndarray, bounds: Bounds, scale: float) -> np.ndarray:
    """The camera [4,4] of the box (longest side 1, middle at the origin) in world axes."""
    world = matrix.copy()
    world[:3, 3] = matrix[:3, 3] * scale - matrix[:3, :3] @ bounds.centre
    return world


def _of_box(world: np.ndarray, bounds: Bounds, scale: float) -> np.ndarray:
    """The inverse of `_of_world`."""
    matrix = world.copy()
    matrix[:3, 3] = (world[:3, 3] + world[:3, :3] @ bounds.centre) / scale
    return matrix


def _doubt(
    normal: np.ndarray,
    uv: np.ndarray,
    intrinsics: np.ndarray,
    matrix: np.ndarray,
    share: float,
    residual: float,
    size: int,
    lens_unknown: bool,
) -> str:
    """A sentence why the camera should not be trusted; empty if it may be. Points and pixels are those that agree."""
    focal, (low, high) = intrinsics[0, 0], FOCAL_RANGE
    eye = -matrix[:3, :3].T @ matrix[:3, 3]
    if share < TRUSTED_SHARE:
        reason = f"only {100 * share:.0f} % of the point map agrees with it"
    elif (extent := float(np.ptp(uv, axis=0).max())) < LEAST_SIZE:
        reason = f"the object is only {extent * size:.0f} pixels wide in the picture"
    elif residual > TRUSTED_MISS * extent:
        reason = f"the point map misses it by {residual * size:.1f} pixels"
    elif not low * 1.01 < focal < high / 1.01:
        reason = f"a focal length of {focal:.2g} picture widths is not a usual lens"
    elif (normal @ matrix[2, :3] + matrix[2, 3] <= 0).any() or np.abs(eye).max() < 0.5:
        reason = "it stands inside the object"
    elif lens_unknown and _flatness(normal) < FLAT_RATIO:
        reason = "all that the picture shows of the object lies in one plane, which other lenses show in the same way"
    else:
        return ""
    return f"The camera is uncertain: {reason}; check it, give the lens or try another seed."


def _flatness(points: np.ndarray) -> float:
    extent = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return float(extent[2] / max(extent[0], 1e-12))
