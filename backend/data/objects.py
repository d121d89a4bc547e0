"""An object of the dataset as one mesh, without Blender: all parts of a GLB file in the cube, their colours in one
texture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from ..contract.frames import Y_UP_TO_Z_UP
from ..contract.meshes import MeshData
from ..formats.images import encode_png
from ..geometry.mesh_repair import face_areas
from ..geometry.unwrap import unwrap
from ..rendering.bake import covered_texels, paint

LEAST_AREA = 1e-10  # of a face, in object units squared: less shows nothing and cannot be unwrapped
WELD = 1e-5  # object units: vertices nearer than this are one for the atlas
GREY = (0.7, 0.7, 0.7)  # of parts without a material


@dataclass(frozen=True)
class Part:
    """One primitive: vertices [V,3] z up, faces [F,3]; uvs [V,2] (v up) with a texture [h,w,3] in [0,1], or one colour
    [3] (both sRGB)."""

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray | None
    texture: np.ndarray | None
    color: np.ndarray

    def colors(self, face: np.ndarray, barycentric: np.ndarray) -> np.ndarray:
        """Colours [N,3] at places of faces [N]."""
        if self.texture is None or self.uvs is None:
            return np.tile(self.color, (len(face), 1))
        uv = np.einsum("nk,nkc->nc", barycentric, self.uvs[self.faces[face]]) % 1.0  # textures repeat
        height, width = self.texture.shape[:2]
        column = (uv[:, 0] * width).astype(np.int64).clip(0, width - 1)
        row = ((1.0 - uv[:, 1]) * height).astype(np.int64).clip(0, height - 1)
        return np.asarray(self.texture[row, column])


def read_object(path: Path, texture_size: int = 1024) -> MeshData:
    """The object of a GLB file in the cube (z up, longest side 1, centred) with its base colours in one texture.

    Vertices are as the file has them: those of a sharp edge are there once a side. Errors: ValueError for a file
    without a surface.
    """
    parts = read_parts(path)
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    vertices = np.concatenate([part.vertices for part in parts])
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    side = float((high - low).max())
    if not np.isfinite(vertices).all() or side <= 0:
        raise ValueError(f"{path.name} holds no usable surface.")
    vertices = (vertices - (low + high) / 2) / side
    faces = np.concatenate([part.faces + start for part, start in zip(parts, starts, strict=False)])
    owner = np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts])
    own_row = np.concatenate([np.arange(len(part.faces)) for part in parts])
    kept = face_areas(vertices, faces) > LEAST_AREA
    if not kept.any():
        raise ValueError(f"{path.name} holds no usable surface.")
    faces, owner, own_row = faces[kept], owner[kept], own_row[kept]
    atlas = unwrap(*welded(vertices, faces), texture_size)
    texels = covered_texels(atlas)
    colors = np.empty((len(texels.face), 3))
    for number, part in enumerate(parts):
        rows = np.flatnonzero(owner[texels.face] == number)
        colors[rows] = part.colors(own_row[texels.face[rows]], texels.barycentric[rows])
    texture = encode_png(paint(texels, colors))
    return MeshData(vertices.astype(np.float32), faces.astype(np.int32), atlas.uvs, texture=texture)


def welded(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mesh [V,3], [F,3] with vertices in the same place made one; faces keep their order."""
    _, first, place = np.unique(
        np.rint(vertices / WELD).astype(np.int64), axis=0, return_index=True, return_inverse=True
    )
    return np.asarray(vertices, np.float64)[first], place.reshape(-1)[faces]


def read_parts(path: Path) -> list[Part]:
    """The primitives of a GLB file. Errors: ValueError without one."""
    scene: Any = trimesh.load_scene(path, process=False)
    parts = []
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        item = scene.geometry[name]
        if isinstance(item, trimesh.Trimesh) and len(item.faces):
            parts.append(_part(item, np.asarray(transform)))
    if not parts:
        raise ValueError(f"{path.name} holds no surface.")
    return parts


def _part(item: Any, transform: np.ndarray) -> Part:
    smooth = "vertex_normals" in item._cache  # only where the file has normals; without, its faces are flat
    material = getattr(item.visual, "material", None)
    factor = getattr(material, "baseColorFactor", None)
    linear = np.ones(3) if factor is None else np.asarray(factor, np.float64)[:3] / 255.0
    image = getattr(material, "baseColorTexture", None)
    uvs = getattr(item.visual, "uv", None)
    texture = None
    if image is not None and uvs is not None:
        texture = np.asarray(image.convert("RGB"), np.float32) / np.float32(255.0)
        if (linear < 1).any():
            texture = _srgb(_linear(texture) * linear).astype(np.float32)
    color = np.array(GREY) if material is None else _srgb(linear)
    matrix = Y_UP_TO_Z_UP @ transform
    vertices = np.asarray(item.vertices, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
    faces = np.asarray(item.faces, np.int64)
    if np.linalg.det(matrix[:3, :3]) < 0:
        faces = faces[:, ::-1]
    if not smooth:
        vertices, uvs = vertices[faces.ravel()], None if uvs is None else np.asarray(uvs)[faces.ravel()]
        faces = np.arange(faces.size).reshape(-1, 3)
    return Part(vertices, faces, None if uvs is None else np.asarray(uvs), texture, color)


def _linear(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _srgb(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)
