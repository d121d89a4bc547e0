"""A differentiable triangle rasteriser in plain torch, for CPU and GPU.

`rasterize` finds the nearest triangle of every pixel and where on it (perspective-correct barycentrics, with a
gradient to the positions); `interpolate` spreads vertex attributes over the pixels; `antialias` blends neighbouring
pixels across silhouettes, so that coverage has a gradient to the positions too. What is visible has none.

Conventions: clip positions (x, y, z, w) are visible where z > -w (the near plane; nothing is cut at the far one). The
centre of pixel (row, column) is at x/w = (column + 0.5) / width * 2 - 1, y/w = (row + 0.5) / height * 2 - 1: rows grow
with y. Both sides of a triangle are drawn. Faces with a repeated corner or no area are not drawn; an empty mesh gives
an empty picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from backend.rendering.differentiable_silhouette import blend_silhouettes, crossings
from backend.rendering.differentiable_visibility import visible_faces

ROUNDING = 1e-2
"""How far outside its triangle a covered pixel may seem to be before its barycentrics count as lost to rounding."""


@dataclass(frozen=True)
class Fragments:
    """What every pixel shows.

    `face` [V,h,w] int64, -1 = nothing; `barycentric` [V,h,w,3], 0 where nothing is, differentiable; `depth` [V,h,w] z/w
    without a gradient, infinite where nothing is. `pixels` [P] int64 lists the covered pixels (flat) triangle by
    triangle; `runs` [R] says where in it each triangle starts and `run_faces` [R] which it is (flat index into [V,F]).
    """

    face: Tensor
    barycentric: Tensor
    depth: Tensor
    pixels: Tensor
    runs: Tensor
    run_faces: Tensor

    @property
    def mask(self) -> Tensor:
        """Covered pixels [V,h,w] bool."""
        return self.face >= 0


def rasterize(clip: Tensor, faces: Tensor, size: tuple[int, int]) -> Fragments:
    """Draw triangles: clip [V,N,4], faces [F,3] int, size = (height, width). Errors: ValueError for wrong shapes.

    Of triangles at the same depth the first one shows.
    """
    _check(clip, faces)
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"The picture needs at least one pixel, not {height} x {width}.")
    views = len(clip)
    found = visible_faces(clip, faces, size)
    changes = torch.ones_like(found.face, dtype=torch.bool)
    changes[1:] = found.face[1:] != found.face[:-1]
    runs = changes.nonzero()[:, 0]
    face = torch.full((views * height * width,), -1, dtype=torch.int64, device=clip.device)
    face[found.pixel] = found.face % max(len(faces), 1)
    depth = torch.full((views * height * width,), float("inf"), dtype=clip.dtype, device=clip.device)
    depth[found.pixel] = found.depth
    barycentric = _Barycentrics.apply(clip, faces, found.pixel, found.face, runs, size)
    shape = (views, height, width)
    return Fragments(
        face.view(shape), barycentric.view(*shape, 3), depth.view(shape), found.pixel, runs, found.face[runs]
    )


def interpolate(fragments: Fragments, attributes: Tensor, faces: Tensor) -> Tensor:
    """Vertex attributes [N,C] or [V,N,C] at every pixel: [V,h,w,C], 0 where nothing is."""
    views, height, width = fragments.face.shape
    if attributes.ndim not in (2, 3) or (attributes.ndim == 3 and len(attributes) != views):
        raise ValueError(f"Attributes must be [N,C] or [{views},N,C], not {list(attributes.shape)}.")
    weights = fragments.barycentric.reshape(-1, 3).index_select(0, fragments.pixels)
    values = _Interpolate.apply(attributes, weights, faces, fragments.runs, fragments.run_faces)
    picture = values.new_zeros(views * height * width, values.shape[1])
    return picture.index_copy(0, fragments.pixels, values).view(views, height, width, -1)


def antialias(image: Tensor, fragments: Fragments, clip: Tensor, faces: Tensor) -> Tensor:
    """Blend an image [V,h,w,C] across the silhouettes of the mesh that `fragments` shows.

    Where an outline or an open border passes between the centres of two neighbouring pixels, the one that holds both
    sides takes the share of the other side from its neighbour. The shares have gradients to `clip`.
    """
    _check(clip, faces)
    if image.shape[:3] != fragments.face.shape:
        raise ValueError(f"The image {list(image.shape)} is no picture of {list(fragments.face.shape)} pixels.")
    found = crossings(clip.detach(), faces, fragments.face, fragments.depth)
    return blend_silhouettes(image, clip, found)


def _check(clip: Tensor, faces: Tensor) -> None:
    if clip.ndim != 3 or clip.shape[2] != 4 or len(clip) == 0:
        raise ValueError(f"Clip positions must be [V,N,4] of at least one view, not {list(clip.shape)}.")
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"Faces must be [F,3], not {list(faces.shape)}.")
    if len(faces) and (int(faces.max()) >= clip.shape[1] or int(faces.min()) < 0):
        raise ValueError(f"A face names a vertex that is not there; there are {clip.shape[1]}.")


def _sum_runs(values: Tensor, runs: Tensor) -> Tensor:
    """Sums [R,C] over runs of consecutive rows of values [P,C]; runs [R] are their starts."""
    if len(runs) == 0:
        return values.new_zeros(0, values.shape[1])
    rows = torch.arange(len(values), device=values.device)
    return torch.nn.functional.embedding_bag(rows, values, runs, mode="sum")


def _run_lengths(runs: Tensor, count: int) -> Tensor:
    """Lengths [R] of runs that start at `runs` [R] and fill `count` rows."""
    return torch.diff(runs, append=runs.new_tensor([count]))


def _corners(faces: Tensor, flat_faces: Tensor, stride: int) -> Tensor:
    """Vertices [K,3] of faces [K] that are flat indices into [V,F], as flat indices into [V,stride]."""
    count = max(len(faces), 1)
    view = torch.div(flat_faces, count, rounding_mode="floor")
    return faces.to(torch.int64).index_select(0, flat_faces - view * count) + (view * stride)[:, None]


class _Barycentrics(torch.autograd.Function):
    """Perspective-correct barycentrics [V*h*w,3] at the centres of covered pixels.

    With the homogeneous corner positions q_i = (x_i, y_i, w_i) in pixels, moved so that the pixel is at (0, 0, 1), the
    parallelogram areas e_0 = q_1x q_2y - q_2x q_1y (and so on round) are in the proportion of the barycentrics. Where
    a triangle is so thin that they are lost to rounding, the nearest point of it is taken, without a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, clip: Tensor, faces: Tensor, pixel: Tensor, face: Tensor, runs: Tensor, size: tuple[int, int]
    ) -> Tensor:
        height, width = size
        x, y, _, _ = _moved(clip, faces, pixel, face, size)
        edges = [x[i] * y[j] - x[j] * y[i] for i, j in ((1, 2), (2, 0), (0, 1))]
        total = edges[0] + edges[1] + edges[2]
        weights = torch.stack([edge / total for edge in edges], 1)
        least = torch.minimum(torch.minimum(weights[:, 0], weights[:, 1]), weights[:, 2])
        lost = (~(least >= -ROUNDING)).nonzero()[:, 0]  # slivers whose area is rounding alone
        weights[lost] = torch.nan_to_num(weights[lost], nan=1.0).clamp(0, 1)
        weights[lost] /= weights[lost].sum(1, keepdim=True)
        total[lost] = float("inf")  # no gradient
        ctx.save_for_backward(clip, faces, pixel, face, runs, weights, total)
        ctx.size = size
        return clip.new_zeros(len(clip) * height * width, 3).index_copy_(0, pixel, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        clip, faces, pixel, face, runs, weights, total = ctx.saved_tensors
        height, width = ctx.size
        x, y, column, row = _moved(clip, faces, pixel, face, ctx.size)
        of_weights = gradient.index_select(0, pixel)
        mean = of_weights[:, 0] * weights[:, 0]
        for i in (1, 2):
            mean.addcmul_(of_weights[:, i], weights[:, i])
        e0, e1, e2 = ((of_weights[:, i] - mean) / total for i in range(3))
        of_x = (e2 * y[1] - e1 * y[2], e0 * y[2] - e2 * y[0], e1 * y[0] - e0 * y[1])
        of_y = (e1 * x[2] - e2 * x[1], e2 * x[0] - e0 * x[2], e0 * x[1] - e1 * x[0])
        # x_i here is x width/2 + w (width/2 - 1/2 - column), and so for y
        across, down = (width - 1) / 2 - column, (height - 1) / 2 - row
        parts: list[Tensor] = []
        for a, b in zip(of_x, of_y, strict=True):
            parts += [a * (width / 2), b * (height / 2), a * across + b * down]
        sums = _sum_runs(torch.stack(parts, 1), runs).view(-1, 3)
        corner = _corners(faces, face.index_select(0, runs), clip.shape[1]).flatten()
        total_gradient = clip.new_zeros(len(clip) * clip.shape[1], 3).index_add_(0, corner, sums)
        x_y, w = total_gradient[:, :2], total_gradient[:, 2:]
        return torch.cat([x_y, torch.zeros_like(w), w], 1).view_as(clip), None, None, None, None, None


def _moved(
    clip: Tensor, faces: Tensor, pixel: Tensor, face: Tensor, size: tuple[int, int]
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Homogeneous corner positions relative to each pixel: x and y, three [P] each; the pixel's column and row [P]."""
    height, width = size
    row = torch.div(pixel, width, rounding_mode="floor")
    column = (pixel - row * width).to(clip.dtype)
    row = (row % height).to(clip.dtype)
    x, y, _, w = clip.reshape(-1, 4).unbind(1)
    x, y, w = x * (width / 2) + w * ((width - 1) / 2), y * (height / 2) + w * ((height - 1) / 2), w.contiguous()
    corners = _corners(faces, face, clip.shape[1]).t().contiguous()
    depth = [w.index_select(0, corner) for corner in corners]
    moved_x = [x.index_select(0, corner) - w_i * column for corner, w_i in zip(corners, depth, strict=True)]
    moved_y = [y.index_select(0, corner) - w_i * row for corner, w_i in zip(corners, depth, strict=True)]
    return moved_x, moved_y, column, row


class _Interpolate(torch.autograd.Function):
    """Weighted sums of corner attributes: attributes [N,C] or [V,N,C], weights [P,3] -> [P,C]."""

    @staticmethod
    def forward(
        ctx: Any, attributes: Tensor, weights: Tensor, faces: Tensor, runs: Tensor, run_faces: Tensor
    ) -> Tensor:
        stride = attributes.shape[1] if attributes.ndim == 3 else 0
        run_corners = _corners(faces, run_faces, stride)
        corners = torch.repeat_interleave(run_corners, _run_lengths(runs, len(weights)), 0)
        ctx.save_for_backward(attributes, weights, corners, runs, run_corners)
        flat = attributes.reshape(-1, attributes.shape[-1])
        if len(corners) == 0:
            return flat.new_zeros(0, flat.shape[1])
        return torch.nn.functional.embedding_bag(corners, flat, per_sample_weights=weights, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        attributes, weights, corners, runs, run_corners = ctx.saved_tensors
        flat = attributes.reshape(-1, attributes.shape[-1])
        of_attributes = of_weights = None
        if ctx.needs_input_grad[0]:
            parts = torch.cat([gradient * weights[:, i : i + 1] for i in range(3)], 1)
            sums = _sum_runs(parts, runs).view(-1, flat.shape[1])
            of_attributes = torch.zeros_like(flat).index_add_(0, run_corners.flatten(), sums).view_as(attributes)
        if ctx.needs_input_grad[1]:
            pairs = list(zip(flat.t().contiguous(), gradient.t().contiguous(), strict=True))
            of_weights = torch.zeros_like(weights)
            for i, corner in enumerate(corners.t().contiguous()):
                # column by column: selecting numbers is many times as quick as selecting short rows
                for value, of_value in pairs:
                    of_weights[:, i].addcmul_(value.index_select(0, corner), of_value)
        return of_attributes, of_weights, None, None, None
