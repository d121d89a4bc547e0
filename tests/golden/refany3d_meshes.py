"""RefAny3D's recorded frames and the meshes that they show as Blender objects. Runs in any Blender's Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import bpy
import numpy as np

GOLDEN = Path(__file__).parent / "refany3d" / "render_pointmap.npz"
CASES = {"tex": (4.0, 0.0, 0.0), "vcol": (3.5, 20.0, 0.0), "texrot": (4.0, -10.0, 35.0)}
"""Distance, elevation and turn of the point map's coordinates in degrees, which the record states in words only."""
LEAST_IOU, MOST_LEVELS = 0.999, 2
SIZE = 96
Modules = Callable[[str], ModuleType]
"""Gives a module of the add-on by its name, for example "scene.png"."""


def recorded() -> dict[str, np.ndarray]:
    """The arrays of the case."""
    with np.load(GOLDEN) as stored:
        return {name: stored[name] for name in stored.files}


def golden_object(golden: dict[str, np.ndarray], case: str, modules: Modules) -> bpy.types.Object:
    """The case's mesh as a glTF importer would bring it: z up, picture or colours as they are stored."""
    vertices, faces = golden[f"{case}_vertices_loaded"], golden[f"{case}_faces_loaded"]
    mesh = bpy.data.meshes.new(case)
    mesh.from_pydata([(x, -z, y) for x, y, z in vertices.tolist()], [], faces.tolist())
    if case == "tex":
        paint(mesh, golden["tex_uv_loaded"][faces.ravel()], golden["texture_uint8"], modules)
    if case == "vcol":
        colors = mesh.color_attributes.new("Col", "BYTE_COLOR", "POINT")
        colors.data.foreach_set("color_srgb", (golden["vcol_vertex_colors"].astype(np.float32) / 255).ravel())
    item = bpy.data.objects.new(case, mesh)
    bpy.context.scene.collection.objects.link(item)
    bpy.context.view_layer.update()
    return item


def paint(mesh: bpy.types.Mesh, uv: np.ndarray, pixels: np.ndarray, modules: Modules) -> bpy.types.Material:
    """Give the mesh UVs [loops,2] and a material with the picture [h,w,3] uint8, rows from the top."""
    mesh.uv_layers.new(name="UVMap").uv.foreach_set("vector", uv.astype(np.float32).ravel())
    material = bpy.data.materials.new("Painted")
    modules("scene.compat").use_material_nodes(material)
    node = material.node_tree.nodes.new("ShaderNodeTexImage")
    node.image = modules("scene.importing").packed_image("Painted", modules("scene.png").png_bytes(pixels))
    shader = next(item for item in material.node_tree.nodes if item.type == "BSDF_PRINCIPLED")
    material.node_tree.links.new(node.outputs["Color"], shader.inputs["Base Color"])
    mesh.materials.append(material)
    return material


def difference(actual: np.ndarray, expected: np.ndarray) -> tuple[float, int]:
    """Overlap of the silhouettes [N,S,S,3] (intersection over union), and the most grey levels inside both."""
    seen, wanted = (actual != 255).any(axis=-1), (expected != 255).any(axis=-1)
    both = seen & wanted
    return float(both.sum() / (seen | wanted).sum()), int(np.abs(actual[both].astype(int) - expected[both]).max())


def replay(golden: dict[str, np.ndarray], case: str, modules: Modules) -> dict[str, tuple[float, int]]:
    """Render the case with the add-on's capture: difference of its points and, where they are recorded, its colours."""
    capture = modules("scene.reference_capture")
    distance, elevation, turn = CASES[case]
    options = capture.ReferenceOptions(
        elevation=np.radians(elevation), turn=np.radians(turn), distance=distance, size=SIZE, threads=1
    )
    looking = capture.begin_capture(bpy.context, [golden_object(golden, case, modules)], options)
    while not looking.step():
        pass
    found = {"points": difference(looking.result.points, golden[f"{case}_pointmap"])}
    if f"{case}_rgb" in golden:
        found["colors"] = difference(looking.result.colors, golden[f"{case}_rgb"])
    return found
