"""Loop subdivision of the edges that are longer than a limit: a smoother surface with more triangles.

After Loop, "Smooth subdivision surfaces based on triangles" (1987): a new vertex takes 3/8 of its ends and 1/8 of
the two opposite corners; an old vertex of degree n moves towards the mean of its neighbours by n b(n). Here only edges
above a limit are cut and only vertices of which every edge is cut move, so that fine parts stay as they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backend.geometry.mesh_topology import (
    edge_lengths,
    edge_sides,
    find_edges,
    neighbour_means,
    with_dummies,
    without_dummies,
)
from backend.geometry.remeshing import affordable, split


def subdivide(vertices: Tensor, faces: Tensor, longest: float, most_faces: int | None = None) -> tuple[Tensor, Tensor]:
    """One round on vertices [N,3], faces [F,3]: edges longer than `longest` are cut, the longest first and no more of
    them than `most_faces` allow. New vertices come at the end."""
    points, faces = with_dummies(vertices, faces)
    edges, of_faces = find_edges(faces, len(points))
    lengths = edge_lengths(points, edges)
    chosen = lengths > longest
    if most_faces is not None:
        chosen = affordable(chosen, lengths, of_faces, most_faces - (len(faces) - 1))  # one is the dummy
    sides = edge_sides(faces, of_faces, len(edges))
    opposite = faces[sides[..., 0], (sides[..., 1] + 2) % 3]
    inner = opposite.all(dim=1) & (torch.bincount(of_faces.reshape(-1), minlength=len(edges)) == 2)
    middles = points[edges].mean(dim=1)
    between = 0.75 * middles + 0.25 * points[opposite].mean(dim=1)
    added = torch.where(inner[:, None], between, middles)[chosen]
    old = _moved(points, edges, chosen, inner)
    _, faces = split(points, faces, edges, of_faces, chosen)
    return without_dummies(torch.cat([old, added]), faces)


def _moved(points: Tensor, edges: Tensor, chosen: Tensor, inner: Tensor) -> Tensor:
    """Old vertices [N,3] in their new places; those at a border or beside an edge that stays do not move."""
    rest = edges[~(chosen & inner)].reshape(-1)
    moves = torch.ones(len(points), dtype=torch.bool, device=points.device)
    moves[rest] = False
    moves[0] = False
    degree = torch.bincount(edges.reshape(-1), minlength=len(points)).clamp_min(1).to(points.dtype)
    share = 5 / 8 - (3 / 8 + torch.cos(2 * math.pi / degree) / 4) ** 2  # n b(n)
    means = neighbour_means(points, edges)
    return torch.where(moves[:, None], points + share[:, None] * (means - points), points)
