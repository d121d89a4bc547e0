"""Photo with alpha to network inputs (specs/cupid.md 5). Arrays are uint8 RGBA [H,W,4] with straight alpha."""

from __future__ import annotations

import numpy as np
from PIL import Image


def premultiplied_tensor(rgba: np.ndarray, size: int, with_alpha: bool = False) -> np.ndarray:
    """RGB times alpha [3,size,size] float32 in [0,1] of ``rgba`` [S,S,4] after Lanczos resizing.

    ``with_alpha`` adds the alpha as a fourth channel (mini's own image encoder sees it; DINOv2 does not).
    """
    resized = Image.fromarray(np.ascontiguousarray(rgba), "RGBA").resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(resized, np.float32) / 255.0
    color = pixels[..., :3] * pixels[..., 3:]
    shown = np.concatenate([color, pixels[..., 3:]], axis=-1) if with_alpha else color
    return np.ascontiguousarray(shown.transpose(2, 0, 1))
