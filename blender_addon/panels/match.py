"""The Match Photo panel: what is matched, photo, focal length, what moves."""

from __future__ import annotations

import bpy

from . import widgets
from .models import draw_choice


class MAQUETTE_PT_match(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "Match Photo"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        settings = context.scene.maquette_match
        selected = settings.subject == "SELECTED"
        layout.row().prop(settings, "subject", expand=True)
        if selected:
            widgets.sentence(layout, context, _what_is_selected(context), icon="OBJECT_DATA")
        widgets.picture_row(layout, settings)
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.row().prop(settings, "move", expand=True)
        if settings.move in ("OBJECT", "KNOWN"):
            column.prop(context.scene, "camera")
        else:
            column.row().prop(settings, "focal_mode", expand=True)
            if settings.focal_mode == "LOCKED":
                column.prop(settings, "focal_mm", text=" ")
            if not selected:
                column.prop(settings, "placement")
        column.prop(settings, "engine")
        draw_choice(column, settings, settings.engine)
        if not selected:
            column.prop(settings, "size")
        column.prop(settings, "seed")
        widgets.steps_row(column, settings)
        column = column.column(heading="Picture")
        column.prop(settings, "show_background")
        column.prop(settings, "set_render_size")
        row = layout.row()
        row.scale_y = 1.6
        if selected:
            row.operator("maquette.match_mesh", icon="OUTLINER_OB_CAMERA")
        else:
            row.operator("maquette.match_photo", icon="OUTLINER_OB_CAMERA")


def _what_is_selected(context: bpy.types.Context) -> str:
    """The name of what would be matched, or what to do first."""
    picked = context.selected_objects
    if not picked:
        return "Select the object that the photo shows."
    active = context.view_layer.objects.active
    name = active.name if active in picked else picked[0].name
    return name if len(picked) == 1 else f"{name} and {len(picked) - 1} more"


CLASSES = (MAQUETTE_PT_match,)
