"""Crashes, full and read-only disks, parents that leave: what must be left afterwards, and what must not."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.contract.errors import MaquetteError
from backend.jobs import blob_store
from backend.server.serve import parse_greeting
from tests.backend.backend_process import (
    ROOT,
    TOKEN,
    WAIT_SECONDS,
    BackendProcess,
    start_process,
    wait_until_gone,
)

GREETING = json.dumps({"token": TOKEN, "parent_pid": 0}).encode() + b"\n"
LAST_SECONDS = 5.0
"""No process may be left this long after its parent."""


def busy_backend(start: Callable[..., BackendProcess]) -> tuple[BackendProcess, str, list[int]]:
    """A backend in the middle of a job, the job, and the processes to look for later."""
    backend = start()
    job_id = backend.submit(steps=2000, seconds=0.05)
    backend.wait_for_step(job_id)
    return backend, job_id, [backend.process.pid, backend.worker().pid]


def test_backend_killed_during_a_job(start_backend: Callable[..., BackendProcess]) -> None:
    backend, job_id, pids = busy_backend(start_backend)
    waiting = backend.submit()
    backend.kill()
    assert not wait_until_gone(pids, LAST_SECONDS), "the worker outlived its backend"
    again = start_backend()
    failure = again.wait(job_id, "failed").failure
    assert failure is not None
    assert (failure.code, failure.next_step) == ("internal", "retry")
    assert again.events(f"/jobs/{job_id}/events")[-1].kind == "failed"
    again.wait(waiting, "done")


def test_backend_killed_between_done_and_applied(start_backend: Callable[..., BackendProcess]) -> None:
    backend = start_backend()
    job_id = backend.submit({"image": backend.put_blob(b"precious")})
    done = backend.wait(job_id, "done")
    events = backend.events(f"/jobs/{job_id}/events")
    backend.kill()
    again = start_backend()
    assert again.job(job_id) == done
    assert again.events(f"/jobs/{job_id}/events") == events
    assert again.call("GET", f"/blobs/{done.artifacts[0].sha256}").content == b"precious"
    assert again.call("POST", f"/jobs/{job_id}/applied").json()["applied"] is True


def test_damaged_journal_is_rebuilt_from_the_folders(
    start_backend: Callable[..., BackendProcess], tmp_path: Path
) -> None:
    backend = start_backend()
    job_id = backend.submit({"image": backend.put_blob(b"precious")})
    done = backend.wait(job_id, "done")
    backend.close()
    for path in (tmp_path / "data").glob("journal.sqlite*"):
        path.unlink()
    (tmp_path / "data" / "journal.sqlite").write_bytes(b"not a database" * 1000)
    restored = start_backend().job(job_id)
    assert (restored.state, restored.artifacts, restored.request) == (done.state, done.artifacts, done.request)


def test_end_of_input_ends_everything(start_backend: Callable[..., BackendProcess]) -> None:
    backend, job_id, pids = busy_backend(start_backend)
    stream = backend.call("GET", "/events", stream=True)  # an open stream must not hold the process
    assert backend.process.stdin is not None
    backend.process.stdin.close()
    assert not wait_until_gone(pids, LAST_SECONDS)
    assert backend.process.wait(1) == 0
    stream.close()
    failure = start_backend().job(job_id).failure
    assert failure is not None and failure.next_step == "retry"


def test_shutdown_request_and_signal(start_backend: Callable[..., BackendProcess]) -> None:
    backend, _, pids = busy_backend(start_backend)
    assert backend.call("POST", "/shutdown").status_code == 202
    assert not wait_until_gone(pids, LAST_SECONDS)
    assert backend.process.wait(1) == 0
    backend, _, pids = busy_backend(start_backend)
    backend.process.terminate()
    assert not wait_until_gone(pids, LAST_SECONDS)


def test_parent_killed(tmp_path: Path) -> None:
    """A parent that gets SIGKILL, with somebody else still holding the input open: only the kernel can tell."""
    parent_source = textwrap.dedent(f"""
        import json, os, subprocess, sys, time
        reader, writer = os.pipe()
        keeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], pass_fds=(writer,))
        child = subprocess.Popen([sys.executable, "-m", "backend", "serve", "--data", sys.argv[1]],
                                 stdin=reader, stdout=subprocess.PIPE)
        greeting = {{"token": {TOKEN!r}, "parent_pid": os.getpid()}}
        os.write(writer, json.dumps(greeting).encode() + b"\\n")
        child.stdout.readline()
        print(json.dumps([keeper.pid, child.pid]), flush=True)
        time.sleep(60)
    """)
    parent = subprocess.Popen([sys.executable, "-c", parent_source, str(tmp_path / "data")], cwd=ROOT,
                              stdout=subprocess.PIPE)  # fmt: skip
    assert parent.stdout is not None
    keeper, child = json.loads(parent.stdout.readline())
    try:
        parent.kill()
        parent.wait()
        # Without the parent-death signal (macOS) the pid check sees it within its five seconds, then the stop itself.
        patience = LAST_SECONDS if sys.platform.startswith("linux") else 2 * LAST_SECONDS
        assert not wait_until_gone([child], patience)
    finally:
        parent.stdout.close()
        os.kill(keeper, signal.SIGTERM)


def test_thread_that_started_us_may_end(tmp_path: Path) -> None:
    """The kernel's parent is a thread: when only that one ends, the backend must stay."""
    started: list[BackendProcess] = []
    thread = threading.Thread(target=lambda: started.append(BackendProcess(tmp_path / "data")))
    thread.start()
    thread.join()
    time.sleep(0.5)
    assert started[0].call("GET", "/health").status_code == 200
    started[0].close()


