"""Runs inside a Blender with a window: every EXIF orientation of a photo behind the camera, photographed.

Usage: ``blender --python drive_backgrounds.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`; `photos`: path and
orientation of each; `size` as displayed) and receives a screenshot a photo and ``seen.json`` with the camera's frame on
the screenshot (left, top, right, bottom in pixels). Blender quits by itself.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import bpy
from bpy_extras.view3d_utils import location_3d_to_region_2d

FOLDER = Path(sys.argv[-1])
PLAN = json.loads((FOLDER / "plan.json").read_text())
MODULE = "bl_ext.user_default.maquette"

seen: dict = {"version": bpy.app.version_string, "frames": {}}


def wait(seconds: float) -> Iterator[None]:
    """Let Blender draw for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def frame_on_screen(window: bpy.types.Window, area: bpy.types.Area) -> list[float]:
    """The camera's frame on the screenshot: left, top, right, bottom in pixels."""
    scene = window.scene
    region = next(region for region in area.regions if region.type == "WINDOW")
    corners = [scene.camera.matrix_world @ corner for corner in scene.camera.data.view_frame(scene=scene)]
    points = [location_3d_to_region_2d(region, area.spaces.active.region_3d, corner) for corner in corners]
    xs = [region.x + point.x for point in points]
    ys = [window.height - region.y - point.y for point in points]
    return [min(xs), min(ys), max(xs), max(ys)]


def steps() -> Iterator[None]:
    """Put each photo behind the camera and take a screenshot."""
    yield
    bpy.ops.extensions.package_install_files(filepath=PLAN["zip"], repo="user_default", enable_on_install=True)
    cameras = sys.modules[f"{MODULE}.blender_addon.scene.cameras"]
    window = bpy.context.window_manager.windows[0]
    area = next(area for area in window.screen.areas if area.type == "VIEW_3D")
    for thing in [thing for thing in window.scene.objects if thing.type != "CAMERA"]:
        bpy.data.objects.remove(thing)
    space = area.spaces.active
    space.region_3d.view_perspective = "CAMERA"
    space.show_gizmo = space.overlay.show_floor = space.overlay.show_axis_x = space.overlay.show_axis_y = False
    space.overlay.show_cursor = False
    for path, orientation, size in PLAN["photos"]:
        cameras.set_render_size(window.scene, size)
        cameras.set_background(window.scene, window.scene.camera, Path(path), orientation, size)
        area.tag_redraw()
        yield from wait(1.5)
        name = Path(path).stem
        seen["frames"][name] = frame_on_screen(window, area)
        subprocess.run(["import", "-window", "root", str(FOLDER / f"{name}.png")], check=True)


def drive(running: Iterator[None]) -> float | None:
    """The timer's function: one step a tick; at the end write what was seen and quit."""
    try:
        next(running)
        return 0.05
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
