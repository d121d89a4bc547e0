"""Runs inside a Blender with a window: install the zip, open the tab, generate, watch the event loop, take screenshots.

Usage: ``blender --python drive_window.py -- ZIP PYTHON FOLDER``. PYTHON is the backend's interpreter. FOLDER holds
``picture.png`` and receives screenshots, the backend's data and ``seen.json``. The engine is the tests' own (a cube).
Blender quits by itself. A timer drives the steps, as a person would one after the other.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import addon_utils
import bpy

ZIP, PYTHON, FOLDER = sys.argv[-3], sys.argv[-2], Path(sys.argv[-1])
TESTS = Path(__file__).resolve().parents[1]
MODULE = "bl_ext.user_default.maquette"
TICK = 0.05  # seconds between two steps: 20 a second, fine enough to see the event loop stall

seen: dict = {"version": bpy.app.version_string, "ticks": 0, "longest_gap": 0.0}


def screenshot(name: str) -> None:
    """Keep a picture of the whole screen, as a person sees it."""
    subprocess.run(["import", "-window", "root", str(FOLDER / name)], check=True)


def view_area() -> bpy.types.Area:
    """The 3D view of the first window."""
    return next(area for area in bpy.context.window_manager.windows[0].screen.areas if area.type == "VIEW_3D")


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


def generate() -> Iterator[None]:
    """Press Generate 3D and wait until the object stands in the scene."""
    # The backend starts in the extension's folder; this is how it finds the tests' engine there.
    (Path(sys.modules[MODULE].__file__).parent / "tests").symlink_to(TESTS)
    preferences = bpy.context.preferences.addons[MODULE].preferences
    preferences.backend_python, preferences.data_folder = PYTHON, str(FOLDER / "data")
    sys.modules[f"{MODULE}.blender_addon.properties"].set_engines([("cube", "Cube", "")])
    scene = bpy.context.window_manager.windows[0].scene
    seen["engine"] = scene.maquette_create.engine
    scene.maquette_create.image = str(FOLDER / "picture.png")
    scene.maquette_create.engine = "cube"
    before = {thing.name for thing in scene.objects}
    with bpy.context.temp_override(window=bpy.context.window_manager.windows[0]):
        bpy.ops.maquette.generate()
    yield from wait(60.0, until=lambda: {thing.name for thing in scene.objects} - before)
    seen["made"] = sorted({thing.name for thing in scene.objects} - before)
    held = sorted(sys.modules[f"{MODULE}.blender_addon.runtime.pump"].tick_seconds)
    seen["timer_p99_ms"] = 1000 * held[int(0.99 * (len(held) - 1))]
    yield from wait(2.0)


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    bpy.ops.extensions.package_install_files(filepath=ZIP, repo="user_default", enable_on_install=True)
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
    yield from generate()
    screenshot("result.png")
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
