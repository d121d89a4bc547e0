"""Frames: conversions undo each other and agree with plain projection. Tolerance 1e-9 (float64 arithmetic)."""

import numpy as np
import pytest

from backend.contract import frames

K = np.array([[1.3, 0.0, 0.42], [0.0, 1.9, 0.61], [0.0, 0.0, 1.0]])


def camera() -> np.ndarray:
    return frames.look_at(np.array([2.0, -1.5, 1.0]), np.array([0.1, 0.0, -0.1]))


def test_look_at_puts_the_target_on_the_axis_and_up_upwards() -> None:
    points = np.array([[0.1, 0.0, -0.1], [0.1, 0.0, 0.3]])
    uv, depth = frames.project(points, camera(), K)
    assert uv[0] == pytest.approx([0.42, 0.61])
    assert depth[0] == pytest.approx(np.linalg.norm([1.9, -1.5, 1.1]))
    assert uv[1, 1] < uv[0, 1], "v grows downwards, so a higher point has a smaller v"


def test_look_at_straight_down_is_a_rotation() -> None:
    matrix = frames.look_at(np.array([0.0, 0.0, 2.0]), np.zeros(3))
    assert matrix[:3, :3] @ matrix[:3, :3].T == pytest.approx(np.eye(3))
    assert np.linalg.det(matrix[:3, :3]) == pytest.approx(1)


def test_blender_matrix_round_trip() -> None:
    matrix = frames.blender_camera_matrix(camera())
    assert frames.world_to_camera_from_blender(matrix) == pytest.approx(camera())
    forward = -matrix[:3, 2]
    assert forward == pytest.approx(camera()[2, :3]), "Blender's camera looks along its own -z"


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (512, 512)])
def test_lens_round_trip(width: int, height: int) -> None:
    lens = frames.blender_lens(K, width, height)
    assert frames.intrinsics_from_blender(lens, width, height) == pytest.approx(K)


def test_crop_maps_the_box_to_the_unit_square_and_back() -> None:
    box = (0.2, 0.1, 0.6, 0.9)
    cropped = frames.crop_intrinsics(K, box)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
    whole, part = (frames.project(points, camera(), k)[0] for k in (K, cropped))
    assert part == pytest.approx((whole - [0.2, 0.1]) / [0.4, 0.8])
    assert frames.uncrop_intrinsics(cropped, box) == pytest.approx(K)


def test_gltf_axes() -> None:
    assert frames.Y_UP_TO_Z_UP[:3, :3] @ [0, 1, 0] == pytest.approx([0, 0, 1])
    assert np.linalg.det(frames.Y_UP_TO_Z_UP) == pytest.approx(1)
