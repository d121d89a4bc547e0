"""Copy Report: what a person needs who is asked for help, without folders of the home directory."""

from __future__ import annotations

import platform
from pathlib import Path

import bpy

from .. import package
from ..runtime import session

LOG_LINES = 200


def build_report() -> str:
    """Versions, state, failures and the last lines of the log; the home folder is replaced by ~."""
    current = session.get()
    snapshot = current.snapshot
    lines = [
        f"Maquette {package.VERSION}, Blender {bpy.app.version_string}, {platform.platform()}",
        f"Backend: {snapshot.state.value}. {snapshot.trouble}",
        f"Device: {snapshot.device or 'not known yet'}",
    ]
    for record in snapshot.jobs[:10]:
        lines.append(f"Job {record.job_id[:8]} {record.system}: {record.state}, {record.stage}")
        if record.failure is not None:
            lines.append(f"  {record.failure.code}: {record.failure.message}\n  {record.failure.detail}")
    if current.process is not None:
        lines += ["Log:", current.process.log_tail(LOG_LINES)]
    return "\n".join(lines).replace(str(Path.home()), "~")


class MAQUETTE_OT_copy_report(bpy.types.Operator):
    bl_idname = "maquette.copy_report"
    bl_label = "Copy Report"
    bl_description = "Copy versions, state and the end of the log to the clipboard"

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.window_manager.clipboard = build_report()
        self.report({"INFO"}, "The report is in the clipboard.")
        return {"FINISHED"}


CLASSES = (MAQUETTE_OT_copy_report,)
