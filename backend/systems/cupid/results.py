"""What a run hands over besides the mesh: camera.json, and the view that is compared with the photo."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from PIL import Image

from backend.contract.meshes import MeshData
from backend.rendering.views import View, render_mesh

FIT_SIZE = 256  # pixels of the longer side at which the result is compared with the photo


def camera_json(
    world_to_camera: np.ndarray | None,
    intrinsics: np.ndarray | None,
    image_size: tuple[int, int],
    residual_px: float | None,
    trusted: bool,
    message: str,
    inlier_share: float | None = None,
) -> bytes:
    """The bytes of camera.json; matrices are null when the camera could not be solved.

    `inlier_share` is the share of the points that agree with the camera, where it was solved from points.
    """
    data: dict[str, Any] = {
        "world_to_camera": None if world_to_camera is None else np.asarray(world_to_camera).tolist(),
        "intrinsics": None if intrinsics is None else np.asarray(intrinsics).tolist(),
        "image_size": list(image_size),
        "residual_px": residual_px,
        "inlier_share": inlier_share,
        "trusted": trusted,
        "message": message,
    }
    return json.dumps(data, indent=1).encode()


def fit_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the comparison picture of a photo."""
    scale = FIT_SIZE / max(image_size)
    return max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))


def photo_view(mesh: MeshData, world_to_camera: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> View:
    """The mesh as the solved camera sees it, on white."""
    return render_mesh(mesh, world_to_camera, intrinsics, size)


def small_hidden(hidden: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """What is hidden [H,W] bool (None: nothing) at `size` (width, height), with every pixel that is hidden in part."""
    if hidden is None:
        return np.zeros(size[::-1], bool)
    values = Image.fromarray(hidden.astype(np.float32)).resize(size, Image.Resampling.BOX)
    return np.asarray(values) > 0
