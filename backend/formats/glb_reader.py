"""Read GLB files: triangles in the default pose with base colours, what drawing views of an object takes.

Written from the glTF 2.0 specification. Nodes are placed in the scene; skins, morph targets, normal maps and lights are
left aside. Compressed or sparse meshes are refused with a sentence.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from backend.contract.frames import Y_UP_TO_Z_UP
from backend.contract.meshes import MeshData

MAGIC, JSON_CHUNK, BINARY_CHUNK = b"glTF", 0x4E4F534A, 0x004E4942
TRIANGLES = 4
_DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_DEEPEST = 64  # nodes below one another


class GlbError(ValueError):
    """The bytes are no GLB of a supported kind; the text says what to do."""


def read_glb(data: bytes) -> list[MeshData]:
    """The scene's meshes, one a primitive, in world axes (z up). Errors: GlbError, also when there is no triangle."""
    try:
        found = list(_Reader(data).meshes())
    except GlbError:
        raise
    except (struct.error, ValueError, KeyError, IndexError, TypeError) as error:
        raise GlbError("The GLB file is damaged; export it again.") from error
    if not any(len(mesh.faces) for mesh in found):
        raise GlbError("The GLB file holds no triangle; export a mesh with faces.")
    return found


class _Reader:
    """One file."""

    def __init__(self, data: bytes) -> None:
        if data[:4] != MAGIC:
            raise GlbError("This is no GLB file; export the mesh as glTF binary (.glb).")
        chunks, offset = {}, 12
        while offset + 8 <= len(data):
            length, kind = struct.unpack_from("<II", data, offset)
            chunks[kind] = data[offset + 8 : offset + 8 + length]
            offset += 8 + length
        self.document: dict[str, Any] = json.loads(chunks[JSON_CHUNK])
        self.binary = chunks.get(BINARY_CHUNK, b"")

    def meshes(self) -> Iterator[MeshData]:
        """Every primitive of the scene, placed."""
        document = self.document
        if "scenes" in document:
            roots = document["scenes"][document.get("scene", 0)].get("nodes", [])
        else:
            roots = range(len(document.get("nodes", [])))
        pending = [(root, Y_UP_TO_Z_UP, 0) for root in roots]
        while pending:
            index, parent, depth = pending.pop(0)
            if depth > _DEEPEST:
                raise GlbError("The GLB file's objects go round in a circle; export it again.")
            node = document["nodes"][index]
            matrix = parent @ _matrix(node)
            if "mesh" in node:
                for primitive in document["meshes"][node["mesh"]]["primitives"]:
                    if primitive.get("mode", TRIANGLES) == TRIANGLES:
                        yield self._primitive(primitive, matrix)
            pending += [(child, matrix, depth + 1) for child in node.get("children", [])]

    def _primitive(self, primitive: dict[str, Any], matrix: np.ndarray) -> MeshData:
        if "KHR_draco_mesh_compression" in primitive.get("extensions", {}):
            raise GlbError("The GLB file's meshes are compressed; export it without compression.")
        attributes = primitive["attributes"]
        local = self._accessor(attributes["POSITION"]).astype(np.float64)
        vertices = (local @ matrix[:3, :3].T + matrix[:3, 3]).astype(np.float32)
        if "indices" in primitive:
            faces = self._accessor(primitive["indices"]).reshape(-1, 3).astype(np.int32)
        else:
            faces = np.arange(len(vertices) // 3 * 3, dtype=np.int32).reshape(-1, 3)
        if np.linalg.det(matrix[:3, :3]) < 0:
            faces = faces[:, ::-1].copy()
        return self._colored(MeshData(vertices, faces), primitive, attributes)

    def _colored(self, mesh: MeshData, primitive: dict[str, Any], attributes: dict[str, int]) -> MeshData:
        """The mesh with the texture of its material, else with its vertices' or its material's colour."""
        material = self.document["materials"][primitive["material"]] if "material" in primitive else {}
        surface = material.get("pbrMetallicRoughness", {})
        texture = surface.get("baseColorTexture")
        if texture is not None:
            uv = self._accessor(attributes[f"TEXCOORD_{texture.get('texCoord', 0)}"]).astype(np.float32)
            flipped = np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1)[mesh.faces.reshape(-1)]
            return replace(mesh, uvs=flipped, texture=self._image(texture["index"]))
        linear = np.array(surface.get("baseColorFactor", (1.0, 1.0, 1.0, 1.0)), np.float64)
        if "COLOR_0" in attributes:
            own = self._accessor(attributes["COLOR_0"]).astype(np.float64)
            linear = linear * (own if own.shape[1] == 4 else np.concatenate([own, np.ones((len(own), 1))], axis=1))
        elif "baseColorFactor" not in surface:
            return mesh
        shown = np.rint(_srgb(np.broadcast_to(linear, (len(mesh.vertices), 4))) * 255.0)
        return replace(mesh, colors=shown.astype(np.uint8))

    def _image(self, texture: int) -> bytes:
        """The bytes of a texture's picture."""
        image = self.document["images"][self.document["textures"][texture]["source"]]
        if "bufferView" in image:
            return self._view(image["bufferView"])
        if image.get("uri", "").startswith("data:"):
            return base64.b64decode(image["uri"].partition(",")[2])
        raise GlbError("The GLB file's textures lie in other files; export it with its pictures inside.")

    def _view(self, index: int) -> bytes:
        view = self.document["bufferViews"][index]
        start = view.get("byteOffset", 0)
        return self.binary[start : start + view["byteLength"]]

    def _accessor(self, index: int) -> np.ndarray:
        """An accessor's values [N,C]; normalised integers in [0,1] or [-1,1]."""
        accessor = self.document["accessors"][index]
        if "sparse" in accessor or "bufferView" not in accessor:
            raise GlbError("The GLB file's meshes are stored sparsely; export it again with the usual settings.")
        kind, width, count = np.dtype(_DTYPES[accessor["componentType"]]), _WIDTHS[accessor["type"]], accessor["count"]
        view = self.document["bufferViews"][accessor["bufferView"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        stride = view.get("byteStride") or kind.itemsize * width
        values = np.ndarray((count, width), kind, self.binary, start, (stride, kind.itemsize))
        if accessor.get("normalized") and kind.kind in "iu":
            return np.maximum(values / np.iinfo(kind).max, -1.0)
        return values


def _matrix(node: dict[str, Any]) -> np.ndarray:
    """A node's own placement [4,4]."""
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0.0, 0.0, 0.0, 1.0))
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1.0, 1.0, 1.0)))
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix


def _srgb(linear: np.ndarray) -> np.ndarray:
    """Linear values [N,4] in [0,1] as sRGB, alpha as it is."""
    values = np.clip(linear, 0.0, 1.0)
    curved = np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)
    return np.concatenate([curved[:, :3], values[:, 3:]], axis=1)
