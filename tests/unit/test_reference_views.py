"""The published orbit, projection, point values and bytes, from the recorded renders; and that points come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.contract import frames, reference_views

GOLDEN = Path(__file__).parents[1] / "golden" / "refany3d" / "render_pointmap.npz"
CASES = {"tex": (4.0, 0.0), "vcol": (3.5, 20.0), "texrot": (4.0, -10.0)}  # distance, elevation in degrees


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as stored:
        return {name: stored[name] for name in stored.files}


def world(vertices: np.ndarray) -> np.ndarray:
    """glTF vertices [N,3] in Blender's axes."""
    return np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=1).astype(np.float64)


@pytest.mark.parametrize("case", CASES)
def test_projection_and_point_values(golden, case):
    vertices = world(golden[f"{case}_vertices_loaded"])
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    matrix = reference_views.to_centred(low, high)
    centred = vertices @ matrix[:3, :3].T + matrix[:3, 3]
    distance, elevation = CASES[case]
    for azimuth, clip in zip(reference_views.view_azimuths(8), golden[f"{case}_clip_positions"], strict=True):
        camera = reference_views.view_camera(azimuth, np.radians(elevation), distance)
        uv, depth = frames.project(centred, camera, reference_views.view_intrinsics())
        assert uv == pytest.approx(clip[:, :2] / clip[:, 3:] * (0.5, -0.5) + 0.5, abs=2e-6)
        assert depth == pytest.approx(clip[:, 3], abs=1e-5)
    values = reference_views.encode_points(vertices, low, high)
    assert values == pytest.approx(golden[f"{case}_pointmap_vertex_values_before_rotation"], abs=2e-6)


def test_azimuths_turns_and_bytes(golden):
    assert np.degrees(reference_views.view_azimuths(8)) == pytest.approx(golden["azimuth_degrees"])
    assert np.degrees(reference_views.view_azimuths(6)) == pytest.approx(np.arange(6) * 60)
    assert np.degrees(reference_views.view_azimuths(8, evenly_spaced=True)) == pytest.approx(np.arange(8) * 45)
    for degrees in (0, 35, 90, 120, 270):
        turn = reference_views.turn_matrix(np.radians(degrees))
        assert turn == pytest.approx(golden[f"y_rotation_matrix_{degrees}"], abs=2e-6)
    assert (reference_views.to_bytes(golden["encode_values"]) == golden["encode_uint8"]).all()


def test_points_come_back():
    low, high = np.array([1.0, -2.0, 5.0]), np.array([3.0, 2.0, 5.5])
    points = np.random.default_rng(0).uniform(low, high, (50, 3))
    for turn in (0.0, np.pi):  # a half turn leaves the cube where it is: nothing is clamped
        colors = reference_views.encode_points(points, low, high, turn)
        assert reference_views.decode_points(colors, low, high, turn) == pytest.approx(points, abs=1e-12)
    flat = reference_views.encode_points(points, low, np.array([3.0, -2.0, 5.5]))
    assert (flat[:, 2] == 0.5).all()  # world y is glTF's z
    with pytest.raises(ValueError, match="no size"):
        reference_views.to_centred(low, low)
