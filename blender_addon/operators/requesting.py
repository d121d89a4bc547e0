"""From the settings on a scene to a job, and back. Plain functions: a script gets the same job as the button."""

from __future__ import annotations

import dataclasses
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import bpy

from ...backend.contract.errors import MaquetteError
from ...backend.contract.messages import MessageError
from ..engines import KISS, MATCH, PHOTO, REFINE, RENDER, SCENE, TEXT, engines_for
from ..runtime import inputs, session
from ..runtime.intent import ApplyIntent, intent_from_json, intent_to_json
from ..runtime.job_store import JobRecord
from ..runtime.pictures import inspect_picture, normalised_focal
from ..scene import cameras, known_camera
from . import photos
from .mask_files import mask_files

TASK = PHOTO
PROPOSALS = "propose_masks"
# Photos may come from two panels.
_PANELS = {TEXT: "create", SCENE: "compose", PROPOSALS: "compose", MATCH: "match", REFINE: "refine",
           RENDER: "render"}  # fmt: skip
LEAST_TRIANGLES = 100  # that the backend takes


def create_job(scene: bpy.types.Scene) -> JobRecord:
    """Start the job that the Create panel describes. Errors: `MaquetteError` with one sentence."""
    settings = scene.maquette_create
    inspect_picture(picture_path(settings))
    if settings.engine == KISS[0]:
        return submit_record(_bundle_record(scene, settings))
    intent = intent_of(scene, settings, "CAMERA" if settings.match_camera else "NONE")
    further = photos.checked_photos(settings)
    variants = {"hypotheses": settings.variants} if settings.variants > 1 else {}
    record = record_of(settings, intent, variants | finish_parameters(settings))
    more = record.more_inputs | photos.further_inputs(further, record.job_id)
    return submit_record(dataclasses.replace(record, more_inputs=more))


def _bundle_record(scene: bpy.types.Scene, settings: bpy.types.PropertyGroup) -> JobRecord:
    """The job of one photo that becomes pictures from four sides first: there is no camera of the photo."""
    if settings.photos:
        text = "This engine takes one photo. Remove the further ones, or choose CUPID."
        raise MaquetteError("bad_input", text)
    record = record_of(settings, intent_of(scene, settings, "NONE"), {})
    if "occluder" in record.more_inputs:
        text = "This engine takes a photo where nothing hides the object. Remove what hides it, or choose CUPID."
        raise MaquetteError("bad_input", text)
    parameters = {"seed": settings.seed, "steps": settings.steps or None, "weights": settings.weights}
    return dataclasses.replace(record, parameters=parameters | object_parameters(settings))


def finish_parameters(settings: bpy.types.PropertyGroup) -> dict[str, Any]:
    """What the Create panel says about mesh, texture and splats, as far as it differs from how they are made."""
    return object_parameters(settings) | ({"splats": True} if settings.splats else {})


def object_parameters(settings: bpy.types.PropertyGroup) -> dict[str, Any]:
    """What the Create panel says about mesh, texture and origin, as far as it differs from how they are made."""
    return mesh_parameters(settings) | ({"pivot": settings.pivot} if settings.pivot != "cube" else {})


def mesh_parameters(settings: bpy.types.PropertyGroup) -> dict[str, Any]:
    """What a panel says about mesh and texture, as far as it differs from how they are made."""
    asked = {
        "triangles": max(settings.triangles, LEAST_TRIANGLES) if settings.triangles else None,
        "texture_size": int(settings.texture_size) if settings.texture_size != "1024" else None,
        "normal_map": settings.normal_map and settings.triangles > 0,
    }
    return {name: value for name, value in asked.items() if value}


