"""Masks proposed in a real window: three objects of a photo in the list, with their names, and out of it again.

The screenshot stays in build/test/masks/ for people to look at.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import build
from tests.real_blender import window

NAMES = ["Lamp", "Bench", "Torch"]


@pytest.fixture(scope="module")
def seen(archive: Path) -> dict:
    """What the driver saw in Blender 4.3, and the `folder` with its screenshot."""
    folder = build.BUILD / "test" / "masks"
    return {**window.drive("4.3", folder, archive, "masks"), "folder": folder}


def test_every_step_went_through(seen: dict):
    assert "failure" not in seen, seen["failure"]
    assert seen["finished"] and "Traceback" not in seen["printed"], seen["printed"]
    assert seen["job"]["state"] == "done", seen["job"]


def test_the_photos_objects_are_in_the_list(seen: dict):
    assert seen["names"] == ["Object 1", "Object 2", "Object 3"] and len(seen["job"]["masks"]) == 3
    lamp, bench, torch = (item["box"] for item in seen["job"]["masks"])
    assert lamp[2] < 0.45 and bench[2] - bench[0] > 0.3 and torch[0] > 0.65  # where the photo shows them
    assert (seen["folder"] / "masks.png").stat().st_size > 50_000  # an empty window packs into less


def test_a_mask_can_be_removed_and_comes_back_by_undo(seen: dict):
    assert seen["kept"] == NAMES[1:] and seen["undone"] == NAMES
