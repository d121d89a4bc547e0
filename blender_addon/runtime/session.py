"""The one object that joins process, connection and jobs for this run of Blender. Main thread only.

Operators call its methods, panels read `snapshot`, the pump calls `advance` and `apply_next`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy

from ...backend.contract.errors import Failure, MaquetteError
from .. import engines, package
from . import connection as wire
from . import inputs
from .backend_process import BackendProcess, State
from .connection import Connection
from .data_folder import DataFolder, claim_data_folder
from .disk_thread import DiskThread, Task
from .installer import OVERRIDE, Installer, InstallPlan, find_python
from .job_reports import CANCELLING, JobReports
from .job_store import JobRecord, JobStore
from .model_manager import ModelManager, ModelPlace
from .thumbnails import Thumbnails

logger = logging.getLogger(__name__)

BLENDER_RUN = uuid.uuid4().hex
"""Names this run of Blender in a job's intent, so that a `session_uid` of another run is never taken for ours."""

MOST_THUMBNAILS = 50  # of earlier jobs; the list shows fewer
LOST = Failure("internal", "The backend stopped while it worked on this. Press Retry.", next_step="retry")


@dataclass(frozen=True)
class Snapshot:
    """What the panels show. `trouble` is a sentence about the set-up or the backend, empty when all is well."""

    state: State
    trouble: str
    next_step: str
    install_message: str
    install_fraction: float
    device: str
    jobs: tuple[JobRecord, ...]


