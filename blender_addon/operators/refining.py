"""From the selected mesh to a job that refines it. Blender looks at the mesh from four sides first, one view a tick of
a timer, so that the artist can go on, or cancel. Plain functions; the operators in `refine` call them.
"""

from __future__ import annotations

import dataclasses
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import bpy
import numpy as np

from ...backend.contract.errors import MaquetteError
from ...backend.contract.meshes import MeshData, mesh_to_bytes
from ..engines import REFINE
from ..runtime import session, wide_pictures
from ..runtime.inputs import new_input_path
from ..runtime.intent import ApplyIntent, MatchTarget, intent_to_json
from ..runtime.job_reports import PREVIEW
from ..runtime.job_store import JobRecord
from ..scene import bundle_capture, compat, mesh_export
from ..scene.matching import SentObject, find_target
from . import requesting
from .looking_timer import LookingTimer
from .text import clean_prompt

MOST_TRIANGLES = 1_000_000  # a finer mesh shows nothing more in pictures of 512 pixels
LEAST_AREA = 1e-6  # of the surface, where the longest side is 1
MOST_STRETCH = 1e6  # longest over shortest axis of an object that has a size
NO_TEXT = (
    'There is no text. Say what the mesh is to become, for example "a red chair"; to keep it as it is, choose Enhance.'
)
_KINDS = {"CAMERA": "a camera", "LIGHT": "a light", "EMPTY": "an empty", "ARMATURE": "an armature"}


@dataclass
class Looking:
    """A mesh that is being looked at: what the job will be, and the tiles seen so far."""

    record: JobRecord
    target: SentObject
    cube_to_world: np.ndarray
    mesh: MeshData
    tiles: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)


def progress() -> tuple[str, int]:
    """Name of the mesh that is being looked at and how many of its views are done; "" for none."""
    looking = _timer.current
    return (looking.record.title, len(looking.tiles)) if looking is not None else ("", 0)


def trouble() -> str:
    """Why the last mesh could not be looked at; mostly empty."""
    return _timer.trouble


def begin(context: bpy.types.Context) -> JobRecord:
    """Start to look at the selected mesh; its job is sent when all views are there. Errors: `MaquetteError`."""
    return _timer.begin(lambda: looking_at(context))


def advance() -> float | None:
    """What the timer does each tick, for where there are no timers; see `LookingTimer.advance`."""
    return _timer.advance()


def cancel() -> None:
    """Stop looking; nothing was sent."""
    _timer.cancel()


def stop() -> None:
    """Stop looking and take the timer away."""
    _timer.stop()


def looking_at(context: bpy.types.Context) -> Looking:
    """What to look at and for what, as selection and panel say. Errors: `MaquetteError` with one sentence."""
    scene, settings = context.scene, context.scene.maquette_refine
    if context.mode != "OBJECT":
        raise MaquetteError("bad_input", "The mesh is being edited. Switch to Object Mode and try again.")
    prompt = prompt_of(settings)
    if settings.purpose == "EDIT" and not prompt:
        raise MaquetteError("bad_input", NO_TEXT)
    item = chosen_object(context)
    if settings.destination == "REPLACE":
        _check_replaceable(item)
    matrix = np.array(item.matrix_world, np.float64)
    if np.linalg.cond(matrix[:3, :3]) > MOST_STRETCH:
        raise MaquetteError("bad_input", f'"{item.name}" is scaled to nothing. Give it a size and try again.')
    mesh = mesh_export.world_mesh([item], context.evaluated_depsgraph_get(), colored=False, most=MOST_TRIANGLES)
    cube_to_world = bundle_capture.cube_frame(mesh.vertices, matrix)
    mesh = dataclasses.replace(mesh, vertices=bundle_capture.to_cube(mesh.vertices, cube_to_world))
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    crossed = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    if np.linalg.norm(crossed, axis=1).sum() / 2 < LEAST_AREA:
        raise MaquetteError("bad_input", f'"{item.name}" has no surface to look at. Select another mesh.')
    target = MatchTarget(
        session.BLENDER_RUN, scene.session_uid, item.session_uid, item.name, tuple(matrix.ravel().tolist())
    )
    intent = ApplyIntent(
        session.BLENDER_RUN, scene.session_uid, scene.name, move="NONE", show_background=False, set_render_size=False,
        targets=(target,), cube_to_world=tuple(cube_to_world.ravel().tolist()),
        replace=settings.destination == "REPLACE",
    )  # fmt: skip
    parameters = parameters_of(settings, prompt)
    record = JobRecord(
        uuid.uuid4().hex, item.name, settings.engine, REFINE, parameters, intent_to_json(intent), "", time.time()
    )
    sent = SentObject(target.uid, target.scene_uid, target.name, target.matrix)
    return Looking(record, sent, cube_to_world, mesh)


