"""Where silhouettes pass between the centres of neighbouring pixels, and the blend across them.

After the idea of antialiasing as a source of coverage gradients (Laine et al. 2020, Modular Primitives for
High-Performance Differentiable Rendering, section 3.4), but searched from the edges' side: every silhouette edge is
intersected with the lines through pixel rows and pixel columns, so a sliver that covers no pixel centre counts too.

An edge is a silhouette of a view when all faces at it lie on one side of it in the picture: outlines of the seen shape,
folds and open borders, also with three or more faces at an edge. Edges between two faces that both face the camera, or
both face away, never are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backend.rendering.differentiable_visibility import before_near, to_screen

NEEDLE = 1e-4
"""A face whose height is less than this share of its longest side has no sure side: its edges are no silhouettes."""


@dataclass(frozen=True)
class Crossings:
    """Silhouettes between pixel centres: all [K].

    `start`, `stop` int64: the edge's ends, flat in [V,N]; `line`: the row (or column, where `upright` is False) it is
    intersected with; `inner`, `outer` int64: flat pixels, the one on the mesh's side and its neighbour; `base`: column
    (or row) of the inner one; `sign` +1 where the outer one is the next, -1 where it is the one before.
    """

    start: Tensor
    stop: Tensor
    upright: Tensor
    line: Tensor
    inner: Tensor
    outer: Tensor
    base: Tensor
    sign: Tensor


def silhouette_edges(clip: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Silhouettes of clip [V,N,4], faces [F,3]: view [K], ends [K] and [K] (vertices), side [K] = +-1.

    `side` is the sign of (stop - start) x (inner - start) in the picture, x to the right and rows downwards.
    """
    proper = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    faces = faces[proper].to(torch.int64)
    following = faces.roll(-1, 1)
    count = clip.shape[1]
    keys = torch.minimum(faces, following) * count + torch.maximum(faces, following)
    edges, edge_of = torch.unique(keys.flatten(), return_inverse=True)
    direction = torch.where(faces < following, 1.0, -1.0)
    sides = (_facing(clip, faces).t()[:, None, :] * direction[:, :, None]).reshape(-1, len(clip))  # [3F,V]
    total = sides.new_zeros(len(edges), len(clip)).index_add_(0, edge_of, sides)
    known = sides.new_zeros(len(edges), len(clip)).index_add_(0, edge_of, sides.abs())
    unsure = torch.zeros(len(edges), dtype=torch.bool, device=clip.device)
    unsure[edge_of.view(-1, 3)[_needles(clip[0], faces)].flatten()] = True
    edge, view = ((total.abs() == known) & (known > 0) & ~unsure[:, None]).nonzero(as_tuple=True)
    start = torch.div(edges[edge], count, rounding_mode="floor")
    return view, start, edges[edge] - start * count, total[edge, view].sign()


def _facing(clip: Tensor, faces: Tensor) -> Tensor:
    """Sign [V,F] of the determinant of the corners' (x, y, w): which way round a face is seen; 0 = edge-on."""
    x, y, w = (clip[..., i].index_select(1, faces.flatten()).view(len(clip), -1, 3) for i in (0, 1, 3))
    x, y = x / w, y / w
    area = (x[..., 1] - x[..., 0]) * (y[..., 2] - y[..., 0]) - (x[..., 2] - x[..., 0]) * (y[..., 1] - y[..., 0])
    return torch.nan_to_num(area.sign()) * w.sign().prod(-1)


def _needles(clip: Tensor, faces: Tensor) -> Tensor:
    """Which faces [F] have no area to speak of, from one view's positions [N,4]."""
    a, b, c = clip[faces].unbind(1)
    u, v = b - a, c - a
    uu = u.square().sum(1)
    height = v - u * ((u * v).sum(1) / uu.clamp_min(torch.finfo(uu.dtype).tiny))[:, None]  # of c over the side ab
    longest = torch.maximum(torch.maximum(uu, v.square().sum(1)), (c - b).square().sum(1))
    return uu.sqrt() * height.norm(dim=1) <= NEEDLE * longest


@torch.no_grad()
def crossings(clip: Tensor, faces: Tensor, face: Tensor, depth: Tensor) -> Crossings:
    """Visible silhouettes between pixels: clip [V,N,4], faces [F,3], and what was drawn: face, depth [V,h,w].

    One counts where the inner pixel shows the edge's surface and the outer one nothing or something behind the edge. Of
    several between two pixels the outermost counts. Edges that pass through the near plane are left out.
    """
    height, width = face.shape[1:]
    view, first, second, side = silhouette_edges(clip, faces)
    ends = torch.stack([first, second], 1) + (view * clip.shape[1])[:, None]
    positions = clip.reshape(-1, 4)[ends]  # [K,2,4]
    x, y, z = to_screen(positions, (height, width))
    usable = before_near(positions).all(1) & torch.isfinite(x).all(1) & torch.isfinite(y).all(1)
    x, y, z, ends, view, side = (part[usable] for part in (x, y, z, ends, view, side))
    found = [
        _along(True, x, y, z, ends, view, side, (height, width)),
        _along(False, y, x, z, ends, view, -side, (width, height)),
    ]
    start, stop, upright, line, inner, outer, base, sign, edge_depth, part = (
        torch.cat(column) for column in zip(*found, strict=True)
    )
    flat_face, flat_depth = face.flatten(), depth.flatten()
    shown, behind = flat_face[inner], flat_face[outer]
    seen = ((shown >= 0) & (shown != behind) & (edge_depth < flat_depth[outer])).nonzero()[:, 0]
    start, stop, upright, line, inner, outer, base, sign, edge_depth, part, shown, behind = (
        column[seen]
        for column in (start, stop, upright, line, inner, outer, base, sign, edge_depth, part, shown, behind)
    )
    at = base + part * sign
    place = torch.where(upright, at, line), torch.where(upright, line, at), inner // (height * width)
    # an open seam lies in the plane of the face beyond it; a wire thinner than a pixel far before the face beside it
    plane, slope = _plane_depth(clip, faces, behind.clamp_min(0), place, (height, width))
    apart = (behind < 0) | ~(edge_depth >= plane - 1e-3 * slope - 8 * torch.finfo(plane.dtype).eps)
    plane, slope = _plane_depth(clip, faces, shown, place, (height, width))
    kept = (apart & ~(edge_depth < plane - slope)).nonzero()[:, 0]
    pair = inner * 4 + upright * 2 + (sign > 0)
    kept = kept[((pair << 20) + (part * (1 << 19)).to(torch.int64))[kept].argsort()]
    outermost = torch.ones_like(kept, dtype=torch.bool)
    outermost[:-1] = pair[kept[1:]] != pair[kept[:-1]]
    kept = kept[outermost]
    return Crossings(*(column[kept] for column in (start, stop, upright, line, inner, outer, base, sign)))


