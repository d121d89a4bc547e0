"""What the tests of RefAny3D's capture share: simple objects, materials from nodes, and one quick look at them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import bpy
import numpy as np

from .conftest import contract, module

SIZE = 32
CORNERS = ((-1.0, -0.5, -0.25), (1.0, 0.5, 0.25))


def box(
    name: str = "Box", low: Sequence[float] = CORNERS[0], high: Sequence[float] = CORNERS[1], link: bool = True
) -> bpy.types.Object:
    """A box between two corners, in the scene if `link`."""
    corners = [(x, y, z) for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(corners, [], faces)
    item = bpy.data.objects.new(name, mesh)
    if link:
        bpy.context.scene.collection.objects.link(item)
    bpy.context.view_layer.update()
    return item


def material(
    name: str, build: Callable[[bpy.types.NodeTree, bpy.types.Node], None] | None = None, color: tuple | None = None
) -> bpy.types.Material:
    """A material with a Principled shader that `build(tree, shader)` changes; `color` [3], linear, is its base."""
    made = bpy.data.materials.new(name)
    module("scene.compat").use_material_nodes(made)
    shader = next(node for node in made.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    if color is not None:
        shader.inputs["Base Color"].default_value = (*color, 1.0)
    if build is not None:
        build(made.node_tree, shader)
    return made


def begin(items: Sequence[bpy.types.Object], **options):
    """A capture of small views on one thread."""
    capture = module("scene.reference_capture")
    bpy.context.view_layer.update()
    settings = capture.ReferenceOptions(**{"size": SIZE, "threads": 1, "views": 4, **options})
    return capture.begin_capture(bpy.context, items, settings)


def look(items: Sequence[bpy.types.Object], index: int = 0, **options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One view only: colours [S,S,3] uint8, places in the world [S,S,3], mask [S,S]."""
    looking = begin(items, **options)
    color, points = module("scene.reference_capture").render_view(looking.copies, index, looking.options)
    mask = (points != 255).any(axis=-1) | (color != 255).any(axis=-1)
    world = contract("reference_views").decode_points((points + 0.5) / 255, looking.bounds_min, looking.bounds_max)
    return color, world, mask


def srgb_bytes(linear: np.ndarray) -> np.ndarray:
    """Linear light as bytes, cut off."""
    srgb = module("scene.capture").linear_to_srgb(np.asarray(linear, np.float64))
    return np.floor(255 * srgb + 0.001).astype(int)
