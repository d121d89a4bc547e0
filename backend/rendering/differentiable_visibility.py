"""The z-buffer of the differentiable rasteriser: which triangle is nearest at each pixel (plain torch, CPU and GPU).

Method: triangles that cross the near plane are cut there; every triangle becomes the pixel rows that its projection
spans, every row the run of columns between its two outline edges, every run its pixels. The work grows with the
covered pixels, not with bounding boxes. One minimum over keys (depth in the high half, row in the low half) decides.

An edge is always intersected with a row from its end with the smaller y, so two triangles that share it compute the
same number and leave no hole. A pixel centre exactly on an edge is covered. Nothing here has a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS_AT_ONCE = 1 << 18
"""Triangle rows handled together: arrays of about a megabyte, whatever the size of the mesh."""

NOTHING = torch.iinfo(torch.int64).max
LOW_HALF = (1 << 32) - 1


@dataclass(frozen=True)
class Visible:
    """The winning pixels of all views, triangle by triangle.

    `pixel` [P] int64 flat index into [V,h,w]; `face` [P] int64 flat index into [V,F], equal ones in runs; `depth` [P]
    z/w; sorted by view, then in the order the triangles were drawn.
    """

    pixel: Tensor
    face: Tensor
    depth: Tensor


def to_screen(clip: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Clip positions [...,4] -> column, row (pixel centres are whole numbers) and z/w, each [...]."""
    height, width = size
    x, y, z, w = clip.unbind(-1)
    return (x / w + 1) * (width / 2) - 0.5, (y / w + 1) * (height / 2) - 0.5, z / w


def before_near(clip: Tensor) -> Tensor:
    """Which positions [...,4] are on the visible side of the near plane [...] bool."""
    return (clip[..., 2] + clip[..., 3] > 0) & (clip[..., 3] > 0)


