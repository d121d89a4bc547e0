"""Matching a mesh of the scene to a photo: from the selection to a job, and from its files to the scene."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import bpy

from ...backend.contract.errors import MaquetteError
from ...backend.contract.meshes import mesh_to_bytes
from ..runtime import session
from ..runtime.inputs import new_input_path
from ..runtime.intent import ApplyIntent, MatchTarget
from ..runtime.job_store import JobRecord, JobStore
from ..runtime.pictures import inspect_picture, normalised_focal
from ..scene import cameras, matching, mesh_export
from . import requesting

TASK = "match_mesh"
ENDING = ".mesh"


def match_mesh_job(context: bpy.types.Context) -> JobRecord:
    """Start the job that matches the selected mesh to the panel's photo. Errors: `MaquetteError` with one sentence."""
    scene = context.scene
    settings = scene.maquette_match
    info = inspect_picture(requesting.picture_path(settings))
    if settings.move == "KNOWN":
        raise MaquetteError("bad_input", "Choose what moves: the camera, or the selected object.")
    if settings.occluder.strip() or settings.occluder_image is not None:
        text = "A mesh can be matched only where nothing hides it. Remove what hides the object, or take another photo."
        raise MaquetteError("bad_input", text)
    focal = _focal(scene, settings, info.size)
    objects = chosen_objects(context)
    mesh = mesh_export.world_mesh(objects, context.evaluated_depsgraph_get())
    targets = tuple(
        MatchTarget(
            session.BLENDER_RUN, scene.session_uid, item.session_uid, item.name,
            tuple(value for row in item.matrix_world for value in row),
        )
        for item in objects
    )
    intent = dataclasses.replace(requesting.intent_of(scene, settings, settings.move), targets=targets)
    record = requesting.record_of(settings, intent, {"focal": focal})
    path = _kept_mesh(record.job_id, mesh_to_bytes(mesh))
    more = record.more_inputs | {"mesh": path}
    return requesting.submit_record(dataclasses.replace(record, title=objects[0].name, task=TASK, more_inputs=more))


def chosen_objects(context: bpy.types.Context) -> list[bpy.types.Object]:
    """The active object first, then the other selected ones that may show a surface. Errors: `MaquetteError`."""
    picked = [item for item in context.selected_objects if item.type in mesh_export.SHAPES | {"EMPTY"}]
    active = context.view_layer.objects.active
    if active in picked:
        picked = [active, *(item for item in picked if item is not active)]
    if not picked:
        raise MaquetteError("bad_input", "No mesh is selected. Select the object that the photo shows.")
    return picked


def load_match(
    store: JobStore, record: JobRecord, intent: ApplyIntent, background: tuple[Path | None, int]
) -> matching.MatchedMesh:
    """Read match.json; touches no bpy data. Errors: `MaquetteError` when it is missing or damaged."""
    try:
        data = json.loads(store.artifact_path(record.job_id, "match.json").read_text("utf-8"))
        camera = cameras.solved_camera_from_json(data)
    except (OSError, ValueError) as error:
        text = "This match is missing or damaged. Press Retry to make it again."
        raise MaquetteError("internal", text, repr(error), "retry") from error
    if not intent.targets:
        raise MaquetteError("internal", "This job does not say which object it belongs to. Match it once more.")
    picture, orientation = background
    sent = tuple(
        matching.SentObject(
            item.uid if item.blender == session.BLENDER_RUN else None, item.scene_uid, item.name, item.matrix
        )
        for item in intent.targets
    )
    return matching.MatchedMesh(sent, camera, intent.move, intent.set_render_size, picture, orientation)


def _focal(scene: bpy.types.Scene, settings: bpy.types.PropertyGroup, size: tuple[int, int]) -> float | None:
    """The focal length that is known, in picture widths; None where it is to be found."""
    if settings.move == "OBJECT":
        if scene.camera is None or scene.camera.type != "CAMERA":
            raise MaquetteError("bad_input", "The scene has no camera to stay. Add one, or move the camera instead.")
        if not all(size):
            raise MaquetteError("bad_input", "The picture's size cannot be read. Save it as PNG and choose it again.")
        return float(cameras.read_camera(scene.camera, size)[1][0, 0])
    return normalised_focal(settings.focal_mm, size) if settings.focal_mode == "LOCKED" else None


def _kept_mesh(job_id: str, data: bytes) -> str:
    """Write the mesh among the job's own files. Errors: `MaquetteError` when the disk will not take it."""
    try:
        path = new_input_path(session.get().open_folder(), job_id, "mesh", ENDING)
        path.write_bytes(data)
    except OSError as error:
        raise MaquetteError(
            "disk_full", "The mesh cannot be written. Free some space and try again.", repr(error), "free_disk"
        ) from error
    return str(path)
