"""Parts of a decoded mesh that nobody asked for: cavities and crumbs.

The mesh decoder knows the voxels on the surface only; where the object goes on inside, its field jumps to "outside",
and a second surface closes the shell. As a part of its own it encloses a negative volume, as normals point outward.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

CRUMB_FACES = 24  # a part of a few grid cells


def visible_parts(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which vertices stay [V'] int64 and the faces [F',3] of the mesh [V,3], [F,3] without cavities and crumbs.

    Everything stays when nothing else would.
    """
    corners = np.asarray(vertices, np.float64)[faces]
    links = coo_matrix(
        (np.ones(2 * len(faces)), (faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel())), (len(vertices),) * 2
    )
    part = connected_components(links, directed=False)[1][faces[:, 0]] if len(faces) else np.zeros(0, np.int64)
    volume = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    kept = (np.bincount(part, volume) > 0) & (np.bincount(part) >= CRUMB_FACES)
    chosen = faces[kept[part]]
    if not len(chosen):
        return np.arange(len(vertices)), faces
    rows, packed = np.unique(chosen, return_inverse=True)
    return rows, packed.reshape(-1, 3)
