"""A training scene cut to its object, and the pictures on white that are placed alike."""

from __future__ import annotations

import numpy as np
import pytest

from backend.contract.frames import project
from backend.data.reference_layout import camera_at
from backend.systems.refany3d.train_framing import LEAST_SIDE, SHARE, framed

SIZE = 100


def scene(left: int, top: int, wide: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose red and green tell column and row, and a point map with an object of four places."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    picture = np.stack([columns * 2, rows * 2, np.full_like(rows, 50)], axis=2).astype(np.uint8)
    points = np.full((SIZE, SIZE, 3), 255, np.uint8)
    points[top : top + high, left : left + wide] = (10, 20, 30)
    points[top : top + high // 2, left : left + wide] = (200, 20, 30)
    return picture, points


def box_of(points: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((points < 255).any(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_a_small_object_aside_becomes_large_and_central() -> None:
    picture, points = framed(*scene(25, 30, 45, 30))
    left, top, right, bottom = box_of(points)
    assert picture.shape == points.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8
    assert right - left == pytest.approx(SHARE * SIZE, abs=2)
    assert (left + right) / 2 == pytest.approx(SIZE / 2, abs=2) and (top + bottom) / 2 == pytest.approx(SIZE / 2, abs=2)
    middle = picture[SIZE // 2, SIZE // 2]
    assert middle[0] / 2 == pytest.approx(47, abs=2) and middle[1] / 2 == pytest.approx(45, abs=2), "cut alike"


def test_places_are_never_blended() -> None:
    _, points = framed(*scene(60, 10, 33, 41))
    assert {tuple(value) for value in points.reshape(-1, 3)} == {(255, 255, 255), (10, 20, 30), (200, 20, 30)}


def test_a_cut_stays_in_the_picture_and_is_not_too_small() -> None:
    picture, points = framed(*scene(0, 90, 8, 8))
    left, top, right, bottom = box_of(points)
    assert right - left == pytest.approx(8 / LEAST_SIDE, abs=2) and left == 0 and bottom == pytest.approx(98, abs=3)
    assert picture[0, -1, 0] / 2 == pytest.approx(LEAST_SIDE * SIZE, abs=2) and top > SIZE / 2


def test_a_picture_without_an_object_and_a_large_one_stay_whole() -> None:
    picture, points = scene(0, 0, 0, 0)
    assert framed(picture, points)[0] is picture
    picture, points = scene(5, 5, 90, 90)
    assert np.array_equal(framed(picture, points)[0], picture)


def test_a_camera_places_the_object_near_the_middle_if_told_so() -> None:
    corners = np.array([[x, y, z] for x in (-0.2, 0.2) for y in (-0.5, 0.5) for z in (0.0, 0.3)])
    off = {0.0: [], 0.3: [], 1.0: []}
    for spread, found in off.items():
        for seed in range(30):
            camera, _ = camera_at(corners, 0.2 * seed, 0.4, np.random.default_rng(seed), (0.5, 0.6), spread)
            uv, _ = project(corners, camera.world_to_camera, camera.intrinsics)
            low, high = uv.min(axis=0), uv.max(axis=0)
            assert (low > 0.0).all() and (high < 1.0).all() and 0.4 < (high - low).max() < 0.75
            found.append(np.abs((low + high) / 2 - 0.5).max())
    assert max(off[0.0]) < 0.04 < np.mean(off[1.0])
    assert np.mean(off[0.3]) == pytest.approx(0.3 * np.mean(off[1.0]), rel=0.4)
