"""Render Scene: the buttons. The work is in `rendering` and `pictures`."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import BoolProperty, StringProperty

from ...backend.contract.errors import MaquetteError
from . import picture_results, rendering
from .common import reports_failures


class MAQUETTE_OT_render_scene(bpy.types.Operator):
    bl_idname = "maquette.render_scene"
    bl_label = "Render Scene"
    bl_description = "Look at the selection from all sides, then make pictures of it in the place that the text says"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        record = rendering.begin(context)
        if bpy.app.background:  # there are no timers: all views at once
            while rendering.progress()[0]:
                rendering.advance()
            if rendering.trouble():
                raise MaquetteError("bad_input", rendering.trouble())
        self.report({"INFO"}, f'Pictures of "{record.title}" are being made. You can go on working.')
        return {"FINISHED"}


class MAQUETTE_OT_cancel_render(bpy.types.Operator):
    bl_idname = "maquette.cancel_render"
    bl_label = "Cancel"
    bl_description = "Stop looking at the selection"

    def execute(self, context: bpy.types.Context) -> set[str]:
        rendering.cancel()
        return {"FINISHED"}


class _PictureOperator:
    """Works on the picture that the Render panel shows."""

    bl_options = {"REGISTER", "UNDO"}

    def told(self, message: str) -> set[str]:
        """Report what there is to say."""
        if message:
            self.report({"WARNING"}, message)
        return {"FINISHED"}


class MAQUETTE_OT_open_picture(_PictureOperator, bpy.types.Operator):
    bl_idname = "maquette.open_picture"
    bl_label = "Image Editor"
    bl_description = "Show the picture in an image editor; where none is free, in a window of its own"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        return self.told(picture_results.open_picture(context))


class MAQUETTE_OT_picture_behind_camera(_PictureOperator, bpy.types.Operator):
    bl_idname = "maquette.picture_behind_camera"
    bl_label = "Camera Background"
    bl_description = "Show the picture behind the scene's camera, which stays where it is"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        return self.told(picture_results.put_behind_camera(context))


class MAQUETTE_OT_project_picture(_PictureOperator, bpy.types.Operator):
    bl_idname = "maquette.project_picture"
    bl_label = "Project onto the Mesh"
    bl_description = "Give the faces that the picture shows a material with it; the others keep what they have"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        return self.told(picture_results.project(context))


class MAQUETTE_OT_put_into_picture(_PictureOperator, bpy.types.Operator):
    bl_idname = "maquette.put_into_picture"
    bl_label = "Put the Mesh into the Picture"
    bl_description = (
        "Make the scene's camera the one that took the picture, with the picture behind it. The mesh stays where it is"
    )

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        return self.told(picture_results.put_into_picture(context))


class MAQUETTE_OT_save_picture(bpy.types.Operator):
    bl_idname = "maquette.save_picture"
    bl_label = "Save Picture"
    bl_description = "Write the picture as PNG, with its text and seed in the file, and its point map as EXR beside it"

    filepath: StringProperty(subtype="FILE_PATH", options={"SKIP_SAVE"})
    check_existing: BoolProperty(default=True, options={"HIDDEN"})
    filter_image: BoolProperty(default=True, options={"HIDDEN"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN"})
    points: BoolProperty(
        name="Point Map", description="Where on the object each pixel is, as an EXR file beside the picture",
        default=True,
    )  # fmt: skip

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return self._ask(context)

    @reports_failures
    def _ask(self, context: bpy.types.Context) -> set[str]:
        self.filepath = picture_results.file_name(context)
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        written = picture_results.save(context, Path(bpy.path.abspath(self.filepath)), self.points)
        self.report({"INFO"}, f"Saved {' and '.join(path.name for path in written)}.")
        return {"FINISHED"}


CLASSES = (
    MAQUETTE_OT_render_scene,
    MAQUETTE_OT_cancel_render,
    MAQUETTE_OT_open_picture,
    MAQUETTE_OT_picture_behind_camera,
    MAQUETTE_OT_project_picture,
    MAQUETTE_OT_put_into_picture,
    MAQUETTE_OT_save_picture,
)
