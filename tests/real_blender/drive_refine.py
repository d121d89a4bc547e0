"""Runs inside a Blender with a window: a mesh is enhanced in its place, then edited by a sentence beside itself, each
undone again; with the tests' own engine, which returns the mesh as it was, the place is seen to be the same exactly.

Usage: ``blender --python drive_refine.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`, `mesh`: a GLB); it
receives screenshots, the backend's data and ``seen.json``. Blender quits by itself.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bpy
from mathutils import Euler, Matrix, Vector

sys.path.insert(0, str(Path(__file__).parent))
import driving  # noqa: E402  (Blender runs this file as a script, so its folder has to be named first)
from driving import FOLDER, PLAN, addon, screenshot, seen, view_area, wait, window  # noqa: E402

JOB_SECONDS = 200.0  # Kiss3DGen mini with torch to be imported first; an idle machine takes a fifth
NAME = "Treasure Chest"
PLACE = Matrix.Translation((-1.0, 0.5, 0.4)) @ Matrix.Rotation(0.5, 4, "Z") @ Matrix.Scale(1.5, 4)
SENTENCE = "make it red"


def put_mesh() -> None:
    """Import the mesh, make one object of its parts, put it somewhere, select it."""
    for thing in [thing for thing in window().scene.objects if thing.type == "MESH"]:
        bpy.data.objects.remove(thing)
    before = set(window().scene.objects)
    with bpy.context.temp_override(window=window(), area=view_area()):
        bpy.ops.import_scene.gltf(filepath=PLAN["mesh"])
    made = [thing for thing in window().scene.objects if thing not in before]
    for thing in made:
        if thing.parent is None:
            thing.matrix_world = PLACE @ thing.matrix_world
    layer, parts = window().view_layer, [thing for thing in made if thing.type == "MESH"]
    for thing in layer.objects:
        thing.select_set(thing in parts, view_layer=layer)
    layer.objects.active = parts[0]
    with bpy.context.temp_override(window=window(), area=view_area()):
        bpy.ops.object.join()
    parts[0].name = NAME
    parts[0].data.materials.append(bpy.data.materials.new("Varnish"))


def state() -> dict:
    """What must stay of the object, and how many meshes there are."""
    item, layer = window().scene.objects[NAME], window().view_layer
    corners = [item.matrix_world @ vertex.co for vertex in item.data.vertices]
    return {
        "matrix": [round(value, 4) for row in item.matrix_world for value in row],
        "parent": item.parent.name if item.parent else "",
        "objects": sorted(thing.name for thing in window().scene.objects),
        "low": [round(min(corner[axis] for corner in corners), 3) for axis in range(3)],
        "high": [round(max(corner[axis] for corner in corners), 3) for axis in range(3)],
        "mesh": item.data.name, "vertices": len(item.data.vertices),
        "materials": [slot.material.name for slot in item.material_slots],
        "selected": [thing.name for thing in layer.objects if thing.select_get(view_layer=layer)],
        "active": layer.objects.active.name,
    }  # fmt: skip


def frame() -> None:
    """All meshes beside the sidebar, seen from their front, in the colours of their textures."""
    area = view_area()
    area.spaces.active.shading.color_type = "TEXTURE"
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window(), area=area, region=region):
        layer = window().view_layer
        for item in layer.objects:
            item.select_set(item.type == "MESH", view_layer=layer)
        layer.update()
        view = area.spaces.active.region_3d
        view.view_rotation = Euler((1.25, 0.0, 0.75)).to_quaternion()
        bpy.ops.view3d.view_selected()
        view.view_distance *= 1.4
        view.view_location += view.view_rotation @ Vector((0.15 * view.view_distance, 0.0, 0.0))
        for item in layer.objects:
            item.select_set(item.name == NAME, view_layer=layer)


def refine(label: str, engine: str, shots: tuple[str, str], **chosen: object) -> Iterator[None]:
    """Choose in the panel, press the button, watch Blender look at the mesh and the backend work, then undo;
    screenshots while it looks and of the result.

    Seen under `label`: the job, and what stood in the scene `after` it and when it was `undone`.
    """
    settings = window().scene.maquette_refine
    for name, value in {"engine": engine, **chosen}.items():
        setattr(settings, name, value)
    store, refining = addon("runtime.session").get().open_folder(), addon("operators.refining")
    before = {job.job_id for job in store.all()}
    started = time.monotonic()
    with bpy.context.temp_override(window=window(), area=view_area()):
        bpy.ops.ed.undo_push(message="Before")
        bpy.ops.maquette.refine()
    found: dict = {"button_seconds": round(time.monotonic() - started, 2)}
    yield from wait(60.0, until=lambda: refining.progress()[1] >= 2 or not refining.progress()[0])
    screenshot(shots[0])
    yield from wait(60.0, until=lambda: not refining.progress()[0])
    found |= {"look_seconds": round(time.monotonic() - started, 1), "trouble": refining.trouble()}
    seen[label] = found
    (job_id,) = (job.job_id for job in store.all() if job.job_id not in before)
    yield from wait(JOB_SECONDS, until=driving.ended(lambda: store.get(job_id)))
    yield from wait(0.5)
    job = store.get(job_id)
    found |= {
        "state": job.state, "failure": str(job.failure), "parameters": job.parameters, "report": job.report,
        "seconds": round(time.monotonic() - started, 1), "after": state(),
    }  # fmt: skip
    shutil.copy(job.more_inputs["bundle"], FOLDER / f"{label}_sent.png")
    shutil.copy(store.artifact_path(job_id, "bundle.png"), FOLDER / f"{label}_made.png")
    addon("runtime.session").get().unfolded = {job_id}
    frame()
    yield from wait(3.0)
    screenshot(shots[1])
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo()
    yield from wait(0.5)
    found["undone"] = state()


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    driving.install()
    driving.open_only("MAQUETTE_PT_refine")
    put_mesh()
    yield from driving.show_tab()
    driving.set_up()
    frame()
    yield from wait(1.0)
    seen["before"] = state()
    for label, engine, shots, chosen in (
        ("same", "cube", ("same_looking.png", "same.png"), {"purpose": "ENHANCE", "destination": "REPLACE"}),
        ("enhanced", "kiss3dgen", ("refine_looking.png", "enhanced.png"), {}),
        ("edited", "kiss3dgen", ("edited_looking.png", "refine.png"),
         {"purpose": "EDIT", "prompt": SENTENCE, "destination": "BESIDE"}),
    ):  # fmt: skip
        yield from refine(label, engine, shots, **chosen)


driving.run(steps)
