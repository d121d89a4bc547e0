"""From the files of a finished photo_to_scene job to what `scene.compose` puts into the scene."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...backend.contract.errors import MaquetteError
from ...backend.contract.meshes import MeshData, MeshError, mesh_from_bytes
from ..runtime.intent import ApplyIntent
from ..runtime.job_store import JobRecord, JobStore
from ..scene import compose
from ..scene.cameras import SolvedCamera

TASK = "photo_to_scene"


def load_scene(
    store: JobStore,
    record: JobRecord,
    intent: ApplyIntent,
    camera: SolvedCamera | None,
    background: tuple[Path | None, int],
    provenance: dict[str, Any],
) -> compose.ComposedScene:
    """Read scene.json and its meshes; touches no bpy. Errors: `MaquetteError` when a file is missing or damaged."""
    try:
        data = json.loads(store.artifact_path(record.job_id, "scene.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(error) from error
    if camera is None or not isinstance(data, dict):
        raise _damaged(ValueError("no camera, or a scene of another form"))
    meshes = {
        artifact.name: _mesh(store, record, artifact.name)
        for artifact in record.artifacts
        if artifact.name.startswith("object_") and artifact.name.endswith(".mesh")
    }
    picture, orientation = background
    return compose.ComposedScene(
        title=record.title,
        objects=compose.objects_from_json(data, meshes),
        camera=camera,
        grounded=data.get("ground") in ("depth", "objects"),
        provenance=provenance,
        size=intent.size,
        placement=intent.placement,
        cursor=intent.cursor,
        set_render_size=intent.set_render_size,
        picture=picture,
        orientation=orientation,
    )


def _mesh(store: JobStore, record: JobRecord, name: str) -> MeshData:
    try:
        return mesh_from_bytes(store.artifact_path(record.job_id, name).read_bytes())
    except (OSError, MeshError) as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> MaquetteError:
    text = "This scene is missing or damaged. Press Retry to make it again."
    return MaquetteError("internal", text, repr(error), "retry")
