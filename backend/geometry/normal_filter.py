"""Noise taken off a surface with its edges kept: face normals are averaged with those that look much alike, then the
vertices follow them.

Method: bilateral filtering of normals (Zheng et al., "Bilateral normal filtering for mesh denoising", 2011) and the
vertex update of Sun et al. (2007): each vertex moves along the filtered normals of its faces towards their planes.
"""

from __future__ import annotations

import numpy as np

SPREAD = 0.5  # difference of two unit normals at which one counts 0.6 for the other: 29 degrees
ROUNDS = 10  # of averaging; each reaches one face further
MOVES = 10  # of the vertices


def without_noise(vertices: np.ndarray, faces: np.ndarray, rounds: int = ROUNDS, spread: float = SPREAD) -> np.ndarray:
    """Vertices [N,3] float64 of a mesh with faces [F,3], moved so that the faces have the filtered normals."""
    points = np.asarray(vertices, np.float64)
    if not len(faces):
        return points
    normals, areas = normals_and_areas(points, faces)
    one, other = beside(faces)
    for _ in range(rounds):
        apart = ((normals[one] - normals[other]) ** 2).sum(axis=1)
        share = areas[other] * np.exp(-apart / (2 * spread**2))
        summed = areas[:, None] * normals + summed_at(one, share[:, None] * normals[other], len(faces))
        normals = summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)
    count = np.maximum(np.bincount(faces.ravel(), minlength=len(points)), 1)[:, None]
    for _ in range(MOVES):
        middle = points[faces].mean(axis=1)
        ways = [((middle - points[faces[:, k]]) * normals).sum(axis=1, keepdims=True) * normals for k in range(3)]
        points = points + sum(summed_at(faces[:, k], ways[k], len(points)) for k in range(3)) / count
    return points


def normals_and_areas(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals [F,3] (zero where a face has no area) and areas [F]."""
    first, second, third = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(second - first, third - first)
    length = np.linalg.norm(cross, axis=1)
    return cross / np.maximum(length, 1e-15)[:, None], length / 2


def beside(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of faces [P], [P] with a common edge, each pair both ways."""
    sides = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1).astype(np.int64)
    key = sides[:, 0] * (int(faces.max()) + 1) + sides[:, 1]
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(key[order][1:] == key[order][:-1])
    one, two = order[same] // 3, order[same + 1] // 3
    return np.concatenate([one, two]), np.concatenate([two, one])


def summed_at(rows: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Sums [count,3] of values [P,3] by their rows [P]."""
    return np.stack([np.bincount(rows, values[:, axis], count) for axis in range(3)], axis=1)
