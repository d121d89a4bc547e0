"""How the surface crosses one cube for each of the 256 corner patterns, by a rule (CUPID spec section 4.8, step 5).

Corner n of a cube sits at (n & 1, n >> 1 & 1, n >> 2 & 1). A pattern ("case") has bit n set when corner n is inside.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

CORNERS = np.array([(n & 1, n >> 1 & 1, n >> 2 & 1) for n in range(8)], dtype=np.int64)
# The order and the direction of the edges are part of the network's output layout (beta has one weight an edge).
EDGES = np.array(
    [(0, 1), (1, 5), (4, 5), (0, 4), (2, 3), (3, 7), (6, 7), (2, 6), (2, 0), (3, 1), (7, 5), (6, 4)], dtype=np.int64
)
EDGE_AXIS = np.array([int(np.flatnonzero(CORNERS[a] != CORNERS[b])[0]) for a, b in EDGES], dtype=np.int64)
EDGE_LOW = np.minimum(CORNERS[EDGES[:, 0]], CORNERS[EDGES[:, 1]])  # [12,3] the lower end of each edge
FACES = [(axis, side) for axis in range(3) for side in (0, 1)]


@dataclass(frozen=True)
class CubeCases:
    """Tables over the 256 cases.

    labels [256,12] int64: which dual vertex of the cube an edge belongs to, -1 where the surface does not cross it.
    count [256] int64: dual vertices of the cube (0..4).
    facing [256,3] int64: for "problematic" cases the direction of the one ambiguous face, else zero.
    problematic [256] bool.
    """

    labels: np.ndarray
    count: np.ndarray
    facing: np.ndarray
    problematic: np.ndarray


def _face_edges(axis: int, side: int) -> list[int]:
    return [e for e, (a, b) in enumerate(EDGES) if CORNERS[a][axis] == side and CORNERS[b][axis] == side]


def _solve(inside: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Labels [12] of the crossing edges of one case and its ambiguous faces."""
    group = {e: e for e, (a, b) in enumerate(EDGES) if inside[a] != inside[b]}
    ambiguous = []

    def join(first: int, second: int) -> None:
        old, new = group[second], group[first]
        for edge in group:
            if group[edge] == old:
                group[edge] = new

    for axis, side in FACES:
        crossing = [e for e in _face_edges(axis, side) if e in group]
        if len(crossing) == 2:
            join(*crossing)
        elif len(crossing) == 4:
            ambiguous.append((axis, side))
            for first, second in itertools.combinations(crossing, 2):
                shared = set(EDGES[first]) & set(EDGES[second])
                if shared and inside[shared.pop()]:
                    join(first, second)
    labels = np.full(12, -1, dtype=np.int64)
    own = inside if inside.sum() <= 4 else ~inside  # the published order: by the lowest corner that a part cuts off

    def lowest(name: int) -> int:
        return min(int(corner) for e in group if group[e] == name for corner in EDGES[e] if own[corner])

    order = sorted(set(group.values()), key=lowest)
    for edge, name in group.items():
        labels[edge] = order.index(name)
    return labels, ambiguous


@lru_cache(maxsize=1)
def cube_cases() -> CubeCases:
    """The tables, made once."""
    labels = np.full((256, 12), -1, dtype=np.int64)
    facing = np.zeros((256, 3), dtype=np.int64)
    problematic = np.zeros(256, dtype=bool)
    for case in range(256):
        labels[case], ambiguous = _solve(np.array([bool(case >> n & 1) for n in range(8)]))
        if len(ambiguous) == 1 and labels[case].max() == 0:
            axis, side = ambiguous[0]
            problematic[case] = True
            facing[case, axis] = 1 if side else -1
    return CubeCases(labels, labels.max(1) + 1, facing, problematic)
