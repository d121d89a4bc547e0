"""Runs inside a Blender with a window: install the zip, open the tab, generate, watch the event loop, take screenshots.

Usage: ``blender --python drive_window.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`: the backend's
interpreter, `photo`) and ``picture.png``; it receives screenshots, the backend's data and ``seen.json``. Two results
are made: one of the tests' own engine (a cube, at once), one of CUPID mini from the photo, seen through the scene's
camera. Blender quits by itself. A timer drives the steps, as a person would one after the other.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import addon_utils
import bpy

FOLDER = Path(sys.argv[-1])
PLAN = json.loads((FOLDER / "plan.json").read_text())
TESTS = Path(__file__).resolve().parents[1]
MODULE = "bl_ext.user_default.maquette"
TICK = 0.05  # seconds between two steps: 20 a second, fine enough to see the event loop stall
JOB_SECONDS = 150.0  # CUPID mini on two busy cores, with torch to be imported first, was seen to take 40 s

seen: dict = {"version": bpy.app.version_string, "ticks": 0, "longest_gap": 0.0, "jobs": {}}


def addon(name: str):
    """A module of the installed extension."""
    return sys.modules[f"{MODULE}.blender_addon.{name}"]


def window() -> bpy.types.Window:
    """The first window; a timer's own context has none."""
    return bpy.context.window_manager.windows[0]


def view_area() -> bpy.types.Area:
    """The 3D view of the first window."""
    return next(area for area in window().screen.areas if area.type == "VIEW_3D")


def screenshot(name: str) -> None:
    """Keep a picture of the whole screen, as a person sees it."""
    subprocess.run(["import", "-window", "root", str(FOLDER / name)], check=True)


def wait(seconds: float, until: Callable[[], object] = lambda: False) -> Iterator[None]:
    """Let Blender run for a while, or `until` something holds; the longest pause between two ticks is kept."""
    before = time.monotonic()
    end = before + seconds
    while before < end and not until():
        yield
        now = time.monotonic()
        seen["ticks"] += 1
        seen["longest_gap"] = max(seen["longest_gap"], now - before)
        before = now


def press_generate(picture: Path, engine: str) -> Callable[[], object]:
    """Fill in the Create panel and press its button; returns a function that gives the job as it stands."""
    settings = window().scene.maquette_create
    settings.image, settings.engine = str(picture), engine
    with bpy.context.temp_override(window=window()):
        bpy.ops.maquette.generate()
    store = addon("runtime.session").get().store
    job_id = store.all()[0].job_id
    return lambda: store.get(job_id)


def ended(job: Callable[[], object]) -> Callable[[], bool]:
    """Whether the job stands in the scene or will never do."""
    return lambda: job().applied > 0 or job().state in ("failed", "cancelled")


def generate(picture: Path, engine: str, during: Callable[[Callable[[], object]], Iterator[None]]) -> Iterator[None]:
    """Press Generate 3D, do what `during` does with the job, wait for the object and note what the timer cost."""
    pump = addon("runtime.pump")
    before = {thing.name for thing in window().scene.objects}
    pump.tick_seconds.clear()
    started = time.monotonic()
    job = press_generate(picture, engine)
    yield from during(job)
    yield from wait(JOB_SECONDS, until=ended(job))
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

    def sampling() -> bool:
        return job().stage == "sample_structure" and job().fraction > 0.3

    yield from wait(JOB_SECONDS, until=lambda: ended(job)() or sampling())
    yield from wait(0.3)  # the sidebar is drawn in between
    screenshot("generate.png")


def nothing(job: Callable[[], object]) -> Iterator[None]:
    """Only wait."""
    yield


def look_through_the_camera() -> None:
    """See the result as the photo does, with its colours: Numpad 0, and texture or vertex colours in the solid view."""
    area = view_area()
    space = area.spaces.active
    made = next(thing for thing in window().scene.objects if thing.type == "MESH")
    space.shading.color_type = "TEXTURE" if made.data.uv_layers else "VERTEX"
    space.region_3d.view_perspective = "CAMERA"
    space.region_3d.view_camera_zoom = -6.0  # small enough, and far enough to the left, for the sidebar beside it
    space.region_3d.view_camera_offset = (0.12, 0.0)


def set_up() -> None:
    """What differs from a person's Blender: the interpreter is there already, and the tests' engine is known."""
    (Path(sys.modules[MODULE].__file__).parent / "tests").symlink_to(TESTS)
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.backend_python, preferences.data_folder = PLAN["python"], str(FOLDER / "data")
    addon("properties").set_engines([("cube", "Cube", "")])


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    bpy.ops.extensions.package_install_files(filepath=PLAN["zip"], repo="user_default", enable_on_install=True)
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
    set_up()
    yield from generate(FOLDER / "picture.png", "cube", nothing)
    screenshot("cube.png")
    for thing in [thing for thing in window().scene.objects if thing.type == "MESH"]:
        bpy.data.objects.remove(thing)
    addon("runtime.session").get().forget(addon("runtime.session").get().store.all()[0].job_id)
    # Blender's own folder, because its path can be read on the screenshots.
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


def drive(running: Iterator[None]) -> float | None:
    """The timer's function: one step a tick; at the end write what was seen and quit."""
    try:
        next(running)
        return TICK
    except StopIteration:
        seen["finished"] = True
    except Exception:  # the border of this script: a failure must reach the test, not Blender's console
        seen["failure"] = traceback.format_exc()
    (FOLDER / "seen.json").write_text(json.dumps(seen))
    bpy.ops.wm.quit_blender()
    return None


bpy.context.preferences.view.show_splash = False
running = steps()
bpy.app.timers.register(lambda: drive(running), first_interval=1.0)
