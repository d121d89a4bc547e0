"""The Models panel in a real window: what it says before an install, while it runs and after it; the licence dialog."""

from __future__ import annotations

from pathlib import Path

import pytest

import build
from tests.fakes.small_catalog import write_catalog
from tests.real_blender import window

DRAWN_BYTES = 20_000  # an empty window packs into a few kilobytes; a drawn one does not


@pytest.fixture(scope="module")
def seen(archive: Path) -> dict:
    """What the driver saw, and the `folder` with its screenshots."""
    folder = build.BUILD / "test" / "window-models"
    window.clear(folder)
    write_catalog(folder / "small.toml")
    return {**window.run_script("4.3", folder, archive, "drive_models.py", {}), "folder": folder}


def test_every_step_went_through(seen: dict):
    assert "failure" not in seen, seen["failure"]
    assert seen["finished"] and "Traceback" not in seen["printed"], seen["printed"]


def test_it_says_what_there_is_how_large_and_under_which_licence(seen: dict):
    state, licence, size = seen["real"]["cupid"]
    assert (state, licence) == ("absent", "MIT") and 5e9 < size < 7e9
    assert (seen["folder"] / "models.png").stat().st_size > DRAWN_BYTES
    assert (seen["folder"] / "licences.png").stat().st_size > DRAWN_BYTES


def test_an_install_shows_its_progress_and_ends_installed(seen: dict):
    assert 0.3 < seen["fraction"] < 1 and " of " in seen["message"]
    assert seen["installed"], seen["trouble"]
