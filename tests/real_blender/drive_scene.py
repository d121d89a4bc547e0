"""Runs inside a Blender with a window: a photo of three objects, a mask for each and its depth become a scene.

Usage: ``blender --python drive_scene.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`, `photo`, `depth`,
`mask_0` to `mask_2`); it receives scene.png, the backend's data and ``seen.json``. The left view shows the objects from
above, the right one looks through the photo's camera with the photo behind it. Blender quits by itself.
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

JOB_SECONDS = 240.0  # three objects, one after the other, on two busy cores
FROM = Vector((0.5, -1.0, 1.3))  # the side from which the left view looks
MASKS = ("mask_0", "mask_1", "mask_2")


def names() -> list[str]:
    """Every object of the scene, sorted."""
    return sorted(thing.name for thing in window().scene.objects)


def fill_in() -> None:
    """What a person chooses in the Compose panel, from a folder with pictures of Blender's own."""
    folder = Path(bpy.app.tempdir).with_name("Pictures")
    folder.mkdir(exist_ok=True)
    files = {name: Path(shutil.copy(PLAN[name], folder)) for name in ("photo", "depth", *MASKS)}
    settings = window().scene.maquette_compose
    settings.image, settings.depth, settings.engine = str(files["photo"]), str(files["depth"]), "cupid"
    with bpy.context.temp_override(window=window()):
        bpy.ops.maquette.add_masks(directory=str(folder), files=[{"name": files[name].name} for name in MASKS])


def show_panel() -> None:
    """The Compose panel open and Create closed, as clicks on their headers do: scripts cannot click.

    Blender asks for the option when it first draws a panel; all are registered anew, so that their order stays.
    """
    panels = [each for each in addon("registration").CLASSES if issubclass(each, bpy.types.Panel)]
    for panel in reversed(panels):
        bpy.utils.unregister_class(panel)
    for panel in panels:
        if panel.__name__ == "MAQUETTE_PT_create":
            panel.bl_options = {"DEFAULT_CLOSED"}
        elif panel.__name__ == "MAQUETTE_PT_compose":
            panel.bl_options = set()
        bpy.utils.register_class(panel)


def split_the_view() -> None:
    """Two 3D views beside each other."""
    area = view_area()
    with bpy.context.temp_override(window=window(), area=area, region=area.regions[-1]):
        bpy.ops.screen.area_split(direction="VERTICAL", factor=0.56)


def both_views() -> tuple[bpy.types.Area, bpy.types.Area]:
    """The left view, which has the sidebar, and the right one."""
    left, right = sorted((each for each in window().screen.areas if each.type == "VIEW_3D"), key=lambda each: each.x)
    left.spaces.active.show_region_ui, right.spaces.active.show_region_ui = True, False
    return left, right


def look_from_above(area: bpy.types.Area) -> None:
    """The objects and their places, not the camera's view."""
    space = area.spaces.active
    space.shading.color_type = "TEXTURE"
    region = space.region_3d
    region.view_perspective = "PERSP"
    region.view_location = (0.9, -0.4, 0.3)  # the sidebar covers the right half
    region.view_rotation = FROM.to_track_quat("Z", "Y")
    region.view_distance = 7.5


def look_through_the_camera(area: bpy.types.Area) -> None:
    """The objects as the photo saw them, over it."""
    space = area.spaces.active
    space.shading.color_type = "TEXTURE"
    space.region_3d.view_perspective = "CAMERA"
    space.region_3d.view_camera_zoom = 5.0


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    driving.install()
    show_panel()
    view_area().spaces.active.show_region_ui = True
    yield from wait(1.0)
    next(region for region in view_area().regions if region.type == "UI").active_panel_category = "Maquette"
    driving.set_up()
    for thing in list(window().scene.objects):
        bpy.data.objects.remove(thing)
    fill_in()
    yield from wait(2.0)
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo_push(message="Start")
        bpy.ops.maquette.generate_scene()
    store = addon("runtime.session").get().store
    job_id, started = store.all()[0].job_id, time.monotonic()
    yield from wait(JOB_SECONDS, until=driving.ended(lambda: store.get(job_id)))
    job = store.get(job_id)
    seen["job"] = {
        "state": job.state, "failure": str(job.failure), "message": job.message, "waiting": job.waiting,
        "seconds": round(time.monotonic() - started, 2), "mask_iou": job.report.get("mask_iou"),
        "sources": [item["depth_source"] for item in job.report.get("objects", [])],
    }  # fmt: skip
    yield from wait(1.0)
    seen["made"] = names()
    seen["collections"] = [collection.name for collection in window().scene.collection.children]
    camera = window().scene.camera
    seen["camera"] = camera.name
    seen["backgrounds"] = [Path(item.image.filepath).name for item in camera.data.background_images if item.image]
    split_the_view()
    yield from wait(1.0)  # the areas have their places
    left, right = both_views()
    yield from wait(1.0)
    next(region for region in left.regions if region.type == "UI").active_panel_category = "Maquette"
    look_from_above(left)
    look_through_the_camera(right)
    yield from wait(3.0)
    screenshot("scene.png")
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo()
    yield from wait(1.0)
    seen["undone"] = names()
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.redo()
    yield from wait(1.0)
    seen["redone"] = names()


driving.run(steps)
