"""The Create panel: a photo or a text, engine, size and place, one button; for texts also a list of them."""

from __future__ import annotations

import bpy

from ..engines import KISS
from . import widgets
from .models import draw_choice

LIST_HELP = "One sentence a line makes one object a line. They are put in a row."


class MAQUETTE_PT_create(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "Create"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        settings = context.scene.maquette_create
        from_text = settings.source == "TEXT"
        layout.row().prop(settings, "source", expand=True)
        if from_text:
            layout.prop(settings, "prompt", text="", placeholder="An old wooden barrel")
        else:
            widgets.picture_row(layout, settings)
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(settings, "text_engine" if from_text else "engine")
        draw_choice(column, settings, settings.text_engine if from_text else settings.engine)
        if from_text:
            column.prop(settings, "seed")
        column.prop(settings, "size")
        column.prop(settings, "placement")
        if not from_text and settings.engine != KISS[0]:
            column.row(heading="Camera").prop(settings, "match_camera")
        row = layout.row()
        row.scale_y = 1.6
        row.operator("maquette.generate", icon="MESH_MONKEY")


class MAQUETTE_PT_create_list(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "List of Sentences"
    bl_parent_id = "MAQUETTE_PT_create"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.scene.maquette_create.source == "TEXT"

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.maquette_create
        widgets.sentence(layout, context, LIST_HELP)
        layout.prop(settings, "sentences", text="")
        if settings.sentences is None:
            layout.prop(settings, "sentence_file", text="", placeholder="Text file")
        layout.operator("maquette.generate_all", icon="LINENUMBERS_ON")


class MAQUETTE_PT_create_more(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "More"
    bl_parent_id = "MAQUETTE_PT_create"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.maquette_create
        column = self.layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        from_text = settings.source == "TEXT"
        by_bundle = from_text or settings.engine == KISS[0]
        if not from_text:
            column.prop(settings, "seed")
        widgets.steps_row(column, settings, settings.text_engine if from_text else settings.engine)
        if not by_bundle:
            column.prop(settings, "variants")
        column.prop(settings, "triangles")
        column.prop(settings, "texture_size")
        column.prop(settings, "pivot")
        more = column.column(heading="Make")
        row = more.row()
        row.enabled = settings.triangles > 0
        row.prop(settings, "normal_map")
        if by_bundle:
            return
        more.prop(settings, "splats")
        camera = column.column(heading="Picture")
        camera.enabled = settings.match_camera
        camera.prop(settings, "show_background")
        camera.prop(settings, "set_render_size")


CLASSES = (MAQUETTE_PT_create, MAQUETTE_PT_create_list, MAQUETTE_PT_create_more)
