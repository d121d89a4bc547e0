"""FlexiCubes: a surface from a signed field on a regular grid with learned weights (Shen et al. 2023).

A dual vertex is the mean, weighted by beta, of the points where the cube's edges cross zero; alpha of a cube's corners
moves those points along their edges; gamma of the dual vertices chooses the diagonal of each quad. The connectivity is
that of `dual_marching_cubes`, which needs the crossed cubes only; the order of vertices and faces is the published one
(Kiss3DGen spec section 7): vertices by how many their cube has, then by cube; faces by the direction of their edge,
then by its ends.

Grid vertices are numbered with z fastest: (x * (R + 1) + y) * (R + 1) + z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from backend.geometry.cube_cases import CORNERS, EDGES
from backend.geometry.dual_marching_cubes import (
    WEIGHTS,
    DualVertices,
    SurfaceCubes,
    at_crossings,
    average_dual,
    connect_dual,
    grid_key,
    grid_points,
    quads_around,
    split_quads,
    zero_crossing,
)

WEIGHT_SCALE = 0.5
"""How far alpha and beta reach from 1 and gamma from 1/2, so that no weight gets near zero."""


def grid_vertices(resolution: int, extent: float, device: torch.device | None = None) -> Tensor:
    """Positions [(R+1)^3,3] float32 of a grid of resolution^3 cubes that is `extent` long and centred at the origin."""
    axis = torch.arange(resolution + 1, device=device)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    return (points / resolution - 0.5) * extent


def crossed_cubes(field: Tensor, resolution: int) -> Tensor:
    """Vertex numbers [M,8] int64 of the cubes with corners of both signs; field [(R+1)^3] over the grid."""
    size = resolution + 1
    inside = (field < 0).view(size, size, size)
    corners = torch.from_numpy(CORNERS).to(field.device)
    count = torch.zeros((resolution,) * 3, dtype=torch.int64, device=field.device)
    for x, y, z in CORNERS.tolist():
        count += inside[x : x + resolution, y : y + resolution, z : z + resolution]
    coords = torch.nonzero((count > 0) & (count < 8))
    return grid_key(coords[:, None] + corners, size)


def extract_surface(
    positions: Tensor, field: Tensor, cubes: Tensor, weights: Tensor, resolution: int, scale: float = WEIGHT_SCALE
) -> tuple[Tensor, Tensor]:
    """Vertices [V,3] and faces [F,3] int64 where the field is zero; normals point to positive values.

    positions [N,3] of all grid vertices, moved by less than half a cell; field [N]; cubes [M,8] vertex numbers of the
    grid's cubes, all or any that hold every crossed one; weights [M,21] raw: 12 beta by edge, 8 alpha by corner, gamma.
    Differentiable by positions, field and weights. No crossing gives an empty mesh. Raises ValueError when shapes do
    not fit.
    """
    if field.shape != positions.shape[:1] or len(field) != (resolution + 1) ** 3:
        raise ValueError(f"A field of {list(field.shape)} values does not fit a grid of {resolution} cubes a side.")
    if weights.shape != (len(cubes), WEIGHTS):
        raise ValueError(f"Weights {list(weights.shape)} do not fit {len(cubes)} cubes; give [M,{WEIGHTS}].")
    with torch.no_grad():
        inside = (field < 0)[cubes]
        crossed = torch.nonzero(inside.any(1) & ~inside.all(1))[:, 0]
        coords = grid_points(cubes[crossed, 0], resolution + 1)
        keys, order = torch.sort(grid_key(coords, resolution))
        crossed = crossed[order]
        surface = SurfaceCubes(coords[order], keys, crossed, cubes[crossed])
        dual = _by_count(connect_dual(surface, inside[crossed], resolution), len(crossed))
        ends = torch.from_numpy(EDGES).to(field.device)[dual.pair_edge]
        corners = surface.vertices[dual.pair_cube[:, None], ends]  # [P,2] the grid vertices of each crossing edge
        quads, starts_outside = quads_around(dual, inside[crossed], corners[:, 0] * len(field) + corners[:, 1])
        quads = torch.cat([quads[starts_outside], quads[~starts_outside]])
    raw = weights[crossed]
    beta = (1 + scale * torch.tanh(raw[:, :12]))[dual.pair_cube, dual.pair_edge]
    alpha = 1 + scale * torch.tanh(raw[:, 12:20])
    gamma = (scale * torch.sigmoid(raw[:, 20]) + (1 - scale) / 2)[dual.cube]
    blend = zero_crossing(field[surface.vertices] * alpha, dual, ends)
    vertices = average_dual(at_crossings(positions[surface.vertices], blend, dual, ends), beta, dual)
    return vertices, split_quads(quads, gamma)


def _by_count(dual: DualVertices, cubes: int) -> DualVertices:
    """The dual vertices in the published order: those alone in their cube first, then pairs, and so on."""
    count = torch.bincount(dual.cube, minlength=cubes)
    order = torch.argsort(count[dual.cube], stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return DualVertices(dual.cube[order], dual.pair_cube, dual.pair_edge, place[dual.pair_dual])
