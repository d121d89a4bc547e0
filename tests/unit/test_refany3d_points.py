"""Point maps coded and decoded, conditions drawn, and cameras solved from them."""

from __future__ import annotations

import numpy as np
import pytest

from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.rendering.rasterizer import rasterize
from backend.rendering.views import interpolate
from backend.systems.refany3d import condition_views, point_maps
from backend.systems.refany3d.camera_from_points import PictureCamera, solve_picture
from backend.systems.refany3d.point_maps import Bounds
from backend.systems.refany3d.surface_dots import DOTS, surface_of

SIZE = 128
CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
BOX_FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4],
     [1, 5, 7], [1, 7, 3]]
)  # fmt: skip
VIEW = {"focal": 1.5, "distance": 2.5, "elevation": 0.5, "azimuth": 0.7, "aim": (0.1, 0.05, -0.1)}


def box(extent: tuple[float, float, float]) -> np.ndarray:
    """Corners [8,3] of a box that is 20 times as large and stands away from the origin."""
    return 20 * CORNERS * extent + [3.0, -1.0, 7.0]


def painted(vertices: np.ndarray, view: dict) -> tuple[np.ndarray, Bounds, np.ndarray, np.ndarray]:
    """A true point map [S,S,3] of a box, its bounds, and the camera."""
    bounds = point_maps.bounds_of(vertices)
    e, a = view["elevation"], view["azimuth"]
    away = bounds.longest * view["distance"] * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    matrix = look_at(bounds.centre + away, bounds.centre + np.array(view["aim"]) * bounds.longest)
    lens = np.array([[view["focal"], 0, 0.5], [0, view["focal"], 0.5], [0, 0, 1]])
    raster = rasterize(vertices, BOX_FACES, matrix, lens, (SIZE, SIZE))
    codes = interpolate(raster, BOX_FACES, point_maps.encode_points(vertices, bounds))
    return np.where(raster.mask[..., None], codes, 1.0), bounds, matrix, lens


def errors(found: PictureCamera, matrix: np.ndarray, bounds: Bounds) -> tuple[float, float]:
    """Rotation in degrees, and how far the camera stands from where it is in lengths of the object."""
    assert found.world_to_camera is not None
    turn = found.world_to_camera[:3, :3] @ matrix[:3, :3].T
    eyes = [-each[:3, :3].T @ each[:3, 3] for each in (found.world_to_camera, matrix)]
    angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    return float(angle), float(np.linalg.norm(eyes[0] - eyes[1]) / bounds.longest)


