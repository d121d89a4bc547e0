"""The part of `python -m backend generate` about scenes: tasks photo_to_scene and propose_masks, masks and depth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.contract.meshes import mesh_from_bytes
from backend.formats.images import decode_image, encode_png
from backend.systems.base import RunResult
from backend.systems.cupid import mask_proposals, scene
from backend.systems.cupid.scene import composed

TASKS = (scene.TASK, mask_proposals.TASK)
GHOST = 0.3
OVERLAY_SIDE = 768  # pixels of the longer side of each half


def scene_inputs(images: Sequence[bytes], masks: Sequence[bytes], depth: bytes | None) -> dict[str, bytes]:
    """The task's inputs from files. Errors: `MaquetteError` for more than one picture."""
    if len(images) != 1:
        raise MaquetteError("bad_input", "A scene is made from one picture; give --image once.")
    inputs = {"image": images[0], **{f"mask_{index}": mask for index, mask in enumerate(masks)}}
    return inputs if depth is None else {**inputs, "depth": depth}


def write_scene(result: RunResult, image: bytes, out: Path) -> None:
    """Write the artifacts and, where there is one, the scene beside its picture as overlay.png, into `out`.

    Errors: `MaquetteError` disk_full when it cannot be written.
    """
    data = {artifact.name: artifact.data for artifact in result.artifacts}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in data.items():
            (out / name).write_bytes(content)
        if "scene.json" in data:
            (out / "overlay.png").write_bytes(scene_overlay(image, data))
    except OSError as error:
        raise MaquetteError(
            "disk_full", f"The result could not be written to {out}; choose another folder or free space.",
            detail=str(error), next_step="free_disk",
        ) from error  # fmt: skip


def scene_overlay(image: bytes, data: dict[str, bytes]) -> bytes:
    """PNG, side by side: the picture, and all objects over a faint grey ghost of it. `data`: the artifacts by name."""
    scene = json.loads(data["scene.json"])
    picture = Image.fromarray(decode_image(image).rgba)
    picture.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, np.float32) / 255.0
    shown = pixels[..., :3] * pixels[..., 3:] + (1.0 - pixels[..., 3:])
    ghost = 1.0 - GHOST * (1.0 - shown.mean(axis=-1, keepdims=True)) * np.ones(3, np.float32)
    world_to_camera = np.array(scene["camera"]["world_to_camera"])
    parts = [
        (mesh_from_bytes(data[item["mesh"]]), world_to_camera @ np.array(item["object_to_world"]))
        for item in scene["objects"]
    ]
    color, alpha, _ = composed(parts, np.array(scene["camera"]["intrinsics"]), picture.size)
    return encode_png(np.concatenate([shown, color + ghost * (1.0 - alpha[..., None])], axis=1))
