"""Remeshing keeps closed surfaces closed, brings edges to the wanted length, and the optimiser moves vertices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backend.geometry import mesh_topology, remeshing
from backend.geometry.mesh_optimizer import MeshOptimizer, OptimizerSettings
from backend.geometry.mesh_repair import is_closed

torch.set_num_threads(1)


def ball(rounds: int) -> tuple[Tensor, Tensor]:
    """An octahedron whose edges are split `rounds` times, on the unit sphere."""
    vertices = torch.cat([torch.eye(3), -torch.eye(3)])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]])
    for _ in range(rounds):
        state, dummied = mesh_topology.with_dummies(vertices, faces)
        edges, of_faces = mesh_topology.find_edges(dummied, len(state))
        chosen = edges[:, 0] != edges[:, 1]
        state, dummied = remeshing.split(state, dummied, edges, of_faces, chosen)
        vertices, faces = mesh_topology.without_dummies(state, dummied)
        vertices = torch.nn.functional.normalize(vertices, dim=1)
    return vertices, faces


def euler(faces: Tensor) -> int:
    """Vertices - edges + faces of a mesh without loose vertices."""
    edges, _ = mesh_topology.find_edges(faces, int(faces.max()) + 1)
    return int(faces.max()) + 1 - len(edges) + len(faces)


def lengths(vertices: Tensor, faces: Tensor) -> Tensor:
    return mesh_topology.edge_lengths(vertices, mesh_topology.find_edges(faces, len(vertices))[0])


@pytest.mark.parametrize("wanted", [0.06, 0.5])
def test_edges_reach_the_wanted_length_and_the_ball_stays_a_closed_ball(wanted: float) -> None:
    torch.manual_seed(0)
    vertices, faces = ball(3)
    for _ in range(14):
        limit = torch.full((len(vertices),), wanted)
        vertices, faces = remeshing.remesh(vertices, faces, 0.5 * limit, 1.5 * limit)
    assert euler(faces) == 2
    assert is_closed(faces.numpy())
    assert len(torch.unique(faces)) == len(vertices)
    found = lengths(vertices, faces)
    assert 0.5 * wanted < float(found.mean()) < 1.5 * wanted
    assert float(found.max()) < 1.6 * wanted


def test_new_vertices_have_the_mean_of_all_channels() -> None:
    vertices, faces = ball(1)
    state = torch.cat([vertices, vertices @ torch.tensor([[1.0], [2.0], [-1.0]])], dim=1)
    limit = torch.full((len(state),), 0.5)
    state, _ = remeshing.remesh(state, faces, 0 * limit, limit)
    assert len(state) > len(vertices)
    assert torch.allclose(state[:, :3] @ torch.tensor([[1.0], [2.0], [-1.0]]), state[:, 3:], atol=1e-6)


def test_flips_even_out_the_degrees() -> None:
    torch.manual_seed(1)
    state, dummied = mesh_topology.with_dummies(*ball(3))
    edges, of_faces = mesh_topology.find_edges(dummied, len(state))
    chosen = (torch.rand(len(edges)) < 0.3) & (edges[:, 1] > 0)
    vertices, faces = mesh_topology.without_dummies(*remeshing.split(state, dummied, edges, of_faces, chosen))
    before = torch.bincount(mesh_topology.find_edges(faces, len(vertices))[0].reshape(-1))
    for _ in range(4):
        state, dummied = mesh_topology.with_dummies(vertices, faces)
        faces = remeshing.flip(state, dummied)[1:] - 1
    after = torch.bincount(mesh_topology.find_edges(faces, len(vertices))[0].reshape(-1))
    assert int((after - 6).square().sum()) < int((before - 6).square().sum())
    assert euler(faces) == 2
    assert is_closed(faces.numpy())


def test_a_border_is_not_flipped_and_three_faces_on_an_edge_are_left_alone() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.5, 1, 0], [0.5, -1, 0], [0.5, 0, 1]])
    faces = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    state, dummied = mesh_topology.with_dummies(vertices, faces)
    assert torch.equal(remeshing.flip(state, dummied)[1:] - 1, faces)


def test_a_tetrahedron_survives_limits_it_cannot_keep() -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    limit = torch.full((4,), 100.0)
    vertices, faces = remeshing.remesh(vertices, faces, limit, 2 * limit)
    assert torch.isfinite(vertices).all()
    assert len(faces) == 0 or euler(faces) == 2


def test_a_mesh_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remeshing, "MOST_VERTICES", 100)
    vertices, faces = ball(2)
    limit = torch.full((len(vertices),), 0.01)
    with pytest.raises(ValueError, match="would grow past"):
        remeshing.remesh(vertices, faces, 0 * limit, limit)


def test_no_more_faces_than_are_allowed_and_the_longest_edges_first() -> None:
    vertices, faces = ball(2)
    vertices = vertices * torch.tensor([4.0, 1.0, 1.0])
    limit = torch.full((len(vertices),), 0.05)
    fewer = remeshing.remesh(vertices, faces, 0 * limit, limit, most_faces=500)[1]
    assert 496 <= len(fewer) <= 500 and euler(fewer) == 2
    edges, of_faces = mesh_topology.find_edges(faces, len(vertices))
    long = mesh_topology.edge_lengths(vertices, edges)
    chosen = remeshing.affordable(long > 0.05, long, of_faces, 180)
    assert int(chosen.sum()) == 90 and long[chosen].min() >= long[~chosen].max()  # two faces beside each edge
    assert not remeshing.affordable(long > 0.05, long, of_faces, -5).any()
    plenty = remeshing.remesh(vertices, faces, 0 * limit, limit, most_faces=10_000)[1]
    assert plenty.equal(remeshing.remesh(vertices, faces, 0 * limit, limit)[1]) and len(plenty) == 4 * len(faces)


def test_the_optimiser_grows_a_ball_to_twice_its_size() -> None:
    torch.manual_seed(2)
    mesh = MeshOptimizer(*ball(2), OptimizerSettings(lengths=(0.1, 0.3)))
    for _ in range(60):
        (mesh.vertices.norm(dim=1) - 2.0).square().mean().backward()
        mesh.step()
        mesh.remesh()
    distance = mesh.vertices.detach().norm(dim=1)
    assert abs(float(distance.mean()) - 2.0) < 0.05
    assert euler(mesh.faces) == 2


def test_a_step_wants_a_gradient() -> None:
    with pytest.raises(RuntimeError, match="no gradient"):
        MeshOptimizer(*ball(1), OptimizerSettings()).step()
