"""Three photos of one object in a real window: one object, a camera for each photo, one undo step.

The screenshot stays in build/test/three_photos/ for people to look at.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import build
from tests.real_blender import window

NAMES = ["space_truck Camera", "space_truck_back Camera", "space_truck_side Camera"]


@pytest.fixture(scope="module")
def seen(archive: Path) -> dict:
    """What the driver saw in Blender 4.3, and the `folder` with its screenshot."""
    folder = build.BUILD / "test" / "three_photos"
    return {**window.drive("4.3", folder, archive, "three_photos"), "folder": folder}


def test_every_step_went_through(seen: dict):
    assert "failure" not in seen, seen["failure"]
    assert seen["finished"] and "Traceback" not in seen["printed"], seen["printed"]
    assert seen["job"]["state"] == "done", seen["job"]


def test_every_photo_has_its_camera_and_stands_behind_it(seen: dict):
    assert seen["cameras"] == NAMES and seen["meshes"] == ["space_truck"] and seen["active"] == NAMES[0]
    assert seen["backgrounds"] == {name: [name.replace(" Camera", ".png")] for name in NAMES}
    assert (seen["folder"] / "three_photos.png").stat().st_size > 50_000  # an empty window packs into less


def test_what_is_said_about_each_photo(seen: dict):
    assert len(seen["job"]["photos"]) == 3
    for entry in seen["job"]["photos"]:
        assert {"residual_px", "trusted", "mask_iou"} <= set(entry)


def test_it_is_one_undo_step(seen: dict):
    assert seen["undone"] == [] and seen["redone"] == NAMES + ["space_truck"]
