"""Pictures that RefAny3D's small weights paint of a mesh in a real window: picked, the mesh put into one and out again.

Screenshots stay in build/test/render_mini/ for people to look at. What the pictures are worth is measured elsewhere
(`python -m backend evaluate refany3d`); here all that a person presses has to work with them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import build
from tests.real_blender import window

PROMPT = window.SCENARIOS["render_mini"].settings["prompt"]


@pytest.fixture(scope="module")
def seen(archive: Path) -> dict:
    """What the driver saw in Blender 4.3, and the `folder` with its screenshots."""
    folder = build.BUILD / "test" / "render_mini"
    return {**window.drive("4.3", folder, archive, "render_mini"), "folder": folder}


def test_every_step_went_through(seen: dict):
    assert "failure" not in seen, seen["failure"]
    assert seen["finished"] and "Traceback" not in seen["printed"], seen["printed"]
    assert seen["job"]["state"] == "done" and not seen["trouble"], seen["job"]
    assert seen["job"]["variants"] == ["picture-0.png", "picture-1.png"]
    for name in ("render_looking.png", "render.png", "render_into_picture.png", "render_editor.png"):
        assert (seen["folder"] / name).stat().st_size > 50_000  # an empty window packs into less


def test_the_picture_shows_something_and_says_what(seen: dict):
    saved = Image.open(seen["folder"] / "saved.png")
    assert saved.text["prompt"] == PROMPT and saved.size == (128, 128)
    assert np.asarray(saved.convert("RGB"), float).std() > 10  # levels: nothing plain
    assert (seen["folder"] / "saved.exr").is_file()


def test_the_mesh_goes_into_its_picture_and_out_again_by_one_undo(seen: dict):
    camera = seen["job"]["cameras"][seen["picked"]]
    assert camera["world_to_camera"] is not None and camera["trusted"] == (not camera["reason"]), camera
    before, put = seen["before"], seen["put"]
    assert put["matrix"] == before["matrix"] and seen["undone"] == before
    assert put["camera"] == "Space Truck Picture Camera" and put["size"] == [128, 128]
    over = np.asarray(Image.open(seen["folder"] / "over.png").convert("RGB"), float)
    picture = np.asarray(Image.open(seen["folder"] / "saved.png").convert("RGB"), float)
    same = (np.abs(over - picture).max(axis=-1) <= 4).mean()
    assert 0.2 < same < 0.99  # the picture is behind, and the mesh, or its shadow, before it