@pytest.mark.parametrize("line", [b"", b"{}", b'{"token": "short", "parent_pid": 1}', b"[1]", b'{"token": 5}', b"7",
                                  b"\xff", b'{"token": "' + b"0" * 64 + b'", "parent_pid": "1"}'])  # fmt: skip
def test_wrong_greeting(line: bytes) -> None:
    with pytest.raises(MaquetteError, match="greeted"):
        parse_greeting(line)


@pytest.mark.parametrize("line", [b"", b"x" * 10_000])
def test_wrong_greeting_ends_the_process(tmp_path: Path, line: bytes) -> None:
    output, status = run_to_end(tmp_path / "data", line)
    assert status == 3
    assert output["error"]["code"] == "bad_input"
    assert not (tmp_path / "data").exists()


def test_second_backend_is_refused(start_backend: Callable[..., BackendProcess], tmp_path: Path) -> None:
    first = start_backend()
    output, status = run_to_end(tmp_path / "data", GREETING)
    assert status == 3
    assert "Another Maquette backend" in output["error"]["message"]
    assert first.call("GET", "/health").status_code == 200


def test_two_backends_with_their_own_folders(
    backend: BackendProcess, start_backend: Callable[..., BackendProcess]
) -> None:
    other = start_backend()
    assert other.handshake.port != backend.handshake.port
    jobs = [(one, one.submit(steps=5, seconds=0.01)) for one in (backend, other)]
    assert [one.wait(job_id, "done").state for one, job_id in jobs] == ["done", "done"]
    assert other.call("GET", f"/jobs/{jobs[0][1]}").status_code == 404


def test_read_only_data_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(stat.S_IRUSR | stat.S_IXUSR)
    output, status = run_to_end(data, GREETING, preexec_fn=give_up_override)
    data.chmod(stat.S_IRWXU)
    assert status == 3
    assert "is read-only" in output["error"]["message"]
    assert output["error"]["next_step"] == "set_up"


def test_data_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("not a folder")
    output, status = run_to_end(tmp_path / "data", GREETING)
    assert status == 3
    assert "cannot be used" in output["error"]["message"]


def test_disk_full_during_an_upload(tmp_path: Path) -> None:
    """The real backend with a write border that has no room for anything above 100 kB (tests/fakes/full_disk.py)."""
    backend = BackendProcess(tmp_path / "data", "tests.fakes.full_disk")
    try:
        data = os.urandom(200_000)
        response = backend.call("PUT", f"/blobs/{hashlib.sha256(data).hexdigest()}", data=data)
        assert response.status_code == 507
        assert response.json()["error"]["code"] == "disk_full"
        assert response.json()["error"]["next_step"] == "free_disk"
        assert not [path for path in (tmp_path / "data" / "blobs").rglob("*") if path.is_file()]
        job_id = backend.submit({"image": backend.put_blob(b"small")})
        backend.wait(job_id, "done")
    finally:
        backend.close()


def test_upload_that_cannot_fit_is_refused_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_store, "SPARE_BYTES", 1 << 62)
    assert not blob_store.BlobStore(tmp_path).has_room(1)


def run_to_end(data: Path, line: bytes, **popen: object) -> tuple[dict[str, dict[str, str]], int]:
    """What a backend that cannot run prints, and its exit status."""
    process = start_process(data, stderr=subprocess.DEVNULL, **popen)
    output, _ = process.communicate(line, timeout=WAIT_SECONDS)
    assert output.count(b"\n") == 1
    return json.loads(output), process.returncode


def give_up_override() -> None:
    """Let folder permissions bind root too: drop CAP_DAC_OVERRIDE from what the new program may have."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