def test_exact_points_give_the_exact_camera() -> None:
    values, bounds, matrix, lens = painted(box((1, 0.6, 0.4)), VIEW)
    found = solve_picture(values, bounds)
    angle, away = errors(found, matrix, bounds)
    assert found.trusted, found.reason
    assert angle < 0.01 and away < 1e-3 and found.residual_px < 1e-3 and found.inliers > 0.99
    np.testing.assert_allclose(found.intrinsics, lens, atol=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_wrong_points_and_noise(seed: int) -> None:
    values, bounds, matrix, _ = painted(box((1, 0.6, 0.4)), VIEW)
    random = np.random.default_rng(seed)
    shown = point_maps.foreground(values)
    values = values + 0.02 * random.standard_normal(values.shape)
    wrong = shown & (random.random(shown.shape) < 0.3)
    values[wrong] = random.random((int(wrong.sum()), 3))
    found = solve_picture(values.clip(0, 1), bounds, seed=seed)
    angle, away = errors(found, matrix, bounds)
    assert found.trusted, found.reason
    assert angle < 1.0 and away < 0.15
    assert 0.5 < found.inliers < 0.8 and found.residual_px < 2.0
    known = solve_picture(values.clip(0, 1), bounds, focal=VIEW["focal"], seed=seed)
    assert errors(known, matrix, bounds)[1] < 0.06
    assert known.intrinsics is not None and known.intrinsics[0, 0] == VIEW["focal"]


def coloured_box() -> MeshData:
    """The box with the colour of its place at every corner."""
    colors = np.uint8(np.concatenate([255 * CORNERS, np.full((8, 1), 255)], axis=1))
    return MeshData(box((1, 0.6, 0.4)).astype(np.float32), BOX_FACES.astype(np.int32), colors=colors)


@pytest.mark.parametrize("seed", [0, 1, 4])
def test_a_doubtful_camera_is_moved_until_the_object_looks_as_painted(seed: int) -> None:
    """Places drawn to the middle of the box, as a small model paints them, make the object seem near and large."""
    corners = box((1, 0.6, 0.4))
    values, bounds, matrix, _ = painted(corners, VIEW)
    picture = np.where(values < 1, 0.2 + 0.3 * values, 0.7)
    shown = point_maps.foreground(values)
    wrong = np.random.default_rng(seed).normal(0.0, 0.12, (8, 8, 3)).repeat(SIZE // 8, 0).repeat(SIZE // 8, 1)
    drawn = np.where(shown[..., None], np.clip(0.5 + 0.5 * (values - 0.5) + wrong, 0.0, 0.9), 1.0)
    conditions = condition_views.draw_conditions([coloured_box()], SIZE, condition_views.azimuths(8))
    surface = surface_of(conditions.views, conditions.points, bounds)
    assert len(surface.points) == DOTS
    assert (surface.points >= bounds.low - 0.1).all() and (surface.points <= bounds.high + 0.1).all()

    def overlap(found: PictureCamera) -> float:
        assert found.world_to_camera is not None and found.intrinsics is not None
        mask = rasterize(corners, BOX_FACES, found.world_to_camera, found.intrinsics, (SIZE, SIZE)).mask
        return float((mask & shown).sum() / (mask | shown).sum())

    before, after = solve_picture(drawn, bounds), solve_picture(drawn, bounds, picture=picture, surface=surface)
    assert not before.trusted and not after.trusted, "what the places say is still in doubt"
    assert overlap(after) > max(0.8, overlap(before) + 0.1)
    even = solve_picture(drawn, bounds, picture=np.full_like(picture, 0.5), surface=surface)
    turns = [errors(found, matrix, bounds)[0] for found in (even, after)]
    assert turns[0] < 45.0 and turns[1] < 10.0, "an even picture tells less"
    exact = solve_picture(values, bounds)
    same = solve_picture(values, bounds, picture=picture, surface=surface)
    assert same.to_json() == exact.to_json(), "a sure camera stays"


def test_grey_background_is_no_object() -> None:
    values, bounds, matrix, _ = painted(box((1, 0.6, 0.4)), VIEW)
    outside = ~point_maps.foreground(values)
    random = np.random.default_rng(0)
    values[outside] = 0.92 + 0.02 * random.standard_normal((int(outside.sum()), 3))
    found = solve_picture(values.clip(0, 1), bounds)
    assert found.trusted and errors(found, matrix, bounds)[0] < 0.05


def test_flat_things_are_solved_and_trusted_only_with_their_lens() -> None:
    values, bounds, matrix, _ = painted(box((1, 0.7, 0)), VIEW)
    found = solve_picture(values, bounds)
    assert not found.trusted and "one plane" in found.reason
    assert errors(found, matrix, bounds)[0] < 0.1
    known = solve_picture(values, bounds, focal=VIEW["focal"])
    assert known.trusted, known.reason
    assert errors(known, matrix, bounds)[1] < 1e-3


def test_what_gives_no_camera_says_so() -> None:
    bounds = point_maps.UNIT_CUBE
    empty = solve_picture(np.ones((SIZE, SIZE, 3)), bounds)
    assert empty.world_to_camera is None and not empty.trusted and "no object" in empty.reason
    noise = solve_picture(np.random.default_rng(0).random((SIZE, SIZE, 3)) * 0.8, bounds)
    assert not noise.trusted and noise.reason
    same = np.ones((SIZE, SIZE, 3))
    same[20:60, 20:60] = 0.5
    assert not solve_picture(same, bounds).trusted
    assert solve_picture(same, bounds).to_json()["trusted"] is False


def test_places_come_back_from_colours() -> None:
    bounds = Bounds(np.array([-3.0, 1.0, 10.0]), np.array([5.0, 1.5, 90.0]))
    points = bounds.low + np.random.default_rng(0).random((50, 3)) * (bounds.high - bounds.low)
    np.testing.assert_allclose(point_maps.decode_points(point_maps.encode_points(points, bounds), bounds), points)
    turned = point_maps.encode_points(points, bounds, 90.0)
    np.testing.assert_allclose(point_maps.decode_points(turned, bounds, 90.0), points)
    np.testing.assert_allclose(point_maps.encode_points(bounds.low, bounds), [0, 0, 1])  # world y runs against glTF's z


def test_a_flat_axis_has_the_middle_value() -> None:
    bounds = point_maps.bounds_of(np.array([[0.0, 0, 2], [1, 3, 2]]))
    np.testing.assert_array_equal(point_maps.encode_points(np.array([0.5, 1.0, 2.0]), bounds)[1], 0.5)


def test_views_show_the_front_first_and_any_size_alike() -> None:
    colors = np.tile(np.uint8([[200, 10, 10, 255]]), (8, 1))
    small = MeshData((CORNERS - 0.5).astype(np.float32), BOX_FACES.astype(np.int32), colors=colors)
    large = MeshData((CORNERS * 1000 + 77).astype(np.float32), small.faces, colors=colors)
    drawn = condition_views.draw_conditions([small], 48, condition_views.azimuths(4))
    other = condition_views.draw_conditions([large], 48, condition_views.azimuths(4))
    np.testing.assert_allclose(drawn.points.astype(int), other.points.astype(int), atol=1)
    np.testing.assert_array_equal(drawn.views[0, 24, 24], [200, 10, 10])
    assert (drawn.views[:, 0, 0] == 255).all()
    np.testing.assert_allclose(drawn.points[0, 24, 24], [255, 127, 127], atol=3)  # from +x: the side where x is most
    strips = drawn.strips()
    np.testing.assert_array_equal(condition_views.split_strip(strips[1]), drawn.points)


def test_azimuths_as_published_and_even() -> None:
    assert condition_views.azimuths(8) == (0, 42, 84, 126, 168, 210, 252, 294)
    assert condition_views.azimuths(6) == condition_views.azimuths(6, even=True) == (0, 60, 120, 180, 240, 300)
    assert condition_views.azimuths(8, even=True)[-1] == 315


def test_a_mesh_without_faces_is_refused() -> None:
    nothing = MeshData(np.zeros((3, 3), np.float32), np.zeros((0, 3), np.int32))
    with pytest.raises(ValueError, match="no faces"):
        condition_views.draw_conditions([nothing], 16, (0.0,))
