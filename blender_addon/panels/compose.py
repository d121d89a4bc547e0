"""The Compose panel: a photo of several objects, a mask for each, depth if there is any, one button."""

from __future__ import annotations

from pathlib import PurePath

import bpy

from . import widgets

EMPTY = "Without masks, objects that stand apart on a plain background are found by themselves. Else add one an object."
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
        if item.painted is not None:
            layout.label(text=item.painted.name, icon="BRUSH_DATA", translate=False)
        else:
            name = PurePath(item.image.replace("\\", "/")).name or "No mask"
            layout.label(text=name, icon="MOD_MASK", translate=False)


class MAQUETTE_PT_compose(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "Compose"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        layout, settings = self.layout, context.scene.maquette_compose
        layout.prop(settings, "image", text="", placeholder="Photo of several objects")
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
            column = layout.column(align=True)
            column.prop(item, "image", text="", placeholder="Mask, white on the object")
            column.prop(item, "painted", text="")
        layout.prop(settings, "depth", text="", placeholder="Depth image (optional)")
        if not settings.depth:
            widgets.sentence(layout, context, NO_DEPTH)
        column = layout.column()
        column.use_property_split = True
        column.use_property_decorate = False
        column.prop(settings, "engine")
        column.prop(settings, "size")
        row = layout.row()
        row.scale_y = 1.6
        row.operator("maquette.generate_scene", icon="SCENE_DATA")


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
        column.prop(settings, "steps")
        camera = column.column(heading="Picture")
        camera.prop(settings, "show_background")
        camera.prop(settings, "set_render_size")


CLASSES = (MAQUETTE_UL_object_masks, MAQUETTE_PT_compose, MAQUETTE_PT_compose_more)
