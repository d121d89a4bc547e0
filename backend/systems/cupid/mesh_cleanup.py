"""Parts of a decoded mesh that nobody asked for: the inner side of closed shells, cavities and crumbs.

The mesh decoder knows the voxels on the surface only; where the object goes on inside, its field jumps to "outside" in
the first cubes beyond them, and a second surface closes the shell. All its vertices lie in empty voxels that the
surface's voxels enclose. What encloses a negative volume as a part of its own (normals point outward) is a cavity.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

CRUMB_FACES = 24  # a part of a few grid cells


def visible_parts(
    vertices: np.ndarray, faces: np.ndarray, voxels: np.ndarray, resolution: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which vertices stay [V'] int64 and the faces [F',3] of the mesh [V,3], [F,3] that was decoded on voxels [L,3].

    Everything stays when nothing else would.
    """
    occupied = np.zeros((resolution,) * 3, bool)
    occupied[tuple(np.asarray(voxels, np.int64).T)] = True
    enclosed = ndimage.binary_fill_holes(occupied) & ~occupied
    places = np.floor((vertices + 0.5) * resolution).astype(np.int64).clip(0, resolution - 1)
    outer = faces[~enclosed[tuple(places.T)][faces].all(axis=1)]
    chosen = _parts(vertices, outer)
    if not len(chosen):
        return np.arange(len(vertices)), faces
    rows, packed = np.unique(chosen, return_inverse=True)
    return rows, packed.reshape(-1, 3)


def _parts(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The faces [F',3] of the connected parts that enclose a positive volume and are not crumbs."""
    if not len(faces):
        return faces
    corners = np.asarray(vertices, np.float64)[faces]
    ends = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    links = coo_matrix((np.ones(len(ends[0])), ends), (len(vertices),) * 2)
    part = connected_components(links, directed=False)[1][faces[:, 0]]
    volume = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    kept = (np.bincount(part, volume) > 0) & (np.bincount(part) >= CRUMB_FACES)
    return faces[kept[part]]
