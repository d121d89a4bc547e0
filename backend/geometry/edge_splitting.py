"""Long edges cut, so that a surface can bend where it has few vertices."""

from __future__ import annotations

import numpy as np
import torch

from backend.geometry.mesh_topology import edge_lengths, find_edges, with_dummies, without_dummies
from backend.geometry.remeshing import split

WELD = 1e-5  # object units: vertices nearer than this are one
SPLIT_ROUNDS = 7  # halvings: an edge across the cube becomes shorter than a hundredth of it


def with_short_edges(
    vertices: np.ndarray, faces: np.ndarray, longest: float, most_faces: int
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V,3] float64 and faces [F,3] of the same surface, vertices in one place made one, edges cut in halves
    until none is longer than `longest` or there are `most_faces`."""
    points = np.asarray(vertices, np.float64)
    cells = np.rint(points / WELD).astype(np.int64)
    _, first, place = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    triangles = place.reshape(-1)[faces]
    triangles = triangles[(triangles != np.roll(triangles, 1, axis=1)).all(axis=1)].astype(np.int64)
    state, cut = with_dummies(torch.from_numpy(points[first]), torch.from_numpy(triangles))
    for _ in range(SPLIT_ROUNDS):
        edges, of_faces = find_edges(cut, len(state))
        chosen = edge_lengths(state, edges) > longest
        if not chosen.any() or len(cut) > most_faces:
            break
        middles = state[edges[chosen]].mean(dim=1)
        _, cut = split(state, cut, edges, of_faces, chosen)
        state = torch.cat([state, middles])
    state, cut = without_dummies(state, cut)
    return state.numpy(), cut.numpy()
