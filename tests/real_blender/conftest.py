"""What the real-Blender tests share: the zip for this system, and what to show inside the root."""

from __future__ import annotations

from pathlib import Path

import pytest

import build


@pytest.fixture(scope="session")
def archive() -> Path:
    """The zip that a user on Linux installs."""
    (path,) = build.package().glob("*-linux_x64.zip")
    return path


@pytest.fixture(scope="session")
def scripts() -> Path:
    """The folder of scripts that run inside Blender."""
    return build.ROOT / "tests"
