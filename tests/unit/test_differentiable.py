"""The differentiable rasteriser against the numpy one, closed forms and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.rendering import rasterizer
from backend.rendering.differentiable import rasterize

SCALE = 1 / math.tan(math.radians(15))  # a lens of 30 degrees
NEAR, FAR = 0.1, 1000.0


def projection() -> Tensor:
    """Camera coordinates (z forward, rows down the picture along y) to clip [4,4] float64."""
    depth = [0, 0, (FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)]
    return torch.tensor([[SCALE, 0, 0, 0], [0, SCALE, 0, 0], depth, [0, 0, 1, 0]], dtype=torch.float64)


def cameras(count: int, distance: float = 4.2) -> Tensor:
    """World to camera [V,4,4] float64, around the z axis and a little above it."""
    matrices = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    for matrix, angle in zip(matrices, torch.arange(count) * (2 * math.pi / count) + 0.3, strict=True):
        forward = -torch.tensor([math.cos(angle), math.sin(angle), 0.2], dtype=torch.float64)
        forward = forward / forward.norm()
        right = torch.tensor([-math.sin(angle), math.cos(angle), 0.0], dtype=torch.float64)
        matrix[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
        matrix[2, 3] = distance
    return matrices


def to_clip(vertices: Tensor, world_to_camera: Tensor) -> Tensor:
    """Vertices [N,3] seen by cameras [V,4,4]: clip [V,N,4] in the vertices' precision."""
    points = torch.cat([vertices, torch.ones_like(vertices[:, :1])], 1)
    return points @ (projection() @ world_to_camera).to(vertices).transpose(1, 2)


def ball(steps: int, bumps: float = 0.0) -> tuple[Tensor, Tensor]:
    """A closed surface of 12 steps^2 triangles, about 0.9 in radius: a cube blown up."""
    axis = torch.linspace(-1, 1, steps + 1, dtype=torch.float64)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    sides = [torch.stack([torch.ones_like(u), u, v], -1), torch.stack([-torch.ones_like(u), v, u], -1)]
    grid = torch.arange((steps + 1) ** 2).view(steps + 1, steps + 1)
    a, b, c, d = (part.flatten() for part in (grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]))
    patch = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    points = torch.cat([side.reshape(-1, 3).roll(turn, 1) for turn in range(3) for side in sides])
    faces = torch.cat([patch + part * (steps + 1) ** 2 for part in range(6)])
    welded, index = torch.unique((points * steps).round().long(), dim=0, return_inverse=True)
    directions = torch.nn.functional.normalize(welded.double(), dim=1)
    radius = 1 + bumps * (5 * directions[:, 0]).sin() * (4 * directions[:, 1] + 1).cos() * (6 * directions[:, 2]).sin()
    return 0.9 * directions * radius[:, None], index[faces]


def soup(count: int, side: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Triangles anywhere, of about one size."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.rand(count, 1, 3, generator=generator, dtype=torch.float64) - 0.5
    corners = middle + side * torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)
    return corners.view(-1, 3), torch.arange(3 * count).view(-1, 3)


INTRINSICS = np.array([[SCALE / 2, 0, 0.5], [0, SCALE / 2, 0.5], [0, 0, 1]])


@pytest.mark.parametrize(
    ("mesh", "distance"), [(ball(12, 0.1), 4.2), (soup(60, 0.3), 4.2), (soup(3000, 0.02), 2.0), (soup(80, 0.3), 0.1)]
)
def test_agrees_with_the_numpy_rasteriser(
    mesh: tuple[Tensor, Tensor], distance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rasterizer, "NEAR", NEAR)
    vertices, faces = mesh
    matrices = cameras(2, distance)  # from 0.1 many triangles lie behind the camera or pass through its plane
    found = rasterize(to_clip(vertices, matrices), faces, (60, 60))
    for view, matrix in enumerate(matrices.numpy()):
        expected = rasterizer.rasterize(vertices.numpy(), faces.numpy(), matrix, INTRINSICS, (60, 60))
        assert expected.mask.mean() > 0.2
        same = found.face[view].numpy() == expected.face
        assert same.mean() > 0.999  # centres on an edge go either way
        ours = found.barycentric[view].numpy()
        assert np.abs(ours - expected.barycentric)[same].max() < 1e-5
        depth = projection()[2, 2].item() + projection()[2, 3].item() / expected.depth[same & expected.mask]
        assert np.abs(found.depth[view].numpy()[same & expected.mask] - depth).max() < 1e-4
