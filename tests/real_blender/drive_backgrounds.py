"""Runs inside a Blender with a window: every EXIF orientation of a photo behind the camera, photographed.

Usage: ``blender --python drive_backgrounds.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`; `photos`: path,
orientation and size as displayed of each) and receives a screenshot a photo and ``seen.json`` with the camera's frame
on the screenshot (left, top, right, bottom in pixels). Blender quits by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import bpy
from bpy_extras.view3d_utils import location_3d_to_region_2d

sys.path.insert(0, str(Path(__file__).parent))
import driving  # noqa: E402  (Blender runs this file as a script, so its folder has to be named first)
from driving import addon, screenshot, seen, wait  # noqa: E402


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
    driving.install()
    cameras, window, area = addon("scene.cameras"), driving.window(), driving.view_area()
    for thing in [thing for thing in window.scene.objects if thing.type != "CAMERA"]:
        bpy.data.objects.remove(thing)
    space = area.spaces.active
    space.region_3d.view_perspective = "CAMERA"
    space.show_gizmo = space.overlay.show_floor = space.overlay.show_axis_x = space.overlay.show_axis_y = False
    space.overlay.show_cursor = False
    seen["frames"] = {}
    for path, orientation, size in driving.PLAN["photos"]:
        cameras.set_render_size(window.scene, size)
        cameras.set_background(window.scene, window.scene.camera, Path(path), orientation, size)
        area.tag_redraw()
        yield from wait(1.5)
        name = Path(path).stem
        seen["frames"][name] = frame_on_screen(window, area)
        screenshot(f"{name}.png")


driving.run(steps)
