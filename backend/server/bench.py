"""How fast blobs travel over the loopback socket, for `build.py bench`. Standard library only on the client's side.

`python -m backend.server.bench` starts a backend over a temporary folder and prints one JSON line.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

SIZE = 128 * 1024 * 1024
"""Bytes a transfer: about the largest mesh with textures; long enough that the start of a transfer does not count."""

CHUNK = 1024 * 1024
TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class BlobSpeeds:
    """The best of some repeats, in MB/s (10^6 bytes a second); `disk` is a synced write without any socket."""

    upload: float
    download: float
    disk: float


def measure_blobs(port: int, token: str, size: int = SIZE, repeats: int = 3) -> BlobSpeeds:
    """Speeds of a backend that listens on `port`, each way, checked for equality. Errors: RuntimeError, OSError."""
    upload, download, disk = [], [], []
    for _ in range(repeats):
        data = random.randbytes(size)
        path = f"/blobs/{hashlib.sha256(data).hexdigest()}"
        disk.append(_seconds_to_disk(data))
        started = time.perf_counter()
        _request(port, token, "PUT", path, data, 201)
        upload.append(time.perf_counter() - started)
        started = time.perf_counter()
        received = _request(port, token, "GET", path, None, 200)
        download.append(time.perf_counter() - started)
        if received != data:
            raise RuntimeError("the blob came back changed")
    return BlobSpeeds(*(round(size / min(seconds) / 1e6, 1) for seconds in (upload, download, disk)))


def _request(port: int, token: str, method: str, path: str, body: bytes | None, status: int) -> bytearray:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS, blocksize=CHUNK)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        if response.status != status:
            raise RuntimeError(f"{method} answered {response.status}: {response.read(500)!r}")
        received = bytearray(response.length or 0)
        view, filled = memoryview(received), 0
        while filled < len(received) and (count := response.readinto(view[filled : filled + CHUNK])):
            filled += count
        return received
    finally:
        connection.close()


def _seconds_to_disk(data: bytes) -> float:
    with tempfile.NamedTemporaryFile() as stream:
        started = time.perf_counter()
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
        return time.perf_counter() - started


def measure_fresh_backend(size: int = SIZE, repeats: int = 3) -> BlobSpeeds:
    """`measure_blobs` of a backend of its own over a temporary folder."""
    token = secrets.token_hex(32)
    with tempfile.TemporaryDirectory() as data:
        process = subprocess.Popen(
            [sys.executable, "-m", "backend", "serve", "--data", data], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, cwd=Path(__file__).resolve().parents[2],
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"token": token, "parent_pid": os.getpid()}).encode() + b"\n")
            process.stdin.flush()
            return measure_blobs(json.loads(process.stdout.readline())["port"], token, size, repeats)
        finally:
            process.stdin.close()
            process.wait(10)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(measure_fresh_backend())) + "\n")
