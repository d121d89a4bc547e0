"""The add-on inside the bpy module: staged by links as an extension, enabled as Blender enables it.

Blender reads its user folder from the environment when bpy is imported, so that is set here, before any import of it.
Timers never fire in the module: tests call the pump.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
USER = Path(tempfile.mkdtemp(prefix="maquette-addon-"))
STAGE = USER / "extensions" / "user_default" / "maquette"
DATA = USER / "data"
MODULE = "bl_ext.user_default.maquette"
SYSTEMS = "tests.fakes.cube_system:CubeSystem"

os.environ["BLENDER_USER_RESOURCES"] = str(USER)
os.environ["MAQUETTE_EXTRA_SYSTEMS"] = SYSTEMS
os.environ.setdefault("MAQUETTE_BACKEND_PYTHON", str(ROOT / ".venv" / "bin" / "python"))
atexit.register(shutil.rmtree, USER, ignore_errors=True)

MANIFEST = """schema_version = "1.0.0"
id = "maquette"
version = "0.1.0"
name = "Maquette"
tagline = "Under test"
maintainer = "Maquette"
type = "add-on"
blender_version_min = "4.2.0"
license = ["SPDX:GPL-3.0-or-later"]
"""


def _stage() -> None:
    STAGE.mkdir(parents=True)
    (STAGE / "__init__.py").write_text("from .blender_addon import register, unregister\n")
    (STAGE / "blender_manifest.toml").write_text(MANIFEST)
    # `tests` is here because the backend finds the fake system from its working folder.
    for name in ("blender_addon", "backend", "tests"):
        (STAGE / name).symlink_to(ROOT / name, target_is_directory=True)


_stage()
assert "bpy" not in sys.modules, "bpy was imported before its user folder was set"
import bpy  # noqa: E402  (after the environment is set; addon_utils only exists once bpy was imported)

addon_utils = importlib.import_module("addon_utils")


def module(name: str):
    """A module of the enabled extension: `module("runtime.session")`."""
    return importlib.import_module(f"{MODULE}.blender_addon.{name}")


def contract(name: str):
    """A module of the contract as the extension sees it."""
    return importlib.import_module(f"{MODULE}.backend.contract.{name}")


def pump_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Tick as Blender's timer would until `condition` holds. Fails with the backend's log after `seconds`."""
    session, pump = module("runtime.session"), module("runtime.pump")
    end = time.monotonic() + seconds
    while not condition():
        pump.tick()
        if time.monotonic() > end:
            process = session.get().process
            pytest.fail(f"waited {seconds} s; {session.get().snapshot}\n{process.log_tail(40) if process else ''}")
        time.sleep(0.02)


def make_undo_steps() -> None:
    """Open a file and have its undo history begin, as in a window."""
    bpy.context.preferences.edit.use_global_undo = True
    bpy.ops.ed.undo_push(message="Start")


@pytest.fixture(scope="session", autouse=True)
def addon_removed_at_the_end() -> Iterator[None]:
    """Take the extension out after the last test, which ends the backend, and see that nothing stays."""
    yield
    if MODULE in bpy.context.preferences.addons:
        addon_utils.disable(MODULE)
    assert not [name for name in dir(bpy.types) if name.startswith("MAQUETTE_")]


@pytest.fixture
def addon_enabled() -> None:
    """The extension is on; tests that load Blender's factory settings turn it off."""
    if MODULE not in bpy.context.preferences.addons:
        assert addon_utils.enable(MODULE, default_set=True) is not None


@pytest.fixture
def blender(addon_enabled: None) -> Iterator[SimpleNamespace]:
    """A factory scene (cube, camera, light), an empty job list. The backend lives on between tests: starting costs."""
    bpy.ops.wm.read_homefile(use_factory_startup=True)
    session, pump = module("runtime.session"), module("runtime.pump")
    package = module("package")
    if package.preferences().data_folder != str(DATA):
        package.preferences().data_folder = str(DATA)
        restart_session()
    session.get().open_folder()
    pump.tick()
    yield SimpleNamespace(bpy=bpy, session=session, settings=bpy.context.scene.maquette_create, restart=restart_session)
    store = session.get().open_folder()
    for record in store.all():
        session.get().cancel(record.job_id)
    pump_until(lambda: not any(record.active for record in store.all()))
    for record in store.all():
        session.get().forget(record.job_id)


def restart_session() -> None:
    """Close the session and open another one on the same folder, as after a restart of Blender."""
    session = module("runtime.session")
    session.close_session()
    session.BLENDER_RUN = uuid.uuid4().hex
    session.open_session(module("operators.jobs").apply_from_timer)
    pump_until(lambda: session.get().store is not None)  # the timer opens the folder without waiting for the disk


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A PNG of 64 x 48 pixels."""
    from PIL import Image

    path = tmp_path / "mug.png"
    Image.new("RGB", (64, 48), (200, 60, 30)).save(path)
    return path


@pytest.fixture
def generate(blender: SimpleNamespace, picture: Path) -> Callable[..., str]:
    """Press Generate with the fake engine; returns the job's id."""

    def press(image: Path | None = None, seed: int = 1, steps: int = 2, wait: bool = True) -> str:
        settings = blender.bpy.context.scene.maquette_create
        properties = module("properties")
        properties.set_engines([("cube", "Cube", "")])
        settings.image, settings.seed, settings.steps = str(image or picture), seed, steps
        settings.engine = "cube"
        assert blender.bpy.ops.maquette.generate() == {"FINISHED"}
        store = blender.session.get().store
        job_id = store.all()[0].job_id
        if wait:
            pump_until(lambda: store.get(job_id).applied or store.get(job_id).state in ("failed", "cancelled"))
        return job_id

    return press
