"""Create: make an object from a picture, chosen in the panel or dropped on the viewport."""

from __future__ import annotations

import bpy
from bpy.props import StringProperty

from . import requesting, text
from .common import reports_failures

EXTENSIONS = ".png;.jpg;.jpeg;.webp;.tif;.tiff;.bmp;.gif"


class MAQUETTE_OT_generate(bpy.types.Operator):
    bl_idname = "maquette.generate"
    bl_label = "Generate 3D"
    bl_description = "Make a 3D object of the photo or text in the background, and put it into the scene when done"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        from_text = context.scene.maquette_create.source == "TEXT"
        record = text.text_job(context.scene) if from_text else requesting.create_job(context.scene)
        self.report({"INFO"}, f'"{record.title}" is being made. You can go on working.')
        return {"FINISHED"}


class MAQUETTE_OT_choose_picture(bpy.types.Operator):
    bl_idname = "maquette.choose_picture"
    bl_label = "Choose Picture"
    bl_description = "Choose the picture to make an object from"
    bl_options = {"REGISTER", "UNDO"}

    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_image: bpy.props.BoolProperty(default=True, options={"HIDDEN"})
    filter_folder: bpy.props.BoolProperty(default=True, options={"HIDDEN"})
    target: StringProperty(default="create", options={"HIDDEN", "SKIP_SAVE"})
    slot: StringProperty(default="image", options={"HIDDEN", "SKIP_SAVE"})

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def execute(self, context: bpy.types.Context) -> set[str]:
        settings = requesting.panel_settings(context.scene, self.target)
        if self.slot == "mask" and self.target == "compose":
            settings.masks.add().image = self.filepath
        else:
            setattr(settings, "mask" if self.slot == "mask" else "image", self.filepath)
        return {"FINISHED"}


class MAQUETTE_OT_drop_picture(bpy.types.Operator):
    bl_idname = "maquette.drop_picture"
    bl_label = "Generate 3D from Picture"
    bl_description = "Make a 3D object from a picture that was dropped on the viewport"

    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        settings = context.scene.maquette_create
        settings.source, settings.image = "PHOTO", self.filepath
        record = requesting.create_job(context.scene)
        self.report({"INFO"}, f'"{record.title}" is being made. You can go on working.')
        return {"FINISHED"}


class MAQUETTE_FH_picture(bpy.types.FileHandler):
    bl_idname = "MAQUETTE_FH_picture"
    bl_label = "Generate 3D (Maquette)"
    bl_import_operator = "maquette.drop_picture"
    bl_file_extensions = EXTENSIONS

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        return context.area is not None and context.area.type == "VIEW_3D"


CLASSES = (MAQUETTE_OT_generate, MAQUETTE_OT_choose_picture, MAQUETTE_OT_drop_picture, MAQUETTE_FH_picture)
