"""Pieces that several panels draw."""

from __future__ import annotations

import textwrap

import bpy

CATEGORY = "Maquette"
CHARACTERS_OF_A_LINE = 8.0  # pixels of one character of the interface font at scale 1, measured generously

# What `Failure.next_step` offers as a button; Retry stands beside every ended job anyway.
NEXT_STEP_OPERATORS = {
    "choose_image": "maquette.choose_picture",
    "set_up": "maquette.set_up",
    "open_log": "maquette.open_log",
}


def sentence(layout: bpy.types.UILayout, context: bpy.types.Context, text: str, icon: str = "NONE") -> None:
    """A text that wraps at the sidebar's width."""
    scale = context.preferences.system.ui_scale
    width = context.region.width if context.region is not None else 300
    column = layout.column(align=True)
    for number, line in enumerate(textwrap.wrap(text, max(20, int(width / (CHARACTERS_OF_A_LINE * scale)) - 4))):
        column.label(text=line, icon=icon if number == 0 else ("BLANK1" if icon != "NONE" else "NONE"))


def picture_row(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """The paths of picture and mask with Blender's file buttons."""
    column = layout.column(align=True)
    column.label(text="Picture")
    column.prop(settings, "image", text="")
    column.label(text="Mask, white on the object (optional)")
    column.prop(settings, "mask", text="")


class SidebarPanel:
    """Where all panels live."""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY
