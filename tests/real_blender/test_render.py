"""Pictures of a mesh in a real window: looked at while Blender goes on, picked from a gallery, the mesh put into one.

Screenshots stay in build/test/render/ for people to look at.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import build
from tests.real_blender import window


@pytest.fixture(scope="module")
def seen(archive: Path) -> dict:
    """What the driver saw in Blender 4.3, and the `folder` with its screenshots."""
    folder = build.BUILD / "test" / "render"
    return {**window.drive("4.3", folder, archive, "render"), "folder": folder}


def test_every_step_went_through(seen: dict):
    assert "failure" not in seen, seen["failure"]
    assert seen["finished"] and "Traceback" not in seen["printed"], seen["printed"]
    assert seen["job"]["state"] == "done" and not seen["trouble"], seen["job"]
    assert seen["job"]["variants"] == [f"picture-{number}.png" for number in range(4)]
    for name in ("render_looking.png", "render.png", "render_into_picture.png", "render_editor.png"):
        assert (seen["folder"] / name).stat().st_size > 50_000  # an empty window packs into less


def test_the_mesh_goes_into_its_picture_and_out_again_by_one_undo(seen: dict):
    before, put = seen["before"], seen["put"]
    assert put["matrix"] == before["matrix"] and seen["undone"] == before
    assert sorted(set(put["objects"]) - set(before["objects"])) == [
        "Picture Light", "Shadow Catcher", "Space Truck Picture Camera",
    ]  # fmt: skip
    assert put["camera"] == "Space Truck Picture Camera" and put["size"] == [128, 128]
    assert seen["error"] < 0.1  # places of 8 bits, pictures of 128 pixels, an unknown lens


def test_a_render_stands_on_the_picture(seen: dict):
    over, picture = (
        np.array(Image.open(seen["folder"] / name).convert("RGB")).astype(int) for name in ("over.png", "saved.png")
    )
    assert over.shape == picture.shape
    corners = [(slice(0, 8), slice(0, 8)), (slice(0, 8), slice(-8, None))]  # above the ground: nothing is drawn there
    assert all(np.abs(over[place] - picture[place]).max() <= 2 for place in corners)
    drawn = (picture < 250).any(axis=-1)
    again = (over < 245).any(axis=-1)
    assert (drawn & ~again).sum() < 0.1 * drawn.sum()  # the mesh covers what the picture shows of it


def test_the_picture_is_saved_projected_and_shown(seen: dict):
    assert Image.open(seen["folder"] / "saved.png").text["prompt"] == "on a beach at sunset"
    assert (seen["folder"] / "saved.exr").is_file()
    assert seen["projected"]["materials"] == [*seen["before"]["materials"], "Space Truck Picture 4"]
    assert seen["editor"] == ["Space Truck Picture 4"]


def test_blender_goes_on_while_it_looks(seen: dict):
    assert seen["button_seconds"] < 3.0  # the mesh is copied; looking comes after
