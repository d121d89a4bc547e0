"""GLB files read back as meshes: what our own writer makes, placed nodes, and files that cannot be used."""

import json
import struct

import numpy as np
import pytest

from backend.contract.meshes import MeshData
from backend.formats import glb, glb_reader
from backend.formats.images import encode_png

VERTICES = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3]], np.int32)


def rewritten(data: bytes, **changes) -> bytes:
    """The file with entries of its JSON replaced."""
    length = struct.unpack_from("<I", data, 12)[0]
    document = {**json.loads(data[20 : 20 + length]), **changes}
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    return data[:8] + struct.pack("<III", 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest


def test_vertex_colours_come_back() -> None:
    colors = np.array([[10, 128, 250, 255]] * 4, np.uint8)
    (mesh,) = glb_reader.read_glb(glb.mesh_to_glb(MeshData(VERTICES, FACES, colors=colors)))
    np.testing.assert_allclose(mesh.vertices, VERTICES, atol=1e-6)
    np.testing.assert_array_equal(mesh.faces, FACES)
    np.testing.assert_array_equal(mesh.colors, colors)


def test_texture_and_its_places_come_back() -> None:
    picture = encode_png(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    uvs = np.random.default_rng(0).random((9, 2)).astype(np.float32)
    (mesh,) = glb_reader.read_glb(glb.mesh_to_glb(MeshData(VERTICES, FACES, uvs=uvs, texture=picture)))
    assert mesh.texture == picture
    np.testing.assert_allclose(mesh.uvs, uvs, atol=1e-6)
    np.testing.assert_allclose(mesh.vertices[mesh.faces], VERTICES[FACES], atol=1e-6)


def test_nodes_are_placed_and_mirrors_keep_their_outside() -> None:
    place = np.diag([2.0, -1.0, 1.0, 1.0])
    place[:3, 3] = 5, 6, 7
    data = glb.scene_to_glb([("a", MeshData(VERTICES, FACES), np.eye(4)), ("b", MeshData(VERTICES, FACES), place)])
    first, second = glb_reader.read_glb(data)
    np.testing.assert_allclose(second.vertices, VERTICES * [2, -1, 1] + [5, 6, 7], atol=1e-6)
    np.testing.assert_array_equal(first.faces, FACES)
    np.testing.assert_array_equal(second.faces, FACES[:, ::-1])


def test_turned_node_and_flat_colour() -> None:
    data = glb.mesh_to_glb(MeshData(VERTICES, FACES))
    half = 0.5**0.5
    node = {"mesh": 0, "rotation": [0, half, 0, half], "scale": [1, 1, 2]}  # about glTF's y, which is our z
    material = {"pbrMetallicRoughness": {"baseColorFactor": [0.5, 0.0, 1.0, 1.0]}}
    (mesh,) = glb_reader.read_glb(rewritten(data, nodes=[node], materials=[material]))
    x, y, z = VERTICES.T  # glTF (x, z, -2y) turned by 90 degrees about y: (-2y, z, -x), in our axes (-2y, x, z)
    np.testing.assert_allclose(mesh.vertices, np.stack([-2 * y, x, z], axis=1), atol=1e-6)
    assert mesh.colors is not None
    np.testing.assert_array_equal(mesh.colors[0], [188, 0, 255, 255])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no GLB"),
        (b"glTF" + bytes(40), "damaged"),
        (rewritten(glb.mesh_to_glb(MeshData(VERTICES, FACES)), nodes=[{}]), "no triangle"),
        (rewritten(glb.mesh_to_glb(MeshData(VERTICES, FACES)), nodes=[{"children": [0]}]), "circle"),
        (glb.mesh_to_glb(MeshData(VERTICES, FACES))[:-40], "damaged"),
    ],
)
def test_what_cannot_be_read_is_named(data: bytes, says: str) -> None:
    with pytest.raises(glb_reader.GlbError, match=says):
        glb_reader.read_glb(data)
