"""Propose Masks: the backend looks for the objects of the Compose panel's photo; the artist judges what it found."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import bpy

from ...backend.contract.errors import MaquetteError
from ..runtime import session
from ..runtime.intent import intent_to_json
from ..runtime.job_store import JobRecord, JobStore
from ..runtime.pictures import inspect_picture
from ..scene.proposed_masks import ProposedMasks
from . import requesting
from .common import reports_failures
from .compose import MOST_OBJECTS

TASK = requesting.PROPOSALS
_MASK = re.compile(r"mask_(\d+)\.png")


def propose_job(scene: bpy.types.Scene) -> JobRecord:
    """Start the job that proposes masks for the Compose panel's photo. Errors: `MaquetteError` with one sentence."""
    settings = scene.maquette_compose
    picture = requesting.picture_path(settings)
    inspect_picture(picture)
    intent = requesting.intent_of(scene, settings, "NONE")
    record = JobRecord(
        uuid.uuid4().hex, f"{picture.stem} masks", settings.engine, TASK, {}, intent_to_json(intent), str(picture),
        time.time(),
    )  # fmt: skip
    return session.get().submit(record)


def newest(jobs: Sequence[JobRecord], settings: bpy.types.PropertyGroup) -> JobRecord | None:
    """The newest proposal for the panel's photo among `jobs`, which are sorted so; None when there is none."""
    if not settings.image.strip():
        return None
    path = bpy.path.abspath(settings.image)
    return next((job for job in jobs if job.task == TASK and job.image_path == str(Path(path))), None)


def load_masks(store: JobStore, record: JobRecord) -> ProposedMasks:
    """The masks of a finished job; touches no bpy. Errors: `MaquetteError` when files are missing."""
    numbered = {int(match[1]): item.name for item in record.artifacts if (match := _MASK.fullmatch(item.name))}
    files = tuple(store.artifact_path(record.job_id, numbered[number]) for number in sorted(numbered))
    if not files or not all(file.is_file() for file in files):
        text = "These masks are missing. Press Retry to have them proposed again."
        raise MaquetteError("internal", text, record.job_id, "retry")
    photo = store.input_path(record)
    orientation = inspect_picture(photo).orientation if photo is not None else 1
    return ProposedMasks(Path(record.image_path), orientation, files, MOST_OBJECTS)


class MAQUETTE_OT_propose_masks(bpy.types.Operator):
    bl_idname = "maquette.propose_masks"
    bl_label = "Propose Masks"
    bl_description = (
        "Find the photo's objects where they stand apart on a plain background, and put a mask of each into the list"
    )

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        propose_job(context.scene)
        self.report({"INFO"}, "Masks are being proposed. You can go on working.")
        return {"FINISHED"}


CLASSES = (MAQUETTE_OT_propose_masks,)
