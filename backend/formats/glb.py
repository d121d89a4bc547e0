"""Write a mesh as binary glTF 2.0 (GLB): y up, vertex colours or textures, standard library and numpy only.

The object stands in the cube z up inside; glTF is y up, so (x, y, z) becomes (x, z, -y). Vertex colours are linear in
glTF, textures are sRGB, and a normal map holds tangent space normals with green up, as glTF wants them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from backend.contract.frames import Y_UP_TO_Z_UP
from backend.contract.meshes import MeshData
from backend.rendering.tangent_space import angle_normals
from backend.rendering.views import vertex_normals

MEDIA_TYPE = "model/gltf-binary"

_FLOAT, _UNSIGNED_SHORT, _UNSIGNED_INT = 5126, 5123, 5125
_ARRAY_BUFFER, _ELEMENT_BUFFER = 34962, 34963


class _Buffer:
    """Collects binary data and the accessors that describe it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add_view(self, data: bytes, target: int | None = None) -> int:
        """Append bytes on a 4-byte boundary; returns the bufferView's index."""
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        if target is not None:
            view["target"] = target
        self.data += data
        self.data += b"\0" * (-len(self.data) % 4)
        self.views.append(view)
        return len(self.views) - 1

    def add_accessor(
        self, array: np.ndarray, component: int, kind: str, target: int, bounds: bool = False, normalized: bool = False
    ) -> int:
        """Append an array; returns the accessor's index."""
        accessor: dict[str, Any] = {
            "bufferView": self.add_view(np.ascontiguousarray(array).tobytes(), target),
            "componentType": component,
            "count": len(array),
            "type": kind,
        }
        if bounds:
            accessor["min"] = array.min(axis=0).tolist()
            accessor["max"] = array.max(axis=0).tolist()
        if normalized:
            accessor["normalized"] = True
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def mesh_to_glb(mesh: MeshData, name: str = "Maquette") -> bytes:
    """The GLB bytes of `mesh`. Errors: `ValueError` for a mesh without triangles (glTF cannot express it)."""
    return scene_to_glb([(name, mesh, np.eye(4))])


def scene_to_glb(parts: Sequence[tuple[str, MeshData, np.ndarray]]) -> bytes:
    """The GLB bytes of several meshes, each a node: name, mesh, and its object_to_world [4,4] (z up on both sides).

    Errors: `ValueError` without a part, or for a mesh without triangles.
    """
    if not parts:
        raise ValueError("a GLB needs at least one mesh")
    buffer = _Buffer()
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "Maquette"},
        "scene": 0,
        "scenes": [{"nodes": list(range(len(parts)))}],
        "nodes": [],
        "meshes": [],
        "materials": [],
    }
    for index, (name, mesh, object_to_world) in enumerate(parts):
        node: dict[str, Any] = {"mesh": index, "name": name}
        if not np.array_equal(object_to_world, np.eye(4)):
            y_up = Y_UP_TO_Z_UP.T @ np.asarray(object_to_world, np.float64) @ Y_UP_TO_Z_UP
            node["matrix"] = y_up.T.reshape(-1).tolist()  # glTF stores columns
        document["nodes"].append(node)
        document["meshes"].append({"name": name, "primitives": [_add_primitive(buffer, document, mesh, name)]})
    document.update(accessors=buffer.accessors, bufferViews=buffer.views, buffers=[{"byteLength": len(buffer.data)}])
    return _pack(document, bytes(buffer.data))


