"""FlexiCubes: closed and facing, any set of cubes that holds the surface, gradients, and nothing at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from backend.geometry.flexicubes import crossed_cubes, extract_surface, grid_vertices

torch.set_num_threads(1)
SIZE = 12
GOLDEN = Path(__file__).parents[1] / "golden" / "cupid" / "mesh_extract_noise.npz"


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


def test_ambiguous_cubes_come_out_in_the_published_order() -> None:
    """The golden noise of CUPID's extractor, which is FlexiCubes with a wider weight scale: every vertex and face."""
    with np.load(GOLDEN) as stored:
        coords, feats = torch.from_numpy(stored["coords"][:, 1:]).long(), torch.from_numpy(stored["feats"]).float()
        wanted, wanted_faces = stored["vertices"], stored["faces"]
    resolution, size = 8, 9
    corners = torch.tensor([(n & 1, n >> 1 & 1, n >> 2) for n in range(8)])
    place = coords[:, None] + corners
    number = ((place[..., 0] * size + place[..., 1]) * size + place[..., 2]).flatten()
    said = torch.cat([feats[:, :8, None] - 1 / resolution, feats[:, 8:32].view(-1, 8, 3)], dim=2).flatten(0, 1)
    times = torch.zeros(size**3).index_add(0, number, torch.ones(len(number)))
    mean = torch.zeros(size**3, 4).index_add(0, number, said) / times.clamp(min=1)[:, None]
    field = torch.where(times > 0, mean[:, 0], 1.0)
    positions = grid_vertices(resolution, 1.0) + torch.tanh(mean[:, 1:]) / (2 * resolution)
    weights = torch.zeros(resolution**3, 21)
    weights[(coords[:, 0] * resolution + coords[:, 1]) * resolution + coords[:, 2]] = feats[:, 32:53]
    vertices, faces = extract_surface(positions, field, all_cubes(resolution), weights, resolution, scale=0.99)
    assert np.array_equal(faces.numpy(), wanted_faces) and len(faces) > 1000
    assert np.allclose(vertices.numpy(), wanted, atol=1e-4)


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
