"""The catalogue: which files a model has, how large they are, under which licence, and which of them are here.

A file is put in its place only after its size and checksum were found right (`download.py`), so being there with the
right size is proof enough afterwards.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.contract.errors import MaquetteError

CATALOG_FILE = Path(__file__).with_name("catalog.toml")
FOLDER_VARIABLE = "MAQUETTE_MODELS"
SOURCE_VARIABLE = "MAQUETTE_MODEL_SOURCE"
PUBLIC_SOURCE = "https://huggingface.co"
"""Where the published weights are kept; a mirror has the same paths below another address."""

SMALL_FILE_BYTES = 64 * 1024
"""No configuration or description is larger; a server that sends more sends something else."""


@dataclass(frozen=True)
class CatalogFile:
    """One file. bytes 0: not recorded. sha256: all 64 digits, the first ones, or none."""

    path: str
    bytes: int = 0
    sha256: str = ""
    needed: bool = True
    about_bytes: int = 0
    url: str = ""
    origin: str = ""

    @property
    def expected_bytes(self) -> int:
        """The size for progress and free space."""
        return self.bytes or self.about_bytes or SMALL_FILE_BYTES

    @property
    def small(self) -> bool:
        """Whether it is a text of unrecorded size."""
        return not self.bytes and not self.about_bytes


@dataclass(frozen=True)
class CatalogModel:
    """One entry. `files` empty: the person installs it with its own tools."""

    id: str
    title: str
    purpose: str
    licence: str
    licence_url: str
    repository: str
    revision: str
    origin: str
    files: tuple[CatalogFile, ...] = ()
    needs: tuple[str, ...] = ()
    optional: bool = False
    package: str = ""
    memory_gib: Mapping[str, float] = field(default_factory=dict)

    def wanted(self, everything: bool = False) -> tuple[CatalogFile, ...]:
        """The files to install."""
        return tuple(file for file in self.files if file.needed or everything)

    def address(self, file: CatalogFile, source: str = PUBLIC_SOURCE) -> str:
        """Where `file` is downloaded from: below `source`, or its own address when that is the public one."""
        if file.url and source == PUBLIC_SOURCE:
            return file.url
        return f"{source}/{self.repository}/resolve/{self.revision}/{file.path}"


def load_catalog() -> Mapping[str, CatalogModel]:
    """Every entry by its id, in the file's order."""
    return _read_catalog(CATALOG_FILE)


@functools.cache
def _read_catalog(path: Path) -> Mapping[str, CatalogModel]:
    models = {}
    for entry in tomllib.loads(path.read_text("utf-8"))["model"]:
        files = tuple(CatalogFile(**file) for file in entry.pop("file", ()))
        model = CatalogModel(**_tuples(entry), files=files)
        models[model.id] = model
    return models


def find_model(model_id: str) -> CatalogModel:
    """The entry `model_id`. Errors: `MaquetteError` bad_input."""
    models = load_catalog()
    if model_id not in models:
        raise MaquetteError(
            "bad_input", f"There is no model called {model_id[:40]!r}; choose one of: {', '.join(models)}."
        )
    return models[model_id]


def with_needs(model: CatalogModel) -> tuple[CatalogModel, ...]:
    """The model and what it needs, what it needs first."""
    return (*(find_model(name) for name in model.needs), model)


def models_folder() -> Path:
    """Where models are installed: what the environment says, else a folder of the user."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".maquette" / "models"


def model_source() -> str:
    """The address below which files are found. Errors: `MaquetteError` bad_input for anything but http(s)."""
    source = os.environ.get(SOURCE_VARIABLE, "").rstrip("/") or PUBLIC_SOURCE
    if not source.startswith(("https://", "http://")):
        raise MaquetteError("bad_input", f"The model source {source!r} is no web address; it begins with https://.")
    return source


def is_here(root: Path, model: CatalogModel, file: CatalogFile) -> bool:
    """Whether `file` was installed below `root`."""
    try:
        size = (root / model.id / file.path).stat().st_size
    except OSError:
        return False
    return size == file.bytes if file.bytes else size > 0


def missing_files(root: Path, model: CatalogModel, everything: bool = False) -> tuple[CatalogFile, ...]:
    """The wanted files that are not below `root` yet."""
    return tuple(file for file in model.wanted(everything) if not is_here(root, model, file))


def is_installed(root: Path, model: CatalogModel) -> bool:
    """Whether everything needed is there, what the model needs included."""
    return all(part.files and not missing_files(root, part) for part in with_needs(model))


def package_ready(model: CatalogModel) -> bool:
    """Whether the Python package that the model works through can be imported."""
    return not model.package or importlib.util.find_spec(model.package) is not None


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
