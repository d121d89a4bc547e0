"""A mesh as a bundle picture, drawn without Blender: colours from four sides above, normals below."""

from __future__ import annotations

import numpy as np

from backend.contract import bundle_views
from backend.contract.meshes import MeshData
from backend.rendering.views import render_mesh


def draw_bundle(mesh: MeshData, size: int, supersample: int = 2) -> np.ndarray:
    """The bundle picture [2S,4S,4] float32 in [0,1] of a mesh in the object cube: on white, the mask as alpha.

    Both sides of a surface face the viewer, as in what Blender captures.
    """
    intrinsics = bundle_views.bundle_intrinsics()
    rows: list[list[np.ndarray]] = [[], []]
    for camera in bundle_views.bundle_cameras():
        view = render_mesh(mesh, camera, intrinsics, (size, size), supersample=supersample)
        alpha = view.alpha[..., None]
        local = view.normal @ camera[:3, :3].T
        facing = np.where(local[..., 2:] > 0, -1.0, 1.0)  # the camera looks along +z
        normals = bundle_views.encode_normals(view.normal * facing, camera)
        rows[0].append(np.concatenate([view.color, alpha], axis=-1))
        rows[1].append(np.concatenate([normals * alpha + 1.0 - alpha, alpha], axis=-1))
    return bundle_views.join_tiles(np.stack(rows[0]), np.stack(rows[1])).astype(np.float32)
