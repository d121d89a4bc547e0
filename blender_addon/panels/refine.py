"""The Refine panel: what is selected, enhance it or edit it by a sentence, how much, and where the result goes."""

from __future__ import annotations

import bpy

from ..operators import refining
from ..scene import bundle_capture
from . import widgets
from .models import draw_choice

BUTTONS = {"ENHANCE": ("Enhance", "MOD_SUBSURF"), "EDIT": ("Edit", "GREASEPENCIL")}
HINT = "What it is to become: a red chair"


class MAQUETTE_PT_refine(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "Refine"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.maquette_refine
        layout.row().prop(settings, "purpose", expand=True)
        active = context.view_layer.objects.active
        chosen = active is not None and active in context.selected_objects
        widgets.sentence(layout, context, active.name if chosen else "Select the mesh to refine.", icon="OBJECT_DATA")
        if settings.purpose == "EDIT":
            layout.prop(settings, "prompt", text="", placeholder=HINT)
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(settings, "edit_strength" if settings.purpose == "EDIT" else "enhance_strength")
        column.row().prop(settings, "destination", expand=True)
        column.prop(settings, "engine")
        draw_choice(column, settings, settings.engine)
        _draw_button(layout, settings)
        if refining.trouble():
            widgets.sentence(layout, context, refining.trouble(), "ERROR")


def _draw_button(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """The button, or how far looking at the mesh is."""
    title, done = refining.progress()
    row = layout.row(align=bool(title))
    row.scale_y = 1.6
    if title:
        text = f"Looking at {title}, {done + 1} of {bundle_capture.VIEWS}"
        row.progress(factor=done / bundle_capture.VIEWS, text=text)
        row.operator("maquette.cancel_refine", text="", icon="CANCEL")
    else:
        text, icon = BUTTONS[settings.purpose]
        row.operator("maquette.refine", text=text, icon=icon)


class MAQUETTE_PT_refine_more(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "More"
    bl_parent_id = "MAQUETTE_PT_refine"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.maquette_refine
        column = self.layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(settings, "seed")
        widgets.steps_row(column, settings)
        column.prop(settings, "triangles")
        column.prop(settings, "texture_size")
        row = column.row(heading="Make")
        row.enabled = settings.triangles > 0
        row.prop(settings, "normal_map")


CLASSES = (MAQUETTE_PT_refine, MAQUETTE_PT_refine_more)
