"""Beside the photo that is painted over: what to do, paint or erase, Done. Also in the Image Editor's header."""

from __future__ import annotations

import bpy

from ..scene import mask_images, paint_view
from . import widgets

HELP = {
    "mask": "Paint white over the object. What stays dark is not looked at.",
    "occluder": "Paint white over what stands in front of the object. The hidden part is completed behind it.",
}


class MAQUETTE_PT_painting(bpy.types.Panel):
    bl_label = "Painting a Mask"
    bl_space_type = "IMAGE_EDITOR"
    bl_region_type = "UI"
    bl_category = widgets.CATEGORY

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return _paints(context)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        kind = context.space_data.image.get(mask_images.KIND, "mask")
        widgets.sentence(layout, context, HELP[kind])
        row = layout.row(align=True)
        erases = paint_view.erases(context.scene)
        row.operator("maquette.paint_color", text="Paint", icon="BRUSH_DATA", depress=not erases).erase = False
        row.operator("maquette.paint_color", text="Erase", icon="X", depress=erases).erase = True
        done = layout.row()
        done.scale_y = 1.6
        done.operator("maquette.finish_painting", icon="CHECKMARK")


def draw_done(self: bpy.types.Header, context: bpy.types.Context) -> None:
    """The Done button in the Image Editor's header, where the sidebar may be closed."""
    if _paints(context):
        self.layout.operator("maquette.finish_painting", icon="CHECKMARK")


def attach() -> None:
    """Add the button to the header, and show photos over the masks that are painted."""
    bpy.types.IMAGE_HT_header.append(draw_done)
    bpy.app.handlers.save_pre.append(mask_images.keep_painted)
    paint_view.start_showing()


def detach() -> None:
    """The opposite of `attach`."""
    paint_view.stop_showing()
    bpy.app.handlers.save_pre.remove(mask_images.keep_painted)
    bpy.types.IMAGE_HT_header.remove(draw_done)


def _paints(context: bpy.types.Context) -> bool:
    return paint_view.is_painting(context) and mask_images.is_mask_image(context.space_data.image)


CLASSES = (MAQUETTE_PT_painting,)
