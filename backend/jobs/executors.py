"""Where jobs run. `Executor` is all the queue knows; `LocalExecutor` is one worker process for one device.

`run` is called by one thread (the queue's dispatcher for this executor); `cancel`, `health` and `stop` by any.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from backend.contract.errors import Failure
from backend.contract.messages import JobRequest, SystemInfo, from_json, to_json
from backend.jobs.failures import WORKER_DIED, failure_from
from backend.jobs.pipe import MessagePipe
from backend.systems import registry

logger = logging.getLogger(__name__)

HARD_STOP_SECONDS = 10.0
"""How long a job may take to see its cancel (checked each sampler step) before its worker is killed."""

STOP_SECONDS = 1.5
"""How long a worker gets to end by itself; the whole backend has five seconds."""

DESCRIBE_SECONDS = 60.0
"""Importing torch from a cold disk takes up to half a minute on the slowest machines we saw."""

DESCRIBE_AGAIN_SECONDS = 15.0
"""Weights may be installed while we run; asking more often would keep a core busy with imports."""

SOURCE_ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package `backend`: workers start there."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `state` is done, failed or cancelled."""

    state: str
    failure: Failure | None = None


class Executor(Protocol):
    """Something that runs one job at a time on one device."""

    device: str

    def run(self, job: JobRequest, listener: Callable[[dict[str, Any]], None]) -> Outcome:
        """Run `job` to its end, telling `listener` of each stage, step, message, preview and artifact."""
        ...

    def cancel(self, job_id: str) -> None:
        """Ask a job that runs, or is about to, to stop."""
        ...

    def health(self) -> str:
        """One of stopped, starting, idle, busy."""
        ...

    def systems(self) -> list[SystemInfo]:
        """What can run here."""
        ...

    def stop(self) -> None:
        """End now, whatever runs."""
        ...


