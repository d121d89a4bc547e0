"""The small pictures of a job: what it was given, and what came out of it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.formats.images import encode_png
from backend.rendering.views import render_mesh

THUMBNAIL_SIZE = 256
DEFAULT_EYE = (0.9, -1.7, 0.9)  # three-quarter view where no camera is known
DEFAULT_FOCAL = 1.6


def object_picture(image: np.ndarray) -> bytes:
    """PNG of what was taken for the object, as small as a thumbnail. image: [S,S,4] uint8, straight alpha."""
    small = Image.fromarray(image)
    small.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return encode_png(np.asarray(small))


def thumbnail(mesh: MeshData, world_to_camera: np.ndarray | None = None, intrinsics: np.ndarray | None = None) -> bytes:
    """PNG with alpha of the mesh: through a camera ([4,4] and, of the square picture, [3,3]), or three-quarters."""
    if world_to_camera is None or intrinsics is None:
        world_to_camera = look_at(np.array(DEFAULT_EYE), np.zeros(3))
        intrinsics = np.array([[DEFAULT_FOCAL, 0, 0.5], [0, DEFAULT_FOCAL, 0.5], [0, 0, 1.0]])
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    view = render_mesh(mesh, world_to_camera, intrinsics, size, background=(0.0, 0.0, 0.0))
    straight = view.color / np.maximum(view.alpha, 1e-3)[..., None]
    return encode_png(np.dstack([straight, view.alpha]))
