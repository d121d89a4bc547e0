"""Runs inside a Blender with a window: a mesh that stands in the scene is matched to a photo of such an object.

Usage: ``blender --python drive_match_mesh.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`, `photo`, `mesh`:
a GLB); it receives screenshots, the backend's data and ``seen.json``. Both views look through the matched camera: the
left one at the mesh in its colours, the right one at its wires on the photo. Blender quits by itself.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bpy
from mathutils import Matrix

sys.path.insert(0, str(Path(__file__).parent))
import driving  # noqa: E402  (Blender runs this file as a script, so its folder has to be named first)
from driving import PLAN, addon, screenshot, seen, view_area, wait, window  # noqa: E402

JOB_SECONDS = 230.0  # CUPID's own object and the search, on two busy cores
PLACE = Matrix.Translation((3.0, -1.5, 0.8)) @ Matrix.Rotation(2.1, 4, "Z") @ Matrix.Scale(0.6, 4)


def open_the_panel() -> None:
    """Match Photo open, Create closed, as after two clicks: scripts cannot click. Only before the sidebar was drawn."""
    names = ("MAQUETTE_PT_create", "MAQUETTE_PT_match")
    panels = [item for item in addon("registration").CLASSES if item.__name__.startswith(names)]
    for panel in reversed(panels):
        bpy.utils.unregister_class(panel)
    for panel in panels:
        panel.bl_options = set() if panel.__name__ == "MAQUETTE_PT_match" else {"DEFAULT_CLOSED"}
        bpy.utils.register_class(panel)


def put_mesh() -> list[bpy.types.Object]:
    """Import the mesh, put it somewhere, select it; returns its objects."""
    for thing in [thing for thing in window().scene.objects if thing.type == "MESH"]:
        bpy.data.objects.remove(thing)
    before = set(window().scene.objects)
    with bpy.context.temp_override(window=window(), area=view_area()):
        bpy.ops.import_scene.gltf(filepath=PLAN["mesh"])
    made = [thing for thing in window().scene.objects if thing not in before]
    for thing in made:
        if thing.parent is None:
            thing.matrix_world = PLACE @ thing.matrix_world
    next(thing for thing in made if thing.type == "MESH").name = "Space Truck"
    layer = window().view_layer
    for thing in layer.objects:
        thing.select_set(thing in made, view_layer=layer)
    layer.objects.active = next(thing for thing in made if thing.type == "MESH")
    return made


def press_match(photo: Path) -> Callable[[], object]:
    """Fill in the panel and press its button; returns a function that gives the job as it stands."""
    settings = window().scene.maquette_match
    settings.subject, settings.image, settings.engine = "SELECTED", str(photo), "cupid"
    with bpy.context.temp_override(window=window(), area=view_area()):
        bpy.ops.ed.undo_push(message="Mesh in place")
        bpy.ops.maquette.match_mesh()
    store = addon("runtime.session").get().store
    job_id = store.all()[0].job_id
    return lambda: store.get(job_id)


def look_twice() -> None:
    """Split the view: colours on the left, beside the sidebar; wires on the right."""
    area = view_area()
    with bpy.context.temp_override(window=window(), area=area, region=area.regions[-1]):
        bpy.ops.screen.area_split(direction="VERTICAL", factor=0.6)
    left, right = sorted((each for each in window().screen.areas if each.type == "VIEW_3D"), key=lambda each: each.x)
    right.spaces.active.show_region_ui = right.spaces.active.show_region_toolbar = False
    for item in (left, right):
        space = item.spaces.active
        space.region_3d.view_perspective = "CAMERA"
        space.region_3d.view_camera_zoom = -6.0 if item is left else 4.0
        space.overlay.show_floor = space.overlay.show_axis_x = space.overlay.show_axis_y = False
        space.overlay.show_relationship_lines = False
    left.spaces.active.region_3d.view_camera_offset = (0.2, 0.0)
    left.spaces.active.shading.color_type = "TEXTURE"
    right.spaces.active.shading.type = "WIREFRAME"


def matrix_of(thing: bpy.types.Object) -> list[float]:
    """The world matrix as sixteen numbers."""
    return [round(value, 5) for row in thing.matrix_world for value in row]


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    driving.install()
    open_the_panel()
    made = put_mesh()
    view_area().spaces.active.show_region_ui = True
    yield from wait(1.0)
    next(region for region in view_area().regions if region.type == "UI").active_panel_category = "Maquette"
    driving.set_up()
    folder = Path(bpy.app.tempdir).with_name("Pictures")
    folder.mkdir(exist_ok=True)
    photo = Path(shutil.copy(PLAN["photo"], folder))
    names = sorted(thing.name for thing in window().scene.objects)
    mesh = next(thing for thing in made if thing.type == "MESH")
    seen["mesh_before"], seen["camera_before"] = matrix_of(mesh), matrix_of(window().scene.camera)
    started = time.monotonic()
    job = press_match(photo)
    seen["button_seconds"] = round(time.monotonic() - started, 2)
    yield from wait(JOB_SECONDS, until=driving.ended(job))
    yield from wait(0.5)
    report = job().report
    seen["job"] = {
        "state": job().state, "failure": str(job().failure), "message": job().message,
        "seconds": round(time.monotonic() - started, 1),
        **{name: report.get(name) for name in ("mask_iou", "origin", "camera_trusted", "residual")},
    }  # fmt: skip
    seen["same_objects"] = names == sorted(thing.name for thing in window().scene.objects)
    mesh = window().scene.objects[mesh.name]
    seen["mesh_after"], seen["camera_after"] = matrix_of(mesh), matrix_of(window().scene.camera)
    backgrounds = window().scene.camera.data.background_images
    seen["backgrounds"] = [Path(item.image.filepath).name for item in backgrounds if item.image is not None]
    look_twice()
    yield from wait(3.0)
    screenshot("match_mesh.png")
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo()
    yield from wait(0.5)
    seen["camera_undone"] = matrix_of(window().scene.camera)


driving.run(steps)
