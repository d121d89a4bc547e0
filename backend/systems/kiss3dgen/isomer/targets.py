"""What ISOMER fits: the bundle's normals in the bundle frame, as pictures on black with alpha."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backend.systems.kiss3dgen.bundle import Bundle, decode_normals, local_to_world

LEAST_ALPHA = 0.05  # below: background, whose colour says nothing


def on_black(pictures: Tensor) -> Tensor:
    """Pictures [V,H,W,4] in [0,1], laid on one colour, that of pixel (0, 0) of each -> laid on black [V,H,W,4].

    Where alpha is at most LEAST_ALPHA the colour is black.
    """
    colors, alpha = pictures[..., :3], pictures[..., 3:]
    own = (colors - (1 - alpha) * colors[:, :1, :1]).clamp_min(0)
    return torch.cat([own * (alpha > LEAST_ALPHA), alpha], dim=-1)


def normal_pictures(bundle: Bundle) -> Tensor:
    """World normals [4,S,S,4] of a bundle as (n + 1) / 2 with its mask as alpha, colours mixed with nothing."""
    alpha = np.asarray(bundle.mask, np.float32)[..., None]
    seen = alpha > LEAST_ALPHA
    own = np.where(seen, (bundle.normals - (1 - alpha)) / np.maximum(alpha, LEAST_ALPHA), bundle.normals)
    world = local_to_world(decode_normals(own.clip(0, 1)))
    return torch.from_numpy(np.concatenate([(world + 1) / 2, alpha], axis=-1).astype(np.float32))


def normal_targets(pictures: Tensor) -> Tensor:
    """Pictures of `normal_pictures` laid on black: what a rendering of the fitted mesh should be."""
    alpha = pictures[..., 3:]
    return torch.cat([pictures[..., :3] * alpha * (alpha > LEAST_ALPHA), alpha], dim=-1)
