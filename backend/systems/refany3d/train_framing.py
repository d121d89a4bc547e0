"""A training scene cut so that its object is large and near the middle, as far as the picture reaches.

Scenes show their object anywhere at 0.45 to 0.8 of the picture's side. A small model that must first decide on a place
paints half an object in two of them; most pictures that people ask for have theirs in the middle.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from backend.systems.refany3d.point_maps import foreground, from_bytes

SHARE = 0.75  # of the cut's side that the object's longer side takes
LEAST_SIDE = 0.6  # of the picture's side that a cut has: a smaller one would be blurred


def framed(picture: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cut of picture and point map, both [S,S,3] uint8, at their own size; places are never blended."""
    size = len(points)
    rows, columns = np.nonzero(foreground(from_bytes(points)))
    if not len(rows):
        return picture, points
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1
    side = float(np.clip((high - low).max() / SHARE, LEAST_SIDE * size, size))
    corner = np.clip((low + high) / 2 - side / 2, 0, size - side)
    box = (*corner, *(corner + side))
    return _cut(picture, box, Image.Resampling.BICUBIC), _cut(points, box, Image.Resampling.NEAREST)


def _cut(picture: np.ndarray, box: tuple[float, ...], how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize(picture.shape[:2], how, box=box))  # type: ignore[arg-type]
