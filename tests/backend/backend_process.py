"""A real backend process under test, spoken to over its real socket."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import requests

from backend.contract.messages import Handshake, JobEvent, JobRequest, JobSummary, from_json, to_json

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef" * 4
ECHO = "tests.fakes.echo_system:EchoSystem"
WAIT_SECONDS = 60.0
"""Patience of every wait here; a loaded machine starts a Python in some seconds."""


class BackendProcess:
    """A backend over the data folder `data`, ready when constructed."""

    def __init__(self, data: Path, *command: str, **popen: Any) -> None:
        self.process = start_process(data, *command, **popen)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"token": TOKEN, "parent_pid": os.getpid()}).encode() + b"\n")
        self.process.stdin.flush()
        self.first_line = self.process.stdout.readline()
        self.handshake = from_json(Handshake, json.loads(self.first_line))
        self.url = f"http://127.0.0.1:{self.handshake.port}"
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {TOKEN}"

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """One request."""
        return self.session.request(method, self.url + path, timeout=WAIT_SECONDS, **options)

    def put_blob(self, data: bytes) -> str:
        """Upload `data`; returns its name."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.call("PUT", f"/blobs/{sha256}", data=data).raise_for_status()
        return sha256

    def submit(self, inputs: dict[str, str] | None = None, **parameters: Any) -> str:
        """Queue an echo job; returns its id."""
        request = JobRequest(uuid.uuid4().hex, "echo", "echo", inputs or {}, parameters, {"scene": "Scene"})
        response = self.call("POST", "/jobs", json=to_json(request))
        assert response.status_code == 201, response.text
        return request.job_id

    def job(self, job_id: str) -> JobSummary:
        """The job now."""
        return from_json(JobSummary, self.call("GET", f"/jobs/{job_id}").json())

    def wait(self, job_id: str, *states: str) -> JobSummary:
        """The job once it is in one of `states`."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (summary := self.job(job_id)).state not in states:
            assert time.monotonic() < deadline, f"still {summary}"
            time.sleep(0.02)
        return summary

    def wait_for_step(self, job_id: str) -> None:
        """Return once the worker is inside the job."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.job(job_id).stage:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def events(self, path: str, after: int = 0) -> list[JobEvent]:
        """The events of a stream up to its end."""
        response = self.call("GET", path, params={"after": after}, stream=True)
        assert response.status_code == 200, response.text
        lines = response.iter_lines(chunk_size=1)
        return [from_json(JobEvent, json.loads(line[6:])) for line in lines if line.startswith(b"data: ")]

    def worker(self) -> psutil.Process:
        """The worker process."""
        (worker,) = psutil.Process(self.process.pid).children()
        return worker

    def kill(self) -> None:
        """Kill the backend as a crash would."""
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """End it as the add-on does, by closing its input."""
        self.session.close()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()
        self.process.wait(WAIT_SECONDS)


def start_process(data: Path, *command: str, **popen: Any) -> subprocess.Popen[bytes]:
    """A backend process that waits for its greeting; `command` is a module and its arguments."""
    return subprocess.Popen(
        [sys.executable, "-m", *(command or ("backend", "serve")), "--data", str(data)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"MAQUETTE_EXTRA_SYSTEMS": ECHO}, **popen,
    )  # fmt: skip


def wait_until_gone(pids: list[int], seconds: float) -> list[int]:
    """The processes that are still there after `seconds`."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def is_running(pid: int) -> bool:
    """Whether the process runs (one that is dead and not yet collected does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
