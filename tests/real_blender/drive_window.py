"""Runs inside a Blender with a window: install the zip, open the tab, generate, watch the event loop, take screenshots.

Usage: ``blender --python drive_window.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`: the backend's
interpreter, `photo`) and ``picture.png``; it receives screenshots, the backend's data and ``seen.json``. Two results
are made: one of the tests' own engine (a cube, at once), one of CUPID mini from the photo, seen through the scene's
camera. Blender quits by itself.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import addon_utils
import bpy

sys.path.insert(0, str(Path(__file__).parent))
import driving  # noqa: E402  (Blender runs this file as a script, so its folder has to be named first)
from driving import FOLDER, MODULE, PLAN, addon, screenshot, seen, view_area, wait, window  # noqa: E402

JOB_SECONDS = 150.0  # CUPID mini on two busy cores, with torch to be imported first, was seen to take 40 s


def generate(picture: Path, engine: str, during: Callable[[Callable[[], object]], Iterator[None]]) -> Iterator[None]:
    """Press Generate 3D, do what `during` does with the job, wait for the object and note what the timer cost."""
    pump = addon("runtime.pump")
    before = {thing.name for thing in window().scene.objects}
    pump.tick_seconds.clear()
    started = time.monotonic()
    job = driving.press_generate(picture, engine)
    yield from during(job)
    yield from wait(JOB_SECONDS, until=driving.ended(job))
    yield from wait(0.5)  # the ticks right after the object came
    held = sorted(pump.tick_seconds)
    seen["jobs"][engine] = {
        "state": job().state,
        "failure": str(job().failure),
        "message": job().message,
        "seconds": round(time.monotonic() - started, 2),
        "made": sorted({thing.name for thing in window().scene.objects} - before),
        "ticks": len(held),
        "timer_p99_ms": round(1000 * held[int(0.99 * (len(held) - 1))], 2),
        "timer_max_ms": round(1000 * held[-1], 2),
    }


def running_screenshot(job: Callable[[], object]) -> Iterator[None]:
    """A screenshot of the job list while the sampler is at work."""
    yield from wait(JOB_SECONDS, until=lambda: driving.ended(job)() or job().stage == "sample_structure")
    yield from wait(0.6)  # some steps, and the sidebar is drawn
    screenshot("generate.png")


def nothing(job: Callable[[], object]) -> Iterator[None]:
    """Only wait."""
    yield


def look_through_the_camera() -> None:
    """See the result as the photo does, with its colours: Numpad 0, and texture or vertex colours in the solid view."""
    space = view_area().spaces.active
    made = next(thing for thing in window().scene.objects if thing.type == "MESH")
    space.shading.color_type = "TEXTURE" if made.data.uv_layers else "VERTEX"
    space.region_3d.view_perspective = "CAMERA"
    space.region_3d.view_camera_zoom = -6.0  # small enough, and far enough to the left, for the sidebar beside it
    space.region_3d.view_camera_offset = (0.12, 0.0)


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    seen["jobs"] = {}
    driving.install()
    seen["loaded"] = list(addon_utils.check(MODULE))
    area = view_area()
    area.spaces.active.show_region_ui = True
    yield from wait(1.0)
    sidebar = next(region for region in area.regions if region.type == "UI")
    sidebar.active_panel_category = "Maquette"
    seen["tab"] = sidebar.active_panel_category
    area.tag_redraw()
    yield from wait(3.0)
    screenshot("sidebar.png")
    seen["engine"] = window().scene.maquette_create.engine
    driving.set_up()
    yield from generate(FOLDER / "picture.png", "cube", nothing)
    screenshot("cube.png")
    for thing in [thing for thing in window().scene.objects if thing.type == "MESH"]:
        bpy.data.objects.remove(thing)
    addon("runtime.session").get().forget(addon("runtime.session").get().store.all()[0].job_id)
    # In a folder of Blender's own, because its path can be read on the screenshots.
    photo = Path(bpy.app.tempdir).with_name("Pictures") / Path(PLAN["photo"]).name
    photo.parent.mkdir(exist_ok=True)
    shutil.copy(PLAN["photo"], photo)
    yield from generate(photo, "cupid", running_screenshot)
    look_through_the_camera()
    yield from wait(2.0)
    screenshot("result.png")
    backgrounds = window().scene.camera.data.background_images
    seen["backgrounds"] = [item.image.filepath for item in backgrounds if item.image is not None]
    addon_utils.disable(MODULE, default_set=True)
    yield from wait(0.5)
    addon_utils.enable(MODULE, default_set=True)
    seen["again"] = list(addon_utils.check(MODULE))
    yield from wait(1.0)


driving.run(steps)
