"""backend.geometry.mesh_repair and simplify: broken meshes come back whole, with what belongs to them and no more."""

from __future__ import annotations

import time

import numpy as np
import pytest
import trimesh

from backend.geometry.mesh_repair import border_edges, face_areas, is_closed, kept_whole, parts, repair
from backend.geometry.simplify import simplify
from backend.systems.cupid.occupancy_mesh import mesh_from_occupancy


def sphere(subdivisions: int = 3, radius: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    mesh = trimesh.creation.icosphere(subdivisions, radius)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def together(*meshes: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in meshes])
    return (np.concatenate([vertices for vertices, _ in meshes]),
            np.concatenate([faces + start for (_, faces), start in zip(meshes, starts, strict=False)]))  # fmt: skip


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = vertices[faces].transpose(1, 0, 2)
    return float(np.einsum("fi,fi->", a, np.cross(b, c)) / 6)


def voxel_mesh() -> tuple[np.ndarray, np.ndarray]:
    """The surface of a noisy hollow ball of voxels with a loose voxel beside it: three parts and more."""
    axis = np.arange(32) - 15.5
    distance = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0)
    occupancy = (distance < 12) & (distance > 9)
    occupancy &= np.random.default_rng(0).random(occupancy.shape) > 0.02
    occupancy[0, 0, 0] = True
    vertices, faces = mesh_from_occupancy(occupancy)
    inner = sphere(2, 0.1)
    return together((vertices, faces), (inner[0], inner[1][:, ::-1]))


def test_a_sound_mesh_stays_as_it_is():
    vertices, faces = sphere()
    result = repair(vertices, faces)
    assert np.array_equal(result.vertices, vertices) and np.array_equal(result.faces, faces)
    assert np.array_equal(result.rows, np.arange(len(vertices)))


@pytest.mark.parametrize("missing", [1, 2, 40])
def test_a_hole_is_closed_where_it_was(missing):
    vertices, faces = sphere()
    gone = np.argsort(vertices[faces][:, :, 2].mean(axis=1))[-missing:]  # about the top
    result = repair(vertices, np.delete(faces, gone, axis=0))
    assert is_closed(result.faces)
    assert volume(result.vertices, result.faces) == pytest.approx(volume(vertices, faces), rel=0.02)
    kept = result.rows >= 0
    assert np.array_equal(result.vertices[kept], vertices[result.rows[kept]])


def test_a_sheet_stays_open():
    corner = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    result = repair(corner, np.array([[0, 1, 2], [0, 2, 3]]))
    assert len(result.faces) == 2 and len(border_edges(result.faces)[0]) == 4


def test_inner_shells_and_floaters_go_and_separate_things_stay():
    beside = sphere(2, 0.2)[0] + [0.9, 0, 0], sphere(2, 0.2)[1]
    inner = sphere(3, 0.42)
    speck = sphere(1, 0.005)[0] + [0, 0, 0.7], sphere(1, 0.005)[1]
    result = repair(*together(sphere(), (inner[0], inner[1][:, ::-1]), inner, speck, beside))
    assert len(result.faces) == 1280 + 320 and parts(result.faces, len(result.vertices)).max() == 1


def test_an_object_in_an_open_box_is_seen():
    box = trimesh.creation.box((1.0, 1.0, 1.0))
    faces = np.asarray(box.faces)[np.asarray(box.triangles_center)[:, 2] < 0.49]  # without its lid
    result = repair(*together((np.asarray(box.vertices), faces), sphere(2, 0.3)))
    assert len(result.faces) >= 320 + 10


def test_winding_agrees_and_faces_out():
    vertices, faces = sphere(2)
    mixed = faces.copy()
    turned = np.random.default_rng(0).random(len(faces)) < 0.4
    mixed[turned] = mixed[turned, ::-1]
    result = repair(vertices, mixed)
    assert is_closed(result.faces) and volume(result.vertices, result.faces) > 0.4
    inside_out = repair(vertices, faces[:, ::-1])
    assert volume(inside_out.vertices, inside_out.faces) > 0.4


def test_somebodys_own_mesh_is_kept_whole_but_for_faces_without_area():
    shell, floater = trimesh.creation.icosphere(2, 0.5), trimesh.creation.icosphere(1, 0.01)
    floater.apply_translation([0.9, 0, 0])
    both = trimesh.util.concatenate([shell, floater])
    faces = np.vstack([both.faces, [[0, 0, 1]]])
    kept = kept_whole(both.vertices, faces)
    assert len(kept.faces) == len(both.faces) and len(kept.vertices) == len(both.vertices)
    assert np.array_equal(kept.vertices[kept.faces], both.vertices[both.faces])


def test_broken_faces_go():
    vertices, faces = sphere(2)
    vertices = np.concatenate([vertices, [[np.nan, 0, 0]]])
    bad = np.array([[0, 0, 1], [1, 2, len(vertices) - 1], faces[5], np.roll(faces[7], 1)])
    result = repair(vertices, np.concatenate([faces, bad]))
    assert len(result.faces) == len(faces) and np.isfinite(result.vertices).all()
    nothing = repair(vertices, np.zeros((0, 3), int))
    assert len(nothing.faces) == 0


@pytest.mark.parametrize("budget", [200, 1000])
def test_a_voxel_mesh_is_decimated_to_its_budget_and_stays_whole(budget):
    dense = repair(*voxel_mesh())
    before = parts(dense.faces, len(dense.vertices)).max()
    vertices, faces = simplify(dense.vertices, dense.faces, budget)
    assert 0.8 * budget <= len(faces) <= 1.02 * budget
    assert is_closed(dense.faces) and is_closed(faces) and before == 0
    assert np.isfinite(vertices).all() and face_areas(vertices, faces).min() > 1e-9
    assert volume(vertices, faces) == pytest.approx(volume(dense.vertices, dense.faces), rel=0.03)


def test_a_mesh_within_its_budget_is_not_touched():
    vertices, faces = sphere(2)
    assert np.array_equal(simplify(vertices, faces, 320)[1], faces)


def test_sixty_thousand_triangles_are_repaired_and_decimated_in_time():
    vertices, faces = sphere(6)  # 81,920 triangles
    vertices = vertices * (1 + 0.002 * np.sin(60 * vertices[:, :1]))
    started = time.process_time()
    result = repair(vertices, faces)
    low = simplify(result.vertices, result.faces, 10_000)[1]
    assert time.process_time() - started < 2.0 and abs(len(low) - 10_000) < 200
