"""Runs inside a Blender with a window: three photos of one object become it and three cameras, seen from both sides.

Usage: ``blender --python drive_three_photos.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`, and the photos
`front`, `back` and `side`); it receives screenshots, the backend's data and ``seen.json``. The left view shows the
object between its three cameras, the right one looks through the last camera that is trusted. Blender quits by itself.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bpy
from mathutils import Vector

sys.path.insert(0, str(Path(__file__).parent))
import driving  # noqa: E402  (Blender runs this file as a script, so its folder has to be named first)
from driving import PLAN, addon, screenshot, seen, view_area, wait, window  # noqa: E402

JOB_SECONDS = 220.0  # three times what one photo takes, on two busy cores
FROM = Vector((0.25, -1.0, 0.62))  # the side from which all cameras are looked at


def cameras() -> list[bpy.types.Object]:
    """The scene's cameras in the order of their photos."""
    names = [f"{Path(PLAN[name]).stem} Camera" for name in ("front", "back", "side")]
    return [window().scene.objects[name] for name in names if name in window().scene.objects]


def names_of(kind: str) -> list[str]:
    """The names of the scene's objects of a type."""
    return sorted(thing.name for thing in window().scene.objects if thing.type == kind)


def choose_photos() -> list[Path]:
    """Put the photos where a person has pictures, and the second and third into the list; returns them all."""
    folder = Path(bpy.app.tempdir).with_name("Pictures")
    folder.mkdir(exist_ok=True)
    photos = [Path(shutil.copy(PLAN[name], folder)) for name in ("front", "back", "side")]
    with bpy.context.temp_override(window=window()):
        bpy.ops.maquette.add_photos(directory=str(folder), files=[{"name": photo.name} for photo in photos[1:]])
    return photos


def open_the_list() -> None:
    """What a click on the panel's header does: scripts cannot click. Only before the sidebar was drawn."""
    panel = addon("panels.photos").MAQUETTE_PT_create_photos
    bpy.utils.unregister_class(panel)
    panel.bl_options = set()
    bpy.utils.register_class(panel)


def split_the_view() -> Iterator[None]:
    """Two 3D views beside each other; the left one keeps the sidebar."""
    area = view_area()
    with bpy.context.temp_override(window=window(), area=area, region=area.regions[-1]):
        bpy.ops.screen.area_split(direction="VERTICAL", factor=0.58)
    yield from wait(0.5)  # only then is it known which of them is where
    left, right = views()
    left.spaces.active.show_region_ui, right.spaces.active.show_region_ui = True, False


def views() -> list[bpy.types.Area]:
    """The 3D views from left to right."""
    return sorted((each for each in window().screen.areas if each.type == "VIEW_3D"), key=lambda each: each.x)


def look_at_everything(area: bpy.types.Area) -> None:
    """The object and all its cameras from outside."""
    space = area.spaces.active
    space.shading.color_type = "TEXTURE"
    region = space.region_3d
    region.view_perspective = "PERSP"
    places = [camera.matrix_world.translation for camera in cameras()] + [Vector((0.0, 0.0, 0.5))]
    middle = sum(places, Vector()) / len(places)
    region.view_rotation = FROM.to_track_quat("Z", "Y")
    region.view_distance = 1.8 * max((place - middle).length for place in places) + 1.0
    beside = region.view_rotation @ Vector((0.27 * region.view_distance, 0.0, 0.0))
    region.view_location = middle + beside  # the sidebar covers the right half


def look_through(area: bpy.types.Area, camera: bpy.types.Object) -> None:
    """One photo behind the object, as Numpad 0 shows it."""
    space = area.spaces.active
    space.use_local_camera, space.camera = True, camera
    space.shading.color_type = "TEXTURE"
    space.region_3d.view_perspective = "CAMERA"
    space.region_3d.view_camera_zoom = -4.0


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    driving.install()
    open_the_list()
    for thing in list(window().scene.objects):
        bpy.data.objects.remove(thing)
    view_area().spaces.active.show_region_ui = True
    yield from wait(1.0)
    next(region for region in view_area().regions if region.type == "UI").active_panel_category = "Maquette"
    driving.set_up()
    photos = choose_photos()
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo_push(message="Photos chosen")
    started = time.monotonic()
    job = driving.press_generate(photos[0], "cupid")
    yield from wait(JOB_SECONDS, until=driving.ended(job))
    yield from wait(0.5)
    seen["job"] = {
        "state": job().state, "failure": str(job().failure), "message": job().message,
        "seconds": round(time.monotonic() - started, 1), "photos": job().report.get("photos", []),
    }  # fmt: skip
    seen["cameras"], seen["meshes"] = names_of("CAMERA"), names_of("MESH")
    seen["active"] = window().scene.camera.name if window().scene.camera else ""
    seen["backgrounds"] = {
        camera.name: [Path(item.image.filepath).name for item in camera.data.background_images] for camera in cameras()
    }
    if len(cameras()) != len(photos):
        raise RuntimeError(f"there is no camera for every photo: {seen['job']}")
    yield from split_the_view()
    left, right = views()
    look_at_everything(left)
    trusted = [number for number, photo in enumerate(seen["job"]["photos"]) if photo.get("trusted")]
    look_through(right, cameras()[max(trusted, default=0)])
    yield from wait(3.0)
    screenshot("three_photos.png")
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo()
    yield from wait(0.5)
    seen["undone"] = names_of("CAMERA") + names_of("MESH")
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.redo()
    yield from wait(0.5)
    seen["redone"] = names_of("CAMERA") + names_of("MESH")


driving.run(steps)
