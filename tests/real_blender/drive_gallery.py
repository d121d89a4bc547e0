"""Runs inside a Blender with a window: several answers to one photo in the job list, another one picked with a click.

Usage: ``blender --python drive_gallery.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`, `photo`); it
receives screenshots, the backend's data and ``seen.json``. Blender quits by itself.
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

JOB_SECONDS = 270.0  # four objects: some two and a half times what one takes
VARIANTS = 4
PICKED = 2


def made() -> list[bpy.types.Object]:
    """The results in the scene."""
    return [thing for thing in window().scene.objects if "maquette" in thing]


def pick(job_id: str, index: int) -> None:
    """Click on a picture of the gallery."""
    with bpy.context.temp_override(window=window(), area=view_area()):
        bpy.ops.maquette.apply_result("EXEC_DEFAULT", True, job_id=job_id, variant=index, instead=True)


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    driving.install()
    for thing in [thing for thing in window().scene.objects if thing.type == "MESH"]:
        bpy.data.objects.remove(thing)
    view_area().spaces.active.show_region_ui = True
    yield from wait(1.0)
    next(region for region in view_area().regions if region.type == "UI").active_panel_category = "Maquette"
    driving.set_up()
    folder = Path(bpy.app.tempdir).with_name("Pictures")
    folder.mkdir(exist_ok=True)
    photo = Path(shutil.copy(PLAN["photo"], folder))
    window().scene.maquette_create.variants = VARIANTS
    started = time.monotonic()
    job = driving.press_generate(photo, "cupid")
    yield from wait(JOB_SECONDS, until=driving.ended(job))
    yield from wait(0.5)
    thumbnails = addon("runtime.session").get().thumbnails
    seen["job"] = {
        "state": job().state, "failure": str(job().failure), "message": job().message,
        "seconds": round(time.monotonic() - started, 1), "variants": list(job().variants),
        "icons": [thumbnails.icon(job().job_id, name) for name in job().variants],
        "scores": job().report.get("hypotheses", []),
    }  # fmt: skip
    driving.look_through_the_camera()
    yield from wait(2.0)
    before = made()[0]
    seen["before"] = {"name": before.name, "vertices": len(before.data.vertices)}
    pick(job().job_id, PICKED)
    yield from wait(3.0)
    seen["after"] = [{"name": thing.name, "vertices": len(thing.data.vertices)} for thing in made()]
    screenshot("gallery.png")
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo()
    yield from wait(0.5)
    seen["undone"] = [{"name": thing.name, "vertices": len(thing.data.vertices)} for thing in made()]
    addon("runtime.session").get().forget(job().job_id)
    yield from wait(1.0)
    seen["icons_after"] = len(thumbnails._jobs)


driving.run(steps)
