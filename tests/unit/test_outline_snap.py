"""A surface drawn to an outline: a ball that is too fat, too thin, half hidden."""

import numpy as np
import pytest
import trimesh

from backend.contract.frames import look_at
from backend.geometry.pose import Camera
from backend.rendering.image_metrics import mask_iou
from backend.rendering.rasterizer import rasterize
from backend.systems.cupid.outline_snap import Outline, snap_to_outline

SIZE = 192
FOCAL = 2.0
DISTANCE = 3.0


def camera() -> Camera:
    intrinsics = np.array([[FOCAL, 0, 0.5], [0, FOCAL, 0.5], [0, 0, 1.0]])
    return Camera(intrinsics, look_at(np.array([0.0, -DISTANCE, 0.0]), np.zeros(3)), 0.0)


def ball(radius: float) -> tuple[np.ndarray, np.ndarray]:
    shape = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return np.array(shape.vertices), np.array(shape.faces)


def seen(vertices: np.ndarray, faces: np.ndarray, eye: np.ndarray | None = None) -> np.ndarray:
    view = camera()
    world_to_camera = view.world_to_camera if eye is None else look_at(eye, np.zeros(3))
    return rasterize(vertices, faces, world_to_camera, view.intrinsics, (SIZE, SIZE)).mask


@pytest.mark.parametrize("radius", [0.44, 0.38])
def test_a_ball_takes_the_outline_of_another(radius):
    wanted = seen(*ball(0.4))
    vertices, faces = ball(radius)
    before = mask_iou(seen(vertices, faces), wanted)
    moved = snap_to_outline(vertices, faces, Outline(camera(), wanted.astype(np.float32)))
    after = mask_iou(seen(moved, faces), wanted)
    assert before < 0.93 and after > 0.97
    depth = np.ptp(moved @ camera().world_to_camera[2, :3])
    assert depth == pytest.approx(2 * radius, abs=1e-6)  # only within the picture's plane


def test_a_hidden_side_stays_as_it_was():
    wanted = seen(*ball(0.4)).astype(np.float32)
    hidden = np.zeros((SIZE, SIZE), bool)
    hidden[:, SIZE // 2 :] = True
    wanted[hidden] = 0
    vertices, faces = ball(0.44)
    moved = snap_to_outline(vertices, faces, Outline(camera(), wanted, hidden))
    right = vertices[:, 0] > 0.1
    assert np.abs(moved[right] - vertices[right]).max() < 1e-3  # neighbours of the visible rim follow a little
    assert np.abs(moved[vertices[:, 0] < -0.4] - vertices[vertices[:, 0] < -0.4]).max() > 0.01


def test_an_outline_somewhere_else_pulls_nothing_far_away():
    elsewhere = np.zeros((SIZE, SIZE), np.float32)
    elsewhere[:20, :20] = 1
    vertices, faces = ball(0.2)
    moved = snap_to_outline(vertices, faces, Outline(camera(), elsewhere))
    assert np.array_equal(moved, vertices)
    assert np.array_equal(snap_to_outline(vertices, faces, Outline(camera(), np.zeros((8, 8)))), vertices)
