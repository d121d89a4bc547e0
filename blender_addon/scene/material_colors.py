"""The colour of a mesh at its corners, as its materials' Base Color says: a picture, a colour attribute or one colour.

Only what feeds the shader directly is read; a colour that a node tree computes counts as that of the viewport.
"""

from __future__ import annotations

import bpy
import numpy as np

READ_WHOLE = 2048**2  # pixels up to which a picture is read as it is; a larger one is copied and shrunk first
PICTURE_SIDE = 256  # pixels that a picture is shrunk to: colours tell sides apart, they need not be sharp


def corner_colors(mesh: bpy.types.Mesh, shape: bpy.types.Object, corners: np.ndarray) -> np.ndarray | None:
    """sRGB [len(corners),4] uint8 at the loops `corners`, three a triangle; None where nothing gives a colour."""
    materials = [slot.material for slot in shape.material_slots]
    attribute = _attribute_colors(mesh, mesh.color_attributes.active_color)
    if not any(materials):
        return None if attribute is None else _bytes(attribute[corners])
    slots = np.zeros(len(mesh.polygons), np.int32)
    if "material_index" in mesh.attributes:
        mesh.attributes["material_index"].data.foreach_get("value", slots)
    polygons = np.empty(len(corners) // 3, np.int32)
    mesh.loop_triangles.foreach_get("polygon_index", polygons)
    slot = np.repeat(slots[polygons], 3)
    colors = np.full((len(corners), 3), 0.7)
    for number, material in enumerate(materials):
        chosen = np.flatnonzero(slot == number)
        if material is not None and len(chosen):
            colors[chosen] = _material_colors(material, mesh, corners[chosen], attribute)
    return _bytes(colors)


def _material_colors(
    material: bpy.types.Material, mesh: bpy.types.Mesh, corners: np.ndarray, attribute: np.ndarray | None
) -> np.ndarray:
    """sRGB [len(corners),3] of one material."""
    plain = _srgb(np.array(material.diffuse_color[:3], np.float64))
    tree = material.node_tree
    shader = next((node for node in tree.nodes if node.type == "BSDF_PRINCIPLED"), None) if tree is not None else None
    if shader is None:
        return plain
    socket = shader.inputs["Base Color"]
    if not socket.is_linked:
        return _srgb(np.array(socket.default_value[:3], np.float64))
    source = socket.links[0].from_node
    if source.type == "TEX_IMAGE" and source.image is not None and len(mesh.uv_layers):
        picture = _small_picture(source.image)
        if picture is not None:
            uv = np.empty(2 * len(mesh.loops), np.float32)
            layer = next((item for item in mesh.uv_layers if item.active_render), mesh.uv_layers[0])
            layer.uv.foreach_get("vector", uv)
            at = uv.reshape(-1, 2)[corners] % 1.0
            column = (at[:, 0] * picture.shape[1]).astype(int).clip(0, picture.shape[1] - 1)
            row = (at[:, 1] * picture.shape[0]).astype(int).clip(0, picture.shape[0] - 1)
            return picture[row, column]
    if source.type in ("VERTEX_COLOR", "ATTRIBUTE"):
        name = source.layer_name if source.type == "VERTEX_COLOR" else source.attribute_name
        named = _attribute_colors(mesh, mesh.color_attributes.get(name)) if name else attribute
        if named is not None:
            return named[corners]
    return plain


def _small_picture(image: bpy.types.Image) -> np.ndarray | None:
    """The picture [h,w,3] sRGB from the bottom row up, some PICTURE_SIDE pixels a side; None if it has no pixels."""
    if image.source not in ("FILE", "GENERATED") or not all(image.size):
        return None
    if image.is_dirty or image.size[0] * image.size[1] <= READ_WHOLE:
        return _pixels(image)  # a copy would lose what is painted and not saved
    small = image.copy()
    try:
        small.scale(min(image.size[0], PICTURE_SIDE), min(image.size[1], PICTURE_SIDE))
        return _pixels(small)
    finally:
        bpy.data.images.remove(small)


def _pixels(image: bpy.types.Image) -> np.ndarray | None:
    width, height = image.size
    if len(image.pixels) != width * height * image.channels:
        return None  # the file is gone
    values = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(values)
    every = max(1, max(width, height) // PICTURE_SIDE)
    pixels = values.reshape(height, width, image.channels)[::every, ::every, :3].astype(np.float64)
    if pixels.shape[-1] < 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)
    return _srgb(pixels) if image.is_float else pixels


def _attribute_colors(mesh: bpy.types.Mesh, attribute: bpy.types.Attribute | None) -> np.ndarray | None:
    """sRGB [loops,3] of a colour attribute."""
    if attribute is None or attribute.domain not in ("POINT", "CORNER"):
        return None
    values = np.empty(4 * len(attribute.data), np.float32)
    attribute.data.foreach_get("color_srgb", values)
    colors = values.reshape(-1, 4)[:, :3].astype(np.float64)
    if attribute.domain == "POINT":
        vertices = np.empty(len(mesh.loops), np.int32)
        mesh.attributes[".corner_vert"].data.foreach_get("value", vertices)
        colors = colors[vertices]
    return colors


def _srgb(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _bytes(colors: np.ndarray) -> np.ndarray:
    rounded = np.rint(np.clip(colors, 0.0, 1.0) * 255).astype(np.uint8)
    return np.concatenate([rounded, np.full((len(rounded), 1), 255, np.uint8)], axis=1)
