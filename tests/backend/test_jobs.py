"""The life of a job, from request to result, cancel and failure."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from backend.contract.messages import JobRequest, SystemInfo, from_json
from backend.jobs import executors
from backend.jobs.journal import Journal
from backend.server import events
from tests.backend.backend_process import ECHO, BackendProcess, wait_until_gone


def test_systems(backend: BackendProcess) -> None:
    infos = {info["name"]: from_json(SystemInfo, info) for info in backend.call("GET", "/systems").json()["systems"]}
    assert infos["echo"].ready
    assert infos["echo"].stages == ("listen", "speak")
    assert "cupid" in infos


def test_life_of_a_job(backend: BackendProcess) -> None:
    data = os.urandom(100_000)
    job_id = backend.submit({"image": backend.put_blob(data)}, steps=4, preview=True)
    events = backend.events(f"/jobs/{job_id}/events")
    kinds = [event.kind for event in events]
    assert kinds == ["state", "state", "stage", "step", "step", "preview", "step", "step", "stage", "message",
                     "artifact", "artifact", "done"]  # fmt: skip
    assert [event.state for event in events[:2]] == ["queued", "running"]
    assert [(e.stage, e.step, e.steps, e.fraction) for e in events if e.kind == "step"][-1] == ("listen", 4, 4, 0.5)
    assert [event.sequence for event in events] == sorted({event.sequence for event in events})
    summary = backend.job(job_id)
    assert (summary.state, summary.fraction, summary.applied) == ("done", 1.0, False)
    assert summary.created <= summary.started <= summary.finished
    assert [artifact.name for artifact in summary.artifacts] == ["image.bin", "report.json"]
    assert backend.call("GET", f"/blobs/{summary.artifacts[0].sha256}").content == data
    report = backend.call("GET", f"/blobs/{summary.artifacts[1].sha256}").json()
    assert report["steps"] == 4
    assert summary.request is not None and summary.request.origin == {"scene": "Scene"}
    assert backend.call("POST", f"/jobs/{job_id}/applied").json()["applied"] is True
    assert job_id in [job["job_id"] for job in backend.call("GET", "/jobs").json()["jobs"]]


def test_same_request_makes_one_job(backend: BackendProcess) -> None:
    body = {"job_id": uuid.uuid4().hex, "system": "echo", "task": "echo"}
    assert [backend.call("POST", "/jobs", json=body).status_code for _ in range(2)] == [201, 200]
    assert backend.call("POST", "/jobs", json=body | {"parameters": {"steps": 9}}).status_code == 409


def test_events_replay_and_follow(backend: BackendProcess) -> None:
    job_id = backend.submit(steps=10, seconds=0.02)
    followed = backend.events(f"/jobs/{job_id}/events")
    assert followed[-1].kind == "done"
    assert backend.events(f"/jobs/{job_id}/events") == followed
    middle = followed[5].sequence
    assert backend.events(f"/jobs/{job_id}/events", after=middle) == followed[6:]
    assert backend.events(f"/jobs/{job_id}/events", after=followed[-1].sequence) == []


def test_stream_of_all_jobs(backend: BackendProcess) -> None:
    last = backend.events(f"/jobs/{backend.submit()}/events")[-1].sequence
    response = backend.call("GET", "/events", params={"after": last}, stream=True)
    job_id = backend.submit()
    seen = []
    for line in response.iter_lines(chunk_size=1):
        if line.startswith(b"data: "):
            event = json.loads(line[6:])
            seen.append((event["job_id"], event["kind"]))
        if seen and seen[-1][1] == "done" and job_id == seen[-1][0]:
            job_id = backend.submit()  # the stream outlives a job: it tells of the next one too
        if len([kind for _, kind in seen if kind == "done"]) == 2:
            break
    assert seen[0][1] == "state" and len({job for job, _ in seen}) == 2
    response.close()


def test_quiet_stream_says_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream's own loop, its five seconds made short."""
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.01)
    journal = Journal(tmp_path / "journal.sqlite")

    async def first_lines() -> list[bytes]:
        hub = events.EventHub(journal)
        hub.open()
        lines = []
        async for line in hub.stream(0):
            lines.append(line)
            if len(lines) == 2:
                hub.close()
        return lines

    assert asyncio.run(first_lines()) == [b": still here\n\n"] * 2
    journal.close()


@pytest.mark.parametrize(("kind", "code", "next_step"), [
    ("explained", "bad_input", "choose_image"), ("defect", "internal", "retry"),
    ("memory", "out_of_memory", "lower_settings"), ("disk", "disk_full", "free_disk"),
])  # fmt: skip
def test_failures_have_codes(backend: BackendProcess, kind: str, code: str, next_step: str) -> None:
    last = backend.events(f"/jobs/{backend.submit(fail=kind)}/events")[-1]
    assert last.kind == "failed" and last.failure is not None
    assert (last.failure.code, last.failure.next_step) == (code, next_step)
    assert last.message == last.failure.message
    assert "Traceback" not in last.message


def test_unknown_task(backend: BackendProcess) -> None:
    body = {"job_id": uuid.uuid4().hex, "system": "echo", "task": "sing"}
    assert backend.call("POST", "/jobs", json=body).status_code == 201
    failure = backend.wait(body["job_id"], "failed").failure
    assert failure is not None and failure.code == "bad_input"


