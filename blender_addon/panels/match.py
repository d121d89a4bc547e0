"""The Match Photo panel: photo, focal length, what moves."""

from __future__ import annotations

import bpy

from . import widgets


class MAQUETTE_PT_match(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "Match Photo"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        settings = context.scene.maquette_match
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
            column.prop(settings, "placement")
        column.prop(settings, "engine")
        column.prop(settings, "size")
        column.prop(settings, "seed")
        column = column.column(heading="Picture")
        column.prop(settings, "show_background")
        column.prop(settings, "set_render_size")
        row = layout.row()
        row.scale_y = 1.6
        row.operator("maquette.match_photo", icon="OUTLINER_OB_CAMERA")


CLASSES = (MAQUETTE_PT_match,)
