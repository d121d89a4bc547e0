"""A mesh of the scene matched to a photo in a real window: the camera comes, the mesh stays, one undo step.

The screenshot stays in build/test/match_mesh/ for people to look at.
"""

from __future__ import annotations

import pytest

import build
from tests.real_blender import window


@pytest.fixture(scope="module")
def seen(archive) -> dict:
    """What the driver saw in Blender 4.3, and the `folder` with its screenshot."""
    folder = build.BUILD / "test" / "match_mesh"
    return {**window.drive("4.3", folder, archive, "match_mesh"), "folder": folder}


def test_every_step_went_through(seen: dict):
    assert "failure" not in seen, seen["failure"]
    assert seen["finished"] and "Traceback" not in seen["printed"], seen["printed"]
    assert seen["job"]["state"] == "done", seen["job"]


def test_the_photo_and_the_mesh_agree(seen: dict):
    assert seen["job"]["mask_iou"] > 0.95 and seen["job"]["camera_trusted"], seen["job"]


def test_the_camera_came_and_the_mesh_stayed(seen: dict):
    assert seen["mesh_after"] == seen["mesh_before"] and seen["camera_after"] != seen["camera_before"]
    assert seen["same_objects"] and seen["backgrounds"] == ["space_truck.png"]
    assert (seen["folder"] / "match_mesh.png").stat().st_size > 50_000  # an empty window packs into less


def test_it_is_one_undo_step(seen: dict):
    assert seen["camera_undone"] == seen["camera_before"]
