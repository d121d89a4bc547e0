"""From the files of a refined mesh to what goes into the scene."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...backend.contract.errors import MaquetteError
from ...backend.contract.meshes import MeshData
from ..runtime import session
from ..runtime.intent import ApplyIntent
from ..runtime.job_store import JobRecord
from ..scene.matching import SentObject
from ..scene.refined import RefinedMesh


def load_refined(record: JobRecord, intent: ApplyIntent, mesh: MeshData, provenance: dict[str, Any]) -> RefinedMesh:
    """The `mesh` with the object that it belongs to; touches no bpy data. Errors: `MaquetteError` for an old job."""
    if not intent.targets or not intent.cube_to_world:
        raise MaquetteError("internal", "This job does not say which object it belongs to. Refine it once more.")
    (item,) = intent.targets
    uid = item.uid if item.blender == session.BLENDER_RUN else None
    return RefinedMesh(
        title=record.title,
        mesh=mesh,
        target=SentObject(uid, item.scene_uid, item.name, item.matrix),
        cube_to_world=np.array(intent.cube_to_world, np.float64).reshape(4, 4),
        replace=intent.replace,
        provenance=provenance,
    )
