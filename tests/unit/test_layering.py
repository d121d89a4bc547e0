"""The arrows between the parts point one way, proved from the source (every import, also those inside functions).

operators, panels -> runtime, scene -> contract
server -> jobs -> systems -> nn, geometry, rendering, formats -> contract
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Blender's own modules: the backend has none of them.
BLENDER = {"bpy", "mathutils", "bmesh", "gpu", "blf", "bl_ui", "addon_utils", "imbuf", "_bpy"}
# What an artist's Blender does not carry, and must never be given: it lives in the backend's own Python.
HEAVY = {"torch", "diffusers", "transformers", "fastapi", "starlette", "uvicorn", "pydantic", "safetensors", "scipy",
         "PIL", "trimesh", "psutil", "httpx", "matplotlib"}  # fmt: skip

# Programs that the backend hands to a Blender process. They run there, so they use bpy; no backend module imports them.
BLENDER_PROGRAMS = {
    "backend/data/render_objects.py", "backend/data/render_scenes.py", "backend/data/render_reference.py",
    "backend/data/reference_materials.py",
}  # fmt: skip

BASE = {"contract", "nn", "geometry", "rendering", "formats"}
# Which folders of backend/ each folder may import, beside itself.
BACKEND_ARROWS = {
    "contract": set(),
    "nn": BASE,
    "geometry": BASE,
    "rendering": BASE,
    "formats": BASE,
    "data": BASE,
    "training": BASE | {"data"},
    "catalog": {"contract"},
    "systems": BASE | {"catalog", "data", "training"},
    "evaluation": BASE | {"data", "systems"},
    "jobs": BASE | {"systems"},
    "server": {"contract", "catalog", "jobs", "systems"},
}
# Command lines inside a folder: like backend/__main__.py they stand above everything, and only that file calls them.
COMMAND_LINES = {"backend/training/cli.py", "backend/evaluation/cli.py"}
# What the lower layers of the add-on must not know.
ADDON_FORBIDDEN = {"runtime": {"operators", "panels"}, "scene": {"operators", "panels", "runtime"}}


def imported_modules(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Yield every module that a file imports, relative imports made absolute from the root of the repository."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            target = ".".join((*base, *(node.module.split(".") if node.module else ())))
            yield target
            # `from backend import jobs` names the folder only in the imported name.
            yield from (f"{target}.{alias.name}".lstrip(".") for alias in node.names)


def sources(folder: str) -> list[Path]:
    """Every Python file below a folder, less the programs for a Blender process."""
    files = sorted((ROOT / folder).rglob("*.py"))
    return [path for path in files if path.relative_to(ROOT).as_posix() not in BLENDER_PROGRAMS]


def offences(folder: str, forbidden: set[str]) -> list[str]:
    """Imports below `folder` whose first name is forbidden, as 'file: module'."""
    return [
        f"{path.relative_to(ROOT)}: {module}"
        for path in sources(folder)
        for module in imported_modules(path)
        if module.split(".")[0] in forbidden
    ]


def test_there_is_something_to_check():
    assert len(sources("backend")) > 5


def test_backend_never_imports_blender():
    assert offences("backend", BLENDER | {"blender_addon"}) == []


def test_no_backend_module_imports_a_program_for_blender():
    programs = {name.removesuffix(".py").replace("/", ".") for name in BLENDER_PROGRAMS}
    assert [str(path) for path in sources("backend") if programs & set(imported_modules(path))] == []


def test_addon_never_imports_the_backends_libraries():
    assert offences("blender_addon", HEAVY) == []


def test_addon_takes_nothing_from_the_backend_but_the_contract():
    foreign = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in sources("blender_addon")
        for module in imported_modules(path)
        if module.startswith("backend.") and not f"{module}.".startswith("backend.contract.")
    ]
    assert foreign == []


def test_contract_is_standard_library_and_numpy():
    allowed = sys.stdlib_module_names | {"numpy"}
    foreign = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in sources("backend/contract")
        for module in imported_modules(path)
        if module.split(".")[0] not in allowed and not f"{module}.".startswith("backend.contract.")
    ]
    assert foreign == []


def test_every_backend_folder_has_its_arrows():
    folders = {path.relative_to(ROOT / "backend").parts[0] for path in (ROOT / "backend").rglob("*.py")}
    assert {name for name in folders if not name.endswith(".py")} - set(BACKEND_ARROWS) == set()


@pytest.mark.parametrize("layer", sorted(BACKEND_ARROWS))
def test_backend_arrows(layer: str):
    wrong = []
    for path in sources(f"backend/{layer}"):
        if path.relative_to(ROOT).as_posix() in COMMAND_LINES:
            continue
        for module in imported_modules(path):
            parts = module.split(".")
            if parts[0] != "backend" or len(parts) < 2 or parts[1] not in BACKEND_ARROWS:
                continue
            if parts[1] != layer and parts[1] not in BACKEND_ARROWS[layer]:
                wrong.append(f"{path.relative_to(ROOT)}: {module}")
    assert wrong == []


def test_only_the_main_module_calls_the_command_lines():
    programs = {name.removesuffix(".py").replace("/", ".") for name in COMMAND_LINES}
    callers = {path.name for path in sources("backend") if programs & set(imported_modules(path))}
    assert callers <= {"__main__.py"}


@pytest.mark.parametrize("layer", sorted(ADDON_FORBIDDEN))
def test_addon_arrows(layer: str):
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in sources(f"blender_addon/{layer}")
        for module in imported_modules(path)
        if module.split(".")[0] == "blender_addon" and set(module.split(".")[1:2]) & ADDON_FORBIDDEN[layer]
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "module"),
    [
        ("import torch", "torch"),
        ("from ...backend.jobs import queue", "backend.jobs"),
        ("def f():\n    from . import other", "blender_addon.runtime.other"),
    ],
)
def test_the_reader_sees_hidden_imports(tmp_path: Path, line: str, module: str):
    folder = tmp_path / "blender_addon" / "runtime"
    folder.mkdir(parents=True)
    (folder / "sample.py").write_text(line)
    assert module in set(imported_modules(folder / "sample.py", tmp_path))
