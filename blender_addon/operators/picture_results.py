"""What is done with a finished picture: shown, saved, put behind the camera, thrown onto the mesh, the mesh put in.

Plain functions; the operators in `render_scene` make each call one undo step. All work on the variant that the Render
panel shows, which is the one that arrived or was picked last.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import bpy

from ...backend.contract.errors import MaquetteError
from ...backend.contract.messages import MessageError
from ..engines import RENDER
from ..runtime import session
from ..runtime.intent import intent_from_json
from ..runtime.job_store import JobRecord
from ..scene import guard, matching, picture_scene, projected_texture
from ..scene.picture_scene import PictureResult, PlaceOptions
from . import applying_picture

NO_PICTURE = "There is no picture yet. Press Render Scene first, or pick one in the job list."
SHOWN_IN_FILE = 'No image editor is free. The picture is in this file as "{}".'


def shown_record(scene: bpy.types.Scene) -> JobRecord | None:
    """The finished job whose pictures the Render panel shows: that of the picture, else the newest; None for none."""
    store = session.get().store
    if store is None:
        return None
    shown = store.get(scene.maquette_render.shown_job)
    candidates = [shown] if shown is not None else store.all()
    return next((item for item in candidates if item.task == RENDER and item.downloaded), None)


def shown_variant(scene: bpy.types.Scene, record: JobRecord) -> int:
    """Which of the job's pictures the panel shows."""
    settings = scene.maquette_render
    number = settings.shown_variant if settings.shown_job == record.job_id else 0
    return min(number, max(len(record.variants) - 1, 0))


def shown_picture(scene: bpy.types.Scene) -> PictureResult:
    """The picture that the panel shows. Errors: `MaquetteError` when there is none or its file is gone."""
    record = shown_record(scene)
    if record is None:
        raise MaquetteError("bad_input", NO_PICTURE)
    try:
        intent = intent_from_json(record.origin)
    except MessageError as error:
        raise MaquetteError("internal", "This picture does not say what it was made of.", str(error)) from error
    return applying_picture.load_picture(session.get().store, record, intent, shown_variant(scene, record))


def arrive(scene: bpy.types.Scene, result: PictureResult) -> str:
    """The picture enters the file, the free image editors show it, and where the mesh is in a picture of this job
    already, it goes into this one. Returns a sentence to show, mostly empty."""
    scene.maquette_render.shown_job, scene.maquette_render.shown_variant = result.job_id, result.variant
    picture_scene.show_in_editors(picture_scene.picture_image(result))
    try:
        return picture_scene.follow_variant(scene, result, options_of(scene))
    except MaquetteError as error:  # the picture is there all the same
        return str(error)


def options_of(scene: bpy.types.Scene) -> PlaceOptions:
    """What the panel says about putting the mesh into the picture."""
    settings = scene.maquette_render
    return PlaceOptions(settings.ground, settings.light, settings.compositing, settings.set_render_size)


def open_picture(context: bpy.types.Context) -> str:
    """Show the picture in an image editor, in a new window if none is free. Returns a sentence to show."""
    image = picture_scene.picture_image(shown_picture(context.scene))
    if picture_scene.show_in_editors(image):
        return ""
    if bpy.app.background or context.window is None:
        return SHOWN_IN_FILE.format(image.name)
    bpy.ops.wm.window_new()
    area = max(context.window_manager.windows[-1].screen.areas, key=lambda each: each.width * each.height)
    area.ui_type = "IMAGE_EDITOR"
    area.spaces.active.image = image
    return ""


def put_behind_camera(context: bpy.types.Context) -> str:
    """Show the picture behind the scene's camera."""
    result = _ready_picture(context)
    with guard.preserved(context):
        picture_scene.show_behind_camera(context.scene, result)
    return ""


def put_into_picture(context: bpy.types.Context) -> str:
    """Camera, ground and light as the picture has them. Returns sentences to show. Errors: `MaquetteError`."""
    result = _ready_picture(context)
    with guard.preserved(context):
        return picture_scene.put_into_picture(context.scene, result, options_of(context.scene))


def project(context: bpy.types.Context) -> str:
    """Throw the picture onto the objects that it was made of. Returns sentences to show.

    Errors: `MaquetteError` when there is no camera, none of the objects, or none of them shows in the picture.
    """
    scene, result = context.scene, _ready_picture(context)
    found = [matching.find_target(scene, target) for target in result.targets]
    objects = [item for item in found if item is not None]
    if not objects:
        text = "The objects are not in this scene any more. Undo their removal and try again."
        raise MaquetteError("bad_input", text)
    world_to_camera, intrinsics = picture_scene.picture_camera(scene, result)
    meshes = [item for item in objects if item.type == "MESH"] or objects[:1]
    for item in meshes:
        projected_texture.check_projectable(item)
    image, said, failures = picture_scene.picture_image(result), [], []
    with guard.preserved(context):
        for item in meshes:
            try:
                said.append(projected_texture.project_picture(
                    item, image, result.job_id, world_to_camera, intrinsics, objects
                ))  # fmt: skip
            except MaquetteError as error:  # one of several may be hidden behind another
                failures.append(error)
    if len(failures) == len(meshes):
        raise failures[0]
    if not result.camera.trusted:
        said.append(result.camera.message)
    return " ".join(dict.fromkeys(message for message in said if message))


def file_name(context: bpy.types.Context) -> str:
    """What the picture's file is called at first. Errors: `MaquetteError` when there is no picture."""
    result = shown_picture(context.scene)
    name = re.sub(r"[^\w .-]", "_", result.name).strip(" .") or "Picture"
    folder = Path(bpy.data.filepath).parent if bpy.data.filepath else Path.home()
    return str(folder / f"{name}.png")


def save(context: bpy.types.Context, path: Path, points: bool) -> list[Path]:
    """Write the picture to `path`, and its point map beside it. Returns the files. Errors: `MaquetteError`."""
    result = shown_picture(context.scene)
    if not path.name or path.is_dir():
        raise MaquetteError("bad_input", "The picture has no file name. Choose one.")
    path = path if path.suffix.lower() == ".png" else path.with_name(path.name + ".png")
    wanted = [(result.path, path)]
    if points and result.points is not None:
        wanted.append((result.points, path.with_suffix(".exr")))
    try:
        for source, target in wanted:
            with contextlib.suppress(shutil.SameFileError):
                shutil.copyfile(source, target)
    except OSError as error:
        text = f'"{path.parent}" cannot be written. Choose another folder.'
        raise MaquetteError("disk_full", text, repr(error)) from error
    return [target for _, target in wanted]


def _ready_picture(context: bpy.types.Context) -> PictureResult:
    """The picture, at a moment when the scene may be changed. Errors: `MaquetteError`."""
    reason = guard.waiting_reason()
    if reason:
        raise MaquetteError("bad_input", reason)
    return shown_picture(context.scene)
