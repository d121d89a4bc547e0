"""From the LRM's planes to a coloured mesh (spec section 7): the field on a grid, FlexiCubes, colours at the vertices.

The published program asks all grid vertices and all cubes for everything. Here only the signed distance is; deformation
and weights are computed where the surface passes, with the same result in a fraction of the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.geometry.flexicubes import crossed_cubes, extract_surface, grid_vertices
from backend.systems.base import Hooks
from backend.systems.kiss3dgen.cameras import LRM_TO_BUNDLE
from backend.systems.kiss3dgen.lrm.field import CUBE_CORNERS
from backend.systems.kiss3dgen.lrm.generator import LrmGenerator

DEFORMATION_PARTS = 4  # a grid vertex moves by less than a quarter of a cell
POINTS = 65_536  # places asked at once: 60 MB of features at the published size
BORDER_VALUE = 1e-3  # least distance by which the grid's border is outside


@dataclass(frozen=True)
class LrmMesh:
    """vertices [N,3] float32 in the bundle frame, faces [F,3] int64 facing outward, colors [N,3] uint8 sRGB; metallic
    and roughness [N] float32."""

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray
    metallic: np.ndarray
    roughness: np.ndarray


@torch.no_grad()
def extract_mesh(generator: LrmGenerator, planes: Tensor, hooks: Hooks | None = None) -> LrmMesh:
    """The mesh that planes [1,3,C,H,W] describe. Errors: `Cancelled`."""
    config, hooks = generator.config, hooks or Hooks()
    decoder = generator.synthesizer.decoder
    positions = grid_vertices(config.grid, config.extent, planes.device)

    def features(points: Tensor) -> Tensor:
        return generator.synthesizer.features(planes, points[None])[0]

    def distances(points: Tensor) -> Tensor:
        hooks.check_cancelled()
        return decoder.distance(features(points))[:, 0].float()

    field = closed_field(_in_parts(distances, positions), config.grid)
    cubes = crossed_cubes(field, config.grid)
    used, corners = torch.unique(cubes, return_inverse=True)
    found = _in_parts(features, positions[used])
    moves = _in_parts(decoder.deformation, found).float()
    positions[used] += torch.tanh(moves) / (config.grid * DEFORMATION_PARTS)
    weights = _in_parts(lambda part: decoder.weights(found[part]), corners, POINTS // CUBE_CORNERS).float()
    vertices, faces = extract_surface(positions, field, cubes, weights, config.grid)
    hooks.check_cancelled()
    on_surface = _in_parts(features, vertices)
    colors = (decoder.color(on_surface).clamp(0, 1) * 255).to(torch.uint8)  # cut off, not rounded, as published
    metallic, roughness = decoder.material(on_surface)
    turned = vertices @ vertices.new_tensor(LRM_TO_BUNDLE)
    return LrmMesh(
        turned.cpu().numpy(), faces[:, [0, 2, 1]].cpu().numpy(), colors.cpu().numpy(),  # positive is inside
        metallic.float().cpu().numpy(), roughness.float().cpu().numpy(),
    )  # fmt: skip


def closed_field(field: Tensor, grid: int) -> Tensor:
    """Signed distances [(R+1)^3], positive inside, that have a surface, and one that is closed.

    As published, a field that is empty or full within its border gets a centre inside and a border outside. Besides,
    the border is always outside: nothing is cut open where it leaves the grid.
    """
    size = grid + 1
    volume = field.clone().view(size, size, size)
    within = volume[1:-1, 1:-1, 1:-1]
    border = torch.ones_like(volume, dtype=torch.bool)
    border[1:-1, 1:-1, 1:-1] = False
    lowest, highest = field.min(), field.max()
    if not (within > 0).any() or not (within < 0).any():
        volume[grid // 2, grid // 2, grid // 2] = 1 - lowest.clamp(max=0)
        volume[border] = -1 - highest.clamp(min=0)
    volume[border] = volume[border].clamp(max=-BORDER_VALUE)
    return volume.flatten()


def _in_parts(function: Callable[[Tensor], Tensor], values: Tensor, size: int = POINTS) -> Tensor:
    """What `function` makes of rows of `values`, some at a time."""

    def parts() -> Iterator[Tensor]:
        for part in values.split(size):
            yield function(part)

    return torch.cat(list(parts()))
