"""The connection to the backend: commands in, reports out, bytes moved beside Blender's main loop.

THREADS. One worker thread sends commands in order, one listener thread reads the event stream. Neither touches bpy or
any object the main thread changes: they take frozen commands from one queue and put frozen reports into another, which
the pump drains.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import os
import queue
import shutil
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from ...backend.contract.errors import Failure, MaquetteError
from ...backend.contract.messages import (
    Artifact,
    Health,
    JobEvent,
    JobRequest,
    JobSummary,
    MessageError,
    SystemInfo,
    from_json,
    to_json,
)
from . import wide_pictures
from .job_store import BUNDLE, kept_name

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0  # loopback connects in under 1 ms; more means that nobody listens
ANSWER_SECONDS = 60.0  # a large upload to a slow disk
HEARTBEAT_SECONDS = 20.0  # the backend sends a comment every 5 s
RETRY_SECONDS = 0.5


@dataclass(frozen=True)
class SubmitJob:
    """Upload the files (by input name) and start the job. `folder` receives a copy of each."""

    request: JobRequest
    files: dict[str, Path]
    folder: Path


@dataclass(frozen=True)
class CancelJob:
    job_id: str


@dataclass(frozen=True)
class ForgetJob:
    job_id: str


@dataclass(frozen=True)
class MarkApplied:
    job_id: str


@dataclass(frozen=True)
class FetchJob:
    """Ask for the summary of a finished job and download its artifacts into `folder`."""

    job_id: str
    folder: Path


@dataclass(frozen=True)
class FetchPreview:
    """Download a picture of a running job to `path`."""

    job_id: str
    sha256: str
    path: Path


Command = SubmitJob | CancelJob | ForgetJob | MarkApplied | FetchJob | FetchPreview


@dataclass(frozen=True)
class Connected:
    """The first report of a connection: the state of everything."""

    health: Health
    systems: tuple[SystemInfo, ...]
    jobs: tuple[JobSummary, ...]


@dataclass(frozen=True)
class EventArrived:
    event: JobEvent


@dataclass(frozen=True)
class JobSubmitted:
    summary: JobSummary
    input_sha256: str
    input_name: str


@dataclass(frozen=True)
class JobFetched:
    """Every artifact of the job lies in its folder."""

    summary: JobSummary
    report: dict[str, Any]


@dataclass(frozen=True)
class PreviewFetched:
    """A newer picture of the running job lies at `path`."""

    job_id: str
    path: Path


@dataclass(frozen=True)
class CommandFailed:
    command: Command
    failure: Failure


Report = Connected | EventArrived | JobSubmitted | JobFetched | PreviewFetched | CommandFailed


class Connection:
    """Talks to the backend on `port` with `token` until `close`. `after` is the last event already known."""

    def __init__(self, port: int, token: str, after: int = 0) -> None:
        self.reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._port, self._token, self._after = port, token, after
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._stream: http.client.HTTPConnection | None = None
        self._threads = [
            threading.Thread(target=self._work, name="maquette-connection", daemon=True),
            threading.Thread(target=self._listen, name="maquette-events", daemon=True),
        ]

    def open(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def send(self, command: Command) -> None:
        """Queue a command. Returns at once."""
        self._commands.put(command)

    def close(self) -> None:
        """End both threads without waiting for them."""
        self._closed.set()
        self._commands.put(None)
        stream = self._stream
        if stream is not None and stream.sock is not None:
            try:
                stream.sock.shutdown(socket.SHUT_RDWR)
            except OSError:  # the other end closed first
                logger.debug("the event stream was closed already")

    # -- worker thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        with requests.Session() as session:
            session.trust_env = False  # a proxy has no business on the loopback
            session.headers["Authorization"] = f"Bearer {self._token}"
            client = _Client(session, f"http://127.0.0.1:{self._port}")
            if not self._greet(client):
                return
            while (command := self._commands.get()) is not None and not self._closed.is_set():
                try:
                    report = _execute(client, command)
                except (MaquetteError, MessageError, OSError, ValueError) as error:
                    logger.warning("%s failed: %s", type(command).__name__, error)
                    report = CommandFailed(command, _failure(error))
                if report is not None:
                    self.reports.put(report)

    def _greet(self, client: _Client) -> bool:
        while not self._closed.is_set():
            try:
                health = from_json(Health, client.call("GET", "/health"))
                systems = client.call("GET", "/systems")["systems"]
                jobs = client.call("GET", "/jobs")["jobs"]
                report = Connected(
                    health,
                    tuple(from_json(SystemInfo, item) for item in systems),
                    tuple(from_json(JobSummary, item) for item in jobs),
                )
            except (MaquetteError, MessageError, OSError) as error:
                logger.warning("The backend does not greet: %s", error)
                self._closed.wait(RETRY_SECONDS)
                continue
            self.reports.put(report)
            return True
        return False

    # -- listener thread ----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                self._follow()
            except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
                # AttributeError: http.client reads from a file object that close() took away in between.
                if not self._closed.is_set():
                    logger.info("The event stream ended: %r", error)
            self._closed.wait(RETRY_SECONDS)

    def _follow(self) -> None:
        self._stream = stream = http.client.HTTPConnection("127.0.0.1", self._port, timeout=HEARTBEAT_SECONDS)
        try:
            stream.request("GET", f"/events?after={self._after}", headers={"Authorization": f"Bearer {self._token}"})
            response = stream.getresponse()
            if response.status != 200:
                raise OSError(f"the event stream was refused with status {response.status}")
            while not self._closed.is_set() and (line := response.readline()):
                if line.startswith(b"data:"):
                    event = from_json(JobEvent, json.loads(line[5:]))
                    self._after = event.sequence
                    self.reports.put(EventArrived(event))
        finally:
            stream.close()


class _Client:
    """Requests on one session, answers as JSON, failures as `MaquetteError`."""

    def __init__(self, session: requests.Session, base: str) -> None:
        self._session, self._base = session, base

    def call(self, method: str, path: str, **options: Any) -> Any:
        with self._request(method, path, **options) as response:
            return response.json() if response.content else None

    def upload(self, data: bytes) -> str:
        """Have the backend keep `data` unless it does already; returns its sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        url = f"{self._base}/blobs/{sha256}"
        if self._session.head(url, timeout=(CONNECT_SECONDS, ANSWER_SECONDS)).status_code != 200:
            self.call("PUT", f"/blobs/{sha256}", data=data)
        return sha256

    def download(self, sha256: str, path: Path) -> None:
        """Write the blob to `path`, checked and renamed into place."""
        digest = hashlib.sha256()
        temporary = path.with_name(path.name + ".part")
        with self._request("GET", f"/blobs/{sha256}", stream=True) as response, temporary.open("wb") as file:
            for chunk in response.iter_content(1 << 20):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != sha256:
            raise MaquetteError("internal", "A result arrived damaged. Press Retry.", path.name, "retry")
        os.replace(temporary, path)

    def _request(self, method: str, path: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", (CONNECT_SECONDS, ANSWER_SECONDS))
        response = self._session.request(method, self._base + path, **options)
        if response.status_code >= 400:
            raise _refusal(response)
        return response


def _execute(client: _Client, command: Command) -> Report | None:
    if isinstance(command, SubmitJob):
        return _submit(client, command)
    if isinstance(command, FetchJob):
        return _fetch(client, command)
    if isinstance(command, FetchPreview):
        client.download(command.sha256, command.path)
        _split(command.path)
        return PreviewFetched(command.job_id, command.path)
    if isinstance(command, CancelJob):
        client.call("DELETE", f"/jobs/{command.job_id}")
    elif isinstance(command, ForgetJob):
        client.call("DELETE", f"/jobs/{command.job_id}?forget=true")
    else:
        client.call("POST", f"/jobs/{command.job_id}/applied")
    return None


def _submit(client: _Client, command: SubmitJob) -> JobSubmitted:
    inputs = {}
    for name, path in command.files.items():
        inputs[name] = client.upload(path.read_bytes())
        copy = command.folder / kept_name(name, path.suffix)
        if copy != path:
            shutil.copyfile(path, copy)
    body = to_json(command.request) | {"inputs": inputs}
    summary = from_json(JobSummary, client.call("POST", "/jobs", json=body))
    picture = kept_name("image", command.files["image"].suffix) if "image" in inputs else ""
    return JobSubmitted(summary, inputs.get("image", ""), picture)


def _fetch(client: _Client, command: FetchJob) -> JobFetched:
    summary = from_json(JobSummary, client.call("GET", f"/jobs/{command.job_id}"))
    for artifact in summary.artifacts:
        path = command.folder / artifact.name
        if not _is_complete(path, artifact):
            client.download(artifact.sha256, path)
    if (command.folder / BUNDLE).is_file():
        _split(command.folder / BUNDLE)
    report_path = command.folder / "report.json"
    report = json.loads(report_path.read_text("utf-8")) if report_path.is_file() else {}
    return JobFetched(summary, report if isinstance(report, dict) else {})


def _split(path: Path) -> None:
    """Have the panels show a wide picture; without it the result is as good."""
    try:
        wide_pictures.write_halves(path)
    except (OSError, MaquetteError) as error:
        logger.warning("%s is not shown: %s", path.name, error)


def _is_complete(path: Path, artifact: Artifact) -> bool:
    # Files are renamed into place only after their hash was checked, so the size tells enough here.
    return path.is_file() and path.stat().st_size == artifact.size


def _refusal(response: requests.Response) -> MaquetteError:
    detail = f"{response.request.method} {response.request.path_url}: {response.status_code}"
    try:
        failure = from_json(Failure, response.json()["error"])
    except (ValueError, KeyError, TypeError):
        text = "The backend refused a request. Open the log to see why."
        return MaquetteError("internal", text, detail, "open_log")
    return MaquetteError(failure.code, failure.message, f"{detail}\n{failure.detail}", failure.next_step)


def _failure(error: Exception) -> Failure:
    if isinstance(error, MaquetteError):
        return error.failure
    if isinstance(error, requests.RequestException):
        return Failure("internal", "The connection to the backend broke. Press Retry.", repr(error), "retry")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        text = "The disk is full. Free some space and press Retry."
        return Failure("disk_full", text, repr(error), "free_disk")
    if isinstance(error, OSError) and error.filename:
        name = Path(os.fsdecode(error.filename)).name
        text = f'"{name}" cannot be read or written. Check the file and try again.'
        return Failure("bad_input", text, repr(error), "retry")
    return Failure("internal", "The backend's answer cannot be understood. Press Retry.", repr(error), "retry")