class LocalExecutor:
    """A worker process of this machine, started on first need and again after each death."""

    def __init__(self, data: Path, device: str) -> None:
        self.device = device
        self._data = data
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: MessagePipe | None = None
        self._ready = False
        self._stopped = False
        self._job_id = ""
        self._cancelled = False
        self._early_cancels: set[str] = set()
        self._hard_stop: threading.Timer | None = None
        self._systems: list[SystemInfo] = []
        self._describing = threading.Lock()
        self._describe_at = 0.0

    def run(self, job: JobRequest, listener: Callable[[dict[str, Any]], None]) -> Outcome:
        """Run `job` in the worker; a dead worker is replaced first, one that dies at work is an `internal` failure.

        A worker can be dying while it still takes messages: one that never took the job is replaced, too, once.
        """
        with self._lock:
            self._job_id, self._cancelled = job.job_id, False
            if job.job_id in self._early_cancels:
                self._early_cancels.discard(job.job_id)
                self._job_id = ""
                return Outcome("cancelled")
        try:
            outcome = self._attempt(job, listener)
            if outcome is None:
                self._kill()
                logger.info("job %s was never taken; another worker gets it", job.job_id)
                outcome = self._attempt(job, listener) or self._died()
        except Exception:
            # The listener could not record what happened: the worker's state is unknown, so it goes.
            self._kill()
            raise
        finally:
            with self._lock:
                self._job_id = ""
                if self._hard_stop:
                    self._hard_stop.cancel()
                    self._hard_stop = None
        return outcome

    def cancel(self, job_id: str) -> None:
        """Set the worker's cancel flag; kill the worker at once while it still starts, else after ten seconds."""
        with self._lock:
            if job_id != self._job_id:
                self._early_cancels.add(job_id)  # its run is about to begin
                return
            if self._cancelled:
                return
            self._cancelled = True
            pipe, ready = self._pipe, self._ready
            if ready:
                self._hard_stop = threading.Timer(HARD_STOP_SECONDS, self._kill)
                self._hard_stop.daemon = True
                self._hard_stop.start()
        if not ready:
            self._kill()  # nothing is loaded yet, so nothing is lost
        elif pipe:
            try:
                pipe.send({"type": "cancel", "job_id": job_id})
            except OSError:
                logger.info("the worker was gone before its cancel")

    def health(self) -> str:
        """One of stopped, starting, idle, busy."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                return "stopped"
            if not self._ready:
                return "starting"
            return "busy" if self._job_id else "idle"

    def systems(self) -> list[SystemInfo]:
        """Ask a short-lived process: describing a system imports torch, which the server never does.

        The answer holds while all systems are ready; else it is asked again after `DESCRIBE_AGAIN_SECONDS`.
        """
        with self._describing:
            now = time.monotonic()
            if not self._systems or (now >= self._describe_at and not all(info.ready for info in self._systems)):
                self._systems = self._describe()
                self._describe_at = now + DESCRIBE_AGAIN_SECONDS
            return self._systems

    def stop(self) -> None:
        """Close the worker's input, then kill it if it does not end by itself."""
        with self._lock:
            self._stopped = True
            process = self._process
        if process is None or process.stdin is None:
            return
        try:
            process.stdin.close()
        except OSError:
            logger.info("the worker's input was closed already")
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()

    def _attempt(self, job: JobRequest, listener: Callable[[dict[str, Any]], None]) -> Outcome | None:
        """How `job` ended in one worker; None if that died, or was not to be had, before it took the job."""
        try:
            pipe = self._start()
            pipe.send({"type": "run", "job": to_json(job)})
        except BrokenPipeError:
            return None
        return self._follow(job.job_id, pipe, listener)

    def _start(self) -> MessagePipe:
        with self._lock:
            if self._stopped or self._cancelled:
                raise BrokenPipeError("no worker is wanted")
            if self._process is not None and self._process.poll() is None and self._pipe is not None:
                return self._pipe
            self._ready = False
            self._process = subprocess.Popen(
                self._command(), cwd=SOURCE_ROOT, env=worker_environment(), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
            assert self._process.stdin is not None and self._process.stdout is not None
            self._pipe = MessagePipe(self._process.stdout, self._process.stdin)
            logger.info("worker %d started for %s", self._process.pid, self.device)
            return self._pipe

    def _follow(self, job_id: str, pipe: MessagePipe, listener: Callable[[dict[str, Any]], None]) -> Outcome | None:
        taken = False
        while (message := pipe.receive()) is not None:
            kind = message["type"]
            if kind == "ready":
                with self._lock:
                    self._ready = True
                    late = self._cancelled  # it arrived while the worker was about to be killed for it
                if late:
                    self._kill()
            elif message["job_id"] != job_id:
                logger.warning("the worker spoke of job %s while %s runs", message["job_id"], job_id)
            elif kind == "taken":
                taken = True
            elif kind == "finished":
                return Outcome("done")
            elif kind == "cancelled":
                return Outcome("cancelled")
            elif kind == "failed":
                return Outcome("failed", from_json(Failure, message["failure"]))
            else:
                listener(message)
        return self._died() if taken else None

    def _died(self) -> Outcome:
        code = self._kill()
        with self._lock:
            cancelled = self._cancelled
        if cancelled:
            return Outcome("cancelled")
        logger.error("the worker for %s died with exit code %s", self.device, code)
        return Outcome("failed", Failure("internal", WORKER_DIED, f"worker exit code {code}", "retry"))

    def _kill(self) -> int | None:
        with self._lock:
            process, self._ready = self._process, False
        if process is None:
            return None
        process.kill()
        return process.wait()

    def _describe(self) -> list[SystemInfo]:
        try:
            done = subprocess.run(
                [*self._command(), "--describe"], cwd=SOURCE_ROOT, env=worker_environment(), check=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=DESCRIBE_SECONDS,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
            return [from_json(SystemInfo, info) for info in json.loads(done.stdout)]
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            logger.exception("the engines could not be described")
            missing = failure_from(error).message
            return [SystemInfo(name, name, (), (), False, missing) for name in registry.system_names()]

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "backend.jobs.worker", "--data", str(self._data), "--device", self.device]


def worker_environment() -> dict[str, str]:
    """Our environment without what could make the worker import foreign code."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")}
    return environment | {"PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}