def match_job(scene: bpy.types.Scene) -> JobRecord:
    """Start the job that the Match Photo panel describes. Errors: `MaquetteError` with one sentence."""
    settings = scene.maquette_match
    info = inspect_picture(picture_path(settings))
    camera = {}
    if settings.move == "KNOWN":
        camera["camera"] = known_camera.camera_parameter(scene, settings.size, info.size)
    elif settings.move == "OBJECT":
        if scene.camera is None or scene.camera.type != "CAMERA":
            raise MaquetteError("bad_input", "The scene has no camera to stay. Add one, or move the camera instead.")
        if not all(info.size):
            raise MaquetteError("bad_input", "The picture's size cannot be read. Save it as PNG and choose it again.")
        _, intrinsics = cameras.read_camera(scene.camera, info.size)
        camera["focal"] = float(intrinsics[0, 0])  # the camera keeps its lens, so the solution has to use it
    elif settings.focal_mode == "LOCKED":
        camera["focal"] = normalised_focal(settings.focal_mm, info.size)
    return submit_record(record_of(settings, intent_of(scene, settings, settings.move), camera))


def retry_job(job_id: str) -> JobRecord:
    """Send a finished, failed or cancelled job once more, as a new job. Errors: `MaquetteError`."""
    current = session.get()
    old = job_record(job_id)
    files = {name: str(path) for name, path in inputs.input_files(current.store, old).items()}
    fresh = JobRecord(
        uuid.uuid4().hex,
        old.title,
        old.system,
        old.task,
        old.parameters,
        _renewed(old.origin),
        files.pop("image", ""),
        time.time(),
        files.pop("mask", ""),
        more_inputs=files,
    )
    sent = current.submit(fresh)
    if old.task == RENDER:
        from . import rendering

        rendering.keep_conditions(old, sent)
    return sent


def job_record(job_id: str) -> JobRecord:
    """The job `job_id`. Errors: `MaquetteError` when it is gone."""
    store = session.get().open_folder()
    record = store.get(job_id)
    if record is None:
        raise MaquetteError("bad_input", "This job is not in the list any more.")
    return record


def restore_inputs(scene: bpy.types.Scene, provenance: dict[str, Any]) -> None:
    """Put what a result was made from back into the panel it came from. Errors: `MaquetteError`."""
    parameters, task = provenance.get("parameters", {}), provenance.get("task", PHOTO)
    try:
        intent = intent_from_json(provenance.get("origin", {}))
    except MessageError as error:
        raise MaquetteError("bad_input", "This object does not say what it was made from.", str(error)) from error
    panel = provenance.get("panel", "create")
    settings = panel_settings(scene, panel)
    if task == PROPOSALS:
        settings.image = provenance.get("image_path", "")
        return  # the masks of the list stay
    settings.seed = int(parameters.get("seed", 0))
    settings.weights = "published" if parameters.get("weights") == "published" else "mini"
    if provenance.get("system") in [item[0] for item in engines_for(task)]:
        setattr(settings, "text_engine" if task == TEXT else "engine", provenance["system"])
    settings.steps = int(parameters.get("steps") or 0)
    if panel == "refine":
        from . import refining

        refining.restore_refine(settings, intent, parameters)
        return
    if panel == "render":
        from . import rendering

        rendering.restore_render(settings, parameters)
        return
    settings.size = intent.size
    settings.placement = intent.placement
    if task == TEXT:
        settings.source, settings.prompt = "TEXT", parameters.get("prompt", "")
    else:
        _restore_photo(settings, intent, provenance)
    if panel == "create":
        restore_mesh(settings, parameters)
        settings.pivot = parameters.get("pivot", "cube")


def _restore_photo(settings: bpy.types.PropertyGroup, intent: ApplyIntent, provenance: dict[str, Any]) -> None:
    """The photo, its masks and its camera in the panel that it came from."""
    parameters, more = provenance.get("parameters", {}), provenance.get("more_inputs", {})
    settings.image = provenance.get("image_path", "")
    settings.show_background = intent.show_background
    settings.set_render_size = intent.set_render_size
    if provenance.get("panel") == "compose":
        from . import compose

        compose.restore_scene(settings, more, parameters)
        return
    settings.mask, settings.mask_image = provenance.get("mask_path", ""), None
    settings.occluder, settings.occluder_image = more.get("occluder", ""), None
    if provenance.get("panel") == "match":
        settings.move = intent.move
        settings.subject = "SELECTED" if intent.targets else "NEW"
        return
    settings.source = "PHOTO"
    if provenance.get("system") != KISS[0]:
        settings.match_camera = intent.move == "CAMERA"
        settings.variants = int(parameters.get("hypotheses", 1))
        settings.splats = bool(parameters.get("splats", False))
    photos.restore_photos(settings, more)


