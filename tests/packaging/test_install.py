"""The zip goes into Blender through Blender's own operator, and comes and goes without a trace or a warning."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import build

SCRIPT = Path(__file__).with_name("install_in_blender.py")


@pytest.fixture(scope="session", params=sorted(build.BPY_VERSIONS))
def installed(request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Install into a Blender of each version with empty user folders; what the script saw, and all it printed."""
    user = tmp_path_factory.mktemp(f"user-{request.param}")
    (archive,) = repository.glob("*-linux_x64.zip")
    command = [str(build.bpy_python(request.param)), str(SCRIPT), str(archive)]
    environment = {**os.environ, "BLENDER_USER_RESOURCES": str(user)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    return {**seen, "asked": request.param, "printed": done.stdout + done.stderr, "user": user}


def test_the_operator_installs_and_enables(installed: dict):
    assert installed["version"].startswith(installed["asked"])
    assert installed["enabled"] and installed["loaded"] == [True, True]
    root = installed["user"] / "extensions" / "user_default" / "maquette"
    assert (root / "__init__.py").exists() and (root / "backend" / "__main__.py").exists()


def test_register_and_unregister_are_symmetric(installed: dict):
    assert installed["before"] == []
    assert installed["off"] == [[], []]
    first, *later = installed["on"]
    assert first and all(names == first for names in later)


def test_nothing_is_warned_about(installed: dict):
    assert installed["warnings"] == []
    # "STATUS Installed" is the tool's own line; the rest of what was printed must hold no complaint.
    complaints = [
        line
        for line in installed["printed"].splitlines()
        if any(word in line.lower() for word in ("warning", "error", "traceback", "deprecat"))
        and not line.startswith("{")
    ]
    assert complaints == []


def test_the_wheel_brings_uv(installed: dict):
    found = list((installed["user"] / "extensions" / ".local").rglob("uv-*.data/scripts/uv"))
    assert len(found) == 1 and found[0].stat().st_size > 2**20
