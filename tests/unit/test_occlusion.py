"""Occluders: what the encoder is shown, what the attention is told, and what an evaluation hides."""

import numpy as np
import pytest
import torch

from backend.evaluation.occluders import occluder
from backend.systems.cupid import occlusion
from backend.systems.cutout.crop import crop_like, crop_to_content


def disc(size: int = 64, radius: float = 0.35) -> np.ndarray:
    """An opaque grey disc on nothing, [size,size,4] uint8."""
    axis = (np.arange(size) + 0.5) / size - 0.5
    inside = np.hypot(*np.meshgrid(axis, axis)) < radius
    return np.dstack([np.full((size, size, 3), 128, np.uint8), np.where(inside, 255, 0).astype(np.uint8)])


def test_under_an_occluder_nothing_is_left_but_the_news_of_it():
    image = torch.rand(2, 4, 8, 8)
    cover = torch.zeros(2, 1, 8, 8)
    cover[0, :, :4] = 1
    shown = occlusion.hide(image, cover)
    assert shown.shape == (2, 5, 8, 8)
    assert shown[0, :4, :4].abs().max() == 0 and shown[0, 4, :4].min() == 1
    assert torch.equal(shown[1, :4], image[1]) and shown[1, 4].max() == 0


def test_token_weights_are_the_visible_share_of_each_patch():
    cover = torch.zeros(1, 1, 8, 8)
    cover[..., :4, :4] = 1  # hides the first of 2x2 patches
    cover[..., 4:6, :4] = 1  # and half of the third
    weights = occlusion.token_weights(cover, 2, 5)
    assert weights.tolist() == [[1, 1, 1, 1, 1, 0, 1, 0.5, 1]]


def test_random_occluders_leave_enough_of_the_object_and_come_as_often_as_asked():
    alpha = torch.zeros(400, 1, 32, 32)
    alpha[..., 8:24, 8:24] = 1
    cover = occlusion.random_occluders(alpha, torch.Generator().manual_seed(0), 0.5)
    assert set(cover.unique().tolist()) == {0.0, 1.0}
    hidden = (cover * alpha).sum((1, 2, 3)) / alpha.sum((1, 2, 3))
    assert hidden.max() <= 1 - occlusion.SHOWN_AT_LEAST + 1e-6
    assert 0.25 < (cover.amax((1, 2, 3)) > 0).float().mean() < 0.55
    assert occlusion.random_occluders(alpha, torch.Generator().manual_seed(0), 0.0).max() == 0


@pytest.mark.parametrize("seed", range(6))
def test_an_evaluation_hides_the_share_it_says(seed):
    picture = disc()
    hidden = occluder(picture, 0.3, seed)
    assert hidden[picture[..., 3] > 0].mean() == pytest.approx(0.3, abs=0.05)
    assert np.array_equal(hidden, occluder(picture, 0.3, seed))


def test_an_occluder_needs_an_object_and_a_share():
    with pytest.raises(ValueError, match="no object"):
        occluder(np.zeros((8, 8, 4), np.uint8), 0.3, 0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        occluder(disc(), 1.0, 0)


def test_the_crop_leaves_room_for_what_may_be_hidden():
    picture = disc()
    hidden = np.zeros((64, 64), bool)
    hidden[:, 32:60] = True
    half = picture.copy()
    half[..., 3][hidden] = 0
    without, with_room = crop_to_content(half), crop_to_content(half, also=hidden)
    assert with_room.box[2] >= 60 > without.box[2]
    assert crop_like(hidden, with_room).shape == with_room.image.shape[:2]
