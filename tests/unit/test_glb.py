"""GLB files read back with trimesh."""

import io

import numpy as np
import pytest
import trimesh
from PIL import Image

from backend.contract.meshes import MeshData
from backend.formats.glb import mesh_to_glb, srgb_to_linear

VERTICES = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)


def load(data: bytes) -> trimesh.Trimesh:
    scene = trimesh.load(io.BytesIO(data), file_type="glb", process=False)
    (mesh,) = scene.geometry.values()
    return mesh


def test_vertex_colours_and_axes():
    colors = np.array([[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255], [188, 188, 188, 255]], np.uint8)
    mesh = load(mesh_to_glb(MeshData(VERTICES, FACES, colors=colors)))
    assert np.allclose(mesh.vertices, VERTICES[:, [0, 2, 1]] * [1, 1, -1])  # (x, z, -y)
    assert (mesh.faces == FACES).all()
    assert mesh.volume == pytest.approx(1 / 6, abs=1e-6)  # winding keeps facing out
    stored = np.asarray(mesh.visual.vertex_attributes["color"], np.float64)
    stored = stored / (65535.0 if stored.max() > 255 else 255.0)
    assert np.allclose(stored[:3, :3], np.eye(3), atol=1e-4)
    assert np.allclose(stored[3, :3], 0.5, atol=0.004)  # sRGB 188 is linear one half


def test_texture_and_texture_coordinates():
    picture = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 200, 30)).save(picture, "PNG")
    uvs = np.random.default_rng(0).random((12, 2)).astype(np.float32)
    mesh = load(mesh_to_glb(MeshData(VERTICES, FACES, uvs=uvs, texture=picture.getvalue())))
    assert mesh.visual.material.baseColorTexture.size == (4, 4)
    corners = mesh.visual.uv[mesh.faces.reshape(-1)]  # trimesh flips v back to up
    assert np.allclose(corners, uvs, atol=1e-6)
    assert np.allclose(mesh.vertices[mesh.faces], (VERTICES[:, [0, 2, 1]] * [1, 1, -1])[FACES])


def test_normal_map_beside_the_texture():
    pictures = []
    for color in ((10, 200, 30), (128, 128, 255)):
        stream = io.BytesIO()
        Image.new("RGB", (4, 4), color).save(stream, "PNG")
        pictures.append(stream.getvalue())
    uvs = np.random.default_rng(0).random((12, 2)).astype(np.float32)
    mesh = load(mesh_to_glb(MeshData(VERTICES, FACES, uvs, None, *pictures)))
    material = mesh.visual.material
    assert np.asarray(material.baseColorTexture.convert("RGB"))[0, 0].tolist() == [10, 200, 30]
    assert np.asarray(material.normalTexture.convert("RGB"))[0, 0].tolist() == [128, 128, 255]


def test_plain_mesh_and_lengths():
    data = mesh_to_glb(MeshData(VERTICES, FACES), name="box")
    assert len(data) % 4 == 0 and int.from_bytes(data[8:12], "little") == len(data)
    assert len(load(data).faces) == 4


def test_empty_mesh_is_refused():
    with pytest.raises(ValueError, match="triangle"):
        mesh_to_glb(MeshData(VERTICES, np.zeros((0, 3), np.int32)))


def test_linear_conversion_ends():
    assert srgb_to_linear(np.array([[0, 255, 188, 7]], np.uint8)).tolist() == [[0, 65535, 32957, 1799]]
