"""From a finished job to the scene. Plain functions; the operators in `jobs` make each call one undo step."""

from __future__ import annotations

import json
from pathlib import Path

import bpy

from ...backend.contract.errors import MaquetteError
from ...backend.contract.meshes import MeshData, MeshError, mesh_from_bytes
from ...backend.contract.messages import MessageError
from ...backend.contract.splats import SplatError, Splats, splats_from_ply
from ..engines import REFINE, RENDER
from ..runtime import session
from ..runtime.intent import ApplyIntent, intent_from_json
from ..runtime.job_store import JobRecord, JobStore
from ..runtime.pictures import inspect_picture
from ..scene import apply, compose, guard, matching, picture_scene, proposed_masks, provenance, refined
from ..scene.cameras import SolvedCamera, solved_camera_from_json
from ..scene.photo_cameras import PhotoCamera
from . import applying_picture, applying_refined, applying_scene, mesh_matching, picture_results, proposing
from .photos import MOST_PHOTOS
from .requesting import job_record, provenance_of

OTHER_FILE = "This result was meant for another file. Press Apply to put it here."
Result = (
    apply.Result
    | compose.ComposedScene
    | matching.MatchedMesh
    | refined.RefinedMesh
    | proposed_masks.ProposedMasks
    | picture_scene.PictureResult
)


def apply_job(context: bpy.types.Context, job_id: str, variant: int = -1, instead: bool = False) -> str:
    """Put the result of a job into the current scene; returns a sentence to show, mostly empty.

    `variant` is which of the result's variants is meant, -1 for the best; with `instead` it takes the place of an
    object that was made from this job before.
    Errors: `MaquetteError` when the moment is unsafe or the result's files are gone or damaged.
    """
    current = session.get()
    record = job_record(job_id)
    reason = guard.waiting_reason()
    if reason:
        raise MaquetteError("bad_input", reason)
    ahead = current.results.pop(job_id, None) if variant < 0 else None
    result = ahead.result() if ahead is not None else load_result(current.store, record, variant)
    with guard.preserved(context):
        if isinstance(result, compose.ComposedScene):
            _, message = compose.apply_scene(context.scene, result)
        elif isinstance(result, matching.MatchedMesh):
            message = matching.apply_match(context.scene, result)
        elif isinstance(result, proposed_masks.ProposedMasks):
            message = proposed_masks.apply_masks(context.scene, result)
        elif isinstance(result, refined.RefinedMesh):
            _, message = refined.apply_refined(context.scene, result)
        elif isinstance(result, picture_scene.PictureResult):
            message = picture_results.arrive(context.scene, result)
        else:
            earlier = provenance.made_from(context.scene, job_id) if instead else []
            _, message = apply.apply_result(context.scene, result, earlier[0] if earlier else None)
    current.mark_applied(job_id)
    return message


def read_ahead(record: JobRecord) -> bool:
    """Have the disk thread read the result; whether it is there by now. Errors: `MaquetteError` when it is damaged."""
    current = session.get()
    if record.job_id not in current.results:
        current.results[record.job_id] = current.disk.submit(lambda: load_result(current.store, record))
    task = current.results[record.job_id]
    if not task.done():
        return False
    try:
        task.result()
    except MaquetteError:
        current.results.pop(record.job_id)  # read again when the artist presses Apply
        raise
    return True


def waiting_reason(record: JobRecord) -> str:
    """Why a finished result may not enter the scene by itself right now; empty when it may."""
    intent = _intent(record)
    scene = bpy.context.scene
    if intent.blender != session.BLENDER_RUN or all(item.session_uid != intent.scene_uid for item in bpy.data.scenes):
        return OTHER_FILE
    if scene.session_uid != intent.scene_uid:
        return f'The result waits for its scene. Switch to "{intent.scene_name}", or press Apply to put it here.'
    return guard.waiting_reason()


