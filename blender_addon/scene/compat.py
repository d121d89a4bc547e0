"""Every difference between the Blender versions we support (4.2 and newer), except what `capture` needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import bpy


@contextlib.contextmanager
def window_context() -> Iterator[None]:
    """Run operators as if from the first window: a timer's own context has none. No effect without windows."""
    windows = bpy.context.window_manager.windows
    if bpy.context.window is not None or not windows:
        yield
        return
    with bpy.context.temp_override(window=windows[0]):
        yield


def modal_operator_names() -> list[str]:
    """The identifiers of the operators that hold the mouse in any window."""
    return [operator.bl_idname for window in bpy.context.window_manager.windows for operator in window.modal_operators]


def use_material_nodes(material: bpy.types.Material) -> None:
    """Give the material a node tree; from 5.0 on every material has one and asking for it is deprecated."""
    if bpy.app.version < (5, 0):
        material.use_nodes = True


def uses_material_nodes(material: bpy.types.Material) -> bool:
    """Whether the material's node tree counts; before 5.0 one could be there and be switched off."""
    return bpy.app.version >= (5, 0) or material.use_nodes
