"""The zips under test: built once (build.py keeps them when nothing has changed)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import build


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder with one zip a platform and index.json."""
    return build.package()


@pytest.fixture(scope="session")
def listing(repository: Path) -> list[dict]:
    """The entries of the repository index, as Blender reads them."""
    return json.loads((repository / "index.json").read_text())["data"]
