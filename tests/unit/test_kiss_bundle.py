"""The bundle: picture to views and back, masks read from normals, normals and points in both frames."""

from __future__ import annotations

import numpy as np
import pytest

from backend.contract import bundle_views, frames
from backend.systems.kiss3dgen import bundle as bundles


def ball_normals(size: int = 64, radius: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Local normals [4,S,S,3] encoded on white and coverage [4,S,S] of a ball that fills `radius` of each tile."""
    fine = 4 * size
    axis = 1.0 - 2.0 * (np.arange(fine) + 0.5) / fine
    left, up = np.meshgrid(axis, axis)
    inside = left**2 + up**2 < radius**2
    towards = np.sqrt(np.maximum(radius**2 - left**2 - up**2, 0.0))
    local = np.stack([left, up, towards], axis=-1) / radius
    image = bundles.encode_normals(local, inside)
    image = image.reshape(size, 4, size, 4, 3).mean(axis=(1, 3))
    share = inside.astype(float).reshape(size, 4, size, 4).mean(axis=(1, 3))
    return np.tile(image, (4, 1, 1, 1)).astype(np.float32), np.tile(share, (4, 1, 1)).astype(np.float32)


def test_a_picture_is_split_and_joined_without_loss() -> None:
    normals, _ = ball_normals(32)
    rgb = np.random.default_rng(0).random(normals.shape).astype(np.float32)
    bundle = bundles.Bundle(rgb, normals, np.ones(normals.shape[:3], np.float32))
    picture = bundles.join(bundle)
    assert picture.shape == (64, 128, 3)
    assert np.array_equal(picture[:32, 32:64], rgb[1]) and np.array_equal(picture[32:, 96:], normals[3])
    again = bundles.split(picture)
    assert np.array_equal(again.rgb, rgb) and np.array_equal(again.normals, normals) and again.size == 32


def test_a_picture_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="2 x 4 tiles"):
        bundles.split(np.ones((64, 64, 3)))


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_mask_comes_from_the_normals_even_with_noise(noise: float) -> None:
    normals, share = ball_normals(64)
    normals = normals + noise * np.random.default_rng(0).normal(size=normals.shape)
    mask = bundles.find_mask(normals.clip(0, 1))
    assert np.abs(mask - share).mean() < 0.01
    wanted, found = share >= 0.5, mask >= 0.5
    assert (wanted & found).sum() / (wanted | found).sum() > 0.97


def test_specks_and_pinholes_are_no_part_of_a_mask() -> None:
    normals, share = ball_normals(64)
    normals[:, 3, 3] = 0.5
    normals[:, 32, 32] = 1.0
    mask = bundles.find_mask(normals)
    assert mask[:, 3, 3].max() == 0.0 and mask[:, 32, 32].min() == 1.0
    assert bundles.find_mask(np.ones((4, 16, 16, 3))).max() == 0.0


def test_local_and_world_normals_are_exact_inverses_and_agree_with_the_contract() -> None:
    normals = np.random.default_rng(1).normal(size=(4, 50, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    local = bundles.world_to_local(normals)
    assert np.allclose(bundles.local_to_world(local), normals, atol=1e-6)
    ours = bundles.directions_from_bundle_frame(normals)
    for view, camera in enumerate(bundle_views.bundle_cameras()):
        assert np.allclose(
            bundles.encode_normals(local[view]), bundle_views.encode_normals(ours[view], camera), atol=1e-6
        )


def test_the_published_way_back_tilts_normals_of_all_views_but_the_rear() -> None:
    towards = bundles.local_to_world(np.tile(np.float32([0, 0, 1]), (4, 1)))
    tilted = bundles.world_to_local(towards, published=True)
    angle = np.degrees(np.arccos(tilted[:, 2].clip(-1, 1)))
    assert np.allclose(angle, [10.0, 5.0, 0.0, 5.0], atol=0.05)


def test_the_frames_turn_into_each_other_and_the_cameras_look_where_the_spec_says() -> None:
    points = np.random.default_rng(2).normal(size=(20, 3))
    assert np.allclose(bundles.from_bundle_frame(bundles.to_bundle_frame(points)), points)
    assert np.allclose(
        bundles.to_bundle_frame(np.array([[0, -0.5, 0], [0.5, 0, 0], [0, 0, 0.5]])), 0.9 * np.eye(3)[[2, 0, 1]]
    )
    cameras, _ = bundles.view_cameras()
    for camera, azimuth in zip(cameras, bundles.AZIMUTHS, strict=True):
        eye = bundles.to_bundle_frame(np.linalg.inv(camera)[:3, 3])
        assert np.allclose(eye, bundles.RADIUS * bundles.view_axes(azimuth)[2])
    left = bundles.from_bundle_frame(bundles.view_axes(90.0)[0])
    place, _ = frames.project(left[None] * 0.3, cameras[1], bundle_views.bundle_intrinsics())
    assert place[0, 0] < 0.5 and place[0, 1] == pytest.approx(0.5)


def test_checks_pass_for_a_sound_picture_and_tell_what_is_wrong_with_others() -> None:
    normals, share = ball_normals(48)
    sound = bundles.join(bundles.Bundle(bundles.on_white(np.full_like(normals, 0.4), share), normals, share))
    found = bundles.checks(sound)
    assert 0.95 < found["normal_length"] < 1.05 and found["background"] > 0.99 and found["mirrored"] > 0.95
    shifted = sound.copy()
    shifted[48:, 96:144] = np.roll(sound[48:, 96:144], 10, axis=1)
    assert bundles.checks(shifted)["mirrored"] < 0.75
    flat = np.where(sound < 0.99, 0.5 + 0.5 * (sound - 0.5), sound)
    assert bundles.checks(flat)["normal_length"] < 0.9
    assert bundles.checks(np.ones((32, 64, 3))) == {"normal_length": 0.0, "background": 0.0, "mirrored": 0.0}
