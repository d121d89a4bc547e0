"""What smoothing took off a surface given back: the inverse of a short blur, along the normals and without its noise.

Smoothing moves a surface inward where it bulges. How far a little more smoothing would move it says how far, to first
order, the last one did (deconvolution by one step of Van Cittert's iteration). That answer holds the triangles'
pattern too, so only its part along the normals is kept and is itself made smooth. A blur leaves no crease, so near one
nothing was taken off and nothing is given back.
"""

from __future__ import annotations

import numpy as np
import torch

from backend.geometry.mesh_topology import find_edges, neighbour_means
from backend.geometry.normal_filter import beside, normals_and_areas
from backend.rendering.tangent_space import angle_normals

SHARE = 0.5  # of the way to the mean of its neighbours that a vertex goes in a step
BLUR, NORMAL_STEPS, SMOOTH = 4, 2, 3  # steps that stand for the blur, for the normals, for the answer
CREASE = np.cos(np.radians(80))  # of the angle between the normals of two faces, from which an edge was never blurred
REACH = 1  # edges that a crease's neighbourhood is wide
FARTHEST = 0.02  # that a vertex is moved, in object units (longest side = 1)


def regrown(vertices: np.ndarray, faces: np.ndarray, share: float = 1.0) -> np.ndarray:
    """Vertices [V,3] float64 moved out where a blur had moved them in, by `share` of that; faces [F,3] of even size.

    0 changes nothing.
    """
    points = np.asarray(vertices, np.float64)
    if not len(faces) or share <= 0:
        return points
    edges, _ = find_edges(torch.from_numpy(np.ascontiguousarray(faces, np.int64)), len(points))

    def blurred(values: np.ndarray, steps: int) -> np.ndarray:
        moved = torch.from_numpy(np.ascontiguousarray(values))
        for _ in range(steps):
            moved = moved + SHARE * (neighbour_means(moved, edges) - moved)
        return moved.numpy()

    normals = blurred(angle_normals(points, faces), NORMAL_STEPS)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    lost = ((points - blurred(points, BLUR)) * normals).sum(axis=1, keepdims=True) * normals
    lost = blurred(lost * ~near_creases(points, faces, edges)[:, None], SMOOTH)
    length = np.linalg.norm(lost, axis=1, keepdims=True)
    return points + share * lost * np.minimum(1.0, FARTHEST / np.maximum(length, 1e-12))


def near_creases(vertices: np.ndarray, faces: np.ndarray, edges: torch.Tensor) -> np.ndarray:
    """Which vertices [V] bool lie within REACH edges [E,2] of a crease."""
    normals, _ = normals_and_areas(vertices, faces)
    one, other = beside(faces)
    sharp = (normals[one] * normals[other]).sum(axis=1) < CREASE
    shared = (faces[one[sharp], :, None] == faces[other[sharp], None, :]).any(axis=2)
    near = np.zeros(len(vertices), bool)
    near[faces[one[sharp]][shared]] = True
    first, second = edges.numpy().T
    for _ in range(REACH):
        reached = near[first] | near[second]
        near[first[reached]] = near[second[reached]] = True
    return near
