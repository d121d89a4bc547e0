"""The table of ways through the window is complete: every scenario has its driver, its files and a picture to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real_blender import window


@pytest.mark.parametrize("name", sorted(window.SCENARIOS))
def test_a_scenario_has_what_it_needs(name: str):
    scenario = window.SCENARIOS[name]
    script = Path(window.__file__).parent / scenario.script
    assert script.is_file() and all(path.is_file() for path in scenario.files.values())
    text = script.read_text()
    assert scenario.pictures and all(picture in text for picture in scenario.pictures)
