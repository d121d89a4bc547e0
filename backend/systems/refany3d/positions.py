"""The sequence of RefAny3D: which tokens there are, where they stand, and who may look at whom (spec sections 3, 5, 8).

With N views the sequence is: text | RGB noise | point-map noise | N RGB views | N point-map views. The last two may be
missing (the ablation without point maps).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

THETA = 10000.0


class Sizes(NamedTuple):
    """Tokens of each kind in a sequence, in its order; 0 where there are none. All of one kind are treated alike."""

    text: int
    rgb: int
    coord: int
    rgb_views: int
    point_views: int

    @property
    def noise(self) -> int:
        """Tokens that are denoised."""
        return self.rgb + self.coord

    @property
    def main(self) -> int:
        """Tokens before the views."""
        return self.text + self.noise

    @property
    def views(self) -> int:
        """Tokens of all views."""
        return self.rgb_views + self.point_views

    @property
    def total(self) -> int:
        """Tokens of the sequence."""
        return sum(self)

    @property
    def present(self) -> Sizes:
        """One for every kind that has tokens: the sizes of a sequence with one vector a kind."""
        return Sizes(*(min(size, 1) for size in self))

    def slices(self) -> list[tuple[int, slice]]:
        """(number of the kind, where its tokens are) for every kind that has tokens."""
        found, start = [], 0
        for kind, size in enumerate(self):
            if size:
                found.append((kind, slice(start, start + size)))
            start += size
        return found

    def only(self, *kinds: str) -> Sizes:
        """The same with the tokens of these kinds only."""
        return Sizes(*(size if name in kinds else 0 for name, size in zip(self._fields, self, strict=True)))


NOISE = ("rgb", "coord")
MAIN = ("text", *NOISE)
VIEWS = ("rgb_views", "point_views")


def sequence(text: int, tokens: int, views: int, points: bool = True) -> Sizes:
    """Sizes of a whole sequence: `text` tokens, pictures of `tokens`, `views` views, with point maps or without."""
    return Sizes(text, tokens, tokens * points, views * tokens, views * tokens * points)


def branch_names(views: int) -> list[str]:
    """The 2 views + 3 branches in their order."""
    rgb, points = ([f"cond_{kind}_{view}" for view in range(views)] for kind in ("rgb", "coord"))
    return ["text", "rgb_noise", "coord_noise", *rgb, *points]


def branch_kinds(views: int) -> list[int]:
    """The kind (place in `Sizes`) of each branch."""
    return [0, 1, 2, *([3] * views), *([4] * views)]


def branch_offsets(text: int, tokens: int, views: int) -> list[int]:
    """Where each branch begins, and where the last one ends."""
    return [0, *(text + tokens * branch for branch in range(2 * views + 3))]


def text_ids(count: int) -> Tensor:
    """Positions [count, 3] of text tokens: zeros."""
    return torch.zeros(count, 3)


def noise_ids(height: int, width: int) -> Tensor:
    """Positions [height * width, 3] (0, row, column) of either noisy picture."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).view(-1, 3).float()


def condition_ids(height: int, width: int, shift: int | None = None) -> Tensor:
    """Positions [height * width, 3] that all views share: those of the noise, `shift` columns aside.

    shift: -32 for the published weights; None takes minus the width, which is the same at 512 pixels.
    """
    return noise_ids(height, width) + torch.tensor([0.0, 0.0, -float(width) if shift is None else float(shift)])


def view_ids(height: int, width: int, pictures: int, shared: bool = True, shift: int | None = None) -> Tensor:
    """Positions [pictures * height * width, 3] of `pictures` condition pictures.

    shared False is the ablation without shared positions: each picture stands one shift further than the one before.
    """
    aside = -width if shift is None else shift
    shifts = [aside * (1 if shared else picture + 1) for picture in range(pictures)]
    return torch.cat([condition_ids(height, width, one) for one in shifts]) if shifts else torch.zeros(0, 3)


def rotary_turns(ids: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Turns of each pair of numbers as complex64 [L, sum(axes) / 2], for positions `ids` [L, len(axes)]."""
    angles = []
    for axis, size in enumerate(axes):
        frequencies = THETA ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angles.append(ids[:, axis, None].double() * frequencies)
    turns = torch.cat(angles, -1)
    return torch.complex(turns.cos().float(), turns.sin().float())


def group_mask(views: int, independent: bool = False) -> Tensor:
    """Which branch [2 views + 3] (row) attends to which (column): bool.

    independent: views look at themselves and their partner only. No published weights were trained so.
    """
    branches = 2 * views + 3
    mask = torch.ones(branches, branches, dtype=torch.bool)
    mask[2, 0] = False
    mask[3:, 3:] = torch.eye(views, dtype=torch.bool).repeat(2, 2)
    if independent:
        mask[3:, :3] = False
    return mask


def attended_pairs(text: int, tokens: int, views: int) -> tuple[int, int]:
    """(pairs of tokens that attend, all pairs) of a sequence under the trained table."""
    counts = torch.tensor([text, *([tokens] * (2 * views + 2))], dtype=torch.int64)
    pairs = counts[:, None] * counts
    return int(pairs[group_mask(views)].sum()), int(pairs.sum())
