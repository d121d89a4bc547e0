"""The job list: what is being made, then newest first, each with its picture and what can be done with it."""

from __future__ import annotations

from collections.abc import Sequence

import bpy

from ..engines import RENDER
from ..operators import picture_results, requesting
from ..runtime import job_reports, session
from ..runtime.job_store import BUNDLE, JobRecord
from ..scene import provenance
from . import widgets

EMPTY = "Nothing made yet. Choose a picture above, drop one on the viewport, or say what to make."
MOST_SHOWN = 12  # drawing more costs time in every redraw; the rest follow when some are removed
VARIANT_COLUMNS = 3
HALF_SCALE = 5.6  # two halves of a wide picture fill such a sidebar
VARIANT_SCALE = 4.0  # of a button's height: three beside each other fill a sidebar as wide as Blender makes it
_ICONS = {"done": "CHECKMARK", "failed": "ERROR", "cancelled": "X"}


class MAQUETTE_PT_jobs(widgets.SidebarPanel, bpy.types.Panel):
    bl_label = "Jobs"

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        snapshot = session.get().snapshot
        if provenance.KEY in (context.object or {}):
            layout.operator("maquette.restore_inputs", text="Restore Inputs of Active Object", icon="LOOP_BACK")
        if not snapshot.jobs:
            widgets.sentence(layout, context, EMPTY)
        if sum(record.active for record in snapshot.jobs) > 1:
            layout.operator("maquette.cancel_all", icon="CANCEL")
        for record in in_order(snapshot.jobs)[:MOST_SHOWN]:
            _draw_job(layout.box(), context, record)
        if len(snapshot.jobs) > MOST_SHOWN:
            layout.label(text=f"and {len(snapshot.jobs) - MOST_SHOWN} more")


def in_order(jobs: Sequence[JobRecord]) -> list[JobRecord]:
    """The one that is worked on first, which in a long list would be out of sight; then as they come, newest first."""
    return sorted(jobs, key=lambda record: record.state != "running")


def _draw_job(box: bpy.types.UILayout, context: bpy.types.Context, record: JobRecord) -> None:
    head = box.row()
    icon = session.get().thumbnails.icon(record.job_id)
    if icon:
        head.template_icon(icon_value=icon, scale=2.2)
    column = head.column()
    title = column.row()
    title.label(text=record.title, icon=_ICONS.get(record.state, "TIME"))
    if not record.active:
        title.operator("maquette.forget_job", text="", icon="TRASH", emboss=False).job_id = record.job_id
    if record.active:
        row = column.row(align=True)
        row.progress(factor=record.fraction, text=progress_text(record))
        row.operator("maquette.cancel_job", text="", icon="CANCEL").job_id = record.job_id
    else:
        _draw_actions(column, record)
    if record.active or record.job_id in session.get().unfolded:
        _draw_sides(box, record)
    if record.downloaded and len(record.variants) > 1:
        _draw_variants(box, context, record)
    if record.failure is not None and record.state == "failed":
        widgets.sentence(box, context, record.failure.message, "ERROR")
        row = box.row(align=True)
        model = record.system if session.get().models.find(record.system) else ""
        widgets.next_step_button(row, record.failure.next_step, requesting.panel_of(record), model)
        if record.failure.code != "bad_input":  # the artist can help that; a report cannot
            row.operator("maquette.copy_report")
    for text in (record.waiting if record.applied == 0 else "", record.message if record.state == "done" else ""):
        if text:
            widgets.sentence(box, context, text, "INFO")


def _draw_sides(box: bpy.types.UILayout, record: JobRecord) -> None:
    """The pictures from four sides that the result is made from, as far as they are; nothing where there are none."""
    halves = session.get().thumbnails.halves(record.job_id, job_reports.PREVIEW if record.active else BUNDLE)
    if halves:
        row = box.row(align=True)
        for icon in halves:
            row.template_icon(icon_value=icon, scale=HALF_SCALE)


def _draw_variants(box: bpy.types.UILayout, context: bpy.types.Context, record: JobRecord) -> None:
    """The variants of a result, each with a button that puts it into the scene instead of the one before."""
    if record.task == RENDER:
        mine = context.scene.maquette_render.shown_job == record.job_id
        draw_gallery(box, record, {picture_results.shown_variant(context.scene, record)} if mine else set())
        return
    made = provenance.made_from(context.scene, record.job_id)
    draw_gallery(box, record, {(provenance.read(item) or {}).get("variant", 0) for item in made})


def draw_gallery(
    box: bpy.types.UILayout,
    record: JobRecord,
    shown: set[int],
    columns: int = VARIANT_COLUMNS,
    scale: float = VARIANT_SCALE,
) -> None:
    """The pictures of the variants with a button each; those of the `shown` ones are pressed."""
    grid = box.grid_flow(row_major=True, columns=columns, even_columns=True, even_rows=True, align=True)
    for index, name in enumerate(record.variants):
        cell = grid.column(align=True)
        cell.template_icon(icon_value=session.get().thumbnails.icon(record.job_id, name), scale=scale)
        button = cell.operator("maquette.apply_result", text=f"{index + 1}", depress=index in shown)
        button.job_id, button.variant, button.instead = record.job_id, index, True


def _draw_actions(column: bpy.types.UILayout, record: JobRecord) -> None:
    row = column.row(align=True)
    if record.state == "done" and record.downloaded:
        text = "Apply Again" if record.applied else "Apply"
        row.operator("maquette.apply_result", text=text).job_id = record.job_id
        if session.get().thumbnails.halves(record.job_id, BUNDLE):
            shown = record.job_id in session.get().unfolded
            row.operator("maquette.show_sides", text="", icon="IMAGE_DATA", depress=shown).job_id = record.job_id
        row.operator("maquette.open_job_folder", text="", icon="FILE_FOLDER").job_id = record.job_id
    elif record.state == "done":
        row.label(text="Receiving the result")
    if record.state == "done":
        row.operator("maquette.retry_job", text="", icon="FILE_REFRESH").job_id = record.job_id
    else:
        row.operator("maquette.retry_job").job_id = record.job_id
    row.operator("maquette.restore_inputs", text="", icon="LOOP_BACK").job_id = record.job_id


def progress_text(record: JobRecord) -> str:
    """What the bar says: the stage by name, or what the job waits for."""
    if record.message == job_reports.CANCELLING:
        return record.message
    if record.state == "sending":
        return "Preparing"  # the backend may have to be started first
    if record.state == "queued":
        return f"Waiting, place {record.position}" if record.position else "Waiting"
    return record.stage.replace("_", " ").capitalize() or "Starting"


CLASSES = (MAQUETTE_PT_jobs,)
