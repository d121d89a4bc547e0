"""The queue: takes requests, keeps the journal and the job folders true, and feeds the executors.

Order of every change: folder and row first, work second, files third, row last. So after any crash the journal says
nothing that is not on the disk, and `recover` only has to close what was open.
"""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.contract.errors import Failure, MaquetteError
from backend.contract.messages import (
    JOB_ID,
    TERMINAL_STATES,
    Artifact,
    JobRequest,
    JobSummary,
    MessageError,
    SystemInfo,
    from_json,
    to_json,
)
from backend.jobs import files
from backend.jobs.blob_store import BlobStore
from backend.jobs.executors import Executor, Outcome
from backend.jobs.failures import BACKEND_DIED, failure_from, is_disk_full
from backend.jobs.journal import Journal
from backend.systems import registry

logger = logging.getLogger(__name__)

RESERVE_BYTES = 1024 * 1024
"""A file of this size is given up when the disk is full, so that the journal can still say so."""

STOP_SECONDS = 2.5
"""How long `stop` waits for the dispatchers; longer than an executor takes to kill its worker."""


class JobConflict(MaquetteError):
    """A request that cannot be honoured in the job's present state."""


class JobQueue:
    """Jobs below `data`; one dispatcher thread an executor."""

    def __init__(self, data: Path, journal: Journal, blobs: BlobStore, executors: list[Executor]) -> None:
        self.journal = journal
        self.blobs = blobs
        self.executors = executors
        self._jobs = data / "jobs"
        self._reserve = data / "reserve.bin"
        self._jobs.mkdir(parents=True, exist_ok=True)
        self._wake = threading.Condition()
        self._stopping = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Recover what an earlier backend left, then begin to work."""
        self.recover()
        self._make_reserve()
        for executor in self.executors:
            thread = threading.Thread(target=self._dispatch, args=(executor,), name=f"dispatch {executor.device}",
                                      daemon=True)  # fmt: skip
            thread.start()
            self._threads.append(thread)

    def recover(self) -> None:
        """Fail the jobs that were running, restore those that only their folders remember."""
        files.remove_leftovers(self._jobs)
        files.remove_leftovers(self.blobs.folder)
        interrupted = Failure("internal", BACKEND_DIED, "the backend was restarted", "retry")
        for summary in self.journal.summaries("running"):
            self._finish(summary.job_id, Outcome("failed", interrupted))
        for path in sorted(self._jobs.glob("*/job.json")):
            if self.journal.summary(path.parent.name) is None:
                self._restore(path, interrupted)

    def submit(self, request: JobRequest) -> tuple[JobSummary, bool]:
        """Queue a job; returns its summary and whether it is new (the same request again changes nothing).

        Errors: `MaquetteError` bad_input for an unknown engine or an input that was not uploaded, `JobConflict`
        when another request has this id, OSError.
        """
        known = self.journal.summary(request.job_id)
        if known is not None:
            if known.request != request:
                raise JobConflict("bad_input", "Another job already has this id. Choose a fresh one.")
            return known, False
        if request.system not in registry.system_names():
            raise MaquetteError("bad_input", f"There is no engine named {request.system[:40]!r}. Choose another one.")
        for name, sha256 in request.inputs.items():
            if not self.blobs.exists(sha256):
                raise MaquetteError("bad_input", f"The input {name[:40]!r} was not uploaded.", sha256, "retry")
        summary = JobSummary(request.job_id, "queued", request.system, request.task, created=time.time(),
                             request=request)  # fmt: skip
        folder = self._jobs / request.job_id
        try:
            (folder / "artifacts").mkdir(parents=True, exist_ok=True)
            files.write_json(folder / "job.json", to_json(summary))
            created = self.journal.insert(summary)
        except (OSError, sqlite3.Error):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with self._wake:
            self._wake.notify()
        return self.summary(request.job_id), created

    def summary(self, job_id: str) -> JobSummary:
        """One job. Errors: KeyError when it is unknown."""
        summary = self.journal.summary(job_id)
        if summary is None:
            raise KeyError(job_id)
        return summary

    def cancel(self, job_id: str) -> JobSummary:
        """Cancel a queued job at once, a running one at its next step; a finished one stays. Errors: KeyError."""
        if self.summary(job_id).state == "queued" and self.journal.finish(job_id, "cancelled"):
            self._write_summary(job_id)
        elif self.summary(job_id).state == "running":
            for executor in self.executors:
                executor.cancel(job_id)
        return self.summary(job_id)

    def forget(self, job_id: str) -> None:
        """Delete a finished job with its files. Errors: KeyError, `JobConflict` while it waits or runs."""
        if self.summary(job_id).state not in TERMINAL_STATES:
            raise JobConflict("bad_input", "This job is not finished. Cancel it first.")
        shutil.rmtree(self._jobs / job_id, ignore_errors=True)
        self.blobs.remove_all(self.journal.forget(job_id))

    def mark_applied(self, job_id: str) -> JobSummary:
        """Note that a job's result is in a scene. Errors: KeyError, `JobConflict` when it has no result."""
        if self.summary(job_id).state != "done":
            raise JobConflict("bad_input", "This job has no result to apply.")
        self.journal.mark_applied(job_id)
        self._write_summary(job_id)
        return self.summary(job_id)

    def systems(self) -> list[SystemInfo]:
        """The engines of the first device."""
        return self.executors[0].systems()

    def stop(self) -> None:
        """End the workers and the dispatchers; what ran is closed as failed."""
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        for executor in self.executors:
            executor.stop()
        for thread in self._threads:
            thread.join(STOP_SECONDS)

    def _dispatch(self, executor: Executor) -> None:
        while True:
            with self._wake:
                # A timed wait, so that a journal that failed once (disk full) is asked again.
                while not self._stopping and not (job_id := self._next()):
                    self._wake.wait(5.0)
                if self._stopping:
                    return
            try:
                self._run(job_id, executor)
            except Exception as error:  # the worker border: this thread must outlive every job
                logger.exception("job %s could not be run", job_id)
                self._finish(job_id, Outcome("failed", failure_from(error)))

    def _next(self) -> str:
        try:
            return self.journal.next_queued()
        except sqlite3.Error:
            logger.exception("the journal cannot be read")
            return ""

    def _run(self, job_id: str, executor: Executor) -> None:
        if not self.journal.start(job_id):
            return
        request = self.summary(job_id).request
        assert request is not None
        outcome = executor.run(request, lambda message: self._record(job_id, message))
        if outcome.state == "failed" and self._stopping:
            outcome = Outcome("failed", Failure("internal", BACKEND_DIED, "the backend was stopped", "retry"))
        self._finish(job_id, outcome)

    def _record(self, job_id: str, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "stage":
            self.journal.progress(job_id, "stage", message["stage"], message["fraction"])
        elif kind == "step":
            self.journal.progress(job_id, "step", message["stage"], message["fraction"], step=message["step"],
                                  steps=message["steps"])  # fmt: skip
        elif kind == "message":
            self.journal.append(job_id, "message", message=message["text"])
        elif kind in ("preview", "artifact"):
            self.journal.add_artifact(job_id, from_json(Artifact, message["artifact"]), preview=kind == "preview")
        else:
            raise ValueError(f"the worker sent {kind!r}")

    def _finish(self, job_id: str, outcome: Outcome) -> None:
        """Close a job in the journal, giving up the reserve when the disk is full."""
        for attempt in (1, 2):
            try:
                self.journal.finish(job_id, outcome.state, outcome.failure)
                break
            except sqlite3.Error as error:
                logger.exception("job %s could not be closed (attempt %d)", job_id, attempt)
                if is_disk_full(error):
                    self._reserve.unlink(missing_ok=True)
        self._write_summary(job_id)
        if outcome.state == "done":
            self._make_reserve()
        logger.info("job %s: %s", job_id, outcome.state)

    def _write_summary(self, job_id: str) -> None:
        """Keep the folder self-describing; the journal stays the truth, so a failure here is only logged."""
        try:
            files.write_json(self._jobs / job_id / "job.json", to_json(self.summary(job_id)))
        except (OSError, KeyError, sqlite3.Error):
            logger.exception("job.json of %s could not be written", job_id)

    def _restore(self, path: Path, interrupted: Failure) -> None:
        """Bring back a job whose row is lost, from its folder."""
        try:
            summary = from_json(JobSummary, json.loads(path.read_bytes()))
        except (OSError, ValueError, MessageError):
            logger.exception("%s does not describe a job", path)
            return
        if not JOB_ID.fullmatch(path.parent.name) or summary.job_id != path.parent.name or summary.request is None:
            logger.warning("%s belongs to another folder", path)
            return
        if summary.state not in TERMINAL_STATES:
            summary = replace(summary, state="failed", failure=interrupted, finished=time.time())
        for artifact in summary.artifacts:
            self._restore_blob(path.parent / "artifacts" / artifact.name, artifact.sha256)
        self.journal.insert(summary)
        logger.info("job %s restored from its folder", summary.job_id)

    def _restore_blob(self, path: Path, sha256: str) -> None:
        if path.is_file() and not self.blobs.exists(sha256):
            self.blobs.put(path.read_bytes())

    def _make_reserve(self) -> None:
        try:
            if not self._reserve.exists():
                files.write_file(self._reserve, bytes(RESERVE_BYTES))
        except OSError:
            logger.warning("no room for the reserve of %d bytes", RESERVE_BYTES)