def restore_mesh(settings: bpy.types.PropertyGroup, parameters: dict[str, Any]) -> None:
    """What a panel said about mesh and texture when a job had the `parameters`."""
    settings.triangles = int(parameters.get("triangles", 0))
    settings.texture_size = str(parameters.get("texture_size", 1024))
    settings.normal_map = bool(parameters.get("normal_map", False))


def provenance_of(record: JobRecord) -> dict[str, Any]:
    """What is stored on the result: request, seed, system, weights and the picture's hash."""
    return {
        "system": record.system,
        "task": record.task,
        "seed": record.parameters.get("seed", 0),
        "weights": record.parameters.get("weights", ""),
        "job_id": record.job_id,
        "image_path": record.image_path,
        "image_sha256": record.input_sha256,
        "mask_path": record.mask_path,
        "more_inputs": record.more_inputs,
        "created": record.created,
        "parameters": record.parameters,
        "origin": record.origin,
        "panel": panel_of(record),
    }


def panel_of(record: JobRecord) -> str:
    """The panel that the job came from: create, match, compose, refine or render."""
    if record.task in _PANELS:
        return _PANELS[record.task]
    moves_in_match = record.origin.get("move") in ("OBJECT", "KNOWN")
    return "match" if moves_in_match or record.parameters.get("focal") else "create"


def panel_settings(scene: bpy.types.Scene, panel: str) -> bpy.types.PropertyGroup:
    """The settings of the panel create, match, compose, refine or render."""
    known = {
        "match": scene.maquette_match, "compose": scene.maquette_compose, "refine": scene.maquette_refine,
        "render": scene.maquette_render,
    }  # fmt: skip
    return known.get(panel, scene.maquette_create)


def picture_path(settings: bpy.types.PropertyGroup) -> Path | None:
    """The chosen picture as an absolute path, or None."""
    return Path(bpy.path.abspath(settings.image)) if settings.image.strip() else None


def record_of(settings: bpy.types.PropertyGroup, intent: ApplyIntent, more: dict[str, Any]) -> JobRecord:
    """The job of `settings` with `more` parameters. Errors: `MaquetteError` when its masks cannot be used."""
    path, job_id = picture_path(settings), uuid.uuid4().hex
    parameters = {"seed": settings.seed, "steps": settings.steps or None, "weights": settings.weights, "focal": None}
    masks = mask_files(settings, job_id)
    return JobRecord(
        job_id,
        path.stem,
        settings.engine,
        TASK,
        parameters | more,
        intent_to_json(intent),
        str(path),
        time.time(),
        masks.pop("mask", ""),
        more_inputs=masks,
    )


def submit_record(record: JobRecord) -> JobRecord:
    """Send the job; where that cannot be, what was written for it is removed. Errors: `MaquetteError`."""
    current = session.get()
    try:
        return current.submit(record)
    except MaquetteError:
        if current.store is not None and current.store.get(record.job_id) is None:
            shutil.rmtree(current.store.folder(record.job_id), ignore_errors=True)
        raise


def intent_of(scene: bpy.types.Scene, settings: bpy.types.PropertyGroup, move: str) -> ApplyIntent:
    return ApplyIntent(
        session.BLENDER_RUN,
        scene.session_uid,
        scene.name,
        settings.size,
        settings.placement,
        tuple(scene.cursor.location),
        move,
        settings.show_background,
        settings.set_render_size,
    )


def _renewed(origin: dict[str, Any]) -> dict[str, Any]:
    """The intent, meant for the scene in front of the artist now."""
    scene = bpy.context.scene
    return origin | {"blender": session.BLENDER_RUN, "scene_uid": scene.session_uid, "scene_name": scene.name}
