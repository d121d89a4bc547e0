"""Cropping, training data, losses and similarity beyond their goldens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from backend.contract import frames
from backend.geometry import pose
from backend.geometry.similarity import align_camera, fit_similarity
from backend.systems.cupid import data_prep, losses, preprocess
from backend.systems.cutout.crop import crop_to_content


def picture(width: int, height: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """RGBA picture with an opaque rectangle ``box`` = (left, top, right, bottom)."""
    rgba = np.zeros((height, width, 4), np.uint8)
    left, top, right, bottom = box
    rgba[top:bottom, left:right] = (200, 100, 50, 255)
    return rgba


def test_crop_reaches_outside_the_picture_and_is_transparent_there() -> None:
    crop = crop_to_content(picture(100, 60, (0, 10, 50, 50)))
    assert crop.image.shape[0] == crop.image.shape[1] == 58
    assert crop.left < 0
    assert not crop.image[:, 0].any()
    assert crop.scale == pytest.approx(58 / 100)


def test_one_pixel_is_a_crop_and_an_empty_picture_is_refused() -> None:
    assert crop_to_content(picture(30, 30, (4, 5, 5, 6))).image.shape == (2, 2, 4)
    with pytest.raises(ValueError, match="mask"):
        crop_to_content(np.zeros((8, 8, 4), np.uint8))


def test_premultiplied_tensor_is_black_where_transparent() -> None:
    image = preprocess.premultiplied_tensor(picture(32, 32, (8, 8, 24, 24)), 16)
    assert image.shape == (3, 16, 16) and image.dtype == np.float32
    assert image[:, 0, 0].max() == 0
    np.testing.assert_allclose(image[:, 8, 8], np.array([200, 100, 50]) / 255, atol=1e-6)


def test_solved_crop_camera_de_crops_to_the_whole_picture() -> None:
    """UV cube, crop, linear solver and de-cropping agree on a square picture."""
    world_to_camera = frames.look_at(np.array([1.5, -1.8, 0.9]), np.zeros(3))
    intrinsics = np.array([[1.4, 0, 0.5], [0, 1.4, 0.5], [0, 0, 1]])
    raw, support = data_prep.uv_cube(world_to_camera, intrinsics, 8)
    box = (20, 30, 90, 100)
    cropped_uv, cropped = data_prep.crop_camera(raw, intrinsics, box, 128, 128)
    seen = ((cropped_uv > 0.01) & (cropped_uv < 0.99)).all(axis=0) & (support[0] > 0)
    points = data_prep.grid_centres(8)[seen]
    camera = pose.solve_dlt(points, cropped_uv[:, seen].T)
    np.testing.assert_allclose(camera.intrinsics, cropped, atol=1e-4)
    whole = pose.de_crop(camera.intrinsics, (70 / 128, 20 / 128, 30 / 128))
    np.testing.assert_allclose(whole, intrinsics, atol=1e-4)
    np.testing.assert_allclose(camera.world_to_camera, world_to_camera, atol=1e-3)


def test_augmented_box_stays_inside_unless_padding_is_allowed() -> None:
    alpha = picture(64, 64, (2, 2, 40, 40))[..., 3]
    left, top, right, bottom = data_prep.augmented_box(alpha, 1.4, allow_padding=False)
    assert left >= 0 and top >= 0 and right <= 64 and bottom <= 64
    assert data_prep.augmented_box(alpha, 1.4, allow_padding=True)[0] < 0
    with pytest.raises(ValueError, match="no object"):
        data_prep.augmented_box(np.zeros((8, 8)), 1.2, True)


def test_ratios_lie_in_their_range_and_buckets_are_stable() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        ratio = data_prep.draw_ratio(generator)
        bucket = data_prep.bucket_ratio(ratio)
        assert 1.0 <= ratio <= 1.4 and abs(bucket - ratio) <= 0.4 / 18 + 1e-9
        assert data_prep.bucket_ratio(bucket) == pytest.approx(bucket)


def test_dilation_keeps_to_the_grid_and_the_original_voxels() -> None:
    coords = torch.tensor([[0, 0, 0], [3, 3, 3]])
    grown, weights = losses.dilate_voxels(coords, 4, sigma=0.5, min_weight=0.05)
    assert len(grown) == 8 and int(grown.min()) == 0 and int(grown.max()) == 3
    assert (weights == 1).sum() == 2


def test_flow_training_pair_is_what_the_sampler_expects() -> None:
    generator = torch.Generator().manual_seed(1)
    x_0, noise = (torch.randn(3, 2, 4, generator=generator) for _ in range(2))
    t = losses.flow_times(3, generator)
    assert ((t > 0) & (t < 1)).all()
    noisy, target = losses.flow_training_pair(x_0, t, noise)
    # Stepping the velocity from t to 0 lands on x_0, up to s = 1e-5 of the noise.
    torch.testing.assert_close(noisy - t.view(-1, 1, 1) * target, x_0, atol=1e-4, rtol=0)
    assert losses.flow_loss(target, target) == 0


@pytest.mark.parametrize("seed", range(4))
def test_similarity_is_found_and_never_mirrors(seed: int) -> None:
    random = np.random.default_rng(seed)
    source = random.normal(size=(40, 3))
    rotation = pose.rotation_from_vector(random.normal(size=3))
    target = 0.7 * source @ rotation.T + [1.0, -2.0, 3.0]
    fitted = fit_similarity(source, target, random.uniform(0.1, 1.0, 40))
    assert fitted.scale == pytest.approx(0.7)
    np.testing.assert_allclose(fitted.apply(source), target, atol=1e-10)
    mirrored = fit_similarity(source, source * [1, 1, -1])
    assert np.linalg.det(mirrored.rotation) == pytest.approx(1.0)


def test_aligned_pose_moves_scaled_vertices_to_the_target() -> None:
    random = np.random.default_rng(0)
    vertices = random.normal(size=(30, 3))
    first = frames.look_at(np.array([2.0, 0.5, 1.0]), np.zeros(3))
    seen = vertices @ first[:3, :3].T + first[:3, 3]
    target = 1.8 * seen @ pose.rotation_from_vector(np.array([0.1, 0.2, 0.3])).T + [0.0, 0.1, 4.0]
    fitted = fit_similarity(seen, target)
    aligned = align_camera(fitted, first)
    moved = (fitted.scale * vertices) @ aligned[:3, :3].T + aligned[:3, 3]
    np.testing.assert_allclose(moved, target, atol=1e-10)


def test_similarity_refuses_too_little() -> None:
    with pytest.raises(ValueError, match="three pairs"):
        fit_similarity(np.zeros((2, 3)), np.zeros((2, 3)))
    line = np.linspace(0, 1, 9)[:, None] * np.ones(3)
    with pytest.raises(ValueError, match="one line"):
        fit_similarity(line, line)
