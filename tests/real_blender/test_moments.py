"""Results that arrive at a bad moment in a real window: right before an undo, in a render, in Edit Mode, in another
file."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import build
from tests.real_blender import window


@pytest.fixture(scope="module")
def seen(archive: Path) -> dict:
    """What the driver saw in Blender 4.3."""
    folder = build.BUILD / "test" / "moments"
    window.clear(folder)
    Image.new("RGB", (64, 48), (200, 120, 60)).save(folder / "picture.png")
    seen = window.run_script("4.3", folder, archive, "drive_moments.py", {})
    assert "failure" not in seen, seen["failure"]
    assert "Traceback" not in seen["printed"], seen["printed"]
    return seen


def test_undo_right_after_a_result_takes_it_away_for_good(seen: dict):
    undo = seen["undo"]
    assert undo["with"] == undo["redone"] == ["picture", "picture.001"]
    assert undo["undone"] == undo["later"] == seen["first"] == ["picture"]
    assert undo["camera"]


def test_a_result_waits_for_the_end_of_a_render(seen: dict):
    assert seen["render"]["running"] and "render is finished" in seen["render"]["waiting"]
    assert not seen["render"]["early"] and seen["render"]["arrived"] == 1


def test_a_result_waits_until_edit_mode_is_left(seen: dict):
    assert "Edit Mode" in seen["edit"]["waiting"]
    assert (seen["edit"]["early"], seen["edit"]["arrived"]) == (0, 1)


def test_another_file_gets_the_result_only_when_asked(seen: dict):
    assert "another file" in seen["file"]["waiting"]
    assert seen["file"]["made"] == [] and len(seen["file"]["asked"]) == 1
