"""Mesh extraction: topology, orientation, sparsity, gradients, and nothing at all (CUPID spec section 4.8)."""

from __future__ import annotations

import pytest
import torch
import trimesh
from torch import Tensor

from backend.geometry.cube_cases import CORNERS, EDGES, cube_cases
from backend.geometry.dual_marching_cubes import DualMesh, cube_channels, extract_mesh

torch.set_num_threads(1)
CORNER_STEPS = torch.from_numpy(CORNERS)


def all_cubes(size: int) -> Tensor:
    axis = torch.arange(size)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def sphere(size: int, radius: float, depth: float = 99.0) -> tuple[Tensor, Tensor]:
    """Cubes down to ``depth`` cells below a sphere; features: the distance to it, all else zero, the bias undone."""
    coords = all_cubes(size)
    distance = ((coords + 0.5) / size - 0.5).norm(dim=1) - radius
    coords = coords[(distance < 2.0 / size) & (distance > -depth / size)]
    corners = (coords[:, None] + CORNER_STEPS) / size - 0.5
    feats = torch.zeros(len(coords), cube_channels(True))
    feats[:, :8] = corners.norm(dim=-1) - radius + 1.0 / size
    return coords, feats


def as_trimesh(mesh: DualMesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.detach().numpy(), mesh.faces.numpy(), process=False)


@pytest.mark.parametrize("training", [False, True])
def test_a_sphere_is_closed_round_and_faces_outward(training: bool) -> None:
    mesh = as_trimesh(extract_mesh(*sphere(20, 0.33), 20, training=training))
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.euler_number == 2
    assert mesh.volume == pytest.approx(4 / 3 * torch.pi * 0.33**3, rel=0.04)  # chords of 1/20 cells lie inside
    assert float((mesh.face_normals * mesh.triangles_center).sum(1).min()) > 0
    radii = torch.tensor(mesh.vertices).norm(dim=1)
    assert float((radii - 0.33).abs().max()) < 0.2 / 20


def test_a_thin_shell_has_an_inner_wall() -> None:
    """Untouched vertices count as outside (as published), so a hollow set of cubes gives a second, inner surface."""
    mesh = as_trimesh(extract_mesh(*sphere(20, 0.33, depth=2.0), 20))
    assert mesh.is_watertight and mesh.euler_number == 4
    outer, inner = sorted((part.volume for part in mesh.split()), key=abs, reverse=True)
    assert outer > 0 > inner


@pytest.mark.parametrize("seed", range(4))
def test_a_noise_field_is_a_closed_manifold(seed: int) -> None:
    """Random signs meet every ambiguous case; each edge still has exactly two faces, seen from opposite ends."""
    size, generator = 10, torch.Generator().manual_seed(seed)
    field = torch.randn(size + 1, size + 1, size + 1, generator=generator)
    for axis in range(3):  # outside all around, so that nothing is cut open by the grid
        field.select(axis, 0).fill_(1.0)
        field.select(axis, size).fill_(1.0)
        field.select(axis, 1).abs_()
        field.select(axis, size - 1).abs_()
    coords = all_cubes(size)
    x, y, z = (coords[:, None] + CORNER_STEPS).unbind(-1)
    feats = torch.randn(len(coords), cube_channels(True), generator=generator)
    feats[:, :8] = field[x, y, z] + 1.0 / size
    mesh = as_trimesh(extract_mesh(coords, feats, size))
    assert len(mesh.faces) > 500
    assert mesh.is_watertight and mesh.is_winding_consistent


def test_the_solid_of_untouched_neighbours_is_closed() -> None:
    """Touched cubes that are inside throughout: the surface lies in cubes that no voxel touches."""
    coords = all_cubes(4) + 3
    feats = torch.zeros(len(coords), cube_channels(True))  # the bias alone makes it inside
    mesh = as_trimesh(extract_mesh(coords, feats, 10))
    assert mesh.is_watertight and mesh.euler_number == 2 and mesh.volume > (4 / 10) ** 3


def test_order_of_the_cubes_does_not_matter() -> None:
    coords, feats = sphere(12, 0.3)
    order = torch.randperm(len(coords), generator=torch.Generator().manual_seed(0))
    first, second = extract_mesh(coords, feats, 12), extract_mesh(coords[order], feats[order], 12)
    assert torch.equal(first.faces, second.faces) and torch.allclose(first.vertices, second.vertices, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("use_color", [False, True])
def test_nothing_in_nothing_out(training: bool, use_color: bool) -> None:
    channels = cube_channels(use_color)
    outside = torch.zeros(2, channels)
    outside[:, :8] = 5.0
    for coords, feats in (
        (torch.zeros(0, 3).int(), torch.zeros(0, channels)),
        (torch.tensor([[1, 1, 1], [1, 1, 2]]), outside),
    ):
        mesh = extract_mesh(coords, feats, 8, use_color, training)
        assert mesh.vertices.shape == (0, 3) and mesh.faces.shape == (0, 3)
        assert (mesh.attributes is None) == (not use_color)
        assert mesh.regulariser is None or bool(mesh.regulariser.isfinite())


def test_every_kind_of_feature_gets_a_gradient() -> None:
    coords, feats = sphere(10, 0.3)
    generator = torch.Generator().manual_seed(1)
    feats = (feats + 0.05 * torch.randn(feats.shape, generator=generator)).requires_grad_()
    mesh = extract_mesh(coords, feats, 10, training=True)
    assert mesh.attributes is not None and mesh.regulariser is not None
    (mesh.vertices.square().sum() + mesh.attributes.sum() + mesh.regulariser).backward()
    assert feats.grad is not None and bool(feats.grad.isfinite().all())
    for part in feats.grad.split([8, 24, 12, 8, 1, 48], dim=1):
        assert float(part.abs().max()) > 0


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        extract_mesh(torch.zeros(1, 3).int(), torch.zeros(1, 7), 4)
    with pytest.raises(ValueError, match="resolution"):
        extract_mesh(torch.full((1, 3), 4), torch.zeros(1, cube_channels(True)), 4)


def test_the_rule_covers_all_cases() -> None:
    cases = cube_cases()
    assert int(cases.problematic.sum()) == 36 and int(cases.count.max()) == 4
    for case in range(256):
        crossing = [(case >> int(a) & 1) != (case >> int(b) & 1) for a, b in EDGES]
        assert crossing == (cases.labels[case] >= 0).tolist()
    mirrored = cases.labels[::-1]
    assert ((mirrored >= 0) == (cases.labels >= 0)).all()