def _plane_depth(
    clip: Tensor, faces: Tensor, face: Tensor, place: tuple[Tensor, Tensor, Tensor], size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Depth [K] of the planes of faces [K] at places (column, row, view), and how much it changes a pixel."""
    column, row, view = place
    corners = faces.to(torch.int64)[face] + (view * clip.shape[1])[:, None]
    x, y, z = to_screen(clip.reshape(-1, 4)[corners], size)
    ux, uy, uz = (part[:, 1] - part[:, 0] for part in (x, y, z))
    vx, vy, vz = (part[:, 2] - part[:, 0] for part in (x, y, z))
    area = ux * vy - vx * uy
    along_x, along_y = (uz * vy - vz * uy) / area, (ux * vz - vx * uz) / area
    depth = z[:, 0] + (column - x[:, 0]) * along_x + (row - y[:, 0]) * along_y
    return depth, along_x.abs() + along_y.abs()


def _along(
    upright: bool, p: Tensor, q: Tensor, z: Tensor, ends: Tensor, view: Tensor, side: Tensor, size: tuple[int, int]
) -> tuple[Tensor, ...]:
    """Intersections of edges with the lines q = 0, 1, ... : p, q, z, ends [K,2]; size = (lines, pixels on a line).

    Returns the columns of `Crossings`, then the depth of the edge and how far from the inner pixel it is (0 to 1).
    """
    lines, length = size
    first = q.amin(1).ceil().clamp(0, lines).to(torch.int64)
    count = q.amax(1).ceil().clamp(0, lines).to(torch.int64) - first
    edge = torch.repeat_interleave(torch.arange(len(q), device=q.device), count)
    line = first[edge] + torch.arange(len(edge), device=q.device) - (torch.cumsum(count, 0) - count)[edge]
    p, q, z, ends = p[edge], q[edge], z[edge], ends[edge]
    along = (line - q[:, 0]) / (q[:, 1] - q[:, 0])
    at = p[:, 0] + along * (p[:, 1] - p[:, 0])
    next_is_inner = side[edge] * (q[:, 1] - q[:, 0]) < 0
    before = torch.where(next_is_inner, at.ceil() - 1, at.floor())
    inside = (before >= 0) & (before <= length - 2)
    edge, line, ends, at, next_is_inner = edge[inside], line[inside], ends[inside], at[inside], next_is_inner[inside]
    edge_depth = (z[:, 0] + along * (z[:, 1] - z[:, 0]))[inside]
    base = before[inside].to(torch.int64) + next_is_inner
    sign = torch.where(next_is_inner, -1, 1)
    start = view[edge] * (lines * length)
    if upright:
        inner = start + line * length + base
        outer = inner + sign
    else:
        inner = start + base * lines + line
        outer = inner + sign * lines
    kind = torch.full_like(line, upright, dtype=torch.bool)
    return ends[:, 0], ends[:, 1], kind, line, inner, outer, base, sign, edge_depth, (at - base) * sign


def blend_silhouettes(image: Tensor, clip: Tensor, found: Crossings) -> Tensor:
    """Blend an image [V,h,w,C] across crossings, with gradients to the image and to clip [V,N,4].

    Where the silhouette is t from the inner pixel's centre to the outer's, the inner pixel loses 1/2 - t of its area,
    or the outer one t - 1/2. Rows and columns share an edge by the squared cosines of its normal. A pixel that would
    lose more than all of its area takes its neighbours' mean.
    """
    views, height, width, channels = image.shape
    x, y, _ = to_screen(clip.reshape(-1, 4).index_select(0, torch.cat([found.start, found.stop])), (height, width))
    (xa, xb), (ya, yb) = x.chunk(2), y.chunk(2)
    dx, dy = xb - xa, yb - ya
    by_row = xa + (found.line - ya) * dx / torch.where(found.upright, dy, 1)
    by_column = ya + (found.line - xa) * dy / torch.where(found.upright, 1, dx)
    part = (torch.where(found.upright, by_row, by_column) - found.base) * found.sign
    share = torch.where(found.upright, dy, dx).square() / (dx.square() + dy.square())
    amount = share.detach() * (part - 0.5).abs()
    grows = part > 0.5
    target, source = torch.where(grows, found.outer, found.inner), torch.where(grows, found.inner, found.outer)
    total = amount.new_zeros(views * height * width).index_add(0, target, amount)
    amount = amount / total.index_select(0, target).clamp_min(1)
    flat = image.reshape(-1, channels)
    difference = flat.index_select(0, source) - flat.index_select(0, target)
    return flat.index_add(0, target, amount[:, None] * difference).view_as(image)
