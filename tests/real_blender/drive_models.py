"""Runs inside a Blender with a window: the Models panel before, at and after an install, and its licence dialog.

Usage: ``blender --python drive_models.py -- FOLDER``; FOLDER holds ``plan.json`` (zip, python) and ``small.toml``, and
receives screenshots and ``seen.json``. Weights come from a local server over the small catalogue that the tests use,
which this script starts with the backend's interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
import driving  # noqa: E402  (Blender runs this file as a script, so its folder has to be named first)
from driving import FOLDER, MODULE, PLAN, addon, screenshot, seen, view_area, wait, window  # noqa: E402

SERVER = """
import sys
from tests.fakes.model_server import Behaviour, model_server
from tests.fakes.small_catalog import FILES, write_catalog
from pathlib import Path
write_catalog(Path(sys.argv[1]))
with model_server(Behaviour(FILES, slow=0.25)) as url:
    print(url, flush=True)
    sys.stdin.read()
"""
PATIENCE = 60.0  # seconds; the child imports Python and requests on a busy machine


def show_panel() -> Iterator[None]:
    """The sidebar on our tab."""
    area = view_area()
    area.spaces.active.show_region_ui = True
    yield from wait(1.5)  # the tab can be chosen once the sidebar was drawn
    sidebar = next(region for region in area.regions if region.type == "UI")
    sidebar.active_panel_category = "Maquette"
    area.tag_redraw()


def open_only_models() -> None:
    """Have the panel drawn open and nothing else below it: a script cannot open a closed panel."""
    panels, registration = addon("panels.models"), addon("registration")
    for cls in reversed(registration.CLASSES):
        if issubclass(cls, bpy.types.Panel):
            bpy.utils.unregister_class(cls)
    panels.MAQUETTE_PT_models.bl_options = set()
    for cls in registration.CLASSES:
        if cls is panels.MAQUETTE_PT_models or cls.__name__ == "MAQUETTE_PT_setup":
            bpy.utils.register_class(cls)


def close_again() -> None:
    """Every panel as the extension registers them, so that it can be removed."""
    registration = addon("registration")
    for cls in registration.CLASSES:
        if issubclass(cls, bpy.types.Panel) and not cls.is_registered:
            bpy.utils.register_class(cls)


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    driving.install()
    yield from wait(1.0)
    driving.set_up()
    open_only_models()
    manager = addon("operators.models").manager()
    yield from show_panel()
    yield from wait(PATIENCE, until=lambda: bool(manager.models) and not manager.running)
    view_area().tag_redraw()
    yield from wait(2.0)
    screenshot("models.png")
    seen["real"] = {model.id: [model.state, model.licence, model.bytes] for model in manager.models}
    real = manager.models
    os.environ["SMALL_CATALOG"] = str(FOLDER / "small.toml")
    extension = Path(sys.modules[MODULE].__file__).parent
    server = subprocess.Popen(
        [PLAN["python"], "-c", SERVER, os.environ["SMALL_CATALOG"]], cwd=extension, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    url = server.stdout.readline().decode().strip()
    bpy.context.preferences.addons[MODULE].preferences.model_source = url
    type(manager).module = "tests.fakes.small_catalog"
    bpy.ops.maquette.refresh_models()
    yield from wait(PATIENCE, until=lambda: not manager.running)
    bpy.ops.maquette.install_model(model_id="thing", accept=True)
    yield from wait(PATIENCE, until=lambda: manager.fraction > 0.3 or not manager.running)
    seen["fraction"], seen["message"] = manager.fraction, manager.message
    yield from wait(0.7)
    screenshot("installing.png")
    yield from wait(PATIENCE, until=lambda: not manager.running)
    seen["installed"], seen["trouble"] = manager.installed("thing"), str(manager.failure)
    yield from wait(1.0)
    screenshot("installed.png")
    server.stdin.close()
    manager.models = real
    with bpy.context.temp_override(window=window(), area=view_area()):
        bpy.ops.maquette.install_model("INVOKE_DEFAULT", model_id="cupid")
    yield from wait(2.0)
    screenshot("licences.png")
    close_again()
    yield from wait(0.5)


driving.run(steps)
