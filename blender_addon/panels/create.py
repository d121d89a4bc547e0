"""The Create panel: picture, engine, size and place, one button."""

from __future__ import annotations

import bpy

from . import widgets
from .models import draw_choice


class MAQUETTE_PT_create(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "Create"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        settings = context.scene.maquette_create
        widgets.picture_row(layout, settings)
        text = layout.row()
        text.enabled = False
        text.prop(settings, "prompt", text="", placeholder="Text comes next; use a picture")
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(settings, "engine")
        draw_choice(column, settings)
        column.prop(settings, "size")
        column.prop(settings, "placement")
        column.row(heading="Camera").prop(settings, "match_camera")
        row = layout.row()
        row.scale_y = 1.6
        row.operator("maquette.generate", icon="MESH_MONKEY")


class MAQUETTE_PT_create_more(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "More"
    bl_parent_id = "MAQUETTE_PT_create"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.maquette_create
        column = self.layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(settings, "seed")
        widgets.steps_row(column, settings)
        column.prop(settings, "variants")
        column.prop(settings, "triangles")
        column.prop(settings, "texture_size")
        column.prop(settings, "pivot")
        more = column.column(heading="Make")
        row = more.row()
        row.enabled = settings.triangles > 0
        row.prop(settings, "normal_map")
        more.prop(settings, "splats")
        camera = column.column(heading="Picture")
        camera.enabled = settings.match_camera
        camera.prop(settings, "show_background")
        camera.prop(settings, "set_render_size")


CLASSES = (MAQUETTE_PT_create, MAQUETTE_PT_create_more)
