"""Depth from a view's normals, for start meshes: integrated within the picture, tied to the visual hull.

Method: the log depth q of a perspective view with camera-space normal n on the ray r = (x, y, 1) has the derivatives
-n_x / (n . r) and -n_y / (n . r). Each pixel states them towards all its four neighbours and believes the side that
fits better (bilateral weights, the idea of Cao et al., ECCV 2022), so that depth may jump where one part hides
another. What normals cannot tell, the offset of each part, comes from the hull: nothing lies before it, and every part
is drawn towards it.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import spsolve

from backend.systems.kiss3dgen.bundle import FOV, decode_normals

INSIDE = 0.6  # share of a pixel from which its normal is used
ROUNDS = 8
SIDE_SHARPNESS = 2.0  # of the choice between two sides, in squared pixels of depth
BEFORE, BEHIND = 0.3, 0.003  # pull to the hull of what lies before it (impossible) and behind it (usual)


def pure_normals(normals: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Unit local normals [H,W,3] of one view's encoded ones on white, without the white that pixels at the rim hold."""
    share = np.asarray(mask, np.float32).clip(0.3, 1.0)[..., None]
    return decode_normals(((normals - 1.0) / share + 1.0).clip(0.0, 1.0))


def integrate(normals: np.ndarray, mask: np.ndarray, hull_depth: np.ndarray) -> np.ndarray:
    """Depth [S,S] along the camera's axis from encoded normals [S,S,3], mask [S,S] and the hull's depth [S,S] (0 where
    it is not); inf outside the mask."""
    size = len(mask)
    inside = mask >= INSIDE
    count = int(inside.sum())
    depth = np.full(mask.shape, np.inf)
    if not count or not (hull_depth[inside] > 0).any():
        return depth
    focal = 0.5 / np.tan(np.radians(FOV / 2))
    step = 1.0 / (focal * size)
    across = ((np.arange(size) + 0.5) / size - 0.5) / focal
    normal = -pure_normals(normals, mask)[inside].astype(np.float64)  # local (left, up, viewer) to (right, down, away)
    rows, columns = np.nonzero(inside)
    along = (
        normal[:, 0] * across[columns] + normal[:, 1] * across[rows] + normal[:, 2]
    )  # n . r, negative where it faces
    along = np.minimum(along, -0.05)
    index = np.full((size + 2, size + 2), -1)
    index[1:-1, 1:-1][inside] = np.arange(count)

    sides = []  # (pixel, its neighbour, sign, component) for left, right, up, down
    for axis, sign in ((1, -1), (1, 1), (0, -1), (0, 1)):
        row, column = rows + 1 + (sign if axis == 0 else 0), columns + 1 + (sign if axis == 1 else 0)
        sides.append((index[row, column], sign, normal[:, 0] if axis == 1 else normal[:, 1]))

    known = hull_depth[inside] > 0
    hull = np.zeros(count)
    hull[known] = np.log(hull_depth[inside][known]) / step
    hull[~known] = hull[known].mean()
    q = hull.copy()
    for _ in range(ROUNDS):
        misfit = [np.where(other >= 0, along * sign * (q[other] - q) + part, np.inf) for other, sign, part in sides]
        weights = []
        for first, second in ((0, 1), (1, 0), (2, 3), (3, 2)):
            own, against = np.minimum(np.abs(misfit[first]), 1e3), np.minimum(np.abs(misfit[second]), 1e3)
            chosen = 1.0 / (1.0 + np.exp(np.clip(SIDE_SHARPNESS * (own**2 - against**2), -50, 50)))
            weights.append(np.where(sides[first][0] >= 0, chosen, 0.0))
        matrix, right = coo_matrix((count, count)).tocsr(), np.zeros(count)
        for (other, sign, part), weight in zip(sides, weights, strict=True):
            use = np.flatnonzero((other >= 0) & (weight > 1e-6))
            slope = along[use] * sign
            lines = coo_matrix(
                (np.concatenate([slope, -slope]), (np.tile(np.arange(len(use)), 2), np.concatenate([other[use], use]))),
                shape=(len(use), count),
            ).tocsr()
            weighted = lines.multiply(weight[use, None]).tocsr()
            matrix = matrix + lines.T @ weighted
            right -= weighted.T @ part[use]
        pull = np.where(known, np.where(q < hull, BEFORE, BEHIND), 1e-6)
        q = spsolve((matrix + diags(pull)).tocsc(), right + pull * hull)
    depth[inside] = np.exp(q * step)
    return depth


def carried_out(depth: np.ndarray) -> np.ndarray:
    """Depth [S,S] whose inf pixels have the nearest finite pixel's; all inf stays."""
    missing = ~np.isfinite(depth)
    if missing.all():
        return depth
    rows, columns = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
    return np.asarray(depth[rows, columns])
