"""What a run hands over besides the mesh: camera.json, the thumbnail, and how well the result fits its photo."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from PIL import Image

from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.formats.images import encode_png
from backend.rendering.views import View, render_mesh

THUMBNAIL_SIZE = 256
FIT_SIZE = 256  # pixels of the longer side at which the result is compared with the photo
DEFAULT_EYE = (0.9, -1.7, 0.9)  # three-quarter view when the photo's camera is unknown
DEFAULT_FOCAL = 1.6


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


def object_picture(image: np.ndarray) -> bytes:
    """PNG of what was taken for the object, as small as a thumbnail. image: [S,S,4] uint8, straight alpha."""
    small = Image.fromarray(image)
    small.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return encode_png(np.asarray(small))


def thumbnail(mesh: MeshData, world_to_camera: np.ndarray | None, crop_intrinsics: np.ndarray | None) -> bytes:
    """PNG with alpha of the mesh: through the photo's crop camera, or from a default viewpoint."""
    if world_to_camera is None or crop_intrinsics is None:
        world_to_camera = look_at(np.array(DEFAULT_EYE), np.zeros(3))
        crop_intrinsics = np.array([[DEFAULT_FOCAL, 0, 0.5], [0, DEFAULT_FOCAL, 0.5], [0, 0, 1.0]])
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    view = render_mesh(mesh, world_to_camera, crop_intrinsics, size, background=(0.0, 0.0, 0.0))
    straight = view.color / np.maximum(view.alpha, 1e-3)[..., None]
    return encode_png(np.dstack([straight, view.alpha]))


def peak_mib() -> float:
    """The largest memory this process has held, in MiB (0 where the system does not tell)."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return float(getattr(psutil.Process().memory_info(), "peak_wset", 0)) / 2**20
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def small_hidden(hidden: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """What is hidden [H,W] bool (None: nothing) at `size` (width, height), with every pixel that is hidden in part."""
    if hidden is None:
        return np.zeros(size[::-1], bool)
    values = Image.fromarray(hidden.astype(np.float32)).resize(size, Image.Resampling.BOX)
    return np.asarray(values) > 0


def photo_on_white(rgba: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The photo's object on white at `size` (width, height): colour [h,w,3] in [0,1] and alpha [h,w]."""
    resized = Image.fromarray(rgba).resize(size, Image.Resampling.BOX)  # Pillow resizes RGBA premultiplied
    pixels = np.asarray(resized, np.float32) / 255.0
    alpha = pixels[..., 3]
    return pixels[..., :3] * alpha[..., None] + (1.0 - alpha[..., None]), alpha
