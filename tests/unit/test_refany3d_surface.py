"""How far a painted picture is from the object: outline, places and colours by coloured dots."""

from __future__ import annotations

import numpy as np
import pytest

from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.systems.refany3d import condition_views, point_maps
from backend.systems.refany3d.surface_dots import (
    DOTS,
    GRID,
    WORST,
    Surface,
    coarse,
    drawn_before,
    miss,
    surface_of,
    target_of,
    unexplained,
)
from tests.unit.test_refany3d_points import BOX_FACES, CORNERS, SIZE, VIEW, box, painted

LENS = np.array([[VIEW["focal"], 0, 0.5], [0, VIEW["focal"], 0.5], [0, 0, 1]])


def scene() -> tuple[Surface, np.ndarray, np.ndarray, point_maps.Bounds, np.ndarray]:
    """The dots of a box that is coloured by place, its picture in dim light, point map, box and camera."""
    corners = box((1, 0.6, 0.4))
    values, bounds, matrix, _ = painted(corners, VIEW | {"elevation": 0.1})  # the views do not see the top
    colors = np.uint8(np.concatenate([255 * CORNERS, np.full((8, 1), 255)], axis=1))
    mesh = MeshData(corners.astype(np.float32), BOX_FACES.astype(np.int32), colors=colors)
    drawn = condition_views.draw_conditions([mesh], SIZE, condition_views.azimuths(8))
    shown = point_maps.foreground(values)
    at = (point_maps.decode_points(values, bounds) - bounds.low) / (bounds.high - bounds.low)
    picture = np.where(shown[..., None], 0.2 + 0.3 * at, 0.7)
    return surface_of(drawn.views, drawn.points, bounds), picture, values, bounds, matrix


def test_dots_lie_on_the_surface_and_have_its_colours() -> None:
    surface, _, _, bounds, _ = scene()
    assert len(surface.points) == len(surface.colors) == DOTS
    at = (surface.points - bounds.low) / (bounds.high - bounds.low)
    on_a_side = (np.abs(at) < 0.03) | (np.abs(at - 1) < 0.03)
    assert on_a_side.any(axis=1).mean() > 0.97
    assert np.abs(surface.colors - at).mean() < 0.05


def test_a_true_picture_is_near_and_everything_wrong_is_farther() -> None:
    surface, picture, values, bounds, matrix = scene()
    true = miss(surface, picture, values, bounds, matrix, LENS)
    assert true < 0.3, "light is no fault"
    aside = matrix.copy()
    aside[0, 3] += 0.2 * bounds.longest
    turned = look_at(bounds.centre + [-40.0, 20.0, 20.0], bounds.centre)
    faded = 0.5 + 0.3 * (values - 0.5)
    wrong = {
        "aside": miss(surface, picture, values, bounds, aside, LENS),
        "turned": miss(surface, picture, values, bounds, turned, LENS),
        "places": miss(surface, picture, np.where(values < 1, faded, 1.0), bounds, matrix, LENS),
        "colours": miss(surface, picture[:, ::-1], values, bounds, matrix, LENS),
    }
    assert all(true + 0.1 < far <= WORST for far in wrong.values()), wrong
    assert wrong["turned"] > wrong["places"]


def test_nothing_in_common_is_the_worst() -> None:
    surface, picture, values, bounds, matrix = scene()
    away = matrix.copy()
    away[0, 3] += 9 * bounds.longest
    behind = matrix.copy()
    behind[2, 3] *= -1
    assert miss(surface, picture, values, bounds, away, LENS) == WORST
    assert miss(surface, picture, values, bounds, behind, LENS) == WORST
    assert miss(surface, picture, np.ones_like(values), bounds, matrix, LENS) == WORST


@pytest.mark.parametrize("size", [64, 100, 128])
def test_the_grid_holds_what_is_covered_by_half(size: int) -> None:
    mask = np.zeros((size, size), bool)
    mask[: size // 2] = True
    assert coarse(mask).shape == (GRID, GRID) and abs(coarse(mask).mean() - 0.5) < 0.02


def test_dots_before_a_picture_tell_outline_and_colours() -> None:
    surface, picture, values, _, matrix = scene()
    target = target_of(picture, point_maps.foreground(values))
    drawn = drawn_before(target, surface.points, LENS, matrix)
    assert drawn.outline < 0.2 and target.cells[drawn.cells].all() and len(drawn.dots) == len(drawn.cells)
    assert unexplained(target, surface.colors, drawn) < 0.3 < 0.6 < unexplained(target, 1 - surface.colors, drawn)
    none = drawn_before(target, surface.points + 1000.0, LENS, matrix)
    assert none.outline == unexplained(target, surface.colors, none) == 1.0 and not len(none.cells)
