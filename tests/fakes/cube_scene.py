"""The fake system's answer to a photo of several objects: a box a mask, side by side before one camera."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from backend.contract.frames import look_at
from backend.contract.meshes import MEDIA_TYPE, MeshData, mesh_to_bytes
from backend.systems.base import ArtifactData

TASK = "photo_to_scene"
GUESS = "Distances are a guess: this engine knows none."


def scene_files(
    mesh: MeshData, inputs: dict[str, bytes], size: tuple[int, int], names: list[str]
) -> tuple[ArtifactData, ...]:
    """scene.json, camera.json and a box for each mask, called as in `names`; the second box is twice as large."""
    masks = sorted(name for name in inputs if name.startswith("mask_"))
    message = "" if "depth" in inputs else GUESS
    objects: list[dict[str, Any]] = []
    for number, _ in enumerate(masks):
        matrix = np.diag([1.0 + number, 1.0 + number, 1.0 + number, 1.0])
        matrix[:3, 3] = (2.0 * number, 0.0, 0.3 * (1.0 + number))
        name = names[number] if number < len(names) else ""
        objects.append({"name": name or f"Object {number + 1}", "mesh": f"object_{number}.mesh", "mask": number,
                        "object_to_world": matrix.tolist(), "trusted": True, "message": message,
                        "depth_source": "depth" if "depth" in inputs else "ground"})  # fmt: skip
    width, height = size
    camera = {"world_to_camera": look_at(np.array([1.0, -6.0, 2.0]), np.array([1.0, 0.0, 0.3])).tolist(),
              "intrinsics": [[1.1, 0, 0.5], [0, 1.1 * width / height, 0.5], [0, 0, 1]],
              "image_size": [width, height], "residual_px": None, "trusted": True, "message": message}  # fmt: skip
    scene = {"camera": camera, "ground": "depth", "message": message, "objects": objects, "failed": []}
    return (
        *(ArtifactData(item["mesh"], mesh_to_bytes(mesh), MEDIA_TYPE) for item in objects),
        ArtifactData("scene.json", json.dumps(scene).encode(), "application/json"),
        ArtifactData("camera.json", json.dumps(camera).encode(), "application/json"),
    )
