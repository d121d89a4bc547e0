"""Refine: the buttons. The work is in `refining`."""

from __future__ import annotations

import bpy

from ...backend.contract.errors import MaquetteError
from . import refining
from .common import reports_failures


class MAQUETTE_OT_refine(bpy.types.Operator):
    bl_idname = "maquette.refine"
    bl_label = "Refine"
    bl_description = "Look at the selected mesh from four sides, then make it better, or make something else of it"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        record = refining.begin(context)
        if bpy.app.background:  # there are no timers: all views at once
            while refining.progress()[0]:
                refining.advance()
            if refining.trouble():
                raise MaquetteError("bad_input", refining.trouble())
        self.report({"INFO"}, f'"{record.title}" is being refined. You can go on working.')
        return {"FINISHED"}


class MAQUETTE_OT_cancel_refine(bpy.types.Operator):
    bl_idname = "maquette.cancel_refine"
    bl_label = "Cancel"
    bl_description = "Stop looking at the mesh"

    def execute(self, context: bpy.types.Context) -> set[str]:
        refining.cancel()
        return {"FINISHED"}


CLASSES = (MAQUETTE_OT_refine, MAQUETTE_OT_cancel_refine)
