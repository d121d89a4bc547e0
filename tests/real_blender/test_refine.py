"""A mesh in a real window: looked at while Blender goes on, enhanced in its place, edited beside itself, undone.

Screenshots stay in build/test/refine/ for people to look at.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import build
from tests.real_blender import window

NAME = "Treasure Chest"
KEPT = ("matrix", "parent", "objects", "mesh", "selected", "active")


@pytest.fixture(scope="module")
def seen(archive: Path) -> dict:
    """What the driver saw in Blender 4.3, and the `folder` with its screenshots."""
    folder = build.BUILD / "test" / "refine"
    return {**window.drive("4.3", folder, archive, "refine"), "folder": folder}


def redness(path: Path) -> float:
    """How much more red than green and blue the colour views of a bundle picture are where they show the object."""
    picture = np.asarray(Image.open(path).convert("RGB"), np.float64) / 255
    colors = picture[: len(picture) // 2]
    colors = colors[colors.min(axis=-1) < 0.95]
    return float((colors[:, 0] - colors[:, 1:].mean(axis=1)).mean())


def test_every_step_went_through(seen: dict):
    assert "failure" not in seen, seen["failure"]
    assert seen["finished"] and "Traceback" not in seen["printed"], seen["printed"]
    for label in ("same", "enhanced", "edited"):
        assert seen[label]["state"] == "done" and not seen[label]["trouble"], seen[label]
        assert seen[label]["undone"] == seen["before"]
    assert seen["enhanced"]["after"]["vertices"] != seen["before"]["vertices"]
    for name in ("refine_looking.png", "enhanced.png", "refine.png"):
        assert (seen["folder"] / name).stat().st_size > 50_000  # an empty window packs into less


@pytest.mark.parametrize(("label", "tolerance"), [("same", 2e-3), ("enhanced", 0.05)])
def test_a_replaced_mesh_stands_where_the_old_one_did(seen: dict, label: str, tolerance: float):
    before, after = seen["before"], seen[label]["after"]
    assert {name: after[name] for name in KEPT} == {name: before[name] for name in KEPT}
    assert after["low"] == pytest.approx(before["low"], abs=tolerance)
    assert after["high"] == pytest.approx(before["high"], abs=tolerance)
    assert after["materials"] == [NAME, "Varnish"] and before["materials"][1:] == ["Varnish"]


def test_enhancing_tells_no_sentence_and_an_edit_does(seen: dict):
    told = {label: (seen[label]["parameters"]["prompt"], seen[label]["report"]["purpose"])
            for label in ("enhanced", "edited")}  # fmt: skip
    assert told == {"enhanced": ("", "enhance"), "edited": ("make it red", "edit")}


def test_an_edited_mesh_stands_beside_the_old_one_and_is_redder(seen: dict):
    before, after = seen["before"], seen["edited"]["after"]
    assert {**after, "objects": []} == {**before, "objects": []}
    assert sorted(set(after["objects"]) - set(before["objects"])) == [f"{NAME} Refined"]
    sent, made = (redness(seen["folder"] / f"edited_{name}.png") for name in ("sent", "made"))
    assert made > sent + 0.1


def test_blender_goes_on_while_it_looks(seen: dict):
    assert seen["same"]["button_seconds"] < 3.0  # the mesh is measured; looking comes after
    assert seen["longest_gap"] < 15.0  # one view of 512 pixels was seen to take a second; the machine may be busy
