"""Runs inside a Blender with a window: a mesh is looked at from all sides, pictures of it come back, another one is
picked with a click, and the mesh is put into its picture and rendered over it.

Usage: ``blender --python drive_render.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`, `mesh`: a GLB); it
receives screenshots, the backend's data and ``seen.json``. The pictures are those of the tests' own engine: the views
themselves, so that it is known where each camera stood. With `engine` and `prompt` in the plan that engine paints two
pictures with its small weights, and the one whose camera fits best is taken. Blender quits by itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bpy
from mathutils import Matrix

sys.path.insert(0, str(Path(__file__).parent))
import driving  # noqa: E402  (Blender runs this file as a script, so its folder has to be named first)
from driving import FOLDER, PLAN, addon, screenshot, seen, view_area, wait, window  # noqa: E402

STAND_IN = "cube"
ENGINE, PROMPT = PLAN.get("engine", STAND_IN), PLAN.get("prompt", "on a beach at sunset")
# The backend has to start; an idle machine takes a twentieth, and some 20 s a picture where one is really painted.
JOB_SECONDS = 200.0 if ENGINE == STAND_IN else 400.0
NAME = "Space Truck"
PLACE = Matrix.Translation((-1.0, 0.5, 0.4)) @ Matrix.Rotation(0.5, 4, "Z") @ Matrix.Scale(1.5, 4)
VARIANTS, STEPS, PICKED = (4, 3, 3) if ENGINE == STAND_IN else (2, 0, None)  # 0: the weights'; None: best camera
SCROLLS = 8  # of 40 pixels: down to the picture


def put_mesh() -> None:
    """Import the mesh, put it somewhere, select it."""
    for thing in [thing for thing in window().scene.objects if thing.type == "MESH"]:
        bpy.data.objects.remove(thing)
    before = set(window().scene.objects)
    with bpy.context.temp_override(window=window(), area=view_area()):
        bpy.ops.import_scene.gltf(filepath=PLAN["mesh"])
    made = [thing for thing in window().scene.objects if thing not in before]
    for thing in made:
        if thing.parent is None:
            thing.matrix_world = PLACE @ thing.matrix_world
    mesh = next(thing for thing in made if thing.type == "MESH")
    mesh.name = NAME
    layer = window().view_layer
    for thing in layer.objects:
        thing.select_set(thing == mesh, view_layer=layer)
    layer.objects.active = mesh


def press(name: str, *arguments: object, **settings: object) -> None:
    """Press a button of ours, as an undo step where it makes one."""
    with bpy.context.temp_override(window=window(), area=view_area()):
        getattr(bpy.ops.maquette, name)(*arguments, **settings)


def state() -> dict:
    """What must stay, and what was added."""
    scene, item = window().scene, window().scene.objects[NAME]
    return {
        "matrix": [round(value, 4) for row in item.matrix_world for value in row],
        "objects": sorted(thing.name for thing in scene.objects),
        "materials": [slot.material.name for slot in item.material_slots],
        "camera": scene.camera.name, "size": [scene.render.resolution_x, scene.render.resolution_y],
    }  # fmt: skip


def camera_error(number: int) -> float:
    """How far, in sides of the mesh, the scene's camera is from where view `number` was seen from."""
    views = addon("scene.reference_capture").reference_views
    record = addon("operators.picture_results").shown_record(window().scene)
    low, high = (record.parameters[name] for name in ("bounds_min", "bounds_max"))
    to_centred = Matrix(views.to_centred(low, high).tolist())
    azimuth = views.view_azimuths(8)[number]
    eye = Matrix(views.view_camera(azimuth).tolist()).inverted().translation
    bpy.context.view_layer.update()
    return (to_centred @ window().scene.camera.matrix_world.translation - eye).length / 2.0


def scroll_down() -> Iterator[None]:
    """The sidebar's lower part, where the picture is."""
    area = view_area()
    region = next(region for region in area.regions if region.type == "UI")
    with bpy.context.temp_override(window=window(), area=area, region=region):
        for _ in range(SCROLLS):
            bpy.ops.view2d.scroll_down()
    yield from wait(1.0)


