"""Colours (or normals) of the four views projected on a mesh, as published (spec 9): torch, in the bundle frame.

Per view: visible faces that face the camera, their vertices projected and sampled, weighted by the cosine to the one
direction in which the camera looks and by the image's alpha. The views are blended by these weights; where they are
weak, the colours from before count. `inpaint.py` fills what no view saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from backend.systems.kiss3dgen.bundle import AZIMUTHS, ELEVATION, FOV, RADIUS, view_axes
from backend.systems.kiss3dgen.inpaint import complete_unseen

COLOR_WEIGHTS = (1.0, 0.5, 1.0, 0.5)  # of the views, spec 8
NORMAL_WEIGHTS = (1.0, 0.9, 1.0, 0.9)
LEAST_COSINE = 0.05  # of a face to the camera
CONFIDENCE = 0.1  # weight below which a blend counts as weak
ERODE_SIZE, BLUR_SIZE = 10, 5  # pixels of the published 512 tiles


@dataclass(frozen=True)
class Sampled:
    """What one view gives: vertices [M] int64 (ascending), colors [M,C], alpha [M], cosine [M] to the camera's axis
    (negative: facing it)."""

    vertices: Tensor
    colors: Tensor
    alpha: Tensor
    cosine: Tensor


def view_positions(points: Tensor, azimuth: float, radius: float = RADIUS, elevation: float = ELEVATION) -> Tensor:
    """Where points [N,3] lie in a view [N,2]: x to the right, y down, both in [-1,1] inside the picture."""
    axes = torch.as_tensor(view_axes(azimuth, elevation), dtype=points.dtype, device=points.device)
    left, up, towards = (points @ axes.T).unbind(dim=-1)
    scale = 1.0 / np.tan(np.radians(FOV / 2)) / (radius - towards)
    return torch.stack([-left * scale, -up * scale], dim=-1)


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Normals [F,3] whose length is twice the face's area."""
    a, b, c = vertices[faces].unbind(dim=1)
    return torch.linalg.cross(b - a, c - a, dim=-1)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit normals [N,3], faces weighted by area."""
    across = face_normals(vertices, faces)
    total = torch.zeros_like(vertices).index_add(0, faces.reshape(-1), across.repeat_interleave(3, dim=0))
    return functional.normalize(total, dim=-1, eps=1e-6)


def sample_view(
    vertices: Tensor, faces: Tensor, image: Tensor, visible: Tensor, azimuth: float,
    radius: float = RADIUS, elevation: float = ELEVATION,
) -> Sampled:  # fmt: skip
    """Sample `image` [H,W,C+1] (last channel: alpha) at the vertices of the `visible` faces [K] that face the camera.

    vertices [N,3] in the bundle frame, faces [F,3] int64.
    """
    direction = torch.as_tensor(-view_axes(azimuth, elevation)[2], dtype=vertices.dtype, device=vertices.device)
    facing = functional.normalize(face_normals(vertices, faces[visible]), dim=-1, eps=1e-6) @ direction < -LEAST_COSINE
    rows = torch.unique(faces[visible[facing]])
    places = view_positions(vertices[rows], azimuth, radius, elevation)
    values = functional.grid_sample(
        image.permute(2, 0, 1)[None],
        places[None, None],
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )[0, :, 0].T
    cosine = vertex_normals(vertices, faces)[rows] @ direction
    return Sampled(rows, values[:, :-1], values[:, -1], cosine)


def project_views(
    vertices: Tensor,
    faces: Tensor,
    images: Tensor,
    visible: Sequence[Tensor],
    before: Tensor,
    *,
    view_weights: Sequence[float] = COLOR_WEIGHTS,
    power: int = 2,
    smooth: bool = True,
    complete: bool = True,
    radius: float = RADIUS,
    azimuths: Sequence[float] = AZIMUTHS,
) -> Tensor:
    """Vertex values [N,C] of `images` [V,H,W,C+1] (alpha last) on a mesh, blended with those `before` [N,C].

    `power` of the cosine: 2 for colours, 1 for the targets of stage 2. Where the weight is at most CONFIDENCE the
    result is mixed with `before` (smooth) or is `before`; with `complete`, vertices that no view saw take their
    neighbours' values.
    """
    total, weight = torch.zeros_like(before), before.new_zeros(len(vertices))
    for image, seen, azimuth, view_weight in zip(images, visible, azimuths, view_weights, strict=True):
        sampled = sample_view(vertices, faces, image, seen, azimuth, radius)
        share = view_weight * sampled.cosine.abs() ** power * sampled.alpha
        total = total.index_add(0, sampled.vertices, share[:, None] * sampled.colors)
        weight = weight.index_add(0, sampled.vertices, share)
    sure = (weight > CONFIDENCE)[:, None]
    weak = (before * (CONFIDENCE - weight)[:, None] + total) / CONFIDENCE if smooth else before
    colors = torch.where(sure, total / weight.clamp_min(1e-9)[:, None], weak)
    return complete_unseen(colors, faces, weight >= CONFIDENCE) if complete else colors


def soften_mask(mask: np.ndarray, erode: int = ERODE_SIZE, blur: int = BLUR_SIZE) -> np.ndarray:
    """Masks [V,H,W] shrunk by a window of `erode` pixels and blurred by one of `blur`: the alpha of colours."""
    shrunk = np.stack([ndimage.grey_erosion(view, size=(erode, erode)) for view in np.asarray(mask, np.float32)])
    if blur < 3:
        return shrunk
    sigma = 0.3 * ((blur - 1) * 0.5 - 1) + 0.8
    places = np.arange(blur) - (blur - 1) / 2
    kernel = np.exp(-0.5 * (places / sigma) ** 2)
    kernel /= kernel.sum()
    along = ndimage.correlate1d(shrunk, kernel, axis=1, mode="mirror")
    return np.asarray(ndimage.correlate1d(along, kernel, axis=2, mode="mirror"), np.float32)
