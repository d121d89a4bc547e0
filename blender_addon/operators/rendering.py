"""From the selection to a job that makes pictures of it. Blender looks at the selection from all sides first, one view
a tick of a timer, so that the artist can go on, or cancel. Plain functions; the operators in `render_scene` call them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
import uuid
from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np

from ...backend.contract.errors import MaquetteError
from ..engines import RENDER
from ..runtime import session
from ..runtime.inputs import new_input_path
from ..runtime.intent import ApplyIntent, MatchTarget, intent_to_json
from ..runtime.job_store import CONDITIONS, JobRecord
from ..scene import reference_capture
from ..scene.png import png_bytes
from . import requesting
from .looking_timer import LookingTimer
from .text import clean_prompt

SIZES = {"mini": 128, "published": 512}  # pixels of the pictures that the weights were made for
SENSOR_MM = 36.0  # along a picture's side: what focal lengths are told for
THUMBNAIL = 128  # pixels of a condition's picture in the panel
NO_TEXT = 'There is no text. Say where the mesh is to be, for example "a barrel on a beach at sunset".'


@dataclass
class Looking:
    """A selection that is being looked at, and what the job will be."""

    record: JobRecord
    capture: reference_capture.ReferenceCapture
    scene_uid: int


def progress() -> tuple[str, int, int]:
    """Name of the selection that is being looked at, how many views are done, and of how many; "" for none."""
    looking = _timer.current
    return (looking.capture.title, *looking.capture.progress) if looking is not None else ("", 0, 0)


def looked_at() -> str:
    """The id of the job whose selection is being looked at; "" for none."""
    return _timer.current.record.job_id if _timer.current is not None else ""


def trouble() -> str:
    """Why the last selection could not be looked at; mostly empty."""
    return _timer.trouble


def begin(context: bpy.types.Context) -> JobRecord:
    """Start to look at the selection; its job is sent when all views are there. Errors: `MaquetteError`."""
    return _timer.begin(lambda: looking_at(context))


def advance() -> float | None:
    """What the timer does each tick, for where there are no timers; see `LookingTimer.advance`."""
    return _timer.advance()


def cancel() -> None:
    """Stop looking; nothing was sent and nothing stays."""
    _timer.cancel()


def stop() -> None:
    """Stop looking and take the timer away."""
    _timer.stop()


def looking_at(context: bpy.types.Context) -> Looking:
    """What to look at and for what, as selection and panel say. Errors: `MaquetteError` with one sentence."""
    scene, settings = context.scene, context.scene.maquette_render
    if context.mode != "OBJECT":
        raise MaquetteError("bad_input", "The mesh is being edited. Switch to Object Mode and try again.")
    objects = chosen_objects(context)
    if not objects:
        raise MaquetteError("bad_input", "Nothing is selected. Select a mesh, or several.")
    prompt = clean_prompt(settings.prompt)
    if not prompt:
        raise MaquetteError("bad_input", NO_TEXT)
    options = reference_capture.ReferenceOptions(
        views=int(settings.views), evenly_spaced=settings.evenly_spaced, elevation=settings.elevation,
        size=SIZES[settings.weights],
    )  # fmt: skip
    capture = reference_capture.begin_capture(context, objects, options)
    session.get().open_folder()
    targets = tuple(
        MatchTarget(
            session.BLENDER_RUN, scene.session_uid, item.session_uid, item.name,
            tuple(np.array(item.matrix_world, np.float64).ravel().tolist()),
        ) for item in objects
    )  # fmt: skip
    intent = ApplyIntent(
        session.BLENDER_RUN, scene.session_uid, scene.name, move="NONE", show_background=False, set_render_size=False,
        targets=targets,
    )  # fmt: skip
    parameters = parameters_of(settings, prompt) | {
        "bounds_min": list(capture.bounds_min), "bounds_max": list(capture.bounds_max),
    }  # fmt: skip
    record = JobRecord(
        uuid.uuid4().hex, capture.title, settings.engine, RENDER, parameters, intent_to_json(intent), "", time.time()
    )
    return Looking(record, capture, scene.session_uid)


def chosen_objects(context: bpy.types.Context) -> list[bpy.types.Object]:
    """The selected objects, the active one first: a camera that is found later belongs to it."""
    picked, active = list(context.selected_objects), context.view_layer.objects.active
    return sorted(picked, key=lambda item: item != active)


def parameters_of(settings: bpy.types.PropertyGroup, prompt: str) -> dict[str, Any]:
    """The parameters of the job that the Render panel describes, but for the selection's box."""
    wanted = {
        "prompt": prompt, "seed": settings.seed, "steps": settings.steps or None, "weights": settings.weights,
        "variants": settings.variants,
    }  # fmt: skip
    chosen = {
        "negative": clean_prompt(settings.negative),
        "image_guidance": round(settings.image_guidance, 4),
        "guidance": round(settings.guidance, 4),
        "focal": settings.focal_mm / SENSOR_MM if settings.focal_mode == "LOCKED" else 0,
    }
    return wanted | {name: value for name, value in chosen.items() if value}


