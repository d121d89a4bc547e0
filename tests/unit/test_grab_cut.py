"""The cut before a busy background: right where the picture allows it, silent where it does not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from backend.formats.images import Picture
from backend.systems.cutout.grab_cut import grab_cut, stable_object
from backend.systems.cutout.masking import cut_out_busy, find_object

Y, X = np.mgrid[0:96, 0:128]
DISC = (X - 64) ** 2 + (Y - 48) ** 2 < 26**2
BORDER = np.ones(DISC.shape, bool)
BORDER[4:-4, 4:-4] = False
MIDDLE = np.zeros(DISC.shape, bool)
MIDDLE[8:-8, 8:-8] = True


def scene(seed: int = 0, mixed: bool = False) -> np.ndarray:
    """A patterned red disc [H,W,3] before green and blue patches; `mixed`: in the patches' own colours."""
    rng = np.random.default_rng(seed)
    patches = ndimage.zoom(rng.random((8, 8)), (12, 16), order=0)
    noise = rng.normal(0, 0.02, (*DISC.shape, 3))
    rgb = np.stack([0.15 + 0 * patches, 0.2 + 0.6 * patches, 0.8 - 0.6 * patches], -1)
    if not mixed:
        rgb[DISC] = np.where(((X + Y) // 6 % 2)[..., None], (0.85, 0.2, 0.15), (0.6, 0.3, 0.1))[DISC]
    return (rgb + noise).clip(0, 1)


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("seed", range(3))
def test_finds_an_object_of_several_colours_before_several_colours(seed: int) -> None:
    rgb = scene(seed)
    assert overlap(grab_cut(rgb, BORDER, MIDDLE), DISC) > 0.9  # a patch that the border does not show may be taken too
    found = stable_object(rgb, BORDER)
    assert found is not None and overlap(found, DISC) > 0.9


def test_the_same_picture_gives_the_same_cut() -> None:
    rgb = scene()
    assert np.array_equal(grab_cut(rgb, BORDER, MIDDLE), grab_cut(rgb, BORDER, MIDDLE))


def test_is_silent_in_doubt() -> None:
    noise = np.random.default_rng(1).random((*DISC.shape, 3))
    assert stable_object(noise, BORDER) is None
    assert stable_object(scene(mixed=True), BORDER) is None, "nothing stands out"
    thin = scene(mixed=True)
    cross = (np.abs(X - 64) < 4) & (np.abs(Y - 48) < 36) | (np.abs(Y - 48) < 4) & (np.abs(X - 64) < 50)
    thin[cross] = (0.9, 0.1, 0.1)
    assert stable_object(thin, BORDER) is None, "sparse things lose parts"
    two = scene(mixed=True)
    two[20:70, 15:45] = two[20:70, 80:110] = (0.9, 0.1, 0.1)
    assert stable_object(two, BORDER) is None, "which of the two?"


def test_a_photo_with_a_busy_background_needs_no_mask() -> None:
    large = np.rint(ndimage.zoom(scene(1), (5, 5, 1), order=1) * 255).astype(np.uint8)
    picture = Picture(np.dstack([large, np.full(large.shape[:2], 255, np.uint8)]), (640, 480), False)
    found = find_object(picture)
    assert found.source == "cut_out" and "busy background" in found.message
    assert found.alpha.shape == (480, 640)
    assert overlap(found.alpha > 127, ndimage.zoom(DISC.astype(float), 5, order=1) > 0.5) > 0.9
    crumb = large.copy()
    crumb[40:60, 60:80] = (220, 50, 40)
    alpha = cut_out_busy(crumb)
    assert alpha is not None and alpha[50, 70] == 0, "crumbs beside the object are left out"
