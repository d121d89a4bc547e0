"""Runs inside a Blender with a window: masks are proposed for a photo of three objects, judged, and named.

Usage: ``blender --python drive_masks.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`, `photo`); it receives
masks.png, the backend's data and ``seen.json``. Blender quits by itself.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
import driving  # noqa: E402  (Blender runs this file as a script, so its folder has to be named first)
from driving import PLAN, addon, screenshot, seen, view_area, wait, window  # noqa: E402

JOB_SECONDS = 150.0  # the backend starts first, on two busy cores
SHOWN = {"MAQUETTE_PT_create": {"DEFAULT_CLOSED"}, "MAQUETTE_PT_compose": set(), "MAQUETTE_PT_compose_more": set()}


def show_panels() -> None:
    """The Compose panel and its More open and Create closed, as clicks on their headers do: scripts cannot click.

    Blender asks for the option when it first draws a panel; all are registered anew, so that their order stays.
    """
    panels = [each for each in addon("registration").CLASSES if issubclass(each, bpy.types.Panel)]
    for panel in reversed(panels):
        bpy.utils.unregister_class(panel)
    for panel in panels:
        panel.bl_options = SHOWN.get(panel.__name__, getattr(panel, "bl_options", set()))
        bpy.utils.register_class(panel)


def settings() -> bpy.types.PropertyGroup:
    """The Compose panel's; fetched anew because undo makes old references useless."""
    return window().scene.maquette_compose


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    driving.install()
    show_panels()
    view_area().spaces.active.show_region_ui = True
    yield from wait(1.0)
    next(region for region in view_area().regions if region.type == "UI").active_panel_category = "Maquette"
    driving.set_up()
    folder = Path(bpy.app.tempdir).with_name("Pictures")
    folder.mkdir(exist_ok=True)
    settings().image = str(shutil.copy(PLAN["photo"], folder))
    yield from wait(1.0)
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo_push(message="Start")
        bpy.ops.maquette.propose_masks()
    store = addon("runtime.session").get().store
    job_id, started = store.all()[0].job_id, time.monotonic()
    yield from wait(JOB_SECONDS, until=driving.ended(lambda: store.get(job_id)))
    job = store.get(job_id)
    seen["job"] = {
        "state": job.state, "failure": str(job.failure), "waiting": job.waiting,
        "seconds": round(time.monotonic() - started, 2), "masks": job.report.get("masks"),
    }  # fmt: skip
    seen["names"] = [item.name for item in settings().masks]
    for item, name in zip(settings().masks, ("Lamp", "Bench", "Torch"), strict=False):
        item.name = name
    yield from wait(4.0)
    screenshot("masks.png")
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo_push(message="Rename")
        bpy.ops.maquette.remove_object_mask("EXEC_DEFAULT", True)
    yield from wait(1.0)
    seen["kept"] = [item.name for item in settings().masks]
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo()
    yield from wait(1.0)
    seen["undone"] = [item.name for item in settings().masks]


driving.run(steps)
