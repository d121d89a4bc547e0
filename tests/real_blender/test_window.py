"""A person's way through a real window: install, open the tab, generate, look through the camera.

Screenshots stay in build/test/window-*/ for people to look at.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import build
from tests.real_blender import debian_blender, window

DRAWN_BYTES = 20_000  # an empty window packs into a few kilobytes; a drawn one does not


@pytest.fixture(scope="module", params=sorted(debian_blender.SUITES))
def seen(request: pytest.FixtureRequest, archive: Path) -> dict:
    """What the driver saw in this Blender, and the `folder` with its screenshots."""
    folder = build.BUILD / "test" / f"window-{request.param}"
    return {**window.drive(request.param, folder, archive), "folder": folder}


def test_every_step_went_through(seen: dict):
    assert "failure" not in seen, seen["failure"]
    assert seen["finished"] and "Traceback" not in seen["printed"]


def test_the_sidebar_has_our_tab(seen: dict):
    assert seen["tab"] == "Maquette"
    assert seen["engine"] == "cupid"  # an untouched menu names the built-in engine
    assert (seen["folder"] / "sidebar.png").stat().st_size > DRAWN_BYTES


def test_the_extension_comes_and_goes_while_the_window_is_open(seen: dict):
    assert seen["loaded"] == [True, True] and seen["again"] == [True, True]


@pytest.mark.parametrize(("engine", "name"), [("cube", "picture"), ("cupid", "bedside_table")])
def test_a_press_on_generate_ends_in_an_object(seen: dict, engine: str, name: str):
    job = seen["jobs"][engine]
    assert (job["state"], job["made"]) == ("done", [name]), job


def test_the_result_is_seen_through_the_photos_camera(seen: dict):
    assert [Path(path).name for path in seen["backgrounds"]] == ["bedside_table.png"]
    assert (seen["folder"] / "generate.png").stat().st_size > DRAWN_BYTES
    assert (seen["folder"] / "result.png").stat().st_size > DRAWN_BYTES


@pytest.mark.parametrize("engine", ["cube", "cupid"])
def test_our_timer_hardly_holds_the_main_thread(seen: dict, engine: str):
    # The promise is 10 ms, and 2 ms were measured beside two busy processes; a test may meet more of them.
    assert seen["jobs"][engine]["timer_p99_ms"] < 25.0


def test_the_event_loop_keeps_ticking(seen: dict):
    assert seen["ticks"] > 20
    # Software drawing of the whole window on a busy machine was seen to take 1.4 s in 4.3 and 4.8 s in 5.2; a blocked
    # loop would take the whole job.
    assert seen["longest_gap"] < 9.0
