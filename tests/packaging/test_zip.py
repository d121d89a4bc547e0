"""What is in the zips, and what the repository index says about them."""

from __future__ import annotations

import hashlib
import tomllib
import zipfile
from pathlib import Path

import pytest

import build

PLATFORMS = sorted(build.UV_WHEELS)


def zip_of(repository: Path, platform: str) -> Path:
    """The zip of one platform, by the name Blender's tool gives it."""
    (path,) = repository.glob(f"*-{platform.replace('-', '_')}.zip")
    return path


@pytest.mark.parametrize("platform", PLATFORMS)
def test_zip_holds_the_extension_and_nothing_else(repository: Path, platform: str):
    with zipfile.ZipFile(zip_of(repository, platform)) as archive:
        names = archive.namelist()
        init = archive.read("__init__.py").decode()
    assert {name.split("/")[0] for name in names} == {
        "__init__.py", "blender_manifest.toml", "LICENSE", "blender_addon", "backend", "wheels",
    }  # fmt: skip
    assert "from .blender_addon import register, unregister" in init
    assert "backend/__main__.py" in names
    assert {"backend/requirements/cpu.txt", "backend/requirements/model-files.txt"} <= set(names)
    for name in names:
        parts = name.split("/")
        assert "tests" not in parts and "__pycache__" not in parts, name
        assert not name.endswith((".pyc", ".blend", ".sqlite", ".log")), name


@pytest.mark.parametrize("platform", PLATFORMS)
def test_zip_carries_the_pinned_wheel_of_its_platform(repository: Path, platform: str):
    with zipfile.ZipFile(zip_of(repository, platform)) as archive:
        (wheel,) = [name for name in archive.namelist() if name.startswith("wheels/") and name.endswith(".whl")]
        content = archive.read(wheel)
        manifest = tomllib.loads(archive.read("blender_manifest.toml").decode())
    pinned = build.UV_WHEELS[platform]
    assert wheel == f"wheels/{pinned.name}"
    assert hashlib.sha256(content).hexdigest() == pinned.sha256
    assert manifest["build"]["generated"]["platforms"] == [platform]
    assert manifest["build"]["generated"]["wheels"] == [f"./{wheel}"]


def test_zip_stays_small_enough_to_download(repository: Path):
    # 17 MiB of uv, at most 108 MiB of mini weights, and the code.
    assert max(path.stat().st_size for path in repository.glob("*.zip")) < 128 * 2**20


def test_manifest_keeps_the_rules_of_the_platform():
    manifest = tomllib.loads(build.MANIFEST.read_text())
    assert manifest["license"] == ["SPDX:GPL-3.0-or-later"]
    assert "Blender" not in manifest["name"]
    assert set(manifest["permissions"]) == {"files", "network"}
    for text in (manifest["tagline"], *manifest["permissions"].values()):
        assert len(text) <= 64 and text[-1].isalnum(), text
    assert sorted(manifest["platforms"]) == PLATFORMS


def test_versions_agree(listing: list[dict]):
    version = tomllib.loads(build.MANIFEST.read_text())["version"]
    project = tomllib.loads((build.ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == version
    assert {entry["version"] for entry in listing} == {version}
    assert f'VERSION = "{version}"' in (build.ROOT / "blender_addon" / "package.py").read_text()


def test_index_describes_every_zip(repository: Path, listing: list[dict]):
    assert sorted(entry["platforms"][0] for entry in listing) == PLATFORMS
    for entry in listing:
        path = repository / entry["archive_url"]
        assert entry["id"] == "maquette"
        assert entry["archive_size"] == path.stat().st_size
        assert entry["archive_hash"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_second_build_changes_nothing(repository: Path):
    before = {path.name: path.stat().st_mtime_ns for path in repository.iterdir()}
    build.package()
    assert {path.name: path.stat().st_mtime_ns for path in repository.iterdir()} == before


def test_a_zip_without_its_root_package_is_refused(tmp_path: Path):
    path = tmp_path / "broken.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("blender_manifest.toml", "")
    with pytest.raises(build.BuildError, match="__init__.py"):
        build.check_zip(path)


def test_a_wheel_with_other_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "wheels").mkdir()
    for wheel in build.UV_WHEELS.values():
        (tmp_path / "wheels" / wheel.name).write_bytes(b"not uv")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    with pytest.raises(build.BuildError, match="another content"):
        build.fetch_wheels()
