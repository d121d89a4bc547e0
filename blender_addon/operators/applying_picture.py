"""From the files of a finished job of pictures to what goes into the scene."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...backend.contract.errors import MaquetteError
from ..runtime import session
from ..runtime.intent import ApplyIntent
from ..runtime.job_store import JobRecord, JobStore
from ..runtime.pictures import inspect_picture
from ..scene.cameras import SolvedCamera
from ..scene.matching import SentObject
from ..scene.picture_scene import PictureResult

UNTRUSTED = "The camera may be wrong."
UNIT_BOX = ((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5))  # what a job without a box looked at


def load_picture(store: JobStore, record: JobRecord, intent: ApplyIntent, variant: int = -1) -> PictureResult:
    """Variant `variant` of the job, -1 for the first; touches no bpy data. Errors: `MaquetteError` when it is gone."""
    number = max(variant, 0)
    path = store.artifact_path(record.job_id, f"picture-{number}.png")
    try:
        png = path.read_bytes()
        size = inspect_picture(path).size
    except (OSError, MaquetteError) as error:
        text = "This picture is missing or damaged. Press Retry to make it again."
        raise MaquetteError("internal", text, repr(error), "retry") from error
    points = store.artifact_path(record.job_id, f"points-{number}.exr")
    about = variant_report(record, number)
    camera = about.get("camera") if isinstance(about.get("camera"), dict) else {}
    bounds = [record.parameters.get(name, usual) for name, usual in zip(("bounds_min", "bounds_max"), UNIT_BOX,
                                                                        strict=True)]  # fmt: skip
    return PictureResult(
        job_id=record.job_id,
        title=record.title,
        variant=number,
        png=png,
        path=path,
        size=size,
        points=points if points.is_file() else None,
        camera=picture_camera(camera, size),
        residual_px=_number(camera.get("residual_px")),
        inliers=_number(camera.get("inliers")),
        targets=tuple(
            SentObject(
                item.uid if item.blender == session.BLENDER_RUN else None, item.scene_uid, item.name, item.matrix
            ) for item in intent.targets
        ),
        bounds=np.array(bounds, np.float64),
    )  # fmt: skip


def variant_report(record: JobRecord, number: int) -> dict[str, Any]:
    """What the job's report says about variant `number`; nothing where it says nothing."""
    variants = record.report.get("variants")
    about = variants[number] if isinstance(variants, list) and number < len(variants) else {}
    return about if isinstance(about, dict) else {}


def picture_camera(camera: dict[str, Any], size: tuple[int, int]) -> SolvedCamera | None:
    """The camera of a report for a picture of `size`; None for none. Errors: `MaquetteError` for unusable numbers."""
    if camera.get("world_to_camera") is None or camera.get("intrinsics") is None:
        return None
    try:
        matrix = np.asarray(camera["world_to_camera"], np.float64).reshape(4, 4)
        intrinsics = np.asarray(camera["intrinsics"], np.float64).reshape(3, 3)
    except (TypeError, ValueError) as error:
        raise _unusable(error) from error
    if not (np.isfinite(matrix).all() and np.isfinite(intrinsics).all()) or np.linalg.cond(matrix) > 1e12:
        raise _unusable(ValueError("not finite, or singular"))
    trusted = bool(camera.get("trusted", True))
    return SolvedCamera(matrix, intrinsics, size, trusted, "" if trusted else _sentence(camera.get("reason")))


def camera_words(record: JobRecord, number: int) -> tuple[str, str]:
    """How well the camera of variant `number` fits, and why it should not be trusted; each may be empty."""
    camera = variant_report(record, number).get("camera")
    if not isinstance(camera, dict) or camera.get("world_to_camera") is None:
        reason = camera.get("reason") if isinstance(camera, dict) else ""
        return "", str(reason or "No camera fits this picture.")
    residual, inliers = _number(camera.get("residual_px")), _number(camera.get("inliers"))
    words = [f"{residual:.1f} px off"] if residual is not None else []
    words += [f"{100 * inliers:.0f} % agree"] if inliers is not None else []
    return "Camera: " + ", ".join(words) if words else "", (
        "" if camera.get("trusted", True) else _sentence(camera.get("reason"))
    )


def _sentence(reason: object) -> str:
    return str(reason) if reason else UNTRUSTED


def _number(value: object) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def _unusable(error: Exception) -> MaquetteError:
    return MaquetteError("internal", "The picture's camera cannot be read. Press Retry.", repr(error), "retry")
