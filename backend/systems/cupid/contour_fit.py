"""A mesh's view moved until its outline lies on the photo's: closest points on the outlines, Gauss-Newton.

Each step finds the surface points that make the outline, pairs them with the photo's outline both ways (its signed
distance at each of ours; for each of its pixels the nearest of ours, along its normal), and solves for all seven
unknowns of a `MeshView` at once. Weak priors hold what an outline says little about: distance and focal length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from backend.systems.cupid import mesh_view
from backend.systems.cupid.mesh_view import MeshView

UNITS = np.array([0.1, 0.1, 0.1, 0.02, 0.02, 0.05, 0.2])  # radians, crop sizes, logs: one unit of each unknown
USUAL_FOCAL, FOCAL_SPREAD = 2.5, 0.7  # of a crop around the object, and its spread in logs (as in `camera_solver`)
PRIOR = 0.15  # pixels that one deviation from the usual focal length is worth, a pair
ROBUST = 1.5  # pixels from which on a pair counts less
FAR = 12.0  # pixels beyond which outlines are not paired
DAMPING = 0.02
LONGEST_STEP = 2.0  # units
MOST_PAIRS = 500


@dataclass(frozen=True)
class Outline:
    """The photo's mask [S,S] as what the fit needs: signed distance (positive outside, pixels), its gradient, pixels.

    `border` [K,2] are the outline's pixel centres (column, row) that are not the picture's own edge, `normals` [K,2].
    """

    mask: np.ndarray
    distance: np.ndarray
    gradient: np.ndarray
    border: np.ndarray
    normals: np.ndarray

    @property
    def size(self) -> int:
        return len(self.mask)


def outline_of(mask: np.ndarray) -> Outline:
    """The outline of `mask` [S,S]. Errors: ValueError for an empty mask."""
    if not mask.any():
        raise ValueError("There is nothing to fit to; the object's mask is empty.")
    outside, inside = ndimage.distance_transform_edt(~mask), ndimage.distance_transform_edt(mask)
    distance = np.where(mask, 0.5 - inside, outside - 0.5)
    smooth = ndimage.gaussian_filter(distance, 1.0)
    gradient = np.stack([ndimage.sobel(smooth, 1), ndimage.sobel(smooth, 0)], axis=-1)
    gradient /= np.maximum(np.linalg.norm(gradient, axis=-1, keepdims=True), 1e-6)
    edge = mask & ~ndimage.binary_erosion(mask, border_value=1)
    rows, columns = np.nonzero(edge)
    normals = gradient[rows, columns]
    border = np.stack([columns, rows], axis=1) + 0.5 + 0.5 * normals  # the edge lies half a pixel beyond the centres
    return Outline(mask, distance, gradient, border, normals)


def fit_contour(
    points: np.ndarray, view: MeshView, outline: Outline, iterations: int, focal: float | None = None
) -> MeshView:
    """The view near `view` under which the points [N,3] have the outline. `focal` (crop sizes) is kept if given."""
    for _ in range(iterations):
        step = _step(points, view, outline, focal)
        if step is None:
            break
        view = _moved(view, step, focal)
        if float(np.abs(step / UNITS).max()) < 0.02:
            break
    return view


def _moved(view: MeshView, step: np.ndarray, focal: float | None) -> MeshView:
    moved = view.moved(step)
    if focal is None:
        return moved
    distance = max(focal / moved.size, mesh_view.NEAREST)
    return MeshView(moved.rotation, moved.centre, focal / distance, distance, moved.principal)


def _step(points: np.ndarray, view: MeshView, outline: Outline, focal: float | None) -> np.ndarray | None:
    """The Gauss-Newton step [7] of one round of pairs; None when too few pairs are left."""
    size = outline.size
    uv, _ = mesh_view.project(points, view)
    rim = points[_rim(uv, size)]
    if len(rim) < 12:
        return None
    if len(rim) > MOST_PAIRS:
        rim = rim[np.linspace(0, len(rim) - 1, MOST_PAIRS).astype(int)]
    pixels = mesh_view.project(rim, view)[0] * size
    column, row = np.floor(pixels).astype(int).clip(0, size - 1).T
    # Ours to theirs: the signed distance and its gradient at each of our points.
    ours, our_normals = outline.distance[row, column], outline.gradient[row, column]
    # Theirs to ours: along their normal to the nearest of our points.
    away, partner = cKDTree(pixels).query(outline.border)
    theirs = ((pixels[partner] - outline.border) * outline.normals).sum(axis=1)
    kept_ours, kept_theirs = np.abs(ours) < FAR, away < FAR
    if kept_ours.sum() + kept_theirs.sum() < 20:
        return None
    residual = np.concatenate([ours[kept_ours], theirs[kept_theirs]])
    normals = np.concatenate([our_normals[kept_ours], outline.normals[kept_theirs]])
    source = np.concatenate([np.flatnonzero(kept_ours), partner[kept_theirs]])
    moves = np.empty((7, len(rim), 2))
    for unknown in range(7):
        change = np.zeros(7)
        change[unknown] = UNITS[unknown] * 0.1
        moves[unknown] = (mesh_view.project(rim, _moved(view, change, focal))[0] * size - pixels) / 0.1
    jacobian = np.einsum("uni,ni->nu", moves[:, source], normals)
    weights = 1.0 / (1.0 + (residual / ROBUST) ** 2)
    normal = jacobian.T @ (jacobian * weights[:, None])
    slope = jacobian.T @ (residual * weights)
    strength = PRIOR**2 * float(weights.sum())
    if focal is None:  # log focal = log size + log distance
        towards = np.array([0, 0, 0, 0, 0, UNITS[5], UNITS[6]]) / FOCAL_SPREAD
        off = np.log(view.focal / USUAL_FOCAL) / FOCAL_SPREAD
        normal += strength * np.outer(towards, towards)
        slope += strength * off * towards
    normal += np.diag(DAMPING * np.diag(normal) + 1e-3 * strength + 1e-9)
    step = -np.linalg.solve(normal, slope)
    longest = float(np.abs(step).max())
    if not np.isfinite(longest):
        return None
    return np.asarray(step * min(1.0, LONGEST_STEP / max(longest, 1e-9)) * UNITS)


def _rim(uv: np.ndarray, size: int) -> np.ndarray:
    """Indices of the points that make the silhouette's edge, one a pixel: the one farthest out of the edge's pixels."""
    index, inside = mesh_view.cells(uv, size)
    mask = mesh_view.silhouette(uv, size)
    padded = np.pad(mask, 1)
    edge = (padded & ~ndimage.binary_erosion(padded))[1:-1, 1:-1]
    # Where the silhouette is cut off by the picture there is no outline.
    edge[[0, -1]] = False
    edge[:, [0, -1]] = False
    outwards = -_slope(mask)
    chosen = np.flatnonzero(inside & edge.reshape(-1)[index])
    if not len(chosen):
        return chosen
    pixel = index[chosen]
    reach = ((uv[chosen] * size) * outwards.reshape(-1, 2)[pixel]).sum(axis=1)
    order = np.lexsort((-reach, pixel))
    first = np.unique(pixel[order], return_index=True)[1]
    return np.asarray(chosen[order[first]])


def _slope(mask: np.ndarray) -> np.ndarray:
    """Direction [S,S,2] (column, row) into the mask."""
    smooth = ndimage.gaussian_filter(mask.astype(np.float32), 1.0)
    return np.stack([ndimage.sobel(smooth, 1), ndimage.sobel(smooth, 0)], axis=-1)
