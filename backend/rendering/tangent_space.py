"""Normal maps in tangent space, as MikkTSpace defines it and glTF and Blender read it: +X along u, +Y (green) up.

The frame at a corner is the smooth normal (faces weighted by their angle there), a tangent (the faces' u directions in
the plane of that normal, weighted by angle, averaged over the corners that share vertex and texture coordinate) and a
sign. Between corners normal and tangent are interpolated and not normalised; the bitangent is sign * (N x T). A map is
baked by exactly inverting what a renderer does: rgb = 0.5 + 0.5 * [T B N]^-1 n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_UP = 0.05  # a map cannot show a surface that faces away from the one that carries it
FLAT = (0.5, 0.5, 1.0)


@dataclass(frozen=True)
class TangentFrames:
    """One row a face corner: normal [3F,3], tangent [3F,3] unit float64; sign [3F] of the bitangent, 1 or -1."""

    normal: np.ndarray
    tangent: np.ndarray
    sign: np.ndarray

    def at(self, face: np.ndarray, barycentric: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tangent, bitangent and normal [N,3] at places on faces, as a renderer interpolates them."""
        rows = 3 * np.asarray(face)[:, None] + np.arange(3)
        normal, tangent = (
            np.einsum("nk,nkc->nc", barycentric, values[rows]) for values in (self.normal, self.tangent)
        )
        return tangent, self.sign[rows[:, 0], None] * np.cross(normal, tangent), normal


def angle_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Smooth unit normals [V,3], faces weighted by their angle at the vertex: those of Blender's smooth shading."""
    corners = np.asarray(vertices, np.float64)[faces]
    flat = _unit(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    weighted = (flat[:, None] * _angles(corners)[..., None]).reshape(-1, 3)
    normals = _summed(weighted, np.asarray(faces).ravel(), len(vertices))
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.asarray(np.where(length > 1e-12, normals / np.maximum(length, 1e-12), [0.0, 0.0, 1.0]))


def tangent_frames(vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray) -> TangentFrames:
    """The frames of a mesh: vertices [V,3], faces [F,3], uvs [3F,2] (v up)."""
    faces = np.asarray(faces, np.int64)
    corners = np.asarray(vertices, np.float64)[faces]
    places = np.asarray(uvs, np.float64).reshape(-1, 3, 2)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    du, dv = places[:, 1] - places[:, 0], places[:, 2] - places[:, 0]
    turned = du[:, 0] * dv[:, 1] - du[:, 1] * dv[:, 0]
    sign = np.where(turned < 0, -1.0, 1.0)
    along = sign[:, None] * (dv[:, 1:] * first - du[:, 1:] * second)
    normal = angle_normals(vertices, faces)[faces]  # [F,3,3]
    flat = _unit(along[:, None] - normal * np.einsum("fc,fkc->fk", along, normal)[..., None])
    weighted = (flat * _angles(corners, normal)[..., None]).reshape(-1, 3)
    keys = np.column_stack([faces.ravel(), places.reshape(-1, 2), np.repeat(sign, 3)])
    group = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    tangent = _unit(_summed(weighted, group, int(group.max()) + 1 if len(group) else 0))[group]
    lost = np.linalg.norm(tangent, axis=1) < 0.5  # no direction of u: any tangent will do
    normal = normal.reshape(-1, 3)
    tangent[lost] = _unit(np.cross(normal[lost], np.eye(3)[np.abs(normal[lost]).argmin(axis=1)]))
    return TangentFrames(normal, tangent, np.repeat(sign, 3))


def encode_normals(
    frames: TangentFrames, face: np.ndarray, barycentric: np.ndarray, normals: np.ndarray
) -> np.ndarray:
    """What the map must hold at places of the mesh so that they look like `normals` [N,3]: colours [N,3] in [0,1]."""
    tangent, bitangent, normal = frames.at(face, barycentric)
    basis = np.stack([tangent, bitangent, normal], axis=2)
    determinant = np.linalg.det(basis)
    sound = np.abs(determinant) > 1e-6
    basis[~sound] = np.eye(3)
    local = _unit(np.linalg.solve(basis, np.asarray(normals, np.float64)[..., None])[..., 0])
    local[:, 2] = np.maximum(local[:, 2], LEAST_UP)
    local = _unit(local)
    local[~sound] = (0.0, 0.0, 1.0)
    return np.asarray(0.5 + 0.5 * local)


def decode_normals(
    frames: TangentFrames, face: np.ndarray, barycentric: np.ndarray, colors: np.ndarray
) -> np.ndarray:
    """The unit normals [N,3] that a renderer makes of a map's colours [N,3] in [0,1]."""
    local = 2.0 * np.asarray(colors, np.float64) - 1.0
    axes = frames.at(face, barycentric)
    return _unit(sum((local[:, k, None] * axes[k] for k in range(3)), np.zeros(3)))


def _angles(corners: np.ndarray, normals: np.ndarray | None = None) -> np.ndarray:
    """Angles [F,3] at the corners [F,3,3], seen along `normals` [F,3,3] if given."""
    ahead, behind = np.roll(corners, -1, axis=1) - corners, np.roll(corners, 1, axis=1) - corners
    if normals is not None:
        ahead = ahead - normals * np.einsum("fkc,fkc->fk", ahead, normals)[..., None]
        behind = behind - normals * np.einsum("fkc,fkc->fk", behind, normals)[..., None]
    cosine = np.einsum("fkc,fkc->fk", _unit(ahead), _unit(behind))
    return np.asarray(np.arccos(cosine.clip(-1.0, 1.0)))


def _unit(values: np.ndarray) -> np.ndarray:
    """Vectors of length one; zero stays zero."""
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(np.where(length > 1e-20, values / np.maximum(length, 1e-20), 0.0))


def _summed(values: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    return np.stack([np.bincount(group, values[:, axis], minlength=count) for axis in range(3)], axis=1)
