"""backend/jobs/failures.py, pipe.py, files.py and lifeline.py."""

from __future__ import annotations

import errno
import io
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backend.contract.errors import Cancelled, MaquetteError
from backend.jobs import files, lifeline
from backend.jobs.failures import failure_from
from backend.jobs.pipe import HEADER, MessagePipe


@pytest.mark.parametrize(("error", "code"), [
    (MaquetteError("model_missing", "No model."), "model_missing"),
    (Cancelled(), "cancelled"),
    (OSError(errno.ENOSPC, "full"), "disk_full"),
    (OSError(errno.EDQUOT, "quota"), "disk_full"),
    (sqlite3.OperationalError("database or disk is full"), "disk_full"),
    (sqlite3.OperationalError("database is locked"), "internal"),
    (MemoryError(), "out_of_memory"),
    (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
    (OSError(errno.ENOMEM, "no memory"), "out_of_memory"),
    (PermissionError(errno.EACCES, "no"), "internal"),
    (KeyError("x"), "internal"),
])  # fmt: skip
def test_codes(error: Exception, code: str) -> None:
    assert failure_from(error).code == code


def test_torch_cpu_allocator() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert failure_from(caught.value).code == "out_of_memory"


def test_pipe_round_trip_and_nonsense() -> None:
    stream = io.BytesIO()
    pipe = MessagePipe(stream, stream)
    pipe.send({"type": "step", "text": "\u00e9"})
    stream.seek(0)
    assert pipe.receive() == {"type": "step", "text": "\u00e9"}
    assert pipe.receive() is None
    assert MessagePipe(io.BytesIO(HEADER.pack(10) + b"short"), stream).receive() is None
    assert MessagePipe(io.BytesIO(b"noise noise"), stream).receive() is None


def test_file_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write_file(path, b"first")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(files, "sync_file", full)
    with pytest.raises(OSError):
        files.write_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
    files.temporary_path(tmp_path).write_bytes(b"left by a crash")
    assert files.remove_leftovers(tmp_path) == 1


def test_is_alive() -> None:
    assert lifeline.is_alive(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert not lifeline.is_alive(child.pid)
    assert not lifeline.is_alive(0)
