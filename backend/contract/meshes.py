"""Meshes on the wire: arrays that Blender can take with `foreach_set`, without parsing.

Layout of the bytes: 8 bytes magic, 8 bytes little-endian header length, a JSON header, then the raw arrays in the
header's order, each aligned to 16 bytes. World z up, faces counter-clockwise seen from outside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

MAGIC = b"MAQMESH1"
MEDIA_TYPE = "application/x-maquette-mesh"
ALIGNMENT = 16
LIMIT_VERTICES = 50_000_000

_ARRAYS = {
    "vertices": ("<f4", 3),
    "faces": ("<i4", 3),
    "uvs": ("<f4", 2),
    "colors": ("|u1", 4),
    "texture": ("|u1", 1),
    "normal_map": ("|u1", 1),
}
_FILES = ("texture", "normal_map")  # arrays that hold a file's bytes


class MeshError(ValueError):
    """Bytes that are not a mesh of this format."""


@dataclass(frozen=True)
class MeshData:
    """A triangle mesh.

    vertices [V,3] float32, faces [F,3] int32, uvs [3F,2] float32 (one a face corner, v up) or None,
    colors [V,4] uint8 sRGB or None, texture the bytes of a PNG (sRGB) or b"". normal_map likewise a PNG, of tangent
    space normals (not a colour; +Y up, MikkTSpace over the smooth normals that weight faces by their angle).
    """

    vertices: np.ndarray
    faces: np.ndarray
    uvs: np.ndarray | None = None
    colors: np.ndarray | None = None
    texture: bytes = b""
    normal_map: bytes = b""

    def __post_init__(self) -> None:
        vertex_count, face_count = len(self.vertices), len(self.faces)
        if self.vertices.shape != (vertex_count, 3) or self.faces.shape != (face_count, 3):
            raise MeshError("vertices and faces must have three columns")
        if face_count and (self.faces.min() < 0 or self.faces.max() >= vertex_count):
            raise MeshError("a face names a vertex that does not exist")
        if self.uvs is not None and self.uvs.shape != (3 * face_count, 2):
            raise MeshError("uvs must have one row for each face corner")
        if self.colors is not None and self.colors.shape != (vertex_count, 4):
            raise MeshError("colors must have four columns and one row for each vertex")
        if not np.isfinite(self.vertices).all():
            raise MeshError("vertices must be finite")


def mesh_to_bytes(mesh: MeshData) -> bytes:
    """The wire form of `mesh`."""
    arrays: dict[str, np.ndarray | None] = {
        "vertices": mesh.vertices,
        "faces": mesh.faces,
        "uvs": mesh.uvs,
        "colors": mesh.colors,
        **{name: np.frombuffer(getattr(mesh, name), np.uint8)[:, None] for name in _FILES if getattr(mesh, name)},
    }
    header: dict[str, int] = {}
    chunks: list[bytes] = []
    for name, array in arrays.items():
        if array is None:
            continue
        data = np.ascontiguousarray(array, _ARRAYS[name][0]).tobytes()
        header[name] = len(array)
        chunks += [data, b"\0" * (-len(data) % ALIGNMENT)]
    head = json.dumps(header).encode()
    head += b" " * (-(16 + len(head)) % ALIGNMENT)
    return b"".join([MAGIC, len(head).to_bytes(8, "little"), head, *chunks])


def mesh_from_bytes(data: bytes) -> MeshData:
    """The mesh in `data`. Arrays are read-only views of `data`. Errors: `MeshError`."""
    if data[:8] != MAGIC or len(data) < 16:
        raise MeshError("this is not a Maquette mesh")
    start = 16 + int.from_bytes(data[8:16], "little")
    try:
        header = json.loads(data[16:start])
    except ValueError as error:
        raise MeshError("the mesh header cannot be read") from error
    if not isinstance(header, dict) or not {"vertices", "faces"} <= set(header) <= set(_ARRAYS):
        raise MeshError("the mesh header names other arrays")
    arrays: dict[str, np.ndarray] = {}
    for name, count in header.items():
        dtype, columns = _ARRAYS[name]
        if not isinstance(count, int) or not 0 <= count <= LIMIT_VERTICES:
            raise MeshError(f"the mesh has an impossible number of {name}")
        size = count * columns * np.dtype(dtype).itemsize
        if start + size > len(data):
            raise MeshError("the mesh is cut short")
        arrays[name] = np.frombuffer(data, dtype, count * columns, start).reshape(count, columns)
        start += size + (-size % ALIGNMENT)
    files = {name: arrays.pop(name).tobytes() for name in _FILES if name in arrays}
    return MeshData(**arrays, texture=files.get("texture", b""), normal_map=files.get("normal_map", b""))
