"""Normal maps: Blender's own tangent frames are those that maps are baked on, and a GLB brings its map along."""

from __future__ import annotations

import io
from pathlib import Path

import bpy
import numpy as np
from PIL import Image

from backend.contract.meshes import MeshData
from backend.formats.glb import mesh_to_glb
from backend.rendering.tangent_space import tangent_frames

from .conftest import module
from .test_importing import grid_mesh


def png(color: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(stream, "PNG")
    return stream.getvalue()


def sheet() -> MeshData:
    """A bumpy sheet, its texture coordinates turned, and mirrored on one half."""
    data = grid_mesh(8)
    bumps = data.vertices + 0.1 * np.random.default_rng(0).normal(size=data.vertices.shape).astype(np.float32)
    uvs = data.uvs @ np.array([[0.6, 0.4], [-0.4, 0.6]], np.float32) + [0.4, 0.0]
    mirrored = np.repeat(np.arange(len(data.faces)) % 8 < 4, 3)  # the left half of the cells
    uvs[mirrored, 0] = 1.0 - uvs[mirrored, 0]
    return MeshData(bumps, data.faces, uvs.astype(np.float32), None, png((200, 90, 20)), png((128, 128, 255)))


def test_blenders_tangents_are_ours(blender):
    data = sheet()
    mesh = module("scene.importing").build_mesh("sheet", data)
    mesh.calc_tangents(uvmap="UVMap")
    ours = tangent_frames(data.vertices.astype(np.float64), data.faces, data.uvs)
    for name, values, slack in (("normal", ours.normal, 1e-3), ("tangent", ours.tangent, 5e-3)):
        theirs = np.zeros(3 * len(mesh.loops), np.float32)
        mesh.loops.foreach_get(name, theirs)
        assert np.abs(theirs.reshape(-1, 3) - values).max() < slack
    sign = np.zeros(len(mesh.loops), np.float32)
    mesh.loops.foreach_get("bitangent_sign", sign)
    assert np.array_equal(sign, ours.sign) and set(sign) == {-1.0, 1.0}


def test_blenders_importer_finds_both_textures(blender, tmp_path: Path):
    path = tmp_path / "sheet.glb"
    path.write_bytes(mesh_to_glb(sheet()))
    before = set(bpy.data.materials)
    bpy.ops.import_scene.gltf(filepath=str(path))
    (material,) = set(bpy.data.materials) - before
    shader = next(node for node in material.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    assert shader.inputs["Roughness"].default_value == 1.0 and shader.inputs["Metallic"].default_value == 0.0
    (link,) = shader.inputs["Normal"].links
    assert link.from_node.type == "NORMAL_MAP"
    (source,) = link.from_node.inputs["Color"].links
    assert source.from_node.image.colorspace_settings.name == "Non-Color"
    (color,) = shader.inputs["Base Color"].links
    assert tuple(color.from_node.image.size) == (32, 32)
