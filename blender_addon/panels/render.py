"""The Render panel: what the picture shows, what the engine sees of the selection, and what is done with a picture."""

from __future__ import annotations

import bpy

from ..operators import applying_picture, picture_results, rendering
from ..runtime import session
from ..runtime.job_store import CONDITIONS, JobRecord
from . import widgets
from .jobs import draw_gallery
from .models import draw_choice

CONDITION_COLUMNS = 4
CONDITION_SCALE = 2.6  # of a button's height: four beside each other fill a sidebar as wide as Blender makes it
PICTURE_SCALE = 7.0


class MAQUETTE_PT_render(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "Render"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.maquette_render
        widgets.sentence(layout, context, _what_is_selected(context), icon="OBJECT_DATA")
        layout.prop(settings, "prompt", text="", placeholder="On wet cobblestones at night")
        layout.prop(settings, "negative", text="", placeholder="Not in it: people, snow")
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(settings, "variants")
        column.prop(settings, "seed")
        column.prop(settings, "engine")
        draw_choice(column, settings, settings.engine)
        _draw_button(layout)
        if rendering.trouble():
            widgets.sentence(layout, context, rendering.trouble(), "ERROR")
        record = picture_results.shown_record(context.scene)
        job_id = rendering.looked_at() or (record.job_id if record is not None else "")
        if job_id:
            _draw_conditions(layout, settings, job_id)


class MAQUETTE_PT_render_more(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "More"
    bl_parent_id = "MAQUETTE_PT_render"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.maquette_render
        column = self.layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(settings, "image_guidance")
        column.prop(settings, "guidance")
        widgets.steps_row(column, settings)
        column.row(heading="Views").prop(settings, "views", expand=True)
        row = column.row(heading="Spread")
        row.enabled = settings.views == "8"  # 4 and 6 are even either way
        row.prop(settings, "evenly_spaced")
        column.prop(settings, "elevation")
        column.row().prop(settings, "focal_mode", expand=True)
        if settings.focal_mode == "LOCKED":
            column.prop(settings, "focal_mm", text=" ")


class MAQUETTE_PT_render_picture(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "Picture"
    bl_parent_id = "MAQUETTE_PT_render"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return picture_results.shown_record(context.scene) is not None

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.maquette_render
        record = picture_results.shown_record(context.scene)
        number = picture_results.shown_variant(context.scene, record)
        _draw_picture(layout, record, number)
        column = layout.column(align=True)
        row = column.row(align=True)
        row.operator("maquette.open_picture", icon="IMAGE_DATA")
        row.operator("maquette.save_picture", text="Save", icon="FILE_TICK")
        column.operator("maquette.picture_behind_camera", icon="CAMERA_DATA")
        found, warning = applying_picture.camera_words(record, number)
        if found:
            layout.label(text=found, icon="OUTLINER_OB_CAMERA")
        if warning:
            box = layout.box()
            box.alert = True
            widgets.sentence(box, context, warning, "ERROR")
        column = layout.column()
        column.enabled = bool(found)
        row = column.row()
        row.scale_y = 1.6
        row.operator("maquette.put_into_picture", icon="OUTLINER_OB_IMAGE")
        options = column.column(align=True)
        for name in ("ground", "light", "set_render_size"):
            options.prop(settings, name)
        row = options.row()
        row.enabled = settings.set_render_size
        row.prop(settings, "compositing")
        column.operator("maquette.project_picture", icon="TEXTURE")


def _draw_button(layout: bpy.types.UILayout) -> None:
    """The button, or how far looking at the selection is."""
    title, done, count = rendering.progress()
    row = layout.row(align=bool(title))
    row.scale_y = 1.6
    if title:
        row.progress(factor=done / count, text=f"Looking at {title}, {min(done + 1, count)} of {count}")
        row.operator("maquette.cancel_render", text="", icon="CANCEL")
    else:
        row.operator("maquette.render_scene", icon="RENDER_STILL")


def _draw_conditions(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup, job_id: str) -> None:
    """The views that the engine gets, folded; open while they are made."""
    thumbnails, looking = session.get().thumbnails, job_id == rendering.looked_at()
    views = len(CONDITIONS) // 2
    count = rendering.progress()[2] if looking else sum(thumbnails.has(job_id, name) for name in CONDITIONS[:views])
    if not count:
        return
    shown = settings.show_conditions or looking
    row = layout.row()
    row.alignment = "LEFT"
    icon = "DISCLOSURE_TRI_DOWN" if shown else "DISCLOSURE_TRI_RIGHT"
    row.prop(settings, "show_conditions", icon=icon, emboss=False)
    if shown:
        grid = layout.grid_flow(
            row_major=True, columns=CONDITION_COLUMNS, even_columns=True, even_rows=True, align=True
        )
        for name in (*CONDITIONS[:count], *CONDITIONS[views : views + count]):  # one that is not there yet is empty
            grid.template_icon(icon_value=thumbnails.icon(job_id, name), scale=CONDITION_SCALE)


def _draw_picture(layout: bpy.types.UILayout, record: JobRecord, number: int) -> None:
    """The picture that the buttons are about, and its siblings to pick from."""
    icon = session.get().thumbnails.icon(record.job_id, f"picture-{number}.png")
    if icon:
        layout.template_icon(icon_value=icon, scale=PICTURE_SCALE)
    if len(record.variants) > 1:
        draw_gallery(layout, record, {number}, CONDITION_COLUMNS, CONDITION_SCALE)


def _what_is_selected(context: bpy.types.Context) -> str:
    """The name of what would be looked at, or what to do first."""
    picked = rendering.chosen_objects(context)
    if not picked:
        return "Select the mesh, or several, to make pictures of."
    return picked[0].name if len(picked) == 1 else f"{picked[0].name} and {len(picked) - 1} more"


CLASSES = (MAQUETTE_PT_render, MAQUETTE_PT_render_more, MAQUETTE_PT_render_picture)
