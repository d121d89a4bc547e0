"""A mesh refined in a real window: looked at while Blender goes on, replaced in its place, enhanced beside itself.

Screenshots stay in build/test/refine/ for people to look at.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import build
from tests.real_blender import window

KEPT = ("matrix", "parent", "objects", "mesh")


@pytest.fixture(scope="module")
def seen(archive: Path) -> dict:
    """What the driver saw in Blender 4.3, and the `folder` with its screenshots."""
    folder = build.BUILD / "test" / "refine"
    return {**window.drive("4.3", folder, archive, "refine"), "folder": folder}


def test_every_step_went_through(seen: dict):
    assert "failure" not in seen, seen["failure"]
    assert seen["finished"] and "Traceback" not in seen["printed"], seen["printed"]
    for engine in ("cube", "kiss3dgen"):
        assert seen[engine]["state"] == "done" and not seen[engine]["trouble"], seen[engine]


def test_a_replaced_mesh_stands_where_the_old_one_did(seen: dict):
    before, replaced = seen["before"], seen["replaced"]
    assert {name: replaced[name] for name in KEPT} == {name: before[name] for name in KEPT}
    assert replaced["low"] == pytest.approx(before["low"], abs=2e-3)
    assert replaced["high"] == pytest.approx(before["high"], abs=2e-3)
    assert seen["undone"] == before


def test_an_enhanced_mesh_stands_beside_the_old_one(seen: dict):
    assert {**seen["beside"], "objects": []} == {**seen["before"], "objects": []}
    fresh = sorted(set(seen["beside"]["objects"]) - set(seen["before"]["objects"]))
    assert fresh == ["Space Truck Refined"]
    for name in ("refine_looking.png", "refine.png"):
        assert (seen["folder"] / name).stat().st_size > 50_000  # an empty window packs into less


def test_blender_goes_on_while_it_looks(seen: dict):
    assert seen["cube"]["button_seconds"] < 3.0  # the mesh is measured; looking comes after
    assert seen["longest_gap"] < 15.0  # one view of 512 pixels was seen to take a second; the machine may be busy