def chosen_object(context: bpy.types.Context) -> bpy.types.Object:
    """The active object if it is selected, else the only selected one; it shows a surface. Errors: `MaquetteError`."""
    picked, active = context.selected_objects, context.view_layer.objects.active
    if not picked:
        raise MaquetteError("bad_input", "Nothing is selected. Select the mesh to refine.")
    if active not in picked and len(picked) > 1:
        raise MaquetteError("bad_input", f"{len(picked)} objects are selected. Select the one mesh to refine.")
    item = active if active in picked else picked[0]
    instances = item.type == "EMPTY" and item.instance_type == "COLLECTION"
    if item.type not in mesh_export.SHAPES and not instances:
        kind = _KINDS.get(item.type, "no mesh")
        raise MaquetteError("bad_input", f'"{item.name}" is {kind}. Select the mesh to refine.')
    if item.hide_render:
        raise MaquetteError("bad_input", f'"{item.name}" is hidden from renders. Show it there and try again.')
    return item


def prompt_of(settings: bpy.types.PropertyGroup) -> str:
    """What the job is told: Edit's text. The engine edits what it is told a sentence for, so Enhance tells none, even
    where a text still stands in the panel."""
    return clean_prompt(settings.prompt) if settings.purpose == "EDIT" else ""


def parameters_of(settings: bpy.types.PropertyGroup, prompt: str) -> dict[str, Any]:
    """The parameters of the job that the Refine panel describes."""
    strength = settings.edit_strength if settings.purpose == "EDIT" else settings.enhance_strength
    wanted = {
        "prompt": prompt, "strength": round(strength, 4), "seed": settings.seed, "steps": settings.steps or None,
        "weights": settings.weights,
    }  # fmt: skip
    return wanted | requesting.mesh_parameters(settings)


def restore_refine(settings: bpy.types.PropertyGroup, intent: ApplyIntent, parameters: dict[str, Any]) -> None:
    """Make the panel what it was when a job had the `parameters`."""
    prompt = parameters.get("prompt", "")
    settings.purpose = "EDIT" if prompt else "ENHANCE"
    if prompt:
        settings.prompt = prompt
    if "strength" in parameters:
        setattr(settings, f"{settings.purpose.lower()}_strength", float(parameters["strength"]))
    settings.destination = "REPLACE" if intent.replace else "BESIDE"
    requesting.restore_mesh(settings, parameters)


def _check_replaceable(item: bpy.types.Object) -> None:
    if item.type != "MESH":
        text = f'"{item.name}" cannot get a mesh. Convert it to a mesh, or have the result put beside it.'
        raise MaquetteError("bad_input", text)
    if item.library is not None or item.override_library is not None:
        text = f'"{item.name}" belongs to another file. Have the result put beside it.'
        raise MaquetteError("bad_input", text)


def _look(looking: Looking) -> bool:
    """Render one more view; whether it was the last. Errors: `MaquetteError` when the object is gone or was moved
    meanwhile."""
    name = looking.record.title
    scene = next((item for item in bpy.data.scenes if item.session_uid == looking.target.scene_uid), None)
    item = find_target(scene, looking.target) if scene is not None else None
    if item is None:
        raise MaquetteError("bad_input", f'"{name}" went away while it was looked at. Select a mesh and try again.')
    if not np.array_equal(np.array(item.matrix_world, np.float64).ravel(), looking.target.matrix):
        raise MaquetteError("bad_input", f'"{name}" was moved while it was looked at. Try again.')
    with compat.window_context():
        looking.tiles.append(bundle_capture.render_tiles([item], len(looking.tiles), looking.cube_to_world))
    return len(looking.tiles) == bundle_capture.VIEWS


def _send(looking: Looking) -> None:
    """Write picture and mesh into the job's folder and start it. Errors: `MaquetteError`."""
    record = looking.record
    if bundle_capture.is_empty(looking.tiles):
        text = f'"{record.title}" cannot be seen in renders. Make it visible to the camera and try again.'
        raise MaquetteError("bad_input", text)
    current, more = session.get(), {}
    store = current.open_folder()
    files = {
        "bundle": (".png", bundle_capture.bundle_png(looking.tiles)),
        "mesh": (".mesh", mesh_to_bytes(looking.mesh)),
    }
    preview = store.artifact_path(record.job_id, PREVIEW)
    try:
        for name, (ending, data) in files.items():
            path = new_input_path(store, record.job_id, name, ending)
            path.write_bytes(data)
            more[name] = str(path)
        preview.write_bytes(files["bundle"][1])
        wide_pictures.write_halves(preview)
    except OSError as error:
        raise MaquetteError(
            "disk_full", "The mesh cannot be written. Free some space and try again.", repr(error), "free_disk"
        ) from error
    requesting.submit_record(dataclasses.replace(record, created=time.time(), more_inputs=more))
    current.thumbnails.load_preview(record.job_id, preview)


_timer = LookingTimer("mesh", _look, _send)
