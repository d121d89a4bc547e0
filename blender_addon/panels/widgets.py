"""Pieces that several panels draw."""

from __future__ import annotations

import blf
import bpy

from ..properties import USUAL_STEPS

CATEGORY = "Maquette"
MARGINS = 60.0  # pixels at scale 1 that panel, box and tab bar leave no room for text in, measured in 4.3
ICON_WIDTH = 34.0  # pixels at scale 1 of an icon before a text, with the padding that such a text has

# What `Failure.next_step` offers as a button; Retry stands beside every ended job anyway.
NEXT_STEP_OPERATORS = {
    "choose_image": ("maquette.choose_picture", "Choose Picture"),
    "give_mask": ("maquette.choose_picture", "Choose Mask"),
    "set_up": ("maquette.set_up", "Set Up"),
    "open_log": ("maquette.open_log", "Open Log"),
    "install_model": ("maquette.install_model", "Install Weights"),
}


PAINT_TARGETS = {"MaquetteMatchSettings": "match", "MaquettePhoto": "photo"}  # whose brush buttons paint what


def sentence(layout: bpy.types.UILayout, context: bpy.types.Context, text: str, icon: str = "NONE") -> None:
    """A text that wraps at the sidebar's width, lines as close as Blender's own."""
    scale = context.preferences.system.ui_scale
    width = context.region.width if context.region is not None else 300 * scale
    points = context.preferences.ui_styles[0].widget.points
    column = layout.column(align=True)
    column.scale_y = 0.8
    room = width - (MARGINS + (ICON_WIDTH if icon != "NONE" else 0.0)) * scale
    for number, line in enumerate(wrapped(text, room, points * scale)):
        column.label(text=line, icon=icon if number == 0 else ("BLANK1" if icon != "NONE" else "NONE"))


def wrapped(text: str, width: float, points: float) -> list[str]:
    """The lines of `text` when each has `width` pixels in the interface font of `points`. A longer word has its own."""
    blf.size(0, points)
    lines: list[str] = []
    for word in text.split():
        if lines and blf.dimensions(0, f"{lines[-1]} {word}")[0] <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def picture_row(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """The paths of picture and masks with Blender's file buttons; empty ones say what they are for."""
    column = layout.column(align=True)
    column.prop(settings, "image", text="", placeholder="Picture")
    _mask_row(column, settings, "mask", "Mask, white on the object (optional)")
    if hasattr(settings, "occluder"):
        _mask_row(column, settings, "occluder", "What hides it, white (optional)")


def _mask_row(column: bpy.types.UILayout, settings: bpy.types.PropertyGroup, kind: str, text: str) -> None:
    """A mask as a file or, where the settings have room for it, painted over the picture."""
    row = column.row(align=True)
    painted = getattr(settings, f"{kind}_image", None)
    if painted is None:
        row.prop(settings, kind, text="", placeholder=text)
    else:
        row.label(text=f"Painted {kind}", icon="IMAGE_DATA")
    if not hasattr(settings, f"{kind}_image"):
        return
    target = PAINT_TARGETS.get(settings.bl_rna.identifier, "create")
    names = ["maquette.paint_mask"] + (["maquette.remove_painted"] if painted is not None else [])
    for name, icon in zip(names, ("BRUSH_DATA", "X"), strict=False):
        button = row.operator(name, text="", icon=icon)
        button.target, button.kind = target, kind


def steps_row(column: bpy.types.UILayout, settings: bpy.types.PropertyGroup, engine: str = "") -> None:
    """The number of steps; beside 0 how many that are with the chosen weights, where that is known."""
    row = column.row()
    row.prop(settings, "steps")
    usual = USUAL_STEPS.get((engine or settings.engine, settings.weights))
    if settings.steps == 0 and usual:
        row.label(text=f"takes {usual}")


def next_step_button(layout: bpy.types.UILayout, step: str, panel: str = "create", model: str = "") -> None:
    """The button for a failure's next step, if it has one. panel: whose picture a choice is for, create or match;
    model: whose weights are meant, the engine's name."""
    if step not in NEXT_STEP_OPERATORS:
        return
    name, text = NEXT_STEP_OPERATORS[step]
    button = layout.operator(name, text=text)
    if name == "maquette.choose_picture":
        button.target, button.slot = panel, "mask" if step == "give_mask" else "image"
    elif name == "maquette.install_model" and model:
        button.model_id = model


class SidebarPanel:
    """Where all panels live."""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = CATEGORY
