"""Colours for what no view saw: they spread over the surface from what was seen, then are smoothed (spec 9)."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_ROUNDS = 10_000


def neighbours(faces: Tensor, count: int) -> Tensor:
    """Directed edges [2,E] int64 of a mesh of `count` vertices, each pair of neighbours once in each direction."""
    ends = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    keys = torch.unique(torch.cat([ends[:, 0] * count + ends[:, 1], ends[:, 1] * count + ends[:, 0]]))
    return torch.stack([keys // count, keys % count])


def complete_unseen(colors: Tensor, faces: Tensor, seen: Tensor) -> Tensor:
    """Colours [N,C] where vertices that are not `seen` [N] bool take the mean of their coloured neighbours.

    Repeated until no more get a colour, and as many rounds again to smooth. What is not connected to anything seen
    keeps its colour.
    """
    count = len(colors)
    target, source = neighbours(faces, count)
    open_edges = ~seen[target]
    target, source = target[open_edges], source[open_edges]
    colors, known = colors.clone(), seen.clone()
    rounds, growing = 0, True
    while (growing or rounds > 0) and rounds < MOST_ROUNDS:
        have = known[source]
        number = colors.new_zeros(count).index_add(
            0, target[have], torch.ones_like(colors[:1, 0]).expand(int(have.sum()))
        )
        total = torch.zeros_like(colors).index_add(0, target[have], colors[source[have]])
        filled = number > 0
        colors[filled] = total[filled] / number[filled, None]
        found = bool((filled & ~known).any())
        known = known | filled
        growing = growing and found
        rounds += 1 if growing else -1
    return colors
