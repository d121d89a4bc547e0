"""Match Photo: an object and the camera that saw it."""

from __future__ import annotations

import bpy

from . import requesting
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


CLASSES = (MAQUETTE_OT_match_photo,)
