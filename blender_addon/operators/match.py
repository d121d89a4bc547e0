"""Match Photo: an object and the camera that saw it."""

from __future__ import annotations

import bpy

from . import mesh_matching, requesting
from .common import reports_failures


class MAQUETTE_OT_match_photo(bpy.types.Operator):
    bl_idname = "maquette.match_photo"
    bl_label = "Match Photo"
    bl_description = "Make the photo's object and bring camera and object together as they were in the photo"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        record = requesting.match_job(context.scene)
        self.report({"INFO"}, f'"{record.title}" is being matched. You can go on working.')
        return {"FINISHED"}


class MAQUETTE_OT_match_mesh(bpy.types.Operator):
    bl_idname = "maquette.match_mesh"
    bl_label = "Match Selected Mesh"
    bl_description = (
        "Find where the photo was taken from as seen from the selected mesh, which it shows, and bring camera and "
        "mesh together"
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.mode == "OBJECT"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        record = mesh_matching.match_mesh_job(context)
        self.report({"INFO"}, f'"{record.title}" is being matched. You can go on working.')
        return {"FINISHED"}


CLASSES = (MAQUETTE_OT_match_photo, MAQUETTE_OT_match_mesh)