def test_cancel_running_job_within_a_second(backend: BackendProcess) -> None:
    job_id = backend.submit(steps=1000, seconds=0.05)
    backend.wait_for_step(job_id)
    worker = backend.worker().pid
    started = time.monotonic()
    backend.call("DELETE", f"/jobs/{job_id}")
    backend.wait(job_id, "cancelled")
    assert time.monotonic() - started < 1.0
    assert backend.worker().pid == worker, "a polite cancel keeps the worker and its models"
    assert backend.events(f"/jobs/{job_id}/events")[-1].kind == "cancelled"


def test_cancel_queued_job(backend: BackendProcess) -> None:
    running = backend.submit(steps=1000, seconds=0.05)
    waiting = [backend.submit(), backend.submit()]
    backend.wait(running, "running")
    assert [backend.job(job_id).position for job_id in waiting] == [1, 2]
    assert backend.call("DELETE", f"/jobs/{waiting[0]}").json()["state"] == "cancelled"
    assert backend.job(waiting[1]).position == 1
    assert backend.call("DELETE", f"/jobs/{running}?forget=1").status_code == 409
    backend.call("DELETE", f"/jobs/{running}")
    backend.wait(waiting[1], "done")
    assert backend.job(running).state == "cancelled"
    assert backend.call("POST", f"/jobs/{running}/applied").status_code == 409


def test_cancel_while_the_worker_starts(start_backend: Callable[..., BackendProcess]) -> None:
    backend = start_backend()
    job_id = backend.submit(steps=1000, seconds=0.05)
    backend.wait(job_id, "running")
    started = time.monotonic()
    backend.call("DELETE", f"/jobs/{job_id}")
    backend.wait(job_id, "cancelled")
    assert time.monotonic() - started < 1.0
    backend.wait(backend.submit(), "done")


def test_forget_removes_the_files(start_backend: Callable[..., BackendProcess], tmp_path: Path) -> None:
    backend = start_backend()
    shared = backend.put_blob(b"shared")
    first, second = (backend.submit({"image": shared}, preview=True) for _ in range(2))
    backend.wait(first, "done")
    backend.wait(second, "done")
    assert backend.call("DELETE", f"/jobs/{first}?forget=1").status_code == 204
    assert backend.call("GET", f"/jobs/{first}").status_code == 404
    assert not (tmp_path / "data" / "jobs" / first).exists()
    assert backend.call("HEAD", f"/blobs/{shared}").status_code == 200
    assert backend.call("DELETE", f"/jobs/{second}?forget=1").status_code == 204
    assert not [path for path in (tmp_path / "data" / "blobs").rglob("*") if path.is_file()]


def test_killed_worker_is_replaced(backend: BackendProcess) -> None:
    job_id = backend.submit(steps=1000, seconds=0.05)
    backend.wait_for_step(job_id)
    worker = backend.worker()
    worker.kill()
    failure = backend.wait(job_id, "failed").failure
    assert failure is not None
    assert (failure.code, failure.next_step) == ("internal", "retry")
    assert failure.message.startswith("The worker stopped")
    backend.wait(backend.submit(), "done")
    assert backend.worker().pid != worker.pid


def test_crashing_worker_and_idle_death(backend: BackendProcess) -> None:
    assert backend.wait(backend.submit(fail="crash"), "failed").failure is not None
    backend.wait(backend.submit(), "done")
    worker = backend.worker()
    worker.kill()
    assert not wait_until_gone([worker.pid], 5.0)
    backend.wait(backend.submit(), "done")


def test_job_that_a_dying_worker_never_took_runs_in_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker that was killed takes messages until the system has cleared it away; here it is held just there."""
    monkeypatch.setenv("MAQUETTE_EXTRA_SYSTEMS", ECHO)
    before = psutil.Process().children()
    executor = executors.LocalExecutor(tmp_path, "cpu")
    outcomes: list[executors.Outcome] = []

    def run() -> None:
        outcomes.append(executor.run(JobRequest(uuid.uuid4().hex, "echo", "echo", {}, {}), lambda message: None))

    run()
    (worker,) = (child for child in psutil.Process().children() if child not in before)
    worker.suspend()
    thread = threading.Thread(target=run)
    thread.start()
    while executor.health() != "busy":
        time.sleep(0.01)
    time.sleep(0.3)  # let the job reach the worker's pipe
    worker.kill()
    thread.join(60)
    assert [outcome.state for outcome in outcomes] == ["done", "done"]
    executor.stop()


def test_hanging_job_is_killed_after_its_cancel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same executor without the server, its ten seconds made half a second."""
    monkeypatch.setenv("MAQUETTE_EXTRA_SYSTEMS", ECHO)
    monkeypatch.setattr(executors, "HARD_STOP_SECONDS", 0.5)
    before = psutil.Process().children()
    executor = executors.LocalExecutor(tmp_path, "cpu")
    job = JobRequest(uuid.uuid4().hex, "echo", "echo", {}, {"fail": "hang"})
    outcomes: list[executors.Outcome] = []
    inside = threading.Event()

    def run() -> None:
        outcomes.append(executor.run(job, lambda message: inside.set() if message["type"] == "stage" else None))

    thread = threading.Thread(target=run)
    thread.start()
    assert inside.wait(20)
    assert executor.health() == "busy"
    time.sleep(0.3)  # let the job go to sleep without a step to come
    executor.cancel(job.job_id)
    thread.join(10)
    assert [outcome.state for outcome in outcomes] == ["cancelled"]
    assert executor.health() == "stopped"
    executor.stop()
    assert psutil.Process().children() == before
