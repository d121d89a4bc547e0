"""What the backend reports about jobs, taken into the add-on's own list of them. Main thread only."""

from __future__ import annotations

from collections.abc import Callable

from ...backend.contract.messages import JobEvent, JobSummary
from . import connection as wire
from .job_store import JobStore
from .thumbnails import Thumbnails

CANCELLING = "Cancelling"  # what a job says from the press on Cancel to its end
PREVIEW = "preview.png"  # the file in a job's folder that shows the work so far


class JobReports:
    """Keeps `store` and `thumbnails` as the backend says; `send` asks it for more."""

    def __init__(self, store: JobStore, thumbnails: Thumbnails, send: Callable[[wire.Command], None]) -> None:
        self.store, self.thumbnails, self._send = store, thumbnails, send

    def take(self, report: wire.Report) -> None:
        """Take in one report about a job."""
        if isinstance(report, wire.EventArrived):
            self.take_event(report.event)
        elif isinstance(report, wire.JobSubmitted):
            self._take_submitted(report)
        elif isinstance(report, wire.JobFetched):
            self._take_fetched(report)
        elif isinstance(report, wire.PreviewFetched):
            self.thumbnails.load_preview(report.job_id, report.path)
            self.store.touch()
        elif isinstance(report, wire.CommandFailed):
            self._take_refusal(report)

    def _take_submitted(self, report: wire.JobSubmitted) -> None:
        record = self.store.get(report.summary.job_id)
        if record is not None and record.state == "cancelled":
            self._send(wire.CancelJob(record.job_id))
        elif record is not None:
            self.store.update(record.job_id, input_sha256=report.input_sha256, input_name=report.input_name)
            self.take_summary(report.summary)

    def take_summary(self, summary: JobSummary) -> None:
        """Make our view of a job agree with the backend's."""
        record = self.store.get(summary.job_id)
        if record is None or (record.downloaded and summary.state == "done"):
            return
        self.store.update(
            summary.job_id, state=summary.state, stage=summary.stage, fraction=summary.fraction,
            position=summary.position, failure=summary.failure,
        )  # fmt: skip
        if summary.state == "done":
            self._send(wire.FetchJob(summary.job_id, self.store.folder(summary.job_id)))

    def take_event(self, event: JobEvent) -> None:
        record = self.store.get(event.job_id)
        # A replayed event of a job that has ended, or was cancelled here before the backend knew, changes nothing.
        if record is None or not record.active:
            return
        if event.kind == "state":
            if event.state in ("queued", "running"):
                self.store.update(event.job_id, state=event.state, stage=event.stage or record.stage)
        elif event.kind in ("stage", "step"):
            self.store.update(event.job_id, state="running", stage=event.stage, fraction=event.fraction)
        elif event.kind == "preview":
            path = self.store.artifact_path(event.job_id, PREVIEW)
            self._send(wire.FetchPreview(event.job_id, event.artifact.sha256, path))
        elif event.kind == "message":
            said = record.message if record.message != CANCELLING else ""
            if event.message not in said:  # a result may have several things to say: cut out, camera uncertain
                self.store.update(event.job_id, message=f"{said} {event.message}".strip())
        elif event.kind == "done":
            said = record.message if record.message != CANCELLING else ""  # it ended before it could be cancelled
            self.store.update(event.job_id, state="done", fraction=1.0, stage="", message=said)
            self._send(wire.FetchJob(event.job_id, self.store.folder(event.job_id)))
        elif event.kind in ("failed", "cancelled"):
            self.store.update(event.job_id, state=event.kind, failure=event.failure, stage="", message="")

    def _take_fetched(self, report: wire.JobFetched) -> None:
        job_id = report.summary.job_id
        record = self.store.update(
            job_id, state="done", downloaded=True, artifacts=report.summary.artifacts, report=report.report
        )
        if record is not None:
            self.thumbnails.load_all(job_id, self.store.folder(job_id), record.variants)

    def _take_refusal(self, report: wire.CommandFailed) -> None:
        command = report.command
        if isinstance(command, wire.SubmitJob | wire.FetchJob):
            job_id = command.job_id if isinstance(command, wire.FetchJob) else command.request.job_id
            self.store.update(job_id, state="failed", failure=report.failure)
