"""backend/jobs/journal.py and the queue above it, without processes."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.contract.errors import Failure
from backend.contract.messages import Artifact, JobEvent, JobRequest, JobSummary, SystemInfo
from backend.jobs.blob_store import BlobStore
from backend.jobs.executors import Outcome
from backend.jobs.job_queue import JobConflict, JobQueue
from backend.jobs.journal import Journal

SHA = "ab" * 32


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.sqlite")


def queued(**inputs: str) -> JobSummary:
    request = JobRequest(uuid.uuid4().hex, "cupid", "image_to_3d", inputs, {"seed": 1})
    return JobSummary(request.job_id, "queued", "cupid", "image_to_3d", created=5.0, request=request)


def test_row_keeps_everything(journal: Journal) -> None:
    told: list[JobEvent] = []
    journal.listener = told.append
    job = queued(image=SHA)
    assert journal.insert(job)
    assert not journal.insert(job)
    assert journal.start(job.job_id) and not journal.start(job.job_id)
    journal.progress(job.job_id, "step", "sample", 0.25, step=1, steps=4)
    artifact = Artifact("asset.glb", SHA, 10, "model/gltf-binary")
    journal.add_artifact(job.job_id, artifact, preview=False)
    journal.add_artifact(job.job_id, Artifact("preview.png", "cd" * 32, 3, "image/png"), preview=True)
    failure = Failure("internal", "It broke.", "why", "retry")
    assert journal.finish(job.job_id, "failed", failure) and not journal.finish(job.job_id, "done")
    summary = journal.summary(job.job_id)
    assert summary is not None
    assert (summary.state, summary.stage, summary.fraction) == ("failed", "sample", 0.25)
    assert (summary.artifacts, summary.failure, summary.request) == ((artifact,), failure, job.request)
    assert [event.kind for event in told] == ["state", "state", "step", "artifact", "preview", "failed"]
    assert journal.events(0) == told
    assert [event.sequence for event in told] == list(range(1, 7))
    assert journal.events(2, job.job_id, limit=2) == told[2:4]


def test_positions_and_order(journal: Journal) -> None:
    jobs = [queued() for _ in range(3)]
    for job in jobs:
        journal.insert(job)
    assert [summary.position for summary in journal.summaries()] == [1, 2, 3]
    assert journal.next_queued() == jobs[0].job_id
    journal.start(jobs[0].job_id)
    assert [summary.position for summary in journal.summaries("queued")] == [1, 2]
    assert (journal.count("queued"), journal.count("running")) == (2, 1)


def test_forget_keeps_what_others_need(journal: Journal) -> None:
    first, second = queued(image=SHA), queued(image=SHA, mask="ef" * 32)
    for job in (first, second):
        journal.insert(job)
        journal.add_artifact(job.job_id, Artifact("asset.glb", "cd" * 32, 10, "x/y"), preview=False)
    assert journal.forget(first.job_id) == []
    assert journal.events(0, first.job_id) == []
    assert journal.forget(second.job_id) == sorted([SHA, "cd" * 32, "ef" * 32])


def test_not_a_journal(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        Journal(tmp_path / "journal.sqlite")


class ScriptedExecutor:
    """An executor that tells what it was given and ends as it was told."""

    device = "cpu"

    def __init__(self, outcome: Outcome, messages: tuple[dict[str, Any], ...] = ()) -> None:
        self.outcome = outcome
        self.messages = messages

    def run(self, job: JobRequest, listener: Callable[[dict[str, Any]], None]) -> Outcome:
        for message in self.messages:
            listener(message)
        return self.outcome

    def cancel(self, job_id: str) -> None:
        """There is nothing to cancel."""

    def health(self) -> str:
        return "idle"

    def systems(self) -> list[SystemInfo]:
        return []

    def stop(self) -> None:
        """There is nothing to stop."""


def test_full_disk_is_told_with_the_reserve(tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = JobQueue(tmp_path, journal, BlobStore(tmp_path / "blobs"), [ScriptedExecutor(Outcome("done"))])
    jobs.start()
    reserve = tmp_path / "reserve.bin"
    assert reserve.stat().st_size == 1024 * 1024
    finish = journal.finish

    def finish_on_full_disk(*arguments: Any) -> bool:
        if reserve.exists():
            raise sqlite3.OperationalError("database or disk is full")
        return finish(*arguments)

    monkeypatch.setattr(journal, "finish", finish_on_full_disk)
    request = queued().request
    assert request is not None
    jobs.submit(request)
    while jobs.summary(request.job_id).state in ("queued", "running"):
        time.sleep(0.01)
    assert jobs.summary(request.job_id).state == "done"
    jobs.stop()
    assert reserve.exists(), "made again once there is room"


def test_conflicts(tmp_path: Path, journal: Journal) -> None:
    jobs = JobQueue(tmp_path, journal, BlobStore(tmp_path / "blobs"), [ScriptedExecutor(Outcome("done"))])
    job = queued()
    journal.insert(job)
    for action in (jobs.forget, jobs.mark_applied):
        with pytest.raises(JobConflict):
            action(job.job_id)
    with pytest.raises(KeyError):
        jobs.cancel("0" * 32)
