"""The convolutions that the evaluations' small classifiers share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def halving_layers(widths: Sequence[int]) -> nn.Sequential:
    """Two convolutions for each step of `widths`, the first of them halving the side: [B,widths[0],S,S] and on."""
    return nn.Sequential(
        *(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.GELU(),
                nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.GELU(),
            )
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
    )  # fmt: skip
