"""Splats of a textured surface, for results that have no network for them: one flat Gaussian for each of many small
pieces of its triangles.

They show what the mesh shows, no more: no fuzz, no transparency, nothing view dependent.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from backend.contract.meshes import MeshData
from backend.contract.splats import Splats
from backend.geometry.mesh_repair import face_areas
from backend.geometry.nearest_surface import Places, face_samples
from backend.rendering.tangent_space import angle_normals
from backend.rendering.views import sample_bilinear

COUNT = 50_000
SEARCH_ROUNDS = 16  # halvings of the interval in which the size of the pieces is sought
WIDTH = 0.5  # standard deviation across, in edges of the piece: drawn to 1.5 of these, neighbours close all gaps
THICKNESS = 0.15  # along the normal, in widths
OPACITY = 0.98
PLAIN = 0.7  # colour of a mesh that has none


def surface_splats(mesh: MeshData, count: int = COUNT) -> Splats:
    """About `count` splats of the surface of `mesh`, at least one a triangle. Errors: ValueError without a surface."""
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    area = face_areas(vertices, faces).sum() if len(faces) else 0.0
    if not area > 0:
        raise ValueError("The mesh has no surface to make splats of; choose an object that has faces.")
    corners = vertices[faces]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    places = face_samples(vertices, faces, _spacing(longest, count))
    pieces = np.sqrt(np.bincount(places.face, minlength=len(faces)))  # a side: a face is cut into their square
    width = (WIDTH * longest / pieces.clip(1))[places.face]
    normals = places.interpolate(faces, angle_normals(vertices, faces))
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    return Splats(
        places.interpolate(faces, vertices).astype(np.float32),
        (width[:, None] * [1.0, 1.0, THICKNESS]).astype(np.float32),
        rotations_to(normals).astype(np.float32),
        _colors(mesh, faces, places).astype(np.float32),
        np.full(len(width), OPACITY, np.float32),
    )


def _spacing(longest: np.ndarray, count: int) -> float:
    """The edge of the pieces of which triangles with the `longest` edges [F] have about `count`, or one each."""
    below, above = 0.0, float(longest.max())
    for _ in range(SEARCH_ROUNDS):
        middle = (below + above) / 2
        if (np.ceil(longest / middle) ** 2).sum() > max(count, len(longest)):
            below = middle
        else:
            above = middle
    return above


def rotations_to(normals: np.ndarray) -> np.ndarray:
    """Unit quaternions [N,4] (w,x,y,z) that turn z into unit `normals` [N,3] the short way."""
    x, y, z = np.asarray(normals, np.float64).T
    quaternion = np.stack([1.0 + z, -y, x, np.zeros_like(z)], axis=1)
    opposite = z < -1.0 + 1e-9  # any half turn about a horizontal axis
    quaternion[opposite] = (0.0, 1.0, 0.0, 0.0)
    return np.asarray(quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True))


def _colors(mesh: MeshData, faces: np.ndarray, places: Places) -> np.ndarray:
    """Colours [N,3] in [0,1] at places: the texture's, the vertices', or plain."""
    if mesh.texture and mesh.uvs is not None:
        texture = np.asarray(Image.open(io.BytesIO(mesh.texture)).convert("RGB"), np.float32) / 255.0
        uv = np.einsum("nk,nkc->nc", places.barycentric, mesh.uvs.reshape(-1, 3, 2)[places.face])
        return sample_bilinear(texture, np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1))
    if mesh.colors is not None:
        return places.interpolate(faces, mesh.colors[:, :3] / 255.0)
    return np.full((len(places.face), 3), PLAIN)