def load_result(store: JobStore, record: JobRecord, variant: int = -1) -> Result:
    """Read a job's files; touches no bpy, so any thread may call it. Errors: `MaquetteError`.

    `variant` as in `apply_job`.
    """
    if record.state != "done" or not record.downloaded:
        raise MaquetteError("bad_input", "This job has no result yet.")
    intent = _intent(record)
    if record.task == proposing.TASK:
        return proposing.load_masks(store, record)
    if record.task == RENDER:
        return applying_picture.load_picture(store, record, intent, variant)
    picture, orientation = _background(store, record, "image", intent)
    if record.task == mesh_matching.TASK:
        return mesh_matching.load_match(store, record, intent, (picture, orientation))
    if record.task == REFINE:
        mesh = _mesh(store, record, "asset.mesh")
        return applying_refined.load_refined(record, intent, mesh, provenance_of(record))
    if record.task == applying_scene.TASK:
        return applying_scene.load_scene(
            store, record, intent, _camera(store, record), (picture, orientation), provenance_of(record)
        )
    return apply.Result(
        title=record.title,
        mesh=_mesh(store, record, "asset.mesh" if variant < 0 else f"hypothesis_{variant}.mesh"),
        camera=_camera(store, record, "camera.json" if variant < 0 else f"hypothesis_{variant}.json"),
        provenance=provenance_of(record) | ({"variant": variant} if variant >= 0 else {}),
        size=intent.size,
        placement=intent.placement,
        cursor=intent.cursor,
        move=intent.move,
        set_render_size=intent.set_render_size,
        picture=picture,
        orientation=orientation,
        more=_more_cameras(store, record, intent, variant),
        pivot=record.parameters.get("pivot", "cube"),
        splats=_splats(store, record) if variant < 0 else None,
        offset=intent.offset,
    )


def _background(store: JobStore, record: JobRecord, name: str, intent: ApplyIntent) -> tuple[Path | None, int]:
    """The picture to show behind a camera, and its EXIF orientation."""
    picture = store.input_path(record, name) if intent.show_background else None
    if picture is None:
        return None, 1
    try:
        return picture, inspect_picture(picture).orientation
    except MaquetteError:
        return None, 1  # replaced by something else since; the object is still worth having


def _more_cameras(store: JobStore, record: JobRecord, intent: ApplyIntent, variant: int) -> tuple[PhotoCamera, ...]:
    """The cameras of the further photos of the object; a variant has its own."""
    found = []
    for number in range(1, MOST_PHOTOS):
        path = record.more_inputs.get(f"image_{number}")
        name = f"camera_{number}.json" if variant < 0 else f"hypothesis_{variant}_camera_{number}.json"
        camera = _camera(store, record, name) if path else None
        if path and camera is not None:
            found.append(PhotoCamera(Path(path).stem, camera, *_background(store, record, f"image_{number}", intent)))
    return tuple(found)


def _mesh(store: JobStore, record: JobRecord, name: str) -> MeshData:
    try:
        return mesh_from_bytes(store.artifact_path(record.job_id, name).read_bytes())
    except (OSError, MeshError) as error:
        raise MaquetteError(
            "internal", "This result's mesh is missing or damaged. Press Retry to make it again.", repr(error), "retry"
        ) from error


def _splats(store: JobStore, record: JobRecord) -> Splats | None:
    path = store.artifact_path(record.job_id, "splats.ply")
    if not path.is_file():
        return None
    try:
        return splats_from_ply(path.read_bytes())
    except (OSError, SplatError) as error:
        raise MaquetteError(
            "internal", "This result's splats are damaged. Press Retry to make them again.", repr(error), "retry"
        ) from error


def _camera(store: JobStore, record: JobRecord, name: str = "camera.json") -> SolvedCamera | None:
    path = store.artifact_path(record.job_id, name)
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text("utf-8"))
        return solved_camera_from_json(data.get("camera", data))
    except (OSError, ValueError) as error:
        raise MaquetteError("internal", "This camera cannot be read. Press Retry.", repr(error), "retry") from error


def _intent(record: JobRecord) -> ApplyIntent:
    try:
        return intent_from_json(record.origin)
    except MessageError as error:
        raise MaquetteError("internal", "This job does not say where its result goes.", str(error)) from error
