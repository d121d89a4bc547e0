"""`build.py develop` links the sources into a Blender's extension folder."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import build


@pytest.fixture
def blender(tmp_path: Path) -> Path:
    """A program that answers as Blender does when it is asked for its extension folder."""
    program = tmp_path / "blender"
    program.write_text(f"#!/bin/sh\necho Blender 4.3\necho EXTENSIONS={tmp_path}/extensions\n")
    program.chmod(0o755)
    return program


def test_links_follow_the_sources_and_may_be_made_twice(blender: Path, tmp_path: Path):
    for _ in range(2):
        assert build.command_develop(argparse.Namespace(blender=str(blender))) == 0
    target = tmp_path / "extensions" / "user_default" / "maquette"
    assert (target / "blender_addon").resolve() == build.ROOT / "blender_addon"
    assert (target / "backend").resolve() == build.ROOT / "backend"
    assert (target / "__init__.py").exists() and (target / "blender_manifest.toml").exists()


def test_an_installed_extension_is_left_alone(blender: Path, tmp_path: Path):
    (tmp_path / "extensions" / "user_default" / "maquette" / "blender_addon").mkdir(parents=True)
    with pytest.raises(build.BuildError, match="remove the extension"):
        build.command_develop(argparse.Namespace(blender=str(blender)))


def test_a_blender_that_does_not_start_is_named(tmp_path: Path):
    with pytest.raises(build.BuildError, match="nowhere"):
        build.command_develop(argparse.Namespace(blender=str(tmp_path / "nowhere")))
