"""Views for RefAny3D against the recorded frames of the published renderer, rendered here by Blender."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import pytest

from .conftest import module

GOLDEN = Path(__file__).parents[1] / "golden" / "refany3d" / "render_pointmap.npz"
# distance, elevation and turn of the point map's coordinates in degrees
CASES = {"tex": (4.0, 0.0, 0.0), "vcol": (3.5, 20.0, 0.0), "texrot": (4.0, -10.0, 35.0)}
LEVELS, IOU = 2, 0.999


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as stored:
        return {name: stored[name] for name in stored.files}


def textured(mesh: bpy.types.Mesh, uv: np.ndarray, pixels: np.ndarray) -> None:
    """Give the mesh UVs [loops,2] and a material with the picture [h,w,3] uint8, rows from the top, saved as a PNG."""
    mesh.uv_layers.new(name="UVMap").uv.foreach_set("vector", uv.astype(np.float32).ravel())
    png = module("scene.png").png_bytes(pixels)
    material = bpy.data.materials.new("Painted")
    module("scene.compat").use_material_nodes(material)
    node = material.node_tree.nodes.new("ShaderNodeTexImage")
    node.image = module("scene.importing").packed_image("Painted", png)
    shader = next(item for item in material.node_tree.nodes if item.type == "BSDF_PRINCIPLED")
    material.node_tree.links.new(node.outputs["Color"], shader.inputs["Base Color"])
    mesh.materials.append(material)


def golden_object(golden: dict[str, np.ndarray], case: str) -> bpy.types.Object:
    """The case's mesh as a glTF importer would bring it: z up, picture or colours as they are stored."""
    vertices, faces = golden[f"{case}_vertices_loaded"], golden[f"{case}_faces_loaded"]
    mesh = bpy.data.meshes.new(case)
    mesh.from_pydata([(x, -z, y) for x, y, z in vertices.tolist()], [], faces.tolist())
    if case == "tex":
        textured(mesh, golden["tex_uv_loaded"][faces.ravel()], golden["texture_uint8"])
    if case == "vcol":
        colors = mesh.color_attributes.new("Col", "BYTE_COLOR", "POINT")
        colors.data.foreach_set("color_srgb", (golden["vcol_vertex_colors"].astype(np.float32) / 255).ravel())
    item = bpy.data.objects.new(case, mesh)
    bpy.context.scene.collection.objects.link(item)
    bpy.context.view_layer.update()
    return item


def look(items: list[bpy.types.Object], **options):
    """All views of `items`."""
    capture = module("scene.reference_capture")
    bpy.context.view_layer.update()
    looking = capture.begin_capture(
        bpy.context, items, capture.ReferenceOptions(**{"size": 96, "threads": 1, **options})
    )
    while not looking.step():
        pass
    return looking.result


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    """Silhouettes [N,S,S,3] overlap as they must, and inside both no value is further away than LEVELS."""
    seen, wanted = (actual != 255).any(axis=-1), (expected != 255).any(axis=-1)
    both = seen & wanted
    assert both.sum() / (seen | wanted).sum() >= IOU
    assert np.abs(actual[both].astype(int) - expected[both]).max() <= LEVELS


@pytest.mark.parametrize("case", CASES)
def test_published_frames(blender: SimpleNamespace, golden: dict[str, np.ndarray], case: str) -> None:
    distance, elevation, turn = CASES[case]
    views = look(
        [golden_object(golden, case)], distance=distance, elevation=math.radians(elevation), turn=math.radians(turn)
    )
    assert np.degrees(views.azimuths) == pytest.approx(golden["azimuth_degrees"])
    assert_same(views.points, golden[f"{case}_pointmap"])
    if f"{case}_rgb" in golden:
        assert_same(views.colors, golden[f"{case}_rgb"])
