"""Dual marching cubes with learned weights over a sparse set of cubes (CUPID spec section 4.8).

Works on the touched cubes and on those of their neighbours that the surface enters; nothing of the size of the full
grid is ever made. Everything is a gather or a sort over arrays, and positions and attributes are differentiable by the
cube features. Normals point to positive signed distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backend.geometry.cube_cases import CORNERS, EDGE_AXIS, EDGE_LOW, EDGES, cube_cases

SDF, DEFORM, WEIGHTS, COLOR = 8, 24, 21, 48  # channels a cube: 8 corners x 1, x 3; 12 beta + 8 alpha + 1 gamma; 8 x 6
COLOR_CHANNELS = 6  # red, green, blue and a normal
OUTSIDE = 1.0  # signed distance of a vertex that no cube touches


def cube_channels(use_color: bool) -> int:
    """Feature channels of one cube."""
    return SDF + DEFORM + WEIGHTS + (COLOR if use_color else 0)


@dataclass(frozen=True)
class DualMesh:
    """An extracted surface.

    vertices [V,3] float32 in the cube [-0.5, 0.5]^3, faces [F,3] int64, attributes [V,6] in [0,1] (rgb, normal) or
    None. Training only: regulariser (scalar), and the averaged grid vertices field_vertices [N,3] with their
    field_values [N].
    """

    vertices: Tensor
    faces: Tensor
    attributes: Tensor | None
    resolution: int
    regulariser: Tensor | None = None
    field_vertices: Tensor | None = None
    field_values: Tensor | None = None


@dataclass(frozen=True)
class _Grid:
    """Vertices of the touched cubes.

    keys [V] sorted, of_cube [M,8] vertex of each corner, cubes [V,8] the inverse (M = none).
    """

    keys: Tensor
    of_cube: Tensor
    cubes: Tensor


@dataclass(frozen=True)
class SurfaceCubes:
    """Cubes that the surface crosses, sorted by key.

    coords [S,3], keys [S], source [S] touched row (M = none), vertices [S,8].
    """

    coords: Tensor
    keys: Tensor
    source: Tensor
    vertices: Tensor


@dataclass(frozen=True)
class DualVertices:
    """Dual vertices: cube [D] is the surface cube of each.

    A pair is a crossing edge of a cube: pair_cube, pair_edge, pair_dual [P].
    """

    cube: Tensor
    pair_cube: Tensor
    pair_edge: Tensor
    pair_dual: Tensor


def grid_key(points: Tensor, size: int) -> Tensor:
    """One number a grid point [...,3] of a grid with `size` points a side, x slowest."""
    return (points[..., 0] * size + points[..., 1]) * size + points[..., 2]


def grid_points(keys: Tensor, size: int) -> Tensor:
    """The inverse of `grid_key`."""
    return torch.stack([keys // (size * size), keys // size % size, keys % size], dim=-1)


def _find(sorted_keys: Tensor, queries: Tensor, missing: int) -> Tensor:
    if not len(sorted_keys):
        return torch.full_like(queries, missing)
    place = torch.searchsorted(sorted_keys, queries).clamp_(max=len(sorted_keys) - 1)
    return torch.where(sorted_keys[place] == queries, place, missing)


def _build_grid(coords: Tensor, size: int, corners: Tensor) -> _Grid:
    count = len(coords)
    # vertex keys of a cube are its own key plus a constant for each corner
    corner_keys = grid_key(coords, size)[:, None] + grid_key(corners, size)[None]
    keys, of_cube = torch.unique(corner_keys, return_inverse=True)
    cubes = torch.full((len(keys), 8), count, dtype=torch.int64, device=coords.device)
    slots = torch.arange(8, device=coords.device).expand(count, 8)
    cubes[of_cube, slots] = torch.arange(count, device=coords.device)[:, None].expand(count, 8)
    return _Grid(keys, of_cube, cubes)


def _average(values: Tensor, cubes: Tensor) -> Tensor:
    """Mean over the cubes that share a vertex: values [M,8,C], cubes [N,8] -> [N,C]."""
    total = values.new_zeros(len(cubes), values.shape[2])
    for corner in range(8):
        padded = torch.cat([values[:, corner], values.new_zeros(1, values.shape[2])])
        total = total + padded.index_select(0, cubes[:, corner])
    return total / (cubes < values.shape[0]).sum(1, keepdim=True).to(values.dtype)


def _find_surface(coords: Tensor, grid: _Grid, inside: Tensor, resolution: int, corners: Tensor) -> SurfaceCubes:
    """Touched cubes with corners of both kinds, and untouched ones that share an inside vertex."""
    count, size = len(coords), resolution + 1
    signs = inside[grid.of_cube].sum(1)
    touched = torch.nonzero((signs > 0) & (signs < 8))[:, 0]
    # vertices with fewer than 8 cubes have untouched neighbours; outside ones cannot make those a surface
    vertex, corner = torch.nonzero((grid.cubes == count) & inside[:, None], as_tuple=True)
    beside = grid_points(grid.keys[vertex], size) - corners[corner]
    beside = beside[((beside >= 0) & (beside < resolution)).all(1)]
    extra = grid_points(torch.unique(grid_key(beside, resolution)), resolution)
    around = _find(grid.keys, grid_key(extra[:, None] + corners[None], size), len(grid.keys))
    padded = torch.cat([inside, inside.new_zeros(1)])
    mixed = ~padded[around].all(1)
    extra, around = extra[mixed], around[mixed]
    where = torch.cat([coords[touched], extra])
    keys, order = torch.sort(grid_key(where, resolution))
    source = torch.cat([touched, torch.full((len(extra),), count, device=coords.device)])
    vertices = torch.cat([grid.of_cube[touched], around])
    return SurfaceCubes(where[order], keys, source[order], vertices[order])


def connect_dual(surface: SurfaceCubes, inside: Tensor, resolution: int) -> DualVertices:
    """Dual vertices of the surface cubes. inside [S,8] bool."""
    device = inside.device
    cases = cube_cases()
    labels, counts, facing, problematic = (
        torch.from_numpy(table).to(device) for table in (cases.labels, cases.count, cases.facing, cases.problematic)
    )
    case = (inside.long() << torch.arange(8, device=device)).sum(1)
    doubtful = torch.nonzero(problematic[case])[:, 0]
    across = surface.coords[doubtful] + facing[case[doubtful]]
    valid = ((across >= 0) & (across < resolution)).all(1)
    doubtful, across = doubtful[valid], across[valid]
    neighbour = _find(surface.keys, grid_key(across, resolution), -1)
    both = (neighbour >= 0) & problematic[case[neighbour.clamp_min(0)]]
    resolved = case.clone()
    resolved[doubtful[both]] = 255 - case[doubtful[both]]
    count = counts[resolved]
    start = torch.cumsum(count, 0) - count
    cube_labels = labels[resolved]
    pair_cube, pair_edge = torch.nonzero(cube_labels >= 0, as_tuple=True)
    pair_dual = start[pair_cube] + cube_labels[pair_cube, pair_edge]
    owner = torch.repeat_interleave(torch.arange(len(case), device=device), count)
    return DualVertices(owner, pair_cube, pair_edge, pair_dual)


def quads_around(dual: DualVertices, inside: Tensor, edge_keys: Tensor) -> tuple[Tensor, Tensor]:
    """The quads of all crossing edges that have four surface cubes, in the order of their keys.

    edge_keys [P] int64 names the grid edge of each pair. Answers four dual vertices a quad [Q,4], turned so that
    normals point outward, and whether the edge starts outside [Q].
    """
    device = inside.device
    axis = torch.from_numpy(EDGE_AXIS).to(device)[dual.pair_edge]
    low = torch.from_numpy(EDGE_LOW).to(device)[dual.pair_edge]
    keys, edge = torch.unique(edge_keys, return_inverse=True)
    # the place among the four cubes in increasing (x-major) cube index follows from where the edge lies in this cube
    first = torch.where(axis == 0, low[:, 1], low[:, 0])
    second = torch.where(axis == 2, low[:, 1], low[:, 2])
    around = torch.full((len(keys), 4), -1, dtype=torch.int64, device=device)
    around[edge, (1 - first) * 2 + (1 - second)] = dual.pair_dual
    starts_outside = torch.zeros(len(keys), dtype=torch.bool, device=device)
    start_corner = torch.from_numpy(EDGES[:, 0].copy()).to(device)[dual.pair_edge]
    starts_outside[edge] = ~inside[dual.pair_cube, start_corner]
    complete = (around >= 0).all(1)
    around, starts_outside = around[complete], starts_outside[complete]
    quads = torch.where(starts_outside[:, None], around[:, [0, 1, 3, 2]], around[:, [2, 3, 1, 0]])
    return quads, starts_outside


def _edge_keys(surface: SurfaceCubes, dual: DualVertices, resolution: int) -> Tensor:
    """A number [P] for the grid edge of each pair: its lower vertex and its axis."""
    axis = torch.from_numpy(EDGE_AXIS).to(dual.pair_edge.device)[dual.pair_edge]
    low = torch.from_numpy(EDGE_LOW).to(dual.pair_edge.device)[dual.pair_edge]
    return grid_key(surface.coords[dual.pair_cube] + low, resolution + 1) * 3 + axis


def zero_crossing(field: Tensor, dual: DualVertices, ends: Tensor) -> Tensor:
    """Where on each crossing edge the field [S,8] is zero: 0 at its first end, 1 at its second; [P,1]."""
    start, stop = field[dual.pair_cube, ends[:, 0]], field[dual.pair_cube, ends[:, 1]]
    return (start / (start - stop))[:, None]


def at_crossings(values: Tensor, blend: Tensor, dual: DualVertices, ends: Tensor) -> Tensor:
    """Values [S,8,C] at the crossings [P,C]."""
    return values[dual.pair_cube, ends[:, 0]] * (1 - blend) + values[dual.pair_cube, ends[:, 1]] * blend


def average_dual(values: Tensor, beta: Tensor, dual: DualVertices) -> Tensor:
    """Beta-weighted mean of crossing values [P,C] over each dual vertex -> [D,C]."""
    total = values.new_zeros(len(dual.cube), values.shape[1]).index_add(0, dual.pair_dual, values * beta[:, None])
    norm = beta.new_zeros(len(dual.cube)).index_add(0, dual.pair_dual, beta)
    return total / norm[:, None]


def _spread(crossings: Tensor, vertices: Tensor, dual: DualVertices) -> Tensor:
    """Mean deviation of crossing-to-vertex distances from their mean a dual vertex (scalar)."""
    distance = torch.linalg.vector_norm(crossings - vertices[dual.pair_dual], dim=1)
    ones = torch.ones_like(distance)
    count = distance.new_zeros(len(vertices)).index_add(0, dual.pair_dual, ones)
    mean = distance.new_zeros(len(vertices)).index_add(0, dual.pair_dual, distance) / count
    return (distance - mean[dual.pair_dual]).abs().mean()


def split_quads(quads: Tensor, gamma: Tensor) -> Tensor:
    """Two triangles a quad [2Q,3], split along the diagonal with the larger product of gamma."""
    g = gamma[quads]
    straight = (g[:, 0] * g[:, 2] > g[:, 1] * g[:, 3])[:, None]
    split = torch.where(straight, quads[:, [0, 1, 2, 0, 2, 3]], quads[:, [0, 1, 3, 3, 1, 2]])
    return split.reshape(-1, 3)


def _centre_fans(quads: Tensor, gamma: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Four triangles a quad around a centre (training): (faces [4Q,3], values with the centres appended [D+Q,C])."""
    g = gamma[quads]
    first, second = (g[:, 0] * g[:, 2])[:, None], (g[:, 1] * g[:, 3])[:, None]
    corner = values[quads]
    one, other = (corner[:, 0] + corner[:, 2]) / 2, (corner[:, 1] + corner[:, 3]) / 2
    centre = (one * first + other * second) / (first + second + 1e-8)
    index = torch.arange(len(quads), device=quads.device) + len(values)
    fans = torch.stack([quads, quads.roll(-1, 1), index[:, None].expand(-1, 4)], dim=2)
    return fans.reshape(-1, 3), torch.cat([values, centre])


