"""What is kept of the condition pictures from step to step (spec section 12).

`PreparedConditions` is exact for every weights: embedded tokens and the vectors of time 0. `ConditionCache`, keys and
values of every block, needs views that look at themselves only, so that their states do not depend on noise, text or
time. The published weights were not trained so: their views read the noise, and a cache would give them pictures that
the model never made. So only weights that say they are `independent` may use it, and what they make is not what the
published model makes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

INDEPENDENT_WEIGHTS = "refany3d-independent"
"""What weights trained with the independent mask are called, so that nobody takes them for the published model."""


@dataclass
class PreparedConditions:
    """What of the condition pictures does not change from step to step, without gradients.

    tokens [B, pictures * T, D]: embedded. vectors [B, 1 or 2, D]: theirs, through SiLU. views: how many. points:
    whether their point maps are among them. grid: rows and columns of a picture's tokens. copies: how many equal views
    each of them stands for. rows: what layers made of the vectors, by layer, filled in the first step.
    """

    tokens: Tensor
    vectors: Tensor
    views: int
    points: bool
    grid: tuple[int, int]
    copies: int = 1
    rows: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class ConditionCache:
    """Keys and values [M, H, tokens of the views, d] of every block; views, points, grid and copies as above.

    M meshes serve a batch of that many pictures, or of a multiple: first those of the first mesh."""

    views: int
    points: bool
    grid: tuple[int, int]
    copies: int = 1
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Those of the next block."""
        self.keys.append(keys)
        self.values.append(values)

    @property
    def bytes(self) -> int:
        """Memory taken."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.keys, *self.values))
