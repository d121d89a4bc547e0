"""Continuous remeshing: one step that collapses, splits and flips edges so that their lengths stay within limits.

After Palfinger, "Continuous remeshing for inverse rendering" (2022), in the form that ISOMER uses (Kiss3DGen spec 8).
A *state* [N,C] holds a vertex's position in its first three channels and whatever else goes along with it (an
optimiser's moments); new vertices get the mean of both ends in every channel. Inner functions take meshes with dummies
(`mesh_topology`). Closed surfaces stay closed and keep their Euler characteristic: an edge collapses only if its ends
share no more than two neighbours, and flips only if its other diagonal is not an edge yet.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backend.geometry.mesh_topology import (
    edge_lengths,
    edge_sides,
    face_normals,
    find_edges,
    packed,
    reference_normals,
    vertex_normals,
    with_dummies,
    without_dummies,
)

AREA_RATIO = 0.5  # of the square of the shortest length: smaller faces go
PICKS = 10  # a face that goes names its longest edge once in this many times, its middle one once, else the shortest
DEGREE = 6  # neighbours of a vertex in a regular mesh
ROUNDS = 3  # of passing ranks to neighbours: collapsing edges are three edges apart or more
MOST_VERTICES = 1_000_000

Picker = Callable[[int], Tensor]
"""`pick(faces)` -> [faces] int64 in 0..PICKS-1, which edge a face names; tests give their own."""


def remesh(
    state: Tensor, faces: Tensor, shortest: Tensor, longest: Tensor, pick: Picker | None = None,
    most_faces: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One step on state [N,C] and faces [F,3]: collapse, split, flip.

    shortest, longest [N]: the limits of edge length at each vertex; an edge has the mean of its ends'. most_faces: of
    the long edges only so many are split, the longest first, that there are no more faces than this.
    Errors: ValueError when the mesh would pass a million vertices.
    """
    state, faces = with_dummies(state, faces)
    unknown = shortest.new_full((1,), float("nan"))
    shortest, longest = torch.cat([unknown, shortest]), torch.cat([unknown, longest])
    edges, of_faces = find_edges(faces, len(state))
    priorities = collapse_priorities(state[:, :3], faces, edges, of_faces, shortest, pick)
    state, faces = collapse(state, faces, edges, priorities)
    edges, of_faces = find_edges(faces, len(state))  # rows keep their numbers, so `longest` still fits
    lengths = edge_lengths(state[:, :3], edges)
    long = lengths > longest[edges].mean(dim=1)
    if most_faces is not None:
        long = affordable(long, lengths, of_faces, most_faces - int(faces.any(dim=1).sum()))
    if len(state) + int(long.sum()) > MOST_VERTICES:
        raise ValueError(f"The mesh would grow past {MOST_VERTICES} vertices; allow longer edges.")
    state, faces = packed(*split(state, faces, edges, of_faces, long))
    return without_dummies(state, flip(state[:, :3], faces))


def affordable(chosen: Tensor, lengths: Tensor, of_faces: Tensor, room: int) -> Tensor:
    """Which of the chosen [E] edges can be split with at most `room` more faces, the longest first [E]."""
    rows = torch.nonzero(chosen)[:, 0]
    rows = rows[torch.argsort(lengths[rows], descending=True, stable=True)]
    more = torch.bincount(of_faces.reshape(-1), minlength=len(chosen))[rows]  # a split halves every face beside it
    kept = torch.zeros_like(chosen)
    kept[rows[more.cumsum(0) <= room]] = True
    return kept


def random_picks(faces: int, device: torch.device) -> Tensor:
    """Random picks [faces] of edges; seeded by torch's own generator."""
    return torch.randint(0, PICKS, (faces,), device=device)


def collapse_priorities(
    vertices: Tensor, faces: Tensor, edges: Tensor, of_faces: Tensor, shortest: Tensor, pick: Picker | None = None
) -> Tensor:
    """How much each edge should collapse [E], 0 not at all: a bad face names it, or it is too short.

    A face is bad when it faces against its corners' normals or is too small.
    """
    lengths = edge_lengths(vertices, edges)
    normals = face_normals(vertices, faces)
    facing = (normals * reference_normals(faces, vertex_normals(vertices, faces, normals))).sum(dim=1)
    least = AREA_RATIO * shortest[faces].mean(dim=1) ** 2
    bad = torch.nonzero((facing < 0) | (normals.norm(dim=1) < 2 * least))[:, 0]  # never the dummy: it compares false
    picks = random_picks(len(faces), faces.device) if pick is None else pick(len(faces))
    order = torch.argsort(lengths[of_faces[bad]], dim=1, descending=True)
    named = order.gather(1, picks[bad].clamp_max(2)[:, None])
    priorities = torch.zeros_like(lengths)
    priorities[of_faces[bad].gather(1, named)[:, 0]] = 1.0
    return priorities + (1 - lengths / shortest[edges].mean(dim=1)).clamp_min(0).nan_to_num(0.0)


