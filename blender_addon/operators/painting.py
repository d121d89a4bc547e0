"""Painting what the object is, or what hides it, over the photo: open the editor, change the brush, done, remove."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty

from ..scene import paint_view
from . import compose
from .common import reports_failures
from .mask_files import mask_to_paint
from .photos import chosen_photo

TARGETS = [
    ("create", "Create", "The picture of the Create panel"),
    ("match", "Match Photo", "That of Match Photo"),
    ("photo", "Further Photo", "The photo that is chosen under More Photos"),
    ("compose", "Compose", "The photo of the Compose panel; what is painted is the chosen object"),
]
KINDS = [
    ("mask", "Object", "White where the object is"),
    ("occluder", "Occluder", "White where something stands in front of the object"),
]


NO_BRUSH = "This Blender came without its brushes; choose a file for the mask instead, made in another program."


def settings_of(scene: bpy.types.Scene, target: str) -> bpy.types.PropertyGroup:
    """The settings whose photo is meant: create, match, or photo for the one chosen under More Photos.

    Errors: `MaquetteError` when there is no further photo.
    """
    if target == "photo":
        return chosen_photo(scene.maquette_create)
    return scene.maquette_match if target == "match" else scene.maquette_create


def image_to_paint(scene: bpy.types.Scene, target: str, kind: str) -> bpy.types.Image:
    """The image to paint in. Errors: `MaquetteError` with one sentence."""
    if target == "compose":
        return compose.mask_to_paint(scene.maquette_compose)
    return mask_to_paint(settings_of(scene, target), kind)


class _MaskOperator:
    target: EnumProperty(items=TARGETS, options={"HIDDEN", "SKIP_SAVE"})
    kind: EnumProperty(name="Paint", items=KINDS, options={"SKIP_SAVE"})


class MAQUETTE_OT_paint_mask(_MaskOperator, bpy.types.Operator):
    bl_idname = "maquette.paint_mask"
    bl_label = "Paint over the Photo"
    bl_description = "Paint white over the photo, in an Image Editor; Done brings back what was there before"

    @classmethod
    def description(cls, context: bpy.types.Context, properties: bpy.types.OperatorProperties) -> str:
        what = "the object" if properties.kind == "mask" else "what stands in front of the object and hides it"
        return f"Paint {what} white over the photo, in an Image Editor; Done brings back what was there before"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        image = image_to_paint(context.scene, self.target, self.kind)
        # Not by UNDO in bl_options: that step would be taken in the paint mode entered below, as one of painted pixels,
        # of which there are none, and Blender 4.3 crashes on that.
        bpy.ops.ed.undo_push(message=self.bl_label)
        paint_view.enter(context.window, context.area, image)
        if not paint_view.has_brush(context.scene):
            self.report({"WARNING"}, NO_BRUSH)
        return {"FINISHED"}


class MAQUETTE_OT_finish_painting(bpy.types.Operator):
    bl_idname = "maquette.finish_painting"
    bl_label = "Done"
    bl_description = "Keep what is painted and bring back what was in this place before"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return paint_view.is_painting(context)

    def execute(self, context: bpy.types.Context) -> set[str]:
        paint_view.leave(context.window)
        return {"FINISHED"}


class MAQUETTE_OT_paint_color(bpy.types.Operator):
    bl_idname = "maquette.paint_color"
    bl_label = "Paint or Erase"
    bl_description = "Paint white, or erase with black"

    erase: BoolProperty(options={"SKIP_SAVE"})

    def execute(self, context: bpy.types.Context) -> set[str]:
        paint_view.choose_color(context.scene, self.erase)
        return {"FINISHED"}


class MAQUETTE_OT_remove_painted(_MaskOperator, bpy.types.Operator):
    bl_idname = "maquette.remove_painted"
    bl_label = "Remove What Is Painted"
    bl_description = "Send no painted mask with this picture"
    bl_options = {"REGISTER", "UNDO"}

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        setattr(settings_of(context.scene, self.target), f"{self.kind}_image", None)
        return {"FINISHED"}


CLASSES = (
    MAQUETTE_OT_paint_mask,
    MAQUETTE_OT_finish_painting,
    MAQUETTE_OT_paint_color,
    MAQUETTE_OT_remove_painted,
)
