"""The zip in a real Blender program: installed by Blender's own operator, registered, removed, registered again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.real_blender import debian_blender


@pytest.fixture(scope="module", params=sorted(debian_blender.SUITES))
def seen(
    request: pytest.FixtureRequest, archive: Path, scripts: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict:
    """What the script saw in this Blender, with everything that was printed."""
    script = scripts / "packaging" / "install_in_blender.py"
    arguments = ["--python-exit-code", "3", "--python", str(script), "--", str(archive)]
    user = tmp_path_factory.mktemp("user")
    done = debian_blender.run(request.param, arguments, [scripts, archive.parent], user)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    line = next(line for line in done.stdout.splitlines() if line.startswith('{"version"'))
    return {**json.loads(line), "asked": request.param, "printed": printed}


def test_it_is_the_blender_that_was_asked_for(seen: dict):
    assert seen["version"].startswith(seen["asked"])


def test_installs_and_registers_again_and_again(seen: dict):
    assert seen["enabled"] and seen["loaded"] == [True, True]
    assert seen["before"] == [] and seen["off"] == [[], []]
    assert seen["on"][0] and seen["on"][1] == seen["on"][0] and seen["on"][2] == seen["on"][0]


def test_nothing_is_warned_about(seen: dict):
    assert seen["warnings"] == []
    complaints = [
        line
        for line in seen["printed"].splitlines()
        if not line.startswith("{")  # that line is the script's own answer
        and "maquette" in line.lower() and any(word in line.lower() for word in ("warning", "error", "exception"))
    ]
    assert complaints == [] and "Traceback" not in seen["printed"]
