"""Blobs: whole, checked, or not there."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.contract.errors import MaquetteError
from backend.jobs.blob_store import BlobStore
from backend.server.bench import measure_blobs
from tests.backend.backend_process import TOKEN, WAIT_SECONDS, BackendProcess


@pytest.mark.parametrize("size", [0, 1, 1 << 20, 3_333_333])
def test_round_trip(backend: BackendProcess, size: int) -> None:
    data = os.urandom(size)
    path = f"/blobs/{hashlib.sha256(data).hexdigest()}"
    assert backend.call("PUT", path, data=data).status_code == 201
    assert backend.call("PUT", path, data=data).status_code == 200
    assert backend.call("GET", path).content == data
    assert backend.call("HEAD", path).headers["content-length"] == str(size)


def test_wrong_hash_leaves_nothing(backend: BackendProcess) -> None:
    path = "/blobs/" + "ab" * 32
    response = backend.call("PUT", path, data=b"something else")
    assert response.status_code == 422
    assert "checksum" in response.json()["error"]["message"]
    assert backend.call("GET", path).status_code == 404


@pytest.mark.parametrize("name", ["AB" * 32, "ab" * 31, "..%2f..%2fetc%2fpasswd", "ab" * 32 + "%00"])
def test_malformed_name(backend: BackendProcess, name: str) -> None:
    assert backend.call("PUT", f"/blobs/{name}", data=b"x").status_code in (404, 422)


def test_interrupted_upload_leaves_nothing(start_backend: Callable[..., BackendProcess], tmp_path: Path) -> None:
    backend = start_backend()
    with socket.create_connection(("127.0.0.1", backend.handshake.port), timeout=WAIT_SECONDS) as connection:
        head = f"PUT /blobs/{'cd' * 32} HTTP/1.1\r\nHost: 127.0.0.1:{backend.handshake.port}\r\n"
        head += f"Authorization: Bearer {TOKEN}\r\nContent-Length: 9000000\r\n\r\n"
        connection.sendall(head.encode() + bytes(4_000_000))
    deadline = time.monotonic() + WAIT_SECONDS
    while any(path.is_file() for path in (tmp_path / "data" / "blobs").rglob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert backend.call("GET", "/health").status_code == 200


def test_damaged_blob_is_refused(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    name = store.put(b"good")
    store.path(name).write_bytes(b"evil")
    with pytest.raises(MaquetteError, match="damaged"):
        store.read(name)
    assert not store.exists(name)


def test_throughput_is_measured(backend: BackendProcess) -> None:
    speeds = measure_blobs(backend.handshake.port, TOKEN, size=16 * 1024 * 1024, repeats=1)
    assert speeds.upload > 0 and speeds.download > 0
