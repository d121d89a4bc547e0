"""The fake system's answer to a mesh in a photo: a camera that looks at the mesh's middle from one side."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from backend.contract.errors import MaquetteError
from backend.contract.frames import look_at
from backend.contract.meshes import mesh_from_bytes
from backend.systems.base import ArtifactData

TASK = "match_mesh"
FROM = np.array([1.5, -2.5, 1.0])  # the camera's place around the mesh, in its longest sides


def match_files(
    inputs: dict[str, bytes], size: tuple[int, int], parameters: dict[str, Any]
) -> tuple[ArtifactData, ...]:
    """match.json of a mesh that can be read; its colour at the first corner and its number of triangles beside it."""
    if "mesh" not in inputs:
        raise MaquetteError("bad_input", "Matching needs a mesh; choose one.")
    mesh = mesh_from_bytes(inputs["mesh"])
    low, high = mesh.vertices.min(axis=0).astype(np.float64), mesh.vertices.max(axis=0).astype(np.float64)
    middle, side = (low + high) / 2, float((high - low).max())
    width, height = size
    focal = parameters.get("focal") or 1.2
    match = {
        "world_to_camera": look_at(middle + side * FROM, middle).tolist(),
        "intrinsics": [[focal, 0, 0.5], [0, focal * width / height, 0.5], [0, 0, 1]],
        "image_size": [width, height], "trusted": True, "message": "", "mask_iou": 0.97,
        "bounds": [low.tolist(), high.tolist()], "triangles": len(mesh.faces),
        "colors": None if mesh.colors is None else np.unique(mesh.colors[:, :3], axis=0).tolist(),
    }  # fmt: skip
    return (ArtifactData("match.json", json.dumps(match).encode(), "application/json"),)
