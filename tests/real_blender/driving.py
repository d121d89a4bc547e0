"""What the scripts share that drive a Blender with a window from inside. Blender runs them with a timer, step by step.

A script ends with ``driving.run(steps)``. Its last argument is the folder that holds ``plan.json`` and receives
screenshots and ``seen.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import bpy

FOLDER = Path(sys.argv[-1])
PLAN = json.loads((FOLDER / "plan.json").read_text())
TESTS = Path(__file__).resolve().parents[1]
MODULE = "bl_ext.user_default.maquette"
TICK = 0.05  # seconds between two steps: 20 a second, fine enough to see the event loop stall

seen: dict = {"version": bpy.app.version_string, "ticks": 0, "longest_gap": 0.0}


def addon(name: str) -> ModuleType:
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


def install() -> None:
    """Install the zip as Blender's own operator does."""
    bpy.ops.extensions.package_install_files(filepath=PLAN["zip"], repo="user_default", enable_on_install=True)


def set_up() -> None:
    """What differs from a person's Blender: the interpreter is there already, and the tests' engine is known."""
    (Path(sys.modules[MODULE].__file__).parent / "tests").symlink_to(TESTS)
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.backend_python, preferences.data_folder = PLAN["python"], str(FOLDER / "data")
    addon("properties").set_engines([("cube", "Cube", "")])


def open_only(*names: str) -> None:
    """The panels `names` open and the others above Jobs closed, as after some clicks: scripts cannot click. Only before
    the sidebar was drawn."""
    panels = [item for item in addon("registration").CLASSES if item.__name__.startswith("MAQUETTE_PT_")]
    for panel in reversed(panels):
        bpy.utils.unregister_class(panel)
    for panel in panels:
        closed = panel.__name__ not in (*names, "MAQUETTE_PT_jobs", "MAQUETTE_PT_setup")
        panel.bl_options = {"DEFAULT_CLOSED"} if closed else set()
        bpy.utils.register_class(panel)


def show_tab() -> Iterator[None]:
    """Open the sidebar at our tab."""
    view_area().spaces.active.show_region_ui = True
    yield from wait(1.0)
    next(region for region in view_area().regions if region.type == "UI").active_panel_category = "Maquette"


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


def look_through_the_camera() -> None:
    """Numpad 0, in the colours of the texture, beside the sidebar."""
    space = view_area().spaces.active
    space.shading.color_type = "TEXTURE"
    space.region_3d.view_perspective = "CAMERA"
    space.region_3d.view_camera_zoom = -6.0
    space.region_3d.view_camera_offset = (0.12, 0.0)


def run(steps: Callable[[], Iterator[None]]) -> None:
    """Run the generator `steps`, one step a tick; at the end write what was seen and quit."""
    bpy.context.preferences.view.show_splash = False
    running = steps()

    def tick() -> float | None:
        try:
            next(running)
            return TICK
        except StopIteration:
            seen["finished"] = True
        except Exception:  # the border of these scripts: a failure must reach the test, not Blender's console
            seen["failure"] = traceback.format_exc()
        (FOLDER / "seen.json").write_text(json.dumps(seen))
        bpy.ops.wm.quit_blender()
        return None

    bpy.app.timers.register(tick, first_interval=1.0, persistent=True)  # one script opens another file
