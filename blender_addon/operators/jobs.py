"""The job list's buttons: apply, cancel, retry, restore inputs, remove, open folder."""

from __future__ import annotations

import logging

import bpy
from bpy.props import BoolProperty, IntProperty, StringProperty

from ...backend.contract.errors import MaquetteError
from ..runtime import session
from ..runtime.job_store import JobRecord
from ..scene import compat, provenance
from . import applying, requesting
from .common import reports_failures

logger = logging.getLogger(__name__)


def apply_from_timer(record: JobRecord) -> str | None:
    """Apply a result as one undo step; returns "", why it has to wait, or None while its files are being read.

    Errors: `MaquetteError`.
    """
    reason = applying.waiting_reason(record)
    if reason:
        return reason
    if not applying.read_ahead(record):  # raises what is wrong before an operator is called
        return None
    with compat.window_context():
        try:
            # True: a scripted call makes an undo step only when asked to.
            bpy.ops.maquette.apply_result("EXEC_DEFAULT", True, job_id=record.job_id)
        except RuntimeError as error:
            raise MaquetteError("internal", f"The result could not be applied: {error}") from error
    return ""


class _JobOperator:
    job_id: StringProperty(name="Job", options={"HIDDEN", "SKIP_SAVE"})


class MAQUETTE_OT_apply_result(_JobOperator, bpy.types.Operator):
    bl_idname = "maquette.apply_result"
    bl_label = "Apply"
    bl_description = "Put this result into the current scene, once more if it was applied before"
    bl_options = {"REGISTER", "UNDO"}

    variant: IntProperty(name="Variant", default=-1, min=-1, options={"HIDDEN", "SKIP_SAVE"})
    instead: BoolProperty(
        name="Instead",
        description="Take the place of the object that was made from this job before",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def description(cls, context: bpy.types.Context, properties: bpy.types.OperatorProperties) -> str:
        if properties.variant < 0:
            return cls.bl_description
        return f"Take variant {properties.variant + 1}, in place of the one that is there"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        message = applying.apply_job(context, self.job_id, self.variant, self.instead)
        if message:
            self.report({"WARNING"}, message)
        return {"FINISHED"}


class MAQUETTE_OT_cancel_job(_JobOperator, bpy.types.Operator):
    bl_idname = "maquette.cancel_job"
    bl_label = "Cancel"
    bl_description = "Stop this job"

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.get().cancel(self.job_id)
        return {"FINISHED"}


class MAQUETTE_OT_cancel_all(bpy.types.Operator):
    bl_idname = "maquette.cancel_all"
    bl_label = "Cancel All"
    bl_description = "Stop every job that runs or waits"

    def execute(self, context: bpy.types.Context) -> set[str]:
        current = session.get()
        for record in current.open_folder().all():  # the newest first, so that none of them starts in between
            current.cancel(record.job_id)
        return {"FINISHED"}


class MAQUETTE_OT_retry_job(_JobOperator, bpy.types.Operator):
    bl_idname = "maquette.retry_job"
    bl_label = "Retry"
    bl_description = "Make this once more with the same inputs"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        requesting.retry_job(self.job_id)
        return {"FINISHED"}


class MAQUETTE_OT_restore_inputs(_JobOperator, bpy.types.Operator):
    bl_idname = "maquette.restore_inputs"
    bl_label = "Restore Inputs"
    bl_description = "Put picture, seed and settings of this result back into the panel"
    bl_options = {"REGISTER", "UNDO"}

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        if self.job_id:
            data = requesting.provenance_of(requesting.job_record(self.job_id))
        else:
            data = provenance.read(context.object)
        if data is None:
            raise MaquetteError("bad_input", "The active object was not made by Maquette.")
        requesting.restore_inputs(context.scene, data)
        return {"FINISHED"}


class MAQUETTE_OT_show_sides(_JobOperator, bpy.types.Operator):
    bl_idname = "maquette.show_sides"
    bl_label = "Show the Four Sides"
    bl_description = "Show or hide the pictures from four sides that this result was made from"

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.get().unfolded ^= {self.job_id}
        return {"FINISHED"}


class MAQUETTE_OT_forget_job(_JobOperator, bpy.types.Operator):
    bl_idname = "maquette.forget_job"
    bl_label = "Remove from List"
    bl_description = "Forget this job and delete its files; objects in scenes stay"

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.get().forget(self.job_id)
        return {"FINISHED"}


class MAQUETTE_OT_open_job_folder(_JobOperator, bpy.types.Operator):
    bl_idname = "maquette.open_job_folder"
    bl_label = "Open Folder"
    bl_description = "Show the result's files, among them the GLB"

    @reports_failures
    def execute(self, context: bpy.types.Context) -> set[str]:
        requesting.job_record(self.job_id)
        bpy.ops.wm.path_open(filepath=str(session.get().store.folder(self.job_id)))
        return {"FINISHED"}


CLASSES = (
    MAQUETTE_OT_apply_result,
    MAQUETTE_OT_cancel_job,
    MAQUETTE_OT_cancel_all,
    MAQUETTE_OT_retry_job,
    MAQUETTE_OT_restore_inputs,
    MAQUETTE_OT_show_sides,
    MAQUETTE_OT_forget_job,
    MAQUETTE_OT_open_job_folder,
)
