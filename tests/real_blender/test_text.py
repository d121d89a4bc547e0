"""A sentence and a list of them in a real window: what is made, watched from four sides, one undo step each.

Screenshots stay in build/test/text/ for people to look at.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import build
from tests.real_blender import window


@pytest.fixture(scope="module")
def seen(archive: Path) -> dict:
    """What the driver saw in Blender 4.3, and the `folder` with its screenshots."""
    folder = build.BUILD / "test" / "text"
    return {**window.drive("4.3", folder, archive, "text"), "folder": folder}


def test_every_step_went_through(seen: dict):
    assert "failure" not in seen, seen["failure"]
    assert seen["finished"] and "Traceback" not in seen["printed"], seen["printed"]
    assert seen["job"]["state"] == "done", seen["job"]


def test_the_sentence_became_an_object_and_its_four_sides_were_shown(seen: dict):
    assert seen["made"] == ["an old wooden barrel"] and seen["watched"] == 2
    for name in ("text_running.png", "text.png"):
        assert (seen["folder"] / name).stat().st_size > 50_000  # an empty window packs into less


def test_the_list_became_a_row_with_an_undo_step_each(seen: dict):
    assert seen["row"] == [["a red chair", 0.0], ["a blue table", 1.4], ["a green lamp", 2.8]]
    assert seen["undone"] == [2, 1, 0]