def collapse(state: Tensor, faces: Tensor, edges: Tensor, priorities: Tensor) -> tuple[Tensor, Tensor]:
    """Edges of locally highest priority (> 0) collapsed to their middle; the first end stays, faces that vanish become
    the dummy. Rows keep their numbers."""
    wanted = torch.nonzero(priorities > 0)[:, 0]
    if not len(wanted):
        return state, faces
    ranks = edges.new_zeros(len(edges))
    ranks[wanted[torch.argsort(priorities[wanted], stable=True)]] = torch.arange(
        1, len(wanted) + 1, device=edges.device
    )
    highest = ranks
    for _ in range(ROUNDS):
        highest = _largest(highest[:, None].expand(-1, 2), edges, len(state))[edges].amax(dim=1)
    pairs = edges[wanted[highest[wanted] == ranks[wanted]]]
    pairs = pairs[_shared_neighbours(pairs, edges, len(state)) <= 2]
    state = state.index_copy(0, pairs[:, 0], state[pairs].mean(dim=1))
    place = torch.arange(len(state), device=faces.device)
    place[pairs[:, 1]] = pairs[:, 0]
    faces = place[faces]
    first, second, third = faces.unbind(dim=1)
    gone = (first == second) | (second == third) | (third == first)
    return state, faces.masked_fill(gone[:, None], 0)


def split(state: Tensor, faces: Tensor, edges: Tensor, of_faces: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen [E] edges cut in their middle, all sides of a face at once. New vertices and faces come at the end."""
    rows = torch.nonzero(chosen)[:, 0]
    middles = edges.new_zeros(len(edges))
    middles[rows] = torch.arange(len(state), len(state) + len(rows), device=edges.device)
    at_sides = middles[of_faces]
    cut = at_sides > 0
    inner = torch.where(cut, at_sides, faces)  # the middle of a cut side, the first corner of another
    corners = torch.stack([faces, inner, inner.roll(1, dims=1)], dim=2)[cut]
    return torch.cat([state, state[edges[rows]].mean(dim=1)]), torch.cat([inner, corners])


def flip(vertices: Tensor, faces: Tensor) -> Tensor:
    """Faces [F,3] with inner edges turned to the other diagonal where that brings degrees nearer to six, one of each
    neighbourhood, and where both new faces keep the side that the old ones face."""
    edges, of_faces = find_edges(faces, len(vertices))
    sides = edge_sides(faces, of_faces, len(edges))
    opposite = faces[sides[..., 0], (sides[..., 1] + 2) % 3]
    degrees = torch.bincount(edges.reshape(-1), minlength=len(vertices)) - DEGREE
    change = 2 + degrees[opposite].sum(dim=1) - degrees[edges].sum(dim=1)  # half the change of the squared deviations
    inner = opposite.all(dim=1) & (torch.bincount(of_faces.reshape(-1), minlength=len(edges)) == 2)
    rows = torch.nonzero((change < 0) & inner)[:, 0]
    corners = torch.cat([edges, opposite], dim=1)[rows]  # start, end, left, right
    ranks = torch.empty_like(rows)
    ranks[torch.argsort(change[rows], descending=True, stable=True)] = torch.arange(len(rows), device=rows.device)
    best = _largest(ranks[:, None].expand(-1, 4), corners, len(vertices))[corners].amax(dim=1) == ranks
    best &= _stays_facing(vertices[corners]) & ~_is_edge(corners[:, 2:], edges, len(vertices))
    turned = corners[best]
    faces = faces.clone()
    faces[sides[rows[best], 0, 0]] = turned[:, [0, 3, 2]]
    faces[sides[rows[best], 1, 0]] = turned[:, [1, 2, 3]]
    return faces


def _largest(values: Tensor, index: Tensor, count: int) -> Tensor:
    """The largest of the values [...] >= 0 sent to each of `count` places by `index` [...]."""
    return values.new_zeros(count).scatter_reduce_(0, index.reshape(-1), values.reshape(-1), "amax")


def _shared_neighbours(pairs: Tensor, edges: Tensor, count: int) -> Tensor:
    """How many neighbours the ends of each pair [P,2] have in common. Pairs are at least three edges apart."""
    owner = edges.new_full((count,), -1)  # the pair whose first end a vertex neighbours
    first = edges.new_full((count,), -1)
    second = first.clone()
    numbers = torch.arange(len(pairs), device=edges.device)
    first[pairs[:, 0]], second[pairs[:, 1]] = numbers, numbers
    both = torch.cat([edges, edges.flip(1)])
    near = first[both[:, 0]] >= 0
    owner[both[near, 1]] = first[both[near, 0]]
    shared = (second[both[:, 0]] >= 0) & (second[both[:, 0]] == owner[both[:, 1]])
    return torch.bincount(second[both[shared, 0]], minlength=len(pairs))


def _stays_facing(corners: Tensor) -> Tensor:
    """Whether [P] both faces made by a flip face as the old ones do; corners [P,4,3] start, end, left, right."""
    end, left, right = (corners[:, k] - corners[:, 0] for k in (1, 2, 3))
    before = torch.linalg.cross(end, left, dim=1) + torch.linalg.cross(right, end, dim=1)
    first = (before * torch.linalg.cross(right, left, dim=1)).sum(dim=1) > 0
    return first & ((before * torch.linalg.cross(left - end, right - end, dim=1)).sum(dim=1) > 0)


def _is_edge(pairs: Tensor, edges: Tensor, count: int) -> Tensor:
    """Whether [P] vertices [P,2] are joined by one of the sorted edges [E,2]."""
    keys = edges[:, 0] * count + edges[:, 1]
    wanted = pairs.amin(dim=1) * count + pairs.amax(dim=1)
    return keys[torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)] == wanted
