"""The worker process: holds the models of one device and runs one job at a time.

`python -m backend.jobs.worker --data DIR --device cpu` speaks `backend.jobs.pipe` on its standard streams:
in  {"type": "run", "job": JobRequest}, {"type": "cancel", "job_id"}; end of input ends the process.
out {"type": "ready"}, then for each job taken, stage, step, message, preview, artifact, and at last finished, failed
or cancelled.

Two threads: the main one runs systems, the other reads messages, so that a cancel is seen while a job runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from backend.contract.errors import Cancelled, MaquetteError
from backend.contract.messages import Artifact, JobRequest, SystemInfo, from_json, to_json
from backend.jobs import files, lifeline
from backend.jobs.blob_store import BlobStore
from backend.jobs.failures import failure_from
from backend.jobs.logs import log_also_to, log_to_file
from backend.jobs.pipe import MessagePipe
from backend.systems import registry
from backend.systems.base import ArtifactData, Hooks

logger = logging.getLogger(__name__)

PREVIEW_SECONDS = 0.5
"""At most two previews a second: more is noise for the artist and work for the disk."""


class WorkerHooks(Hooks):
    """Hooks that tell the backend and listen to its cancel."""

    def __init__(self, worker: Worker, job: JobRequest, stages: tuple[str, ...]) -> None:
        super().__init__()
        self._worker = worker
        self._job = job
        self._stages = stages
        self._preview_time = 0.0

    def cancelled(self) -> bool:
        """Whether a cancel for this job has arrived."""
        return self._job.job_id in self._worker.cancelled

    def on_stage(self, name: str) -> None:
        """Forward the stage; its fraction is its place among the system's stages."""
        super().on_stage(name)
        self._send("stage", stage=name, fraction=self._fraction(name, 0.0))

    def on_step(self, stage: str, index: int, count: int) -> None:
        """Forward the step."""
        fraction = self._fraction(stage, index / max(count, 1))
        self._send("step", stage=stage, step=index, steps=count, fraction=fraction)

    def on_message(self, text: str) -> None:
        """Forward the sentence."""
        super().on_message(text)
        self._send("message", text=text)

    def wants_preview(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._preview_time >= PREVIEW_SECONDS

    def on_preview(self, png: bytes) -> None:
        """Store and forward the picture, unless the last one is too young or the disk will not take it."""
        if self.wants_preview():
            self._preview_time = time.monotonic()
            try:
                sha256 = self._worker.blobs.put(png)
            except OSError as error:
                logger.warning("no preview: %s", error)
                return
            self._send("preview", artifact=to_json(Artifact("preview.png", sha256, len(png), "image/png")))

    def _fraction(self, stage: str, part: float) -> float:
        if stage not in self._stages:
            return 0.0
        return min(1.0, (self._stages.index(stage) + part) / len(self._stages))

    def _send(self, kind: str, **fields: Any) -> None:
        self._worker.pipe.send({"type": kind, "job_id": self._job.job_id, **fields})


class Worker:
    """The loop around the systems."""

    def __init__(self, data: Path, pipe: MessagePipe) -> None:
        self.pipe = pipe
        self.blobs = BlobStore(data / "blobs")
        self.cancelled: set[str] = set()
        self._jobs = data / "jobs"
        self._queue: queue.Queue[JobRequest] = queue.Queue()

    def run(self) -> None:
        """Serve until the backend closes our input."""
        threading.Thread(target=self._read, name="messages", daemon=True).start()
        self.pipe.send({"type": "ready"})
        while True:
            job = self._queue.get()
            self._run_job(job)
            self.cancelled.discard(job.job_id)

    def _read(self) -> None:
        while (message := self.pipe.receive()) is not None:
            if message["type"] == "run":
                self._queue.put(from_json(JobRequest, message["job"]))
            elif message["type"] == "cancel":
                self.cancelled.add(message["job_id"])
        # The backend is gone or wants us gone: whatever runs must not go on. Files are whole or absent anyway.
        os._exit(0)

    def _run_job(self, job: JobRequest) -> None:
        logger.info("job %s: %s %s", job.job_id, job.system, job.task)
        self.pipe.send({"type": "taken", "job_id": job.job_id})
        try:
            with log_also_to(self._jobs / job.job_id / "job.log"):
                self._make(job)
        except Exception as error:  # the worker border: every failure becomes a message
            failure = failure_from(error)
            if not isinstance(error, MaquetteError):
                logger.exception("job %s failed", job.job_id)
            kind = "cancelled" if isinstance(error, Cancelled) else "failed"
            self.pipe.send({"type": kind, "job_id": job.job_id, "failure": to_json(failure)})
        else:
            self.pipe.send({"type": "finished", "job_id": job.job_id})

    def _make(self, job: JobRequest) -> None:
        system = registry.get_system(job.system)
        if job.task not in system.tasks:
            raise MaquetteError("bad_input", f"{system.title} cannot do {job.task!r}. Choose another engine.")
        hooks = WorkerHooks(self, job, system.stages)
        inputs = {name: self.blobs.read(sha256) for name, sha256 in job.inputs.items()}
        result = system.run(job.task, inputs, job.parameters, hooks)
        hooks.finish()
        hooks.check_cancelled()
        artifacts = result.artifacts
        if "report.json" not in {artifact.name for artifact in artifacts}:
            report = {"seconds": hooks.seconds, **result.report}
            body = json.dumps(report, indent=1).encode()
            artifacts = (*artifacts, ArtifactData("report.json", body, "application/json"))
        for data in artifacts:
            artifact = self._store(job.job_id, data)
            self.pipe.send({"type": "artifact", "job_id": job.job_id, "artifact": to_json(artifact)})

    def _store(self, job_id: str, data: ArtifactData) -> Artifact:
        """Put an artifact into the job's folder and, as the same file where links exist, among the blobs."""
        sha256 = hashlib.sha256(data.data).hexdigest()
        artifact = Artifact(data.name, sha256, len(data.data), data.media_type)  # checks the name before the path
        path = self._jobs / job_id / "artifacts" / data.name
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_file(path, data.data)
        blob = self.blobs.path(sha256)
        if not blob.exists():
            blob.parent.mkdir(exist_ok=True)
            try:
                os.link(path, blob)
            except OSError:  # a file system without links, or another job made the same bytes just now
                self.blobs.put(data.data)
            files.sync_folder(blob.parent)
        return artifact


def main(arguments: list[str]) -> int:
    """Entry of the process; `--describe` prints the systems as one JSON line and ends."""
    parser = argparse.ArgumentParser(prog="backend.jobs.worker")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="auto", help="torch device; auto is the quickest there is")
    parser.add_argument("--describe", action="store_true")
    options = parser.parse_args(arguments)
    lifeline.request_parent_death_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    lifeline.ignore_interrupts()
    log_name = "describe.log" if options.describe else f"worker-{_plain(options.device)}.log"
    log_to_file(options.data / "logs" / log_name)
    # The real standard output is the message pipe: whatever a library prints goes to standard error instead.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if options.describe:
        output.write(json.dumps([to_json(describe(name)) for name in registry.system_names()]).encode() + b"\n")
        output.flush()
        return 0
    if options.device != "auto":  # else the system chooses, once torch is loaded
        os.environ["MAQUETTE_DEVICE"] = options.device
    # Unbuffered: a buffered reader that a thread waits in would hold its lock while the process ends.
    Worker(options.data, MessagePipe(os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0), output)).run()
    return 0


def describe(name: str) -> SystemInfo:
    """What the panel shows of a system; one that cannot be loaded is not ready and hides no other."""
    try:
        return registry.get_system(name).info()
    except Exception as error:  # the worker border again
        logger.exception("the system %s cannot be loaded", name)
        return SystemInfo(name, name, (), (), False, failure_from(error).message)


def _plain(device: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in device)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
