"""One surface laid onto another: exact for copies in any place and size, honest about symmetry and other shapes."""

import numpy as np
import pytest
import trimesh
from trimesh.creation import box, cylinder, icosphere

from backend.contract.meshes import MeshData
from backend.geometry.registration import register, symmetric_turns, up_axes, up_turn
from backend.geometry.surface_sampling import sample_surface


def as_mesh(shape: trimesh.Trimesh) -> MeshData:
    return MeshData(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32))


def moved_box(extents, place) -> trimesh.Trimesh:
    shape = box(extents=extents)
    shape.apply_translation(place)
    return shape


def lorry() -> trimesh.Trimesh:
    """A cab before a box on an axle: one look, no symmetry about up."""
    parts = [moved_box((0.6, 0.4, 0.35), (0.15, 0, 0.1)), moved_box((0.25, 0.36, 0.25), (-0.35, 0, 0.05))]
    parts += [moved_box((0.9, 0.3, 0.08), (0, 0, -0.12)), moved_box((0.1, 0.1, 0.2), (0.3, 0.1, 0.35))]
    return trimesh.util.concatenate(parts)


def points_of(shape: trimesh.Trimesh, seed: int = 0, count: int = 4000) -> np.ndarray:
    return sample_surface(as_mesh(shape), count, seed).points


def degrees_between(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(first.T @ second) - 1) / 2, -1, 1))))


@pytest.mark.parametrize(("seed", "lying"), [(0, False), (1, False), (2, True)])
def test_a_turned_scaled_noised_coarser_copy_is_found(seed, lying):
    rng = np.random.default_rng(seed)
    shape = lorry()
    turn = up_turn(rng.uniform(0, 2 * np.pi))
    if lying:
        turn = up_axes()[2 + seed] @ turn
    scale, place = float(np.exp(rng.uniform(-3, 3))), rng.normal(size=3) * 10
    # Another sampling stands for another tessellation: fewer points, each off by half a percent of the size.
    copy = points_of(shape, seed + 10, 1500)
    copy = scale * (copy + rng.normal(0, 0.005, copy.shape)) @ turn.T + place
    found = register(copy, points_of(shape))
    assert degrees_between(found.similarity.rotation, turn.T) < 2.0
    assert found.similarity.scale * scale == pytest.approx(1.0, abs=0.02)
    assert found.trusted and found.message == "" and found.upright == (not lying)
    assert found.symmetric == (0.0,)
    back = np.concatenate([copy, np.ones((len(copy), 1))], axis=1) @ found.matrix.T
    assert np.abs(back[:, :3] - (copy - place) @ turn / scale).mean() < 0.01


def test_another_shape_is_not_trusted_and_says_so():
    chair = trimesh.util.concatenate([
        moved_box((0.5, 0.5, 0.06), (0, 0, 0)), moved_box((0.5, 0.06, 0.6), (0, 0.22, 0.3)),
        *(moved_box((0.06, 0.06, 0.5), (x, y, -0.25)) for x in (-0.2, 0.2) for y in (-0.2, 0.2)),
    ])  # fmt: skip
    found = register(points_of(lorry()), points_of(chair))
    assert not found.trusted and "do not agree" in found.message and found.residual > 0.015


def test_symmetric_shapes_are_reported():
    pillar = trimesh.util.concatenate([cylinder(0.2, 1.0, sections=48), moved_box((0.1, 0.1, 0.1), (0, 0, 0.6))])
    table = trimesh.util.concatenate([moved_box((0.8, 0.4, 0.1), (0, 0, 0.4)), moved_box((0.1, 0.1, 0.8), (0, 0, 0))])
    assert len(register(points_of(pillar, 1), points_of(pillar)).symmetric) >= 12
    turns = register(3 * points_of(table, 1) + 1, points_of(table)).symmetric
    assert turns == pytest.approx((0.0, np.pi))
    assert symmetric_turns(points_of(lorry())) == (0.0,)


@pytest.mark.parametrize(
    ("points", "words"),
    [(np.zeros((0, 3)), "too few"), (np.full((10, 3), np.nan), "finite"), (np.ones((10, 3)), "no size")],
)
def test_points_that_are_no_shape(points, words):
    with pytest.raises(ValueError, match=words):
        register(points, points_of(icosphere(subdivisions=2)))


def test_samples_have_the_colours_and_normals_of_their_place():
    shape = box(extents=(1, 1, 1))
    shape.unmerge_vertices()
    up = np.repeat(shape.face_normals[:, 2] > 0.5, 3)
    colors = np.where(up[:, None], [255, 0, 0, 255], [0, 0, 255, 255]).astype(np.uint8)
    vertices, faces = np.asarray(shape.vertices, np.float32), np.arange(len(shape.vertices), dtype=np.int32)
    sampled = sample_surface(MeshData(vertices, faces.reshape(-1, 3), None, colors), 600)
    top = sampled.points[:, 2] > 0.4999
    assert sampled.colors is not None and (sampled.normals[top] @ [0, 0, 1] > 0.99)[sampled.colors[top, 0] > 0.5].all()
    assert abs(int((sampled.colors[:, 0] > 0.5).sum()) - 100) <= 2  # a sixth of the area
    with pytest.raises(ValueError, match="empty"):
        sample_surface(MeshData(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)), 10)
    with pytest.raises(ValueError, match="no surface"):
        sample_surface(MeshData(np.zeros((3, 3), np.float32), np.array([[0, 1, 2]], np.int32)), 10)
