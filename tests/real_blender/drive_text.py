"""Runs inside a Blender with a window: a sentence becomes an object, with its pictures from four sides to watch, and a
list of sentences a row of objects.

Usage: ``blender --python drive_text.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`); it receives
screenshots, the backend's data and ``seen.json``. The sentence goes to Kiss3DGen mini, the list to the tests' own
engine. Blender quits by itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
import driving  # noqa: E402  (Blender runs this file as a script, so its folder has to be named first)
from driving import addon, screenshot, seen, view_area, wait, window  # noqa: E402

JOB_SECONDS = 200.0  # Kiss3DGen mini with torch to be imported first; an idle machine takes a fifth
SENTENCE = "an old wooden barrel"
LIST = "a red chair\n\na blue table\na green lamp\n"


def made() -> list[bpy.types.Object]:
    """The results in the scene, from left to right."""
    return sorted((item for item in window().scene.objects if "maquette" in item), key=lambda item: item.location.x)


def jobs() -> list:
    """All jobs, newest first."""
    return addon("runtime.session").get().store.all()


def press(operator: Callable[[], object]) -> None:
    """Press a button of the panel."""
    with bpy.context.temp_override(window=window(), area=view_area()):
        operator()


def look_at_results() -> None:
    """The results in the middle of the view, in the colours of their textures."""
    area = view_area()
    area.spaces.active.shading.color_type = "TEXTURE"
    layer = window().view_layer
    for item in layer.objects:
        item.select_set(item in made(), view_layer=layer)
    layer.update()
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window(), area=area, region=region):
        bpy.ops.view3d.view_selected()
    for item in layer.objects:
        item.select_set(False, view_layer=layer)


def one_sentence() -> Iterator[None]:
    """Type a sentence, press Generate 3D, watch."""
    settings = window().scene.maquette_create
    settings.source, settings.prompt, settings.text_engine = "TEXT", SENTENCE, "kiss3dgen"
    started = time.monotonic()
    press(bpy.ops.maquette.generate)
    store, job_id = addon("runtime.session").get().store, jobs()[0].job_id
    thumbnails = addon("runtime.session").get().thumbnails
    yield from wait(JOB_SECONDS, until=lambda: (
        driving.ended(lambda: store.get(job_id))() or len(thumbnails.halves(job_id, "preview.png")) == 2
    ))  # fmt: skip
    yield from wait(1.5)
    seen["watched"] = len(thumbnails.halves(job_id, "preview.png"))
    seen["stage"] = store.get(job_id).stage
    screenshot("text_running.png")
    yield from wait(JOB_SECONDS, until=driving.ended(lambda: store.get(job_id)))
    yield from wait(0.5)
    job = store.get(job_id)
    seen["job"] = {
        "state": job.state, "failure": str(job.failure), "message": job.message, "parameters": job.parameters,
        "seconds": round(time.monotonic() - started, 1), "report": job.report,
    }  # fmt: skip
    seen["made"] = [item.name for item in made()]
    if made():
        press(lambda: bpy.ops.maquette.show_sides(job_id=job_id))
        look_at_results()
    yield from wait(3.0)
    screenshot("text.png")


def a_list() -> Iterator[None]:
    """Write three sentences into a text of the file, press Generate All; then undo once for each."""
    settings = window().scene.maquette_create
    settings.sentences = bpy.data.texts.new("Furniture")
    settings.sentences.write(LIST)
    settings.text_engine, settings.size = "cube", 1.0
    for item in made():
        bpy.data.objects.remove(item)
    before = {job.job_id for job in jobs()}
    press(lambda: bpy.ops.ed.undo_push(message="Before the list"))
    press(bpy.ops.maquette.generate_all)
    fresh = [job.job_id for job in jobs() if job.job_id not in before]
    store = addon("runtime.session").get().store
    yield from wait(JOB_SECONDS, until=lambda: all(store.get(job).applied or store.get(job).failure for job in fresh))
    yield from wait(0.5)
    seen["row"] = [[item.name, round(item.location.x, 3)] for item in made()]
    look_at_results()
    yield from wait(2.0)
    screenshot("text_list.png")
    seen["undone"] = []
    for _ in fresh:
        press(bpy.ops.ed.undo)
        yield from wait(0.5)
        seen["undone"].append(len(made()))


def steps() -> Iterator[None]:
    """What a person does, in order."""
    yield
    driving.install()
    driving.open_only("MAQUETTE_PT_create")
    for thing in [thing for thing in window().scene.objects if thing.type == "MESH"]:
        bpy.data.objects.remove(thing)
    yield from driving.show_tab()
    driving.set_up()
    yield from one_sentence()
    yield from a_list()


driving.run(steps)
