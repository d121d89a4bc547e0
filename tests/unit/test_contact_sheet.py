"""The contact sheet shows what was answered, in order, and a miss as a miss."""

from __future__ import annotations

import numpy as np
import pytest

from backend.contract.errors import MaquetteError
from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.evaluation import contact_sheet as sheets
from backend.evaluation.views import TestView as View

INTRINSICS = np.array([[1.5, 0, 0.5], [0, 1.5, 0.5], [0, 0, 1.0]])
CAMERA = look_at(np.array([0.0, -2.0, 0.3]), np.zeros(3))
SCORES = {"id": "a_red_box", "error": "", "mask_iou": 0.91, "rotation_error_deg": 12.4, "rotation_error_sym_deg": 3.0}
RED, BLUE = (200, 30, 30), (20, 40, 210)


def box(color: tuple[int, int, int] = RED) -> MeshData:
    """A cube of side 0.6 in one colour."""
    corners = 0.6 * (np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) - 0.5)
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = np.array([[q[a], q[b], q[c]] for q in quads for a, b, c in ((0, 1, 2), (0, 2, 3))], np.int32)
    colors = np.tile(np.array([[*color, 255]], np.uint8), (8, 1))
    return MeshData(corners.astype(np.float32), faces, colors=colors)


def picture(size: tuple[int, int] = (96, 96)) -> np.ndarray:
    """A blue disc on transparency [H,W,4], `size` = (width, height)."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    disc = (x - size[0] / 2) ** 2 + (y - size[1] / 2) ** 2 < (min(size) / 4) ** 2
    return np.dstack([np.broadcast_to(BLUE, (*disc.shape, 3)), 255 * disc]).astype(np.uint8)


def view(index: int = 0) -> View:
    points = np.zeros((1, 3))
    return View(f"object {index}", 0, picture(), INTRINSICS, CAMERA, np.zeros((2, 2, 2), bool), points, points)


def near(image, place: tuple[int, int], color: tuple[int, int, int]) -> bool:
    """Whether a pixel has a colour, but for rounding."""
    return np.abs(np.array(image.getpixel(place)) - color).max() <= 2


def test_the_four_panels_of_a_result():
    middle = sheets.PANEL // 2
    shown, overlay, side, back = sheets.panels(sheets.Result(picture(), (box(), CAMERA, INTRINSICS)))
    assert near(shown, (middle, middle), BLUE) and near(shown, (2, 2), sheets.BACKGROUND)
    for panel in (overlay, side, back):
        assert panel.size == (sheets.PANEL, sheets.PANEL)
        assert near(panel, (middle, middle), RED) and near(panel, (2, 2), sheets.BACKGROUND)


def test_a_miss_leaves_the_ghost_of_the_input():
    aside = look_at(np.array([0.0, -2.0, 0.3]), np.array([3.0, 0.0, 0.3]))  # the object is out of its sight
    overlay = sheets.panels(sheets.Result(picture(), (box(), aside, INTRINSICS)))[1]
    color = np.array(overlay.getpixel((sheets.PANEL // 2, sheets.PANEL // 2)))
    assert color.max() - color.min() == 0 and color.max() < sheets.BACKGROUND[0] - 10


def test_without_camera_or_result_the_rest_is_shown():
    blind = sheets.panels(sheets.Result(picture(), (box(), None, None)))
    middle = sheets.PANEL // 2
    assert not near(blind[1], (middle, middle), RED) and near(blind[2], (middle, middle), RED)
    refused = sheets.panels(sheets.Result(picture(), None))
    assert near(refused[0], (middle, middle), BLUE)
    assert all(panel.getcolors() == [(sheets.PANEL**2, sheets.BACKGROUND)] for panel in refused[1:])


def test_results_stand_in_order_row_by_row():
    results = [sheets.Result(picture((64, 96)), (box(color), CAMERA, INTRINSICS)) for color in [RED] * 4 + [BLUE]]
    sheet = sheets.contact_sheet(results, [SCORES] * 5, "five")
    few = sheets.contact_sheet(results[:3], [SCORES] * 3, "three")
    assert sheet.width == few.width
    pitch = sheet.height - few.height
    assert pitch > sheets.PANEL
    cell = 4 * sheets.PANEL + 3 * sheets.GAP + sheets.MARGIN
    back = sheets.MARGIN + 3 * (sheets.PANEL + sheets.GAP) + sheets.PANEL // 2
    row = few.height - sheets.MARGIN // 2 - pitch + sheets.PANEL // 2
    assert near(sheet, (back, row), RED) and near(sheet, (back, row + pitch), RED)
    assert near(sheet, (back + cell, row + pitch), BLUE)
    assert near(sheet, (back + 2 * cell, row + pitch), sheets.BACKGROUND)


def test_captions_say_how_well_it_fits():
    assert sheets.caption(SCORES) == "a red box \u00b7 IoU 0.91 \u00b7 12\u00b0 (3\u00b0 up to symmetry)"
    assert sheets.caption({**SCORES, "error": "No object took shape."}) == "a red box \u00b7 no result"
    assert len(sheets.caption({**SCORES, "id": "x" * 90})) < 90


def test_the_recorder_keeps_the_first_answers_and_changes_nothing():
    recorder = sheets.Recorder(2)
    answer = (box(), CAMERA, INTRINSICS)

    def system(asked: View):
        if asked.object_id == "object 1":
            raise MaquetteError("bad_input", "No object took shape.")
        return answer

    listening = recorder.watch(system)
    assert listening(view(0)) is answer
    with pytest.raises(MaquetteError, match="took shape"):
        listening(view(1))
    assert listening(view(2)) is answer
    assert [result.answer for result in recorder.results] == [answer, None]


def test_no_result_is_explained():
    with pytest.raises(MaquetteError, match="at least one"):
        sheets.contact_sheet([], [], "nothing")
