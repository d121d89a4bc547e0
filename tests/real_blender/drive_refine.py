"""Runs inside a Blender with a window: a mesh is looked at from four sides and comes back enhanced beside itself; with
the tests' own engine, which returns it as it was, it is also replaced.

Usage: ``blender --python drive_refine.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`, `mesh`: a GLB); it
receives screenshots, the backend's data and ``seen.json``. Blender quits by itself.
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
from driving import PLAN, addon, screenshot, seen, view_area, wait, window  # noqa: E402

JOB_SECONDS = 200.0  # Kiss3DGen mini with torch to be imported first; an idle machine takes a fifth
NAME = "Space Truck"
PLACE = Matrix.Translation((-1.0, 0.5, 0.4)) @ Matrix.Rotation(0.5, 4, "Z") @ Matrix.Scale(1.5, 4)


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


def state() -> dict:
    """What must stay of the object, and how many meshes there are."""
    item = window().scene.objects[NAME]
    corners = [item.matrix_world @ vertex.co for vertex in item.data.vertices]
    return {
        "matrix": [round(value, 4) for row in item.matrix_world for value in row],
        "parent": item.parent.name if item.parent else "",
        "objects": sorted(thing.name for thing in window().scene.objects),
        "low": [round(min(corner[axis] for corner in corners), 3) for axis in range(3)],
        "high": [round(max(corner[axis] for corner in corners), 3) for axis in range(3)],
        "mesh": item.data.name, "vertices": len(item.data.vertices),
    }  # fmt: skip


def frame() -> None:
    """All meshes in the middle of the view, in the colours of their textures."""
    area = view_area()
    area.spaces.active.shading.color_type = "TEXTURE"
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window(), area=area, region=region):
        layer = window().view_layer
        for item in layer.objects:
            item.select_set(item.type == "MESH", view_layer=layer)
        layer.update()
        bpy.ops.view3d.view_selected()
        for item in layer.objects:
            item.select_set(item.name == NAME, view_layer=layer)


def refine(engine: str, destination: str, shots: tuple[str, str]) -> Iterator[None]:
    """Press the button, watch Blender look at the mesh and the backend work; screenshots of both."""
    settings = window().scene.maquette_refine
    settings.engine, settings.destination = engine, destination
    store, refining = addon("runtime.session").get().open_folder(), addon("operators.refining")
    before = {job.job_id for job in store.all()}
    started = time.monotonic()
    with bpy.context.temp_override(window=window(), area=view_area()):
        bpy.ops.ed.undo_push(message="Before")
        bpy.ops.maquette.refine()
    button = time.monotonic() - started
    yield from wait(60.0, until=lambda: refining.progress()[1] >= 2 or not refining.progress()[0])
    if shots[0]:
        screenshot(shots[0])
    yield from wait(60.0, until=lambda: not refining.progress()[0])
    looked = time.monotonic() - started
    fresh = [job.job_id for job in store.all() if job.job_id not in before]
    found = {"button_seconds": round(button, 2), "look_seconds": round(looked, 1), "trouble": refining.trouble()}
    if fresh:
        yield from wait(JOB_SECONDS, until=driving.ended(lambda: store.get(fresh[0])))
        job = store.get(fresh[0])
        found |= {"state": job.state, "failure": str(job.failure), "parameters": job.parameters,
                  "seconds": round(time.monotonic() - started, 1)}  # fmt: skip
        addon("runtime.session").get().unfolded = {fresh[0]}
    seen[engine] = found
    frame()
    yield from wait(3.0)
    if shots[1]:
        screenshot(shots[1])


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
    yield from refine("cube", "REPLACE", ("", "refine_sides.png"))
    seen["replaced"] = state()
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo()
    yield from wait(0.5)
    seen["undone"] = state()
    yield from refine("kiss3dgen", "BESIDE", ("refine_looking.png", "refine.png"))
    seen["beside"] = state()


driving.run(steps)
