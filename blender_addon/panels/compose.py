"""The Compose panel: a photo of several objects, a mask for each, proposed or the artist's own, depth, one button."""

from __future__ import annotations

from pathlib import PurePath

import bpy

from ..operators import proposing
from ..runtime import session
from ..runtime.job_store import JobRecord
from . import widgets
from .jobs import progress_text
from .models import draw_choice

EMPTY = "Objects that stand apart on a plain background are found by themselves. Else give each one a mask."
PICTURE_SCALE = 9.0  # of a button's height: the proposed masks, as wide as a narrow sidebar
NO_DEPTH = "Without a depth image the distances are a guess."


class MAQUETTE_UL_object_masks(bpy.types.UIList):
    def draw_item(
        self,
        context: bpy.types.Context,
        layout: bpy.types.UILayout,
        data: bpy.types.AnyType,
        item: bpy.types.AnyType,
        icon: int,
        active_data: bpy.types.AnyType,
        active_property: str,
        index: int = 0,
        flt_flag: int = 0,
    ) -> None:
        row = layout.row(align=True)
        preview = layout.icon(item.painted) if item.painted is not None else 0
        if preview:
            row.label(text="", icon_value=preview)
        else:
            row.label(text="", icon="MOD_MASK" if item.painted is None else "BRUSH_DATA")
        file = item.painted.name if item.painted is not None else PurePath(item.image.replace("\\", "/")).name
        row.prop(item, "name", text="", emboss=False, placeholder=file or "No mask")


class MAQUETTE_PT_compose(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "Compose"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.maquette_compose
        layout.prop(settings, "image", text="", placeholder="Photo of several objects")
        _draw_proposal(layout, context, settings)
        if not settings.masks:
            widgets.sentence(layout, context, EMPTY)
        row = layout.row()
        row.template_list("MAQUETTE_UL_object_masks", "", settings, "masks", settings, "mask_index", rows=3)
        buttons = row.column(align=True)
        buttons.operator("maquette.add_masks", text="", icon="ADD")
        buttons.operator("maquette.add_painted_mask", text="", icon="BRUSH_DATA")
        buttons.operator("maquette.remove_object_mask", text="", icon="REMOVE")
        if settings.masks:
            item = settings.masks[min(settings.mask_index, len(settings.masks) - 1)]
            row = layout.row(align=True)
            if item.painted is None:
                row.prop(item, "image", text="", placeholder="Mask, white on the object")
            else:
                row.prop(item, "painted", text="")
            row.operator("maquette.paint_mask", text="", icon="BRUSH_DATA").target = "compose"
        layout.prop(settings, "depth", text="", placeholder="Depth image (optional)")
        if not settings.depth:
            widgets.sentence(layout, context, NO_DEPTH)
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(settings, "engine")
        draw_choice(column, settings, settings.engine)
        column.prop(settings, "size")
        row = layout.row()
        row.scale_y = 1.6
        row.operator("maquette.generate_scene", icon="SCENE_DATA")


def _draw_proposal(
    layout: bpy.types.UILayout, context: bpy.types.Context, settings: bpy.types.PropertyGroup
) -> None:
    """The button that proposes masks, how far it is, and the picture of what it proposed."""
    job = proposing.newest(session.get().snapshot.jobs, settings)
    if job is not None and job.active:
        row = layout.row(align=True)
        row.progress(factor=job.fraction, text=progress_text(job))
        row.operator("maquette.cancel_job", text="", icon="CANCEL").job_id = job.job_id
    else:
        layout.operator("maquette.propose_masks", icon="MOD_MASK")
    if job is not None and any(item.proposed for item in settings.masks):
        _draw_picture(layout, job)


def _draw_picture(layout: bpy.types.UILayout, job: JobRecord) -> None:
    """The photo with the proposed masks over it, numbered as the list names them."""
    icon = session.get().thumbnails.icon(job.job_id)
    if icon:
        layout.template_icon(icon_value=icon, scale=PICTURE_SCALE)


class MAQUETTE_PT_compose_more(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "More"
    bl_parent_id = "MAQUETTE_PT_compose"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.maquette_compose
        column = self.layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(settings, "placement")
        column.row().prop(settings, "focal_mode", expand=True)
        if settings.focal_mode == "LOCKED":
            column.prop(settings, "focal_mm", text=" ")
        column.prop(settings, "seed")
        widgets.steps_row(column, settings)
        camera = column.column(heading="Picture")
        camera.prop(settings, "show_background")
        camera.prop(settings, "set_render_size")


CLASSES = (MAQUETTE_UL_object_masks, MAQUETTE_PT_compose, MAQUETTE_PT_compose_more)
