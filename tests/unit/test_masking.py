"""The object is found by mask, alpha or a plain cut-out; doubt becomes a question."""

import numpy as np
import pytest

from backend.contract.errors import MaquetteError
from backend.formats.images import Picture, encode_png
from backend.systems.cutout.masking import cut_out, find_object

Y, X = np.mgrid[0:180, 0:240]
DISC = (X - 120) ** 2 + (Y - 90) ** 2 < 50**2


def picture(rgb: np.ndarray, alpha: np.ndarray | None = None) -> Picture:
    channel = np.full(rgb.shape[:2], 255, np.uint8) if alpha is None else alpha
    return Picture(np.dstack([rgb, channel]).astype(np.uint8), (rgb.shape[1], rgb.shape[0]), alpha is not None)


def scene(seed: int = 0) -> np.ndarray:
    """A red disc before a grey gradient with a little noise."""
    background = 150 + 60 * (X / 240) + 20 * (Y / 180)
    rgb = np.repeat(background[..., None], 3, -1)
    rgb[DISC] = (190, 40, 30)
    return (rgb + np.random.default_rng(seed).normal(0, 2, rgb.shape)).clip(0, 255).astype(np.uint8)


def overlap(alpha: np.ndarray, truth: np.ndarray) -> float:
    found = alpha > 127
    return float((found & truth).sum() / (found | truth).sum())


def test_cut_out_finds_the_disc():
    found = find_object(picture(scene()))
    assert found.source == "cut_out" and "cut out" in found.message
    assert overlap(found.alpha, DISC) > 0.95


def test_hole_of_background_colour_is_filled():
    rgb = scene()
    hole = (X - 120) ** 2 + (Y - 90) ** 2 < 15**2
    rgb[hole] = rgb[5, 120]
    assert overlap(cut_out(rgb), DISC) > 0.95


def test_object_standing_on_the_lower_edge_is_accepted():
    rgb = scene()
    rgb[120:, 100:140] = (190, 40, 30)
    truth = DISC.copy()
    truth[120:, 100:140] = True
    assert overlap(cut_out(rgb), truth) > 0.93


@pytest.mark.parametrize("kind", ["noise", "flat", "two"])
def test_doubt_asks_for_a_mask(kind):
    rng = np.random.default_rng(1)
    if kind == "noise":
        rgb = rng.integers(0, 255, (180, 240, 3), dtype=np.uint8)
    elif kind == "flat":
        rgb = np.full((180, 240, 3), 128, np.uint8)
    else:
        rgb = np.full((180, 240, 3), 200, np.uint8)
        rgb[50:120, 20:90] = 30
        rgb[50:120, 140:210] = 30
    with pytest.raises(MaquetteError, match="mask") as caught:
        find_object(picture(rgb))
    assert caught.value.code == "bad_input" and caught.value.failure.next_step == "give_mask"


def test_alpha_and_mask_have_priority():
    alpha = np.where(DISC, 255, 0).astype(np.uint8)
    assert find_object(picture(scene(), alpha)).source == "alpha"
    mask = np.zeros((180, 240), np.uint8)
    mask[80:100, 110:130] = 255
    found = find_object(picture(scene(), alpha), encode_png(mask))
    assert found.source == "mask" and (found.alpha > 127).sum() == 400


def test_faint_alpha_is_no_object():
    with pytest.raises(MaquetteError, match="no solid object"):
        find_object(picture(scene(), np.full((180, 240), 90, np.uint8)))