def make_pictures() -> Iterator[None]:
    """Press Render Scene, watch Blender look at the mesh and the pictures arrive."""
    settings = window().scene.maquette_render
    settings.engine, settings.prompt, settings.variants, settings.steps = ENGINE, PROMPT, VARIANTS, STEPS
    store, rendering = addon("runtime.session").get().open_folder(), addon("operators.rendering")
    started = time.monotonic()
    press("render_scene")
    seen["button_seconds"] = round(time.monotonic() - started, 2)
    yield from wait(60.0, until=lambda: rendering.progress()[1] >= 5 or not rendering.progress()[0])
    screenshot("render_looking.png")
    yield from wait(60.0, until=lambda: not rendering.progress()[0])
    seen["look_seconds"], seen["trouble"] = round(time.monotonic() - started, 1), rendering.trouble()
    if not store.all():
        raise RuntimeError(f"no job was sent: {rendering.trouble()}")
    job_id = store.all()[0].job_id
    yield from wait(JOB_SECONDS, until=driving.ended(lambda: store.get(job_id)))
    job = store.get(job_id)
    seen["job"] = {
        "state": job.state, "failure": str(job.failure), "variants": list(job.variants),
        "cameras": [each["camera"] for each in job.report.get("variants", [])],
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip
    cameras = seen["job"]["cameras"]
    seen["picked"] = PICKED
    if PICKED is None:
        seen["picked"] = max(range(len(cameras)), key=lambda each: (cameras[each]["trusted"], cameras[each]["inliers"]))
    with bpy.context.temp_override(window=window(), area=view_area()):
        bpy.ops.maquette.apply_result("EXEC_DEFAULT", True, job_id=job_id, variant=seen["picked"], instead=True)
    yield from wait(3.0)
    yield from scroll_down()
    screenshot("render.png")


def put_in_picture() -> Iterator[None]:
    """The mesh into its picture, seen through the camera; back by one undo; again; rendered over the picture."""
    scene = window().scene
    scene.render.engine, scene.cycles.samples, scene.cycles.device = "CYCLES", 4, "CPU"
    scene.cycles.use_denoising = False  # Debian's Blender cannot
    with bpy.context.temp_override(window=window(), area=view_area()):
        bpy.ops.ed.undo_push(message="Before")
    seen["before"] = state()
    press("put_into_picture", "EXEC_DEFAULT", True)
    seen["put"] = state()
    if ENGINE == STAND_IN:
        seen["error"] = camera_error(PICKED)
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo()
    yield from wait(0.5)
    seen["undone"] = state()
    press("put_into_picture", "EXEC_DEFAULT", True)
    driving.look_through_the_camera()
    yield from wait(3.0)
    screenshot("render_into_picture.png")
    scene = window().scene
    scene.render.filepath, scene.render.image_settings.file_format = str(FOLDER / "over.png"), "PNG"
    with bpy.context.temp_override(window=window()):
        bpy.ops.render.render(write_still=True, scene=scene.name)
    press("save_picture", filepath=str(FOLDER / "saved.png"))
    press("project_picture", "EXEC_DEFAULT", True)
    seen["projected"] = state()
    press("open_picture")
    yield from wait(2.0)
    screenshot("render_editor.png")
    editors = [area.spaces.active for each in bpy.context.window_manager.windows for area in each.screen.areas
               if area.type == "IMAGE_EDITOR"]  # fmt: skip
    seen["editor"] = [editor.image.name for editor in editors if editor.image is not None]


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    driving.install()
    driving.open_only("MAQUETTE_PT_render", "MAQUETTE_PT_render_picture")
    put_mesh()
    yield from driving.show_tab()
    driving.set_up()
    yield from wait(1.0)
    yield from make_pictures()
    yield from put_in_picture()


driving.run(steps)
