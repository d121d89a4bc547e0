"""A mesh fitted to an outline at its own resolution: balls, a box, a hidden half, budgets."""

import numpy as np
import pytest
import torch
import trimesh

from backend.contract.frames import look_at
from backend.geometry.pose import Camera
from backend.rendering.views import render_view
from backend.systems.cupid.outline_fit import draw_to_outlines, fit_to_outline, outline_keeper
from backend.systems.cupid.outline_snap import Outline, snap_to_outline
from backend.systems.finishing import FinishOptions, finish

SIZE = 256
FOCAL = 2.0
DISTANCE = 3.0


def camera(eye: tuple[float, float, float] = (0.0, -DISTANCE, 0.0)) -> Camera:
    intrinsics = np.array([[FOCAL, 0, 0.5], [0, FOCAL, 0.5], [0, 0, 1.0]])
    return Camera(intrinsics, look_at(np.array(eye), np.zeros(3)), 0.0)


def ball(radius: float, subdivisions: int = 3) -> tuple[np.ndarray, np.ndarray]:
    shape = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return np.array(shape.vertices), np.array(shape.faces)


def cover(vertices: np.ndarray, faces: np.ndarray, view: Camera | None = None) -> np.ndarray:
    """Alpha [SIZE,SIZE] of 16 samples a pixel."""
    view = camera() if view is None else view
    return render_view(vertices, faces, view.world_to_camera, view.intrinsics, (SIZE, SIZE), supersample=4).alpha


def missed(vertices: np.ndarray, faces: np.ndarray, wanted: np.ndarray, where: np.ndarray | None = None) -> float:
    """The squared error of the coverage in pixels."""
    error = (cover(vertices, faces) - wanted) ** 2
    return float((error if where is None else error[where]).sum())


def watertight(faces: np.ndarray) -> bool:
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    return bool((np.unique(edges, axis=0, return_counts=True)[1] == 2).all())


def turned(before: np.ndarray, after: np.ndarray, faces: np.ndarray) -> int:
    normals = [np.cross(p[faces[:, 1]] - p[faces[:, 0]], p[faces[:, 2]] - p[faces[:, 0]]) for p in (before, after)]
    return int(((normals[0] * normals[1]).sum(1) < 0).sum())


def test_a_ball_takes_a_boxes_outline_with_a_third_of_the_error_that_snapping_leaves():
    box = trimesh.creation.box((0.6, 0.6, 0.5))
    wanted = cover(np.array(box.vertices), np.array(box.faces))
    vertices, faces = ball(0.34, 4)
    outline = Outline(camera(), wanted)
    drawn, split = draw_to_outlines(vertices, faces, [outline])
    snapped = missed(snap_to_outline(vertices, faces, outline), faces, wanted)
    assert missed(drawn, split, wanted) < 0.33 * snapped
    depths = [points @ camera().world_to_camera[2, :3] for points in (vertices, drawn)]
    assert np.allclose(depths[0], depths[1][: len(vertices)], atol=1e-6)  # only within the picture's plane
    assert watertight(split) and drawn.dtype == vertices.dtype


@pytest.mark.parametrize("triangles", [1280, 1400])
def test_edges_are_split_within_the_budget_and_help(triangles):
    wanted = cover(*ball(0.4, 5))
    vertices, faces = ball(0.39, 3)
    assert len(faces) == 1280
    with torch.inference_mode():  # as in a job
        fitted, split = fit_to_outline(vertices, faces, Outline(camera(), wanted), triangles)
    assert len(split) <= triangles and watertight(split)
    assert (len(split) > 1280) == (triangles > 1281)
    assert missed(fitted, split, wanted) < 0.1 * missed(vertices, faces, wanted)
    volume = trimesh.Trimesh(fitted, split, process=False).volume
    assert volume == pytest.approx(trimesh.Trimesh(vertices, faces, process=False).volume, rel=0.1)


def test_no_triangle_is_turned_over_and_the_other_views_stay_whole():
    vertices, faces = ball(0.4, 3)
    wanted = cover(*ball(0.4, 5)).copy()
    for column in range(80, 176, 12):  # notches narrower than the ball's triangles
        wanted[:80, column : column + 6] = 0
    fitted, split = fit_to_outline(vertices, faces, Outline(camera(), wanted), len(faces))
    assert np.array_equal(split, faces)
    assert turned(vertices, fitted, faces) <= 0.02 * len(faces)
    assert missed(fitted, split, wanted) < missed(vertices, faces, wanted)
    side = camera((DISTANCE, 0.0, 0.0))
    before, after = (cover(points, faces, side) >= 0.5 for points in (vertices, fitted))
    assert (before & after).sum() > 0.8 * (before | after).sum()


def test_what_is_hidden_stays_as_it_was():
    wanted = cover(*ball(0.4, 4))
    hidden = np.zeros((SIZE, SIZE), bool)
    hidden[:, SIZE // 2 :] = True
    wanted = np.where(hidden, 0, wanted)
    vertices, faces = ball(0.42, 4)
    fitted, split = fit_to_outline(vertices, faces, Outline(camera(), wanted, hidden), len(faces))
    assert missed(fitted, split, wanted, ~hidden) < 0.1 * missed(vertices, faces, wanted, ~hidden)
    moved = np.abs(fitted - vertices).max(axis=1)
    assert moved[vertices[:, 0] > 0.25].max() < 5e-3 < 0.01 < moved[vertices[:, 0] < -0.38].max()


def test_nothing_happens_where_nothing_can_be_fitted():
    vertices, faces = ball(0.3)
    for alpha in (np.zeros((8, 8)), np.ones((8, 8))):
        fitted, same = fit_to_outline(vertices, faces, Outline(camera(), alpha), 10_000)
        assert fitted is vertices and same is faces
    inside = Outline(camera((0.0, -0.1, 0.0)), cover(vertices, faces))  # a camera in the middle of the ball
    assert fit_to_outline(vertices, faces, inside, 10_000)[0] is vertices
    assert draw_to_outlines(vertices, faces, [])[0] is vertices and outline_keeper([]) is None
    far = np.zeros((SIZE, SIZE), np.float32)
    far[:24, :24] = 1  # another shape far away: no vertex is stretched to it
    moved, _ = fit_to_outline(vertices, faces, Outline(camera(), far), len(faces))
    assert np.abs(moved[:, [0, 2]]).max() < 0.3 + 0.12 * DISTANCE / FOCAL


def test_a_finished_mesh_keeps_the_outline_within_its_budget():
    vertices, faces = ball(0.4, 5)
    wanted = cover(vertices, faces)
    keeper = outline_keeper([Outline(camera(), wanted)])
    plain, kept = (finish(vertices, faces, FinishOptions(400, 256), None, reshape=each) for each in (None, keeper))
    assert len(plain.faces) <= 408 and len(kept.faces) <= 408
    assert missed(kept.vertices, kept.faces, wanted) < 0.5 * missed(plain.vertices, plain.faces, wanted)
    assert kept.texture and kept.uvs is not None and len(kept.uvs) == 3 * len(kept.faces)
