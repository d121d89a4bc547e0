"""Splats of a textured surface, for results that have no network for them: one flat Gaussian a sampled point.

They show what the mesh shows, no more: no fuzz, no transparency, nothing view dependent.
"""

from __future__ import annotations

import numpy as np

from backend.contract.meshes import MeshData
from backend.contract.splats import Splats
from backend.geometry.mesh_repair import face_areas
from backend.geometry.surface_sampling import sample_surface

COUNT = 50_000
WIDTH = 0.8  # standard deviation across, in distances between points: neighbours overlap, random gaps close
THICKNESS = 0.1  # along the normal, likewise
OPACITY = 0.98
PLAIN = 0.7  # colour of a mesh that has none


def surface_splats(mesh: MeshData, count: int = COUNT, seed: int = 0) -> Splats:
    """`count` splats of the surface of `mesh`. Errors: ValueError for a mesh without a surface."""
    sampled = sample_surface(mesh, count, seed)
    spacing = float(np.sqrt(face_areas(mesh.vertices, np.asarray(mesh.faces)).sum() / count))
    colors = np.full((count, 3), PLAIN) if sampled.colors is None else sampled.colors
    return Splats(
        sampled.points.astype(np.float32),
        np.tile(np.float32(spacing) * np.array([WIDTH, WIDTH, THICKNESS], np.float32), (count, 1)),
        rotations_to(sampled.normals).astype(np.float32),
        np.asarray(colors, np.float32),
        np.full(count, OPACITY, np.float32),
    )


def rotations_to(normals: np.ndarray) -> np.ndarray:
    """Unit quaternions [N,4] (w,x,y,z) that turn z into unit `normals` [N,3] the short way."""
    x, y, z = np.asarray(normals, np.float64).T
    quaternion = np.stack([1.0 + z, -y, x, np.zeros_like(z)], axis=1)
    opposite = z < -1.0 + 1e-9  # any half turn about a horizontal axis
    quaternion[opposite] = (0.0, 1.0, 0.0, 0.0)
    return np.asarray(quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True))
