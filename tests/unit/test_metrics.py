"""Measures against answers known in closed form."""

import numpy as np
import pytest

from backend.evaluation import metrics


def test_rotation_error_and_symmetry():
    truth = metrics.up_rotation(0.3)
    turned = truth @ metrics.up_rotation(np.pi / 2)
    assert metrics.rotation_error(truth, truth) == pytest.approx(0, abs=1e-4)
    assert metrics.rotation_error(turned, truth) == pytest.approx(90)
    square = np.zeros((16, 16, 16), bool)
    square[4:12, 4:12, 3:9] = True
    angles = metrics.symmetry_angles(square)
    assert {0, 90, 180, 270} <= set(np.rint(np.degrees(angles)).astype(int))
    assert metrics.symmetric_rotation_error(turned, truth, angles) == pytest.approx(0, abs=1e-4)


def test_an_uneven_object_has_no_symmetry_and_a_disc_has_all():
    uneven = np.zeros((24, 24, 24), bool)
    uneven[2:22, 10:13, 2:6] = True
    uneven[2:5, 10:13, 6:20] = True
    assert metrics.symmetry_angles(uneven).tolist() == [0.0]
    x, y = np.mgrid[:32, :32] - 15.5
    disc = np.repeat((np.hypot(x, y) < 12)[:, :, None], 8, 2)
    assert len(metrics.symmetry_angles(disc)) == metrics.SYMMETRY_STEPS


def test_masks_and_pictures():
    first, second = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    assert metrics.mask_iou(first, second) == 1.0
    first[:, :4], second[:, 2:6] = True, True
    assert metrics.mask_iou(first, second) == pytest.approx(1 / 3)
    image = np.random.default_rng(0).random((32, 32, 3))
    assert metrics.psnr(image, image) == 60 and metrics.ssim(image, image) == pytest.approx(1)
    assert metrics.psnr(np.zeros((4, 4, 3)), np.full((4, 4, 3), 0.1)) == pytest.approx(20)
    assert metrics.ssim(image, 1 - image) < 0.1


def test_scale_and_shift_are_forgiven_but_shape_is_not():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(1500, 3))
    target /= 2 * np.linalg.norm(target, axis=1, keepdims=True)  # a sphere of diameter one
    score = metrics.shape_score(target * 1.3 + 0.2, target)
    assert score.chamfer < 1e-3 and score.fscore_01 > 0.99
    flat = metrics.shape_score(target * [1, 1, 0.1], target)
    assert flat.chamfer > 0.05 and flat.fscore_01 < 0.5
    assert metrics.shape_score(np.zeros((0, 3)), target).fscore_05 == 0


def test_surface_points_follow_the_area():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 5], [0.1, 0, 5], [0, 0.1, 5]])
    points = metrics.surface_points(vertices, np.array([[0, 1, 2], [3, 4, 5]]), 2000)
    assert (points[:, 2] > 1).mean() < 0.03 and (points[:, :2].sum(1) <= 1 + 1e-9).all()
    assert len(metrics.surface_points(vertices, np.zeros((0, 3), int), 5)) == 0


def test_voxel_iou_of_the_same_and_of_a_moved_surface():
    cube = np.zeros((32, 32, 32), bool)
    cube[8:24, 8:24, 8] = True  # a plate one voxel thick
    points = (np.argwhere(cube) + 0.5) / 32 - 0.5
    assert metrics.voxel_iou(points, cube) == 1.0
    moved = metrics.voxel_iou(points + [0, 0, 1 / 32], cube)
    assert moved == pytest.approx(0.45, abs=0.02)  # two of four layers, less at the rim
    assert metrics.voxel_iou(points + [0, 0, 0.4], cube) == 0.0
    assert metrics.voxel_iou(points + 9.0, cube) == 0.0
