"""The sheet of sentences shows every sentence in its order, and a bundle without an object as one without a mesh."""

from __future__ import annotations

import numpy as np
import pytest

from backend.contract.errors import MaquetteError
from backend.evaluation import contact_sheet
from backend.evaluation.text_sheet import SENTENCES, Made, text_sheet
from tests.unit.test_contact_sheet import box


def made(color: float, with_mesh: bool = True) -> Made:
    return Made("a box", np.full((128, 256, 3), color, np.float32), box() if with_mesh else None)


def test_the_list_fills_the_sheet_and_repeats_nothing():
    assert len(SENTENCES) == len(set(SENTENCES)) == 24


def test_bundles_and_meshes_stand_beside_each_other_in_order():
    sheet = text_sheet([made(0.0), made(1.0, with_mesh=False)], "two")
    side, margin, gap = contact_sheet.PANEL, contact_sheet.MARGIN, contact_sheet.GAP
    top = margin + 2 * contact_sheet.CAPTION + margin // 2
    second = margin + 4 * (side + gap) - gap + margin
    assert sheet.getpixel((margin + side, top + side // 2)) == (0, 0, 0)
    assert sheet.getpixel((second + side, top + side // 2)) == (255, 255, 255)
    middle = 2 * (side + gap) + side // 2
    assert sheet.getpixel((margin + middle, top + side // 2)) != contact_sheet.BACKGROUND
    assert sheet.getpixel((second + middle, top + side // 2)) == contact_sheet.BACKGROUND


def test_an_empty_sheet_is_refused():
    with pytest.raises(MaquetteError, match="at least one sentence"):
        text_sheet([], "none")
