"""Runs inside a Blender with a window: results that arrive at a bad moment. The engine is the tests' own (a cube).

Usage: ``blender --python drive_moments.py -- FOLDER``. FOLDER holds ``plan.json`` (`zip`, `python`) and
``picture.png``; it receives ``seen.json``. Blender quits by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parent))
import driving  # noqa: E402  (Blender runs this file as a script, so its folder has to be named first)
from driving import FOLDER, seen, wait, window  # noqa: E402

JOB_SECONDS = 60.0


def made() -> list[str]:
    """The names of the objects that came from Maquette."""
    return sorted(thing.name for thing in window().scene.objects if "maquette" in thing)


def press() -> Callable[[], object]:
    """Start a job."""
    return driving.press_generate(FOLDER / "picture.png", "cube")


def warm_up() -> Iterator[None]:
    """Have the backend and its worker started."""
    job = press()
    yield from wait(JOB_SECONDS, until=driving.ended(job))
    seen["first"] = made()


def undo_right_after() -> Iterator[None]:
    """Ctrl Z as soon as the object is there; it must not come back, and redo must bring it."""
    camera = window().scene.camera.matrix_world.copy()
    job = press()
    yield from wait(JOB_SECONDS, until=driving.ended(job))
    with_it = made()
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.undo()
    undone = made()
    same_camera = window().scene.camera.matrix_world == camera
    yield from wait(1.0)
    later = made()
    with bpy.context.temp_override(window=window()):
        bpy.ops.ed.redo()
    seen["undo"] = {"with": with_it, "undone": undone, "later": later, "redone": made(), "camera": same_camera}
    yield


def while_rendering() -> Iterator[None]:
    """A result that arrives while a render runs waits for its end."""
    scene = window().scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_adaptive_sampling, scene.cycles.use_denoising = 40, False, False
    scene.render.resolution_x, scene.render.resolution_y = 640, 480
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.maquette_create.match_camera = False
    before = made()
    with bpy.context.temp_override(window=window()):
        bpy.ops.render.render("INVOKE_DEFAULT")
    yield from wait(10.0, until=lambda: bpy.app.is_job_running("RENDER"))
    job = press()
    yield from wait(JOB_SECONDS, until=lambda: job().waiting or driving.ended(job)())
    seen["render"] = {"running": bpy.app.is_job_running("RENDER"), "waiting": job().waiting, "early": made() != before}
    yield from wait(120.0, until=lambda: not bpy.app.is_job_running("RENDER"))
    yield from wait(JOB_SECONDS, until=driving.ended(job))
    seen["render"]["arrived"] = len(made()) - len(before)


def while_editing() -> Iterator[None]:
    """A result that arrives in Edit Mode waits until the artist leaves it."""
    before = made()
    with bpy.context.temp_override(window=window()):
        window().view_layer.objects.active = window().scene.objects[before[0]]
        bpy.ops.object.mode_set(mode="EDIT")
    job = press()
    yield from wait(JOB_SECONDS, until=lambda: job().waiting or driving.ended(job)())
    seen["edit"] = {"waiting": job().waiting, "early": len(made()) - len(before), "mode": bpy.context.mode}
    with bpy.context.temp_override(window=window()):
        bpy.ops.object.mode_set(mode="OBJECT")
    yield from wait(JOB_SECONDS, until=driving.ended(job))
    seen["edit"]["arrived"] = len(made()) - len(before)


def file_switched() -> Iterator[None]:
    """Another file is opened during a job: the result is kept in the list and enters nothing unasked."""
    job = press()
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=False)
    yield
    yield from wait(JOB_SECONDS, until=lambda: job().waiting or driving.ended(job)())
    seen["file"] = {"waiting": job().waiting, "made": made()}
    with bpy.context.temp_override(window=window()):
        bpy.ops.maquette.apply_result(job_id=job().job_id)
    seen["file"]["asked"] = made()


def steps() -> Iterator[None]:
    """One bad moment after the other."""
    yield
    driving.install()
    driving.set_up()
    yield from warm_up()
    yield from undo_right_after()
    yield from while_rendering()
    yield from while_editing()
    yield from file_switched()


driving.run(steps)
