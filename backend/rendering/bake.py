"""From an atlas to a picture on a surface: where every texel lies in space, and borders that bleed past the charts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.geometry.unwrap import Atlas

BORDER = 4  # texels that charts grow over their edge, so that filtering near a seam finds the chart's own colour


@dataclass(frozen=True)
class Texels:
    """The N covered texels of a texture of `size`: flat `index` [N] (row 0 at v = 1), the `face` [N] they show and the
    `barycentric` [N,3] place on it."""

    size: int
    index: np.ndarray
    face: np.ndarray
    barycentric: np.ndarray

    def interpolate(self, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values at vertices [V,C] -> at texels [N,C] float32."""
        corners = np.asarray(faces)[self.face]  # [N,3]
        values = np.asarray(values, np.float32)
        return sum(self.barycentric[:, k, None] * values[corners[:, k]] for k in range(3))  # type: ignore[return-value]


def covered_texels(atlas: Atlas) -> Texels:
    """The texels of `atlas` that show surface."""
    raster = atlas.texels
    index = np.flatnonzero(raster.mask)
    return Texels(len(raster.face), index, raster.face.ravel()[index], raster.barycentric.reshape(-1, 3)[index])


def paint(
    texels: Texels, colors: np.ndarray, border: int = BORDER, rest: tuple[float, float, float] | None = None
) -> np.ndarray:
    """The texture [S,S,3] uint8 of texel `colors` [N,3] in [0,1], grown by `border` texels; elsewhere `rest`, or their
    mean."""
    size = texels.size
    image = np.zeros((size * size, 3), np.uint8)
    values = np.rint(np.clip(colors, 0.0, 1.0) * 255.0).astype(np.uint8)
    if rest is not None:
        image[:] = np.rint(np.array(rest) * 255.0).astype(np.uint8)
    elif len(values):
        image[:] = values.mean(axis=0).round().astype(np.uint8)
    image[texels.index] = values
    known = np.zeros(size * size, bool)
    known[texels.index] = True
    return _grow(image.reshape(size, size, 3), known.reshape(size, size), border)


def _grow(image: np.ndarray, known: np.ndarray, rounds: int) -> np.ndarray:
    """Unknown texels beside known ones take the mean of these, `rounds` times."""
    size = len(image)
    padded = np.zeros((size + 2, size + 2, 3), np.float32)
    padded[1:-1, 1:-1] = image
    have = np.zeros((size + 2, size + 2), bool)
    have[1:-1, 1:-1] = known
    steps = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if row or column]
    for _ in range(rounds):
        near = np.zeros((size, size), bool)
        for row, column in steps:
            near |= have[1 + row : 1 + row + size, 1 + column : 1 + column + size]
        rows, columns = np.nonzero(near & ~have[1:-1, 1:-1])
        rows, columns = rows + 1, columns + 1
        total, count = np.zeros((len(rows), 3), np.float32), np.zeros((len(rows), 1), np.float32)
        for row, column in steps:
            there = have[rows + row, columns + column][:, None]
            total += padded[rows + row, columns + column] * there
            count += there
        padded[rows, columns] = total / np.maximum(count, 1.0)
        have[rows, columns] = True
    return np.rint(padded[1:-1, 1:-1]).astype(np.uint8)
