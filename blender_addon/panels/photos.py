"""The list of further photos below Create: rows with + and -, and a mask for the chosen one."""

from __future__ import annotations

from pathlib import PurePath

import bpy

from ..engines import KISS
from . import widgets

EMPTY = "Several photos of one object, taken from different sides, give a better shape. Add the others here."


class MAQUETTE_UL_photos(bpy.types.UIList):
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
        name = PurePath(item.image.replace("\\", "/")).name or "No picture"
        layout.label(text=name, icon="IMAGE_DATA", translate=False)
        if item.mask or item.mask_image is not None:
            layout.label(text="", icon="MOD_MASK")
        if item.occluder or item.occluder_image is not None:
            layout.label(text="", icon="HIDE_ON")


class MAQUETTE_PT_create_photos(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "More Photos"
    bl_parent_id = "MAQUETTE_PT_create"
    bl_options = {"DEFAULT_CLOSED"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        settings = context.scene.maquette_create
        return settings.source == "PHOTO" and (settings.engine != KISS[0] or len(settings.photos) > 0)

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.maquette_create
        if not settings.photos:
            widgets.sentence(layout, context, EMPTY)
        row = layout.row()
        row.template_list("MAQUETTE_UL_photos", "", settings, "photos", settings, "photo_index", rows=3)
        buttons = row.column(align=True)
        buttons.operator("maquette.add_photos", text="", icon="ADD")
        buttons.operator("maquette.remove_photo", text="", icon="REMOVE")
        if settings.photos:
            widgets.picture_row(layout, settings.photos[min(settings.photo_index, len(settings.photos) - 1)])


CLASSES = (MAQUETTE_UL_photos, MAQUETTE_PT_create_photos)