def _deformed(points: Tensor, deform: Tensor, resolution: int) -> Tensor:
    """Positions in the object cube of grid points (any integers) moved by less than half a cell."""
    return points.to(deform.dtype) / resolution - 0.5 + (1 - 1e-8) / (2 * resolution) * torch.tanh(deform)


def extract_mesh(
    coords: Tensor, feats: Tensor, resolution: int, use_color: bool = True, training: bool = False
) -> DualMesh:
    """Surface of one object.

    coords [M,3] int cubes in a grid of ``resolution``^3 cubes, each once; feats [M,101] ([M,53] without colour). No
    cubes or no crossing gives an empty mesh. ``training`` adds a centre vertex a quad, and the regulariser. Raises
    ValueError when shapes do not fit or a cube lies outside the grid.
    """
    if coords.ndim != 2 or coords.shape[1] != 3 or feats.shape != (len(coords), cube_channels(use_color)):
        raise ValueError(
            f"Cubes {list(coords.shape)} with features {list(feats.shape)} do not fit; "
            f"give [M,3] and [M,{cube_channels(use_color)}]."
        )
    coords, feats = coords.long(), feats.float()
    if len(coords) and (int(coords.min()) < 0 or int(coords.max()) >= resolution):
        raise ValueError(f"Cubes must lie in 0..{resolution - 1}; check the resolution.")
    count, device = len(coords), feats.device
    corners = torch.from_numpy(CORNERS).to(device)
    layout = [SDF, DEFORM, WEIGHTS, COLOR] if use_color else [SDF, DEFORM, WEIGHTS]
    parts = feats.split(layout, dim=1)
    weights = parts[2]
    # the bias makes an untrained network (all zero) a solid of the touched cubes
    corner_values = [(parts[0] - 1.0 / resolution)[..., None], parts[1].view(count, 8, 3)]
    corner_values += [parts[3].view(count, 8, COLOR_CHANNELS)] if use_color else []

    grid = _build_grid(coords, resolution + 1, corners)
    sdf = _average(corner_values[0], grid.cubes)[:, 0]
    with torch.no_grad():
        inside_vertex = sdf < 0
        surface = _find_surface(coords, grid, inside_vertex, resolution, corners)
        inside = torch.cat([inside_vertex, inside_vertex.new_zeros(1)])[surface.vertices]
        dual = connect_dual(surface, inside, resolution)
        quads, _ = quads_around(dual, inside, _edge_keys(surface, dual, resolution))
        if training:
            chosen = torch.arange(len(grid.keys), device=device)
        else:  # attributes are needed at the surface only
            used = torch.zeros(len(grid.keys) + 1, dtype=torch.bool, device=device)
            used[surface.vertices] = True
            chosen = torch.nonzero(used[:-1])[:, 0]
        place = torch.full((len(grid.keys) + 1,), len(chosen), dtype=torch.int64, device=device)
        place[chosen] = torch.arange(len(chosen), device=device)
        vertices = place[surface.vertices]

    others = _average(torch.cat(corner_values[1:], dim=2), grid.cubes[chosen])
    padded = torch.cat([others, others.new_zeros(1, others.shape[1])])[vertices]  # [S,8,3(+6)]
    field = torch.cat([sdf, sdf.new_full((1,), OUTSIDE)])[surface.vertices]
    cube_weights = torch.cat([weights, weights.new_zeros(1, WEIGHTS)])[surface.source]
    beta = (0.99 * torch.tanh(cube_weights[:, :12]) + 1)[dual.pair_cube, dual.pair_edge]
    alpha = 0.99 * torch.tanh(cube_weights[:, 12:20]) + 1
    gamma = (0.99 * torch.sigmoid(cube_weights[:, 20]) + 0.005)[dual.cube]

    ends = torch.from_numpy(EDGES).to(device)[dual.pair_edge]
    blend = zero_crossing(field * alpha, dual, ends)
    positions = _deformed(surface.coords[:, None] + corners[None], padded[..., :3], resolution)
    values = average_dual(at_crossings(positions, blend, dual, ends), beta, dual)
    regulariser = field_vertices = field_values = None
    if training:
        regulariser = _consistency(corner_values, sdf, others, grid) + 0.2 * weights[:, :20].abs().sum() / max(
            1, count * 20
        )
        if len(dual.pair_cube):
            plain = at_crossings(positions, zero_crossing(field, dual, ends), dual, ends)  # alpha does not enter here
            regulariser = regulariser + 0.5 * _spread(plain, values, dual)
        field_vertices = _deformed(grid_points(grid.keys, resolution + 1), others[:, :3], resolution)
        field_values = sdf
    if use_color:
        shades = at_crossings(torch.sigmoid(padded[..., 3:]), blend, dual, ends)
        values = torch.cat([values, average_dual(shades, beta, dual)], dim=1)
    if training:
        faces, values = _centre_fans(quads, gamma, values)
    else:
        faces = split_quads(quads, gamma)
    attributes = values[:, 3:] if use_color else None
    return DualMesh(values[:, :3], faces, attributes, resolution, regulariser, field_vertices, field_values)


def _consistency(corner_values: list[Tensor], sdf: Tensor, others: Tensor, grid: _Grid) -> Tensor:
    """Mean squared difference between what cubes say of a shared vertex and its mean (scalar)."""
    stated = torch.cat(corner_values, dim=2)
    mean = torch.cat([sdf[:, None], others], dim=1)[grid.of_cube]
    return (stated - mean).square().sum() / max(1, stated.numel())
