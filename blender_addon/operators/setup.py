"""Set-up: make the backend's Python, start and stop the backend, open its log."""

from __future__ import annotations

import bpy

from ...backend.contract.errors import MaquetteError
from ..runtime import session
from .common import reports_failures


class MAQUETTE_OT_set_up(bpy.types.Operator):
    bl_idname = "maquette.set_up"
    bl_label = "Set Up"
    bl_description = "Make the backend's own Python environment in Maquette's folder; Blender itself is not changed"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        session.get().set_up()
        return {"FINISHED"}


class MAQUETTE_OT_start_backend(bpy.types.Operator):
    bl_idname = "maquette.start_backend"
    bl_label = "Start Backend"
    bl_description = "Start the backend now instead of with the first job"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        session.get().start_backend()
        return {"FINISHED"}


class MAQUETTE_OT_stop_backend(bpy.types.Operator):
    bl_idname = "maquette.stop_backend"
    bl_label = "Stop Backend"
    bl_description = "End the backend and free its memory; jobs in work end with it"

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.get().stop_backend()
        return {"FINISHED"}


class MAQUETTE_OT_open_log(bpy.types.Operator):
    bl_idname = "maquette.open_log"
    bl_label = "Open Log"
    bl_description = "Show the backend's log file"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        path = session.get().log_path()
        if path is None:
            raise MaquetteError("bad_input", "There is no log yet: nothing was started or installed.")
        bpy.ops.wm.path_open(filepath=str(path))
        return {"FINISHED"}


CLASSES = (MAQUETTE_OT_set_up, MAQUETTE_OT_start_backend, MAQUETTE_OT_stop_backend, MAQUETTE_OT_open_log)