@torch.no_grad()
def visible_faces(clip: Tensor, faces: Tensor, size: tuple[int, int]) -> Visible:
    """The nearest triangle of every pixel: clip [V,N,4], faces [F,3] -> `Visible`. Ties go to the first face."""
    if clip.device.type not in ("cpu", "cuda"):  # others lack the 64 bit minimum
        found = visible_faces(clip.cpu(), faces.cpu(), size)
        return Visible(*(part.to(clip.device) for part in (found.pixel, found.face, found.depth)))
    empty = clip.new_zeros(0, dtype=torch.int64)
    parts = [(empty, empty, clip.new_zeros(0))]
    for view, positions in enumerate(clip):
        corners, owner = _cut_at_near(positions, faces)
        pixel, face, depth = _nearest(corners, owner, size)
        parts.append((pixel + view * size[0] * size[1], face + view * len(faces), depth))
    return Visible(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _cut_at_near(clip: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Clip [N,4] -> the parts of the triangles before the near plane: corners [T,3,4], face of each [T]."""
    visible = before_near(clip)
    count = visible.to(torch.int64)[faces].sum(1)
    whole = (count == 3).nonzero()[:, 0]
    corners = [clip.index_select(0, faces[whole].flatten()).view(-1, 3, 4)]
    owner = [whole]
    for ahead in (1, 2):
        cut = (count == ahead).nonzero()[:, 0]
        if len(cut) == 0:
            continue
        odd = (visible[faces[cut]] == (ahead == 1)).to(torch.int64).argmax(1)  # the corner alone on its side
        order = (odd[:, None] + torch.arange(3, device=clip.device)) % 3
        first, second, third = clip[faces[cut].gather(1, order)].unbind(1)
        if ahead == 1:
            corners.append(torch.stack([first, _meet(first, second), _meet(first, third)], 1))
            owner.append(cut)
        else:
            far = _meet(third, first)
            corners += [torch.stack([second, third, far], 1), torch.stack([second, far, _meet(second, first)], 1)]
            owner += [cut, cut]
    return torch.cat(corners), torch.cat(owner)


def _meet(ahead: Tensor, behind: Tensor) -> Tensor:
    """Where the segments from `ahead` [T,4] to `behind` [T,4] pass the near plane z = -w [T,4]."""
    start, end = ahead[:, 2] + ahead[:, 3], behind[:, 2] + behind[:, 3]
    part = (start / (start - end)).clamp(0, 1)
    return ahead + part[:, None] * (behind - ahead)


def _nearest(corners: Tensor, owner: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """One view's winners: corners [T,3,4], owner [T] -> pixel [P], face [P], depth [P]."""
    device = corners.device
    table, first_row, rows = _triangles(corners, size)
    used = (rows > 0).nonzero()[:, 0]
    table, first_row, rows, owner = table.index_select(1, used), first_row[used], rows[used], owner[used]
    best = torch.full((size[0] * size[1],), NOTHING, dtype=torch.int64, device=device)
    kept, done = [], 0
    for chunk in _chunks(rows):
        pixel, key, row_owner = _pixels(table[:, chunk], first_row[chunk], rows[chunk], size, done)
        best.scatter_reduce_(0, pixel, key, "amin")
        winner = (best.index_select(0, pixel) == key).nonzero()[:, 0]  # so far: a later triangle may be nearer
        kept.append((pixel[winner], key[winner], owner[chunk][row_owner[(key[winner] & LOW_HALF) - done]]))
        done += len(row_owner)
    if not kept:
        empty = torch.zeros(0, dtype=torch.int64, device=device)
        return empty, empty, corners.new_zeros(0)
    pixel, key, face = (torch.cat(column) for column in zip(*kept, strict=True))
    if len(kept) > 1:
        final = (best[pixel] == key).nonzero()[:, 0]
        pixel, key, face = pixel[final], key[final], face[final]
    depth = (key >> 32).to(torch.int32).view(torch.float32) - 1.0
    return pixel, face, depth.to(corners.dtype)


def _chunks(rows: Tensor) -> list[slice]:
    """Split triangles into slices of about ROWS_AT_ONCE rows."""
    if len(rows) == 0:
        return []
    bucket = torch.cumsum(rows, 0) // ROWS_AT_ONCE
    edges = ((bucket[1:] != bucket[:-1]).nonzero()[:, 0] + 1).tolist()
    return [slice(start, stop) for start, stop in zip([0, *edges], [*edges, len(rows)], strict=True)]


def _triangles(corners: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of each triangle for its rows: table [12,T], first row [T] int64, number of rows [T] int64.

    The table holds, of the corners a, b, c from small y to large: column and row of a, those of b, columns a row along
    the edges ac, ab and bc, z/w at a, its slope along columns and rows, and its least and greatest value.
    """
    height, width = size
    x, y, z = to_screen(corners, size)
    order = y.argsort(dim=1, stable=True)
    (xa, xb, xc), (ya, yb, yc), (za, zb, zc) = (part.gather(1, order).unbind(1) for part in (x, y, z))
    tiny = torch.finfo(corners.dtype).tiny
    slopes = [(xc - xa) / (yc - ya).clamp_min(tiny), (xb - xa) / (yb - ya).clamp_min(tiny)]
    slopes.append((xc - xb) / (yc - yb).clamp_min(tiny))
    slopes = [torch.nan_to_num(slope, posinf=0.0, neginf=0.0) for slope in slopes]  # level edges: no row to cross
    area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
    along_x = ((zb - za) * (yc - ya) - (zc - za) * (yb - ya)) / area
    along_y = ((xb - xa) * (zc - za) - (xc - xa) * (zb - za)) / area
    low, high = z.amin(1), z.amax(1)
    table = torch.stack([xa, ya, xb, yb, *slopes, za, along_x, along_y, low, high])
    left, right = x.amin(1).ceil().clamp_min(0), x.amax(1).floor().clamp_max(width - 1)
    drawn = (left <= right) & (area != 0) & torch.isfinite(area) & torch.isfinite(low) & torch.isfinite(high)
    start = torch.nan_to_num(ya).ceil().clamp(0, height).to(torch.int64)
    stop = torch.nan_to_num(yc).floor().clamp(-1, height - 1).to(torch.int64) + 1
    return table, start, (stop - start).clamp_min(0) * drawn


def _pixels(
    table: Tensor, first_row: Tensor, rows: Tensor, size: tuple[int, int], offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """All pixels of some triangles: pixel [M], key [M] = depth and (row index + offset), and triangle of each row."""
    device = table.device
    owner = torch.repeat_interleave(torch.arange(len(rows), device=device), rows)
    inside = torch.arange(len(owner), device=device) - (torch.cumsum(rows, 0) - rows).index_select(0, owner)
    row = first_row.index_select(0, owner) + inside
    xa, ya, xb, yb, s_ac, s_ab, s_bc, za, along_x, along_y, low, high = table.index_select(1, owner).unbind(0)
    y = row.to(table.dtype)
    long_edge = xa + (y - ya) * s_ac
    short_edge = torch.where(y < yb, xa + (y - ya) * s_ab, xb + (y - yb) * s_bc)
    left = torch.minimum(long_edge, short_edge).ceil().clamp(0, size[1])
    right = torch.maximum(long_edge, short_edge).floor().clamp(-1, size[1] - 1)
    at_row = za + (y - ya) * along_y
    z_left = torch.minimum(torch.maximum(at_row + (left - xa) * along_x, low), high)  # slopes of slivers are wild
    z_right = torch.minimum(torch.maximum(at_row + (right - xa) * along_x, low), high)
    step = (z_right - z_left) / (right - left).clamp_min(1)
    length = (right - left + 1).clamp_min(0).to(torch.int64)

    which = torch.repeat_interleave(torch.arange(len(row), device=device), length)
    column = torch.arange(len(which), device=device) - (torch.cumsum(length, 0) - length).index_select(0, which)
    depth = z_left.index_select(0, which) + step.index_select(0, which) * column
    # depth + 1 >= 0 before the near plane, and such floats order like their bits
    bits = (depth.to(torch.float32) + 1.0).clamp_min(0).view(torch.int32).to(torch.int64)
    start = row * size[1] + left.to(torch.int64)
    return start.index_select(0, which) + column, (bits << 32) | (which + offset), owner