class Session:
    """Opened on registration, closed on removal.

    `apply` puts a result into the scene and returns "", why the result has to wait, or None while its files are being
    read. Errors: `MaquetteError`. `disk` is the one thread that reads and writes files for the timer.
    """

    def __init__(self, apply: Callable[[JobRecord], str | None]) -> None:
        self._apply = apply
        self.disk = DiskThread()
        self._opening: Task | None = None
        self._opened = False
        self.thumbnails = Thumbnails()
        self.process: BackendProcess | None = None
        self.store: JobStore | None = None
        self.installer = Installer()
        self.models = ModelManager()
        self._models_due = True
        self._folder: DataFolder | None = None
        self._connection: Connection | None = None
        self._reports: JobReports | None = None
        self._device = ""
        self._trouble: Failure | None = None
        self._install = ("", 0.0)
        self._last_sequence = 0
        self.results: dict[str, Task] = {}
        """Results read ahead by `disk`, by job, until they are applied."""
        self.unfolded: set[str] = set()
        """Finished jobs whose pictures from four sides are shown in the list."""
        self._held: set[str] = set()
        self._snapshot: Snapshot | None = None
        self._snapshot_key: Any = None

    # -- opening and closing ------------------------------------------------------------------------------------------

    def open_folder(self) -> JobStore:
        """Claim the data folder and read the jobs in it, once. Errors: `MaquetteError` when it cannot be written."""
        if self.store is None:
            self._begin_opening()
            try:
                self._folder, self.store = self._opening.result()
            finally:
                self._opening = None  # the artist may choose another folder after a failure
            self._reports = JobReports(self.store, self.thumbnails, self._send)
            self.process = BackendProcess(package.extension_folder(), self._folder.path)
            for record in self.store.all()[:MOST_THUMBNAILS]:
                self.thumbnails.load_all(record.job_id, self.store.folder(record.job_id), record.variants)
        return self.store

    def close(self) -> None:
        """Stop the backend, finish writing and let go of everything."""
        self.models.close()
        self._disconnect()
        if self.process is not None:
            self.process.stop_now()
        if self._opening is not None:
            with contextlib.suppress(MaquetteError):
                self._folder, _ = self._opening.result()
        self.disk.close()
        if self._folder is not None:
            self._folder.release()
        self.thumbnails.close()

    # -- what operators call ------------------------------------------------------------------------------------------

    def python(self) -> str | None:
        """The backend's interpreter, or None when it has to be set up."""
        return find_python(os.environ.get(OVERRIDE, ""), package.preferences().backend_python, self.install_plan())

    def install_plan(self) -> InstallPlan:
        """What an install would use."""
        wheels = package.preferences().wheel_folder
        return InstallPlan(
            package.extension_folder(),
            package.user_folder(),
            Path(bpy.path.abspath(wheels)) if wheels else None,
            bpy.app.online_access,
        )

    def model_place(self) -> ModelPlace | None:
        """Who installs models and where to; None while the backend is not set up."""
        source = package.preferences().model_source.strip()
        python = self.python()
        root = package.user_folder() / "models"
        return None if python is None else ModelPlace(python, package.extension_folder(), root, source)

    def set_up(self) -> None:
        """Make the backend's Python in the background. Errors: `MaquetteError`."""
        self.open_folder()
        self.installer.start(self.install_plan())
        self._install = ("Starting", 0.0)
        self._trouble = None

    def start_backend(self) -> None:
        """Start the backend unless it runs. Errors: `MaquetteError` when it is not set up."""
        self.open_folder()
        python = self.python()
        if python is None:
            text = "The backend is not set up yet. Press Set Up first."
            raise MaquetteError("model_missing", text, next_step="set_up")
        if self.process.state in (State.STOPPED, State.ABSENT, State.CRASHED):
            self.process.start(python, package.preferences().device)

    def stop_backend(self) -> None:
        """Ask the backend to end."""
        self._disconnect()
        if self.process is not None:
            self.process.stop()

    def submit(self, record: JobRecord) -> JobRecord:
        """Keep the job and send it as soon as the backend answers. Errors: `MaquetteError`."""
        store = self.open_folder()
        self.start_backend()
        try:
            store.put(record)
        except OSError as error:
            raise MaquetteError(
                "disk_full", "The job cannot be written. Free some space and try again.", repr(error), "free_disk"
            ) from error
        self._send_job(record)
        return record

    def cancel(self, job_id: str) -> None:
        """Cancel an active job."""
        record = self.store.get(job_id) if self.store else None
        if record is None or not record.active:
            return
        if self._connection is None or record.state == "sending":
            self.store.update(job_id, state="cancelled", failure=None)
        if self._connection is not None:
            self._connection.send(wire.CancelJob(job_id))
            self.store.update(job_id, message=CANCELLING)

    def forget(self, job_id: str) -> None:
        """Remove a finished job and its files."""
        if self.store is None or (record := self.store.get(job_id)) is None or record.active:
            return
        self.store.remove(job_id)
        self.results.pop(job_id, None)
        self.thumbnails.forget(job_id)
        if self._connection is not None:
            self._connection.send(wire.ForgetJob(job_id))

    def mark_applied(self, job_id: str) -> None:
        """Count one application of the result."""
        record = self.store.get(job_id)
        self.results.pop(job_id, None)
        self.store.update(job_id, applied=record.applied + 1, waiting="")
        if self._connection is not None:
            self._connection.send(wire.MarkApplied(job_id))

    def log_path(self) -> Path | None:
        """The log worth reading: of a failed set-up, else of the backend; None when there is neither."""
        candidates = [package.user_folder() / "install.log"] if self._trouble else []
        if self.process is not None:
            candidates += [self.process.log_path, self.process.data_folder / "logs" / "startup.log"]
        return next((path for path in candidates if path.is_file()), None)

    # -- what the pump calls ------------------------------------------------------------------------------------------

    @property
    def lively(self) -> bool:
        """Whether news are to be expected soon."""
        if self.installer.running or self.models.running or self._opening is not None:
            return True
        if self.process is None or self.process.state in (State.STOPPED, State.ABSENT):
            return False
        waking = self.process.state in (State.STARTING, State.STOPPING)
        return waking or any(record.active or _is_due(record) for record in self.store.all())

    def advance(self, deadline: float) -> bool:
        """Take in what has arrived until `deadline` (perf_counter seconds). Returns whether panels must be redrawn."""
        changed = self._advance_install() | self._open_once() | self._advance_models()
        if self.process is None:
            return changed
        revision = self.store.revision
        if self.process.poll():
            changed = True
            self._process_changed()
        current = self._connection
        while current is not None and current is self._connection and time.perf_counter() < deadline:
            try:
                report = current.reports.get_nowait()
            except queue.Empty:
                break
            self._take(report)
        before = self.process.state
        self.process.set_busy(any(record.active for record in self.store.all()))
        return changed or self.store.revision != revision or self.process.state is not before

    def apply_next(self) -> bool:
        """Apply one finished result that is due, if the moment is safe; else note why it waits."""
        if self.store is None or not package.preferences().apply_automatically:
            return False
        for record in self.store.all():
            if not _is_due(record) or record.job_id in self._held:
                continue
            try:
                reason = self._apply(record)
            except MaquetteError as error:
                self._held.add(record.job_id)  # the artist sees why and may press Apply
                reason = str(error)
            if reason is None or (reason and reason == record.waiting):
                continue
            self.store.update(record.job_id, waiting=reason)
            return True
        return False

    @property
    def snapshot(self) -> Snapshot:
        """What the panels show; built anew only when something changed."""
        state = self.process.state if self.process else State.STOPPED
        revision = self.store.revision if self.store else -1
        crash = self.process.message if self.process else ""
        chosen = package.preferences().backend_python
        key = (state, crash, revision, self._install, self._trouble, self._device, chosen)
        if key != self._snapshot_key or self._snapshot is None:
            self._snapshot_key, self._snapshot = key, self._build_snapshot(state)
        return self._snapshot

    # -- details ------------------------------------------------------------------------------------------------------

    def _build_snapshot(self, state: State) -> Snapshot:
        message, fraction = self._install
        trouble, step = (self._trouble.message, self._trouble.next_step) if self._trouble else ("", "")
        if self.installer.running:
            state = State.INSTALLING
        elif state is State.STOPPED and self.python() is None:
            state = State.ABSENT
        elif state is State.CRASHED:
            trouble, step = self.process.message, "open_log"
        jobs = tuple(self.store.all()) if self.store else ()
        return Snapshot(state, trouble, step, message, fraction, self._device, jobs)

    def _advance_install(self) -> bool:
        news = self.installer.poll()
        for item in news:
            self._install = ("", 0.0) if item.done else (item.message, item.fraction)
            self._trouble = item.failure
            self._snapshot_key = None
            self._models_due |= item.done
        return bool(news)

    def _advance_models(self) -> bool:
        """Look once what is installed, as soon as there is a backend to ask; then hear how installs go."""
        if self._models_due and self.store is not None and (place := self.model_place()) is not None:
            self._models_due = False
            self.models.refresh(place)
        return self.models.poll()

    def _begin_opening(self) -> None:
        if self._opening is None:
            root = package.user_folder()
            self._opening = self.disk.submit(lambda: _open_folder(root, self.disk))

    def _open_once(self) -> bool:
        """Show the jobs of earlier runs as soon as Blender is up; registration itself touches no disk."""
        if self._opened or self.store is not None:
            return False
        self._begin_opening()
        if not self._opening.done():
            return False
        self._opened = True
        try:
            self.open_folder()
        except MaquetteError as error:
            self._trouble = error.failure
        return True

    def _process_changed(self) -> None:
        if self.process.answering and self._connection is None:
            self._connection = Connection(self.process.port, self.process.token, self._last_sequence)
            self.disk.submit(self._connection.open)  # a thread's start waits until it runs
        elif self.process.state in (State.CRASHED, State.STOPPED, State.STOPPING):
            self._disconnect()
            for record in self.store.all():
                if record.state in ("queued", "running"):
                    self.store.update(record.job_id, state="failed", failure=LOST)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(self, command: wire.Command) -> None:
        if self._connection is not None:
            self._connection.send(command)

    def _send_job(self, record: JobRecord) -> None:
        if self._connection is None:
            return  # sent on `Connected`
        try:
            self._connection.send(inputs.submission(self.store, record))
        except MaquetteError as error:
            self.store.update(record.job_id, state="failed", failure=error.failure)

    def _take(self, report: wire.Report) -> None:
        if isinstance(report, wire.Connected):
            self._take_connected(report)
            return
        if isinstance(report, wire.EventArrived):
            self._last_sequence = report.event.sequence
        self._reports.take(report)

    def _take_connected(self, report: wire.Connected) -> None:
        self._device = report.health.device
        engines.set_engines(
            [(s.name, s.title, s.missing or s.title) for s in report.systems],
            {s.name: s.tasks for s in report.systems},
        )
        known = {summary.job_id for summary in report.jobs}
        for summary in report.jobs:
            self._reports.take_summary(summary)
        for record in reversed(self.store.all()):  # in the order of the presses
            if record.job_id not in known and record.state == "sending":
                self._send_job(record)
            elif record.job_id not in known and record.active:
                self.store.update(record.job_id, state="failed", failure=LOST)


def _open_folder(root: Path, disk: DiskThread) -> tuple[DataFolder, JobStore]:
    """Claim the data folder below `root` and read its jobs. Runs on the disk thread. Errors: `MaquetteError`."""
    folder = claim_data_folder(root)
    store = JobStore(folder.path / "inbox", disk)
    try:
        store.load()
    except OSError as error:
        folder.release()
        text = f'Maquette cannot use "{store.root}". Choose another data folder in the preferences.'
        raise MaquetteError("disk_full", text, repr(error), "set_up") from error
    return folder, store


def _is_due(record: JobRecord) -> bool:
    return record.state == "done" and record.downloaded and record.applied == 0


_session: Session | None = None


def open_session(apply: Callable[[JobRecord], str | None]) -> None:
    """Make the session; nothing is written or started yet. `apply` is as in `Session`."""
    global _session
    _session = Session(apply)


def close_session() -> None:
    """Close the session."""
    global _session
    if _session is not None:
        _session.close()
    _session = None


def get() -> Session:
    """The session. Errors: RuntimeError when the extension is not registered."""
    if _session is None:
        raise RuntimeError("Maquette is not registered")
    return _session