def _add_primitive(buffer: _Buffer, document: dict[str, Any], mesh: MeshData, name: str) -> dict[str, Any]:
    """Append the mesh's arrays to `buffer`, its material and texture to `document`; returns the primitive."""
    if len(mesh.faces) == 0:
        raise ValueError("a GLB needs at least one triangle")
    vertices = np.asarray(mesh.vertices, np.float32)
    # A normal map counts from the normals it was baked on, which weight faces by angle as Blender does.
    normals = angle_normals(vertices, mesh.faces) if mesh.normal_map else vertex_normals(vertices, mesh.faces)
    faces = np.asarray(mesh.faces, np.uint32)
    colors = None if mesh.colors is None else srgb_to_linear(np.asarray(mesh.colors))
    uvs = None
    if mesh.uvs is not None and mesh.texture:
        vertices, normals, colors, uvs, faces = _split_corners(mesh, vertices, normals)

    to_y_up = Y_UP_TO_Z_UP[:3, :3].T
    attributes = {
        "POSITION": buffer.add_accessor(
            (vertices @ to_y_up.T).astype("<f4"), _FLOAT, "VEC3", _ARRAY_BUFFER, bounds=True
        ),
        "NORMAL": buffer.add_accessor((normals @ to_y_up.T).astype("<f4"), _FLOAT, "VEC3", _ARRAY_BUFFER),
    }
    material: dict[str, Any] = {
        "name": name,
        "doubleSided": True,
        "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
    }
    if uvs is not None:
        flipped = np.stack([uvs[:, 0], 1.0 - uvs[:, 1]], axis=1).astype("<f4")  # glTF's v runs down
        attributes["TEXCOORD_0"] = buffer.add_accessor(flipped, _FLOAT, "VEC2", _ARRAY_BUFFER)
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": _add_texture(buffer, document, mesh.texture)}
        if mesh.normal_map:
            material["normalTexture"] = {"index": _add_texture(buffer, document, mesh.normal_map)}
    elif colors is not None:
        attributes["COLOR_0"] = buffer.add_accessor(colors, _UNSIGNED_SHORT, "VEC4", _ARRAY_BUFFER, normalized=True)
    indices = buffer.add_accessor(faces.reshape(-1, 1).astype("<u4"), _UNSIGNED_INT, "SCALAR", _ELEMENT_BUFFER)
    document["materials"].append(material)
    return {"attributes": attributes, "indices": indices, "material": len(document["materials"]) - 1}


def _add_texture(buffer: _Buffer, document: dict[str, Any], png: bytes) -> int:
    """Append a PNG to `buffer` and `document`; returns the texture's index."""
    document.setdefault("samplers", [{"magFilter": 9729, "minFilter": 9729}])
    images, textures = document.setdefault("images", []), document.setdefault("textures", [])
    images.append({"bufferView": buffer.add_view(png), "mimeType": "image/png"})
    textures.append({"source": len(images) - 1, "sampler": 0})
    return len(textures) - 1


def linear_light(values: np.ndarray) -> np.ndarray:
    """sRGB values in [0,1], any shape, as linear ones."""
    values = np.asarray(values)
    return np.where(values <= 0.04045, values / 12.92, ((values.clip(0.0) + 0.055) / 1.055) ** 2.4)


def srgb_to_linear(colors: np.ndarray) -> np.ndarray:
    """sRGB uint8 [V,4] -> linear uint16 [V,4], so that dark tones keep their steps; alpha only rescaled."""
    linear = np.rint(linear_light(np.arange(256) / 255.0) * 65535.0).astype("<u2")
    return np.concatenate([linear[colors[:, :3]], colors[:, 3:4].astype("<u2") * 257], axis=1)


def _split_corners(
    mesh: MeshData, vertices: np.ndarray, normals: np.ndarray
) -> tuple[np.ndarray, np.ndarray, None, np.ndarray, np.ndarray]:
    """glTF has one texture coordinate a vertex: merge equal (vertex, uv) corners, split the others."""
    uvs = np.asarray(mesh.uvs, np.float32)
    keys = np.column_stack([mesh.faces.reshape(-1).astype(np.float64), uvs.astype(np.float64)])
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    source = unique[:, 0].astype(np.int64)
    faces = inverse.reshape(-1, 3).astype(np.uint32)
    return vertices[source], normals[source], None, unique[:, 1:].astype(np.float32), faces


def _pack(document: dict[str, Any], binary: bytes) -> bytes:
    """GLB container: 12-byte header, JSON chunk, BIN chunk, each padded to 4 bytes."""
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    return b"".join(
        [
            struct.pack("<4sII", b"glTF", 2, total),
            struct.pack("<I4s", len(text), b"JSON"),
            text,
            struct.pack("<I4s", len(binary), b"BIN\0"),
            binary,
        ]
    )