def restore_render(settings: bpy.types.PropertyGroup, parameters: dict[str, Any]) -> None:
    """Make the panel what it was when a job had the `parameters`."""
    settings.prompt, settings.negative = (parameters.get(name, "") for name in ("prompt", "negative"))
    settings.variants = int(parameters.get("variants", 1))
    settings.image_guidance = float(parameters.get("image_guidance", 0.0))
    settings.guidance = float(parameters.get("guidance", 0.0))
    settings.focal_mode = "LOCKED" if parameters.get("focal") else "FREE"
    if parameters.get("focal"):
        settings.focal_mm = parameters["focal"] * SENSOR_MM


def keep_conditions(old: JobRecord, fresh: JobRecord) -> None:
    """Show what the engine saw for the job `old` with the job `fresh` too, which has the same inputs."""
    current = session.get()
    for name in CONDITIONS:
        source, target = (current.store.artifact_path(record.job_id, name) for record in (old, fresh))
        if source.is_file():
            with contextlib.suppress(OSError):  # the pictures are as good without
                shutil.copyfile(source, target)
                current.thumbnails.load(fresh.job_id, target, name)


def _look(looking: Looking) -> bool:
    """Render one more view and show it; whether it was the last. Errors: `MaquetteError`."""
    title = looking.capture.title
    if all(scene.session_uid != looking.scene_uid for scene in bpy.data.scenes):
        raise MaquetteError("bad_input", f'"{title}" went away while it was looked at. Select a mesh and try again.')
    before = looking.capture.progress[0]
    done = looking.capture.step()
    for index in range(before, looking.capture.progress[0]):
        _show_conditions(looking, index)
    return done


def _show_conditions(looking: Looking, index: int) -> None:
    """Small pictures of view `index` into the job's folder and the panel."""
    current, views = session.get(), len(CONDITIONS) // 2
    folder = current.store.folder(looking.record.job_id)
    pictures = ((CONDITIONS[index], looking.capture.colors[index]),
                (CONDITIONS[views + index], looking.capture.points[index]))  # fmt: skip
    for name, picture in pictures:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            every = max(1, picture.shape[0] // THUMBNAIL)
            (folder / name).write_bytes(png_bytes(np.ascontiguousarray(picture[::every, ::every])))
        except OSError as error:
            raise _full(error) from error
        current.thumbnails.load(looking.record.job_id, folder / name, name)


def _send(looking: Looking) -> None:
    """Write the views into the job's folder and start it. Errors: `MaquetteError`."""
    record, result = looking.record, looking.capture.result
    store, more = session.get().open_folder(), {}
    try:
        for name, data in (("views", result.color_png()), ("points", result.points_png())):
            path = new_input_path(store, record.job_id, name, ".png")
            path.write_bytes(data)
            more[name] = str(path)
    except OSError as error:
        raise _full(error) from error
    requesting.submit_record(dataclasses.replace(record, created=time.time(), more_inputs=more))


def _drop(looking: Looking) -> None:
    """Take away what was rendered for a job that is not sent."""
    looking.capture.cancel()
    current = session.get()
    if current.store is not None and current.store.get(looking.record.job_id) is None:
        shutil.rmtree(current.store.folder(looking.record.job_id), ignore_errors=True)
        current.thumbnails.forget(looking.record.job_id)


def _full(error: OSError) -> MaquetteError:
    text = "The views cannot be written. Free some space and try again."
    return MaquetteError("disk_full", text, repr(error), "free_disk")


_timer = LookingTimer("selection", _look, _send, _drop)
