"""Rendering a mesh's normals from the four views so that the picture has a gradient to the vertices."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from backend.rendering.differentiable import antialias, interpolate, rasterize
from backend.systems.kiss3dgen.cameras import to_clip

Renderer = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`render(vertices [N,3], faces [F,3], normals [N,3]) -> [V,H,W,4]`: (n + 1) / 2 on black with alpha."""


def make_renderer(views: Tensor, projection: Tensor, size: int) -> Renderer:
    """A renderer of square pictures for cameras [V,4,4] with a projection [4,4]."""

    def render(vertices: Tensor, faces: Tensor, normals: Tensor) -> Tensor:
        clip = to_clip(vertices, views, projection)
        fragments = rasterize(clip, faces, (size, size))
        colors = interpolate(fragments, (normals + 1) / 2, faces)
        alpha = (fragments.face >= 0).to(colors.dtype)[..., None]
        return antialias(torch.cat([colors, alpha], dim=-1), fragments, clip, faces)

    return render


def visible_faces(vertices: Tensor, faces: Tensor, views: Tensor, projection: Tensor, size: int) -> list[Tensor]:
    """The faces [K] int64 that own a pixel of each view."""
    with torch.no_grad():
        seen = rasterize(to_clip(vertices, views, projection), faces, (size, size)).face
    return [torch.unique(view[view >= 0]) for view in seen]
