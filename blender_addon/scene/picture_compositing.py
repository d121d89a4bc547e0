"""A render over a picture: the compositor puts what Blender renders onto it. Never over nodes of the artist's own."""

from __future__ import annotations

import bpy

MARK = "Maquette Picture"  # the name of our node that holds the picture
OWN_NODES = "The scene has compositing nodes of its own; they stay. Put the picture behind the render there."
# What a tree consists of that Blender made itself and nobody touched.
_BLENDERS_OWN = {"CompositorNodeComposite", "CompositorNodeRLayers", "CompositorNodeViewer", "NodeReroute",
                 "NodeGroupOutput"}  # fmt: skip


def render_over(scene: bpy.types.Scene, image: bpy.types.Image) -> str:
    """Have renders of the scene stand on `image`, in the colours it has. Returns a sentence to show, mostly empty.

    The background becomes transparent and the view transform Standard: another one would change the picture.
    """
    tree = _tree(scene)
    mine = tree.nodes.get(MARK) if tree is not None else None
    if mine is not None:
        mine.image = image
    elif tree is not None and any(node.bl_idname not in _BLENDERS_OWN for node in tree.nodes):
        return OWN_NODES
    else:
        _build(_ready_tree(scene), image)
    scene.render.film_transparent = scene.render.use_compositing = True
    scene.view_settings.view_transform, scene.view_settings.look = "Standard", "None"
    return ""


def is_over_picture(scene: bpy.types.Scene) -> bool:
    """Whether renders of the scene stand on a picture of ours."""
    tree = _tree(scene)
    return tree is not None and MARK in tree.nodes


def _tree(scene: bpy.types.Scene) -> bpy.types.NodeTree | None:
    """The scene's compositing nodes. From 5.0 on they are a group of their own."""
    return scene.node_tree if bpy.app.version < (5, 0) else scene.compositing_node_group


def _ready_tree(scene: bpy.types.Scene) -> bpy.types.NodeTree:
    """The scene's compositing tree in use and empty but for its output."""
    if bpy.app.version < (5, 0):
        scene.use_nodes = True
        tree = scene.node_tree
        tree.nodes.clear()
        tree.nodes.new("CompositorNodeComposite")
        return tree
    tree = scene.compositing_node_group
    if tree is None:
        tree = bpy.data.node_groups.new(MARK, "CompositorNodeTree")
        scene.compositing_node_group = tree
    if not any(item.item_type == "SOCKET" and item.in_out == "OUTPUT" for item in tree.interface.items_tree):
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    tree.nodes.clear()
    tree.nodes.new("NodeGroupOutput")
    return tree


def _build(tree: bpy.types.NodeTree, image: bpy.types.Image) -> None:
    (output,) = tree.nodes
    picture, layers, over = (tree.nodes.new(f"CompositorNode{kind}") for kind in ("Image", "RLayers", "AlphaOver"))
    picture.name = picture.label = MARK
    picture.image = image
    for number, node in enumerate((picture, layers, over, output)):
        node.location = (320.0 * max(number - 1, 0), -320.0 if node == layers else 0.0)
    below, above = (socket for socket in over.inputs if socket.type == "RGBA")
    for source, target in ((picture, below), (layers, above)):
        tree.links.new(source.outputs["Image"], target)
    tree.links.new(over.outputs[0], output.inputs[0])
