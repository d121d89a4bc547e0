"""The square around the object of a photo (CUPID spec section 5; other systems crop as it does).

Arrays are uint8 RGBA [H,W,4] with straight alpha.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

CROP_PADDING = 1.2
ALPHA_THRESHOLD = 0.8  # share of full opacity above which a pixel is object


@dataclass(frozen=True)
class Crop:
    """A square ``image`` [S,S,4] uint8 around the object; ``scale``, ``left``, ``top`` in units of the longer side.

    ``box`` is (left, top, right, bottom) in pixels of the picture and may reach outside.
    """

    image: np.ndarray
    box: tuple[int, int, int, int]
    scale: float
    left: float
    top: float

    @property
    def parameters(self) -> tuple[float, float, float]:
        """(scale, left, top): what ``pose.de_crop`` needs."""
        return self.scale, self.left, self.top


def crop_to_content(
    rgba: np.ndarray,
    padding: float = CROP_PADDING,
    alpha_threshold: float = ALPHA_THRESHOLD,
    also: np.ndarray | None = None,
) -> Crop:
    """Square crop around the pixels of ``rgba`` [H,W,4] that are opaque enough; outside is transparent.

    ``also`` [H,W] bool is an occluder: the crop takes in what of it lies within one object size of the object, because
    the object may go on behind it. Raises ValueError when no pixel is opaque enough.
    """
    rows, columns = np.nonzero(rgba[..., 3] > alpha_threshold * 255)
    if not len(rows):
        raise ValueError("No object was found in the picture; give a mask that covers it.")
    left, right = int(columns.min()), int(columns.max())
    top, bottom = int(rows.min()), int(rows.max())
    if also is not None:
        near = max(right - left, bottom - top)
        top_near, left_near = max(0, top - near), max(0, left - near)
        hidden_rows, hidden_columns = np.nonzero(also[top_near : bottom + near + 1, left_near : right + near + 1])
        if len(hidden_rows):
            left, right = min(left, left_near + hidden_columns.min()), max(right, left_near + hidden_columns.max())
            top, bottom = min(top, top_near + hidden_rows.min()), max(bottom, top_near + hidden_rows.max())
    size = max(int(max(right - left, bottom - top) * padding), 2)  # two pixels: the smallest crop with an area
    centre_x, centre_y, half = (left + right) / 2, (top + bottom) / 2, size // 2
    edge_x, edge_y = centre_x - half, centre_y - half
    # Python rounds as Pillow rounds the box of a crop: halves go to the even neighbour.
    box = (round(edge_x), round(edge_y), round(centre_x + half), round(centre_y + half))
    longest = max(rgba.shape[:2])
    image = np.asarray(Image.fromarray(rgba, "RGBA").crop(box))
    return Crop(image, box, size / longest, edge_x / longest, edge_y / longest)


def crop_like(mask: np.ndarray, crop: Crop) -> np.ndarray:
    """The part of ``mask`` [H,W] bool inside the box of ``crop`` [S,S]; outside the picture is False."""
    return np.array(Image.fromarray(mask).crop(crop.box), bool)
