"""The vectors that say when, how strongly guided and of which domain tokens are, and what layers make of them (spec 7).

There are five: text, RGB noise, point-map noise, RGB views, point-map views. Those of the views are of time 0 and stay
the same over all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .positions import Sizes

MODEL_TIMES = 1000.0
"""What times and guidance in their own units are multiplied by."""


def time_vector(transformer: Any, t: Tensor, guidance: Tensor | None, pooled: Tensor) -> Tensor:
    """Flux's vector [B, D] of times t [B] in 0..1, guidance [B] (None: the base has no embedder), pooled [B, P]."""
    if guidance is None:
        vector: Tensor = transformer.time_text_embed(t * MODEL_TIMES, pooled)
    else:
        vector = transformer.time_text_embed(t * MODEL_TIMES, guidance * MODEL_TIMES, pooled)
    return vector


def domain_vectors(embedder: nn.Module | None, device: torch.device) -> tuple[Tensor | float, Tensor | float]:
    """What is added for pictures and for point maps [D]; nothing without the embedder."""
    if embedder is None:
        return 0.0, 0.0
    picture, points = embedder(torch.arange(2, device=device))
    return picture, points


def kind_vectors(main: Tensor | None, views: Tensor | None, embedder: nn.Module | None, sizes: Sizes) -> Tensor:
    """One vector [B, kinds, D] for every kind with tokens. main, views [B, D]: of the noise and text, of the views."""
    given = main if main is not None else views
    assert given is not None
    picture, points = domain_vectors(embedder, given.device)
    found: list[Tensor] = []
    for kind, _ in sizes.slices():
        vector = main if kind < 3 else views
        assert vector is not None
        found.append(vector + (0.0, picture, points, picture, points)[kind])
    return torch.stack(found, 1)


def modulate(x: Tensor, sizes: Sizes, shift: Tensor, scale: Tensor) -> Tensor:
    """x (1 + scale) + shift with x [B, sizes.total, D] and one row of shift and scale [B, kinds, D] a kind.

    x, which nobody else may need, is overwritten where no gradient is recorded.
    """
    scale = scale + 1
    return _by_kind(lambda row, where: (shift[:, row, None], x[:, where], scale[:, row, None]), sizes, x, scale, shift)


def add_gated(x: Tensor, added: Tensor, sizes: Sizes, gate: Tensor) -> Tensor:
    """x + gate * added, with x and added [B, sizes.total, D] and one row of gate [B, kinds, D] a kind.

    added, which nobody else may need, is overwritten where no gradient is recorded.
    """
    return _by_kind(lambda row, where: (x[:, where], gate[:, row, None], added[:, where]), sizes, added, x, gate)


def may_overwrite(x: Tensor, *others: Tensor) -> bool:
    """Whether what comes of x and `others` fits into x and no gradient needs x as it is. New memory costs a CPU more
    than the sums themselves."""
    return not torch.is_grad_enabled() and all(other.dtype == x.dtype for other in others)


def _by_kind(
    terms: Callable[[int, slice], tuple[Tensor, Tensor, Tensor]], sizes: Sizes, spare: Tensor, *others: Tensor
) -> Tensor:
    """a + b * c of the `terms` (a, b, c) of each kind, told by its row and place; into `spare` where that may be
    overwritten, seen beside the `others`."""
    out = spare if may_overwrite(spare, *others) else None
    pieces = [
        torch.addcmul(*terms(row, where), out=None if out is None else out[:, where])
        for row, (_, where) in enumerate(sizes.slices())
    ]
    if out is not None:
        return out
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
