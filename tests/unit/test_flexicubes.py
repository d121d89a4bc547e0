"""FlexiCubes: closed and facing, any set of cubes that holds the surface, gradients, and nothing at all."""

from __future__ import annotations

import pytest
import torch
import trimesh
from torch import Tensor

from backend.geometry.flexicubes import crossed_cubes, extract_surface, grid_vertices

torch.set_num_threads(1)
SIZE = 12


def all_cubes(size: int) -> Tensor:
    """Vertex numbers of every cube, made without the code under test: corner n lies at (n & 1, n >> 1 & 1, n >> 2)."""
    numbers = torch.arange((size + 1) ** 3).view(size + 1, size + 1, size + 1)
    corners = [(n & 1, n >> 1 & 1, n >> 2) for n in range(8)]
    return torch.stack([numbers[x : x + size, y : y + size, z : z + size].flatten() for x, y, z in corners], dim=1)


def noise(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Moved positions, a field with outside all around, all cubes and their weights, at random."""
    generator = torch.Generator().manual_seed(seed)
    positions = grid_vertices(SIZE, 2.0)
    positions = positions + 0.04 * torch.rand(positions.shape, generator=generator)
    field = torch.randn((SIZE + 1,) * 3, generator=generator)
    edge = torch.ones_like(field, dtype=torch.bool)
    edge[2:-2, 2:-2, 2:-2] = False
    field[edge] = field[edge].abs() + 0.1
    cubes = all_cubes(SIZE)
    return positions, field.flatten(), cubes, torch.randn(len(cubes), 21, generator=generator)


def test_a_ball_is_closed_round_and_faces_positive_values() -> None:
    positions = grid_vertices(SIZE, 2.0)
    field = positions.norm(dim=1) - 0.6
    cubes = crossed_cubes(field, SIZE)
    vertices, faces = extract_surface(positions, field, cubes, torch.zeros(len(cubes), 21), SIZE)
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight and mesh.euler_number == 2
    assert mesh.volume == pytest.approx(4 / 3 * torch.pi * 0.6**3, rel=0.1)  # chords of cells of 1/6 lie inside
    assert float((vertices.norm(dim=1) - 0.6).abs().max()) < 0.2 * 2 / SIZE


@pytest.mark.parametrize("seed", range(3))
def test_noise_with_weights_is_closed(seed: int) -> None:
    positions, field, cubes, weights = noise(seed)
    vertices, faces = extract_surface(positions, field, cubes, weights, SIZE)
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert len(faces) > 500 and mesh.is_watertight and mesh.is_winding_consistent


def test_the_crossed_cubes_are_enough_in_any_order() -> None:
    positions, field, cubes, weights = noise(5)
    whole = extract_surface(positions, field, cubes, weights, SIZE)
    signs = (field < 0)[cubes]
    chosen = torch.nonzero(signs.any(1) & ~signs.all(1))[:, 0]
    assert torch.equal(crossed_cubes(field, SIZE), cubes[chosen])
    shuffled = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))]
    part = extract_surface(positions, field, cubes[shuffled], weights[shuffled], SIZE)
    assert torch.equal(whole[1], part[1]) and torch.allclose(whole[0], part[0], atol=1e-6)


def test_vertices_come_by_how_many_their_cube_has() -> None:
    """Two opposite corners inside give a cube two dual vertices; they come after the lonely ones."""
    positions, field, cubes, weights = noise(1)
    vertices, faces = extract_surface(positions, field, cubes, weights, SIZE)
    cell = ((vertices / 2 + 0.5) * SIZE).floor().clamp(0, SIZE - 1).long()
    inner = (((vertices / 2 + 0.5) * SIZE) % 1 - 0.5).abs().amax(1) < 0.2  # far from other cells, though moved
    key = (cell[:, 0] * SIZE + cell[:, 1]) * SIZE + cell[:, 2]
    count = torch.bincount(key, minlength=SIZE**3)[key]
    assert len(faces) and int(count.max()) >= 2
    first = count[inner][: int(inner.sum()) // 4].float().mean()
    last = count[inner][-int(inner.sum()) // 4 :].float().mean()
    assert float(first) < float(last)


def test_everything_gets_a_gradient() -> None:
    positions, field, cubes, weights = (
        part.requires_grad_() if part.is_floating_point() else part for part in noise(2)
    )
    vertices, _ = extract_surface(positions, field, cubes, weights, SIZE)
    vertices.square().sum().backward()
    for part in (positions, field, weights):
        assert part.grad is not None and bool(part.grad.isfinite().all()) and float(part.grad.abs().max()) > 0


def test_nothing_in_nothing_out() -> None:
    positions = grid_vertices(4, 1.0)
    field = torch.ones(len(positions))
    cubes = crossed_cubes(field, 4)
    vertices, faces = extract_surface(positions, field, cubes, torch.zeros(len(cubes), 21), 4)
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


def test_bad_input_is_refused() -> None:
    positions, field, cubes, weights = noise(0)
    with pytest.raises(ValueError, match="grid"):
        extract_surface(positions, field, cubes, weights, SIZE + 1)
    with pytest.raises(ValueError, match="21"):
        extract_surface(positions, field, cubes, weights[:, :20], SIZE)
