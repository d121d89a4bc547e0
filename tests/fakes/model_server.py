"""A real HTTP server over a folder, with Range, cuts and lies on demand: where models are downloaded from in tests."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """What the server holds (path without leading slash -> bytes) and how it misbehaves.

    cuts: bytes after which an answer's connection is closed, one number an answer, then none. ranges: whether it knows
    them. named: whether it names a checksum. slow: seconds between pieces of 16 KiB.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    named: str = ""
    slow: float = 0.0
    requests: list[tuple[str, str]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour
    stopping: threading.Event

    def do_GET(self) -> None:
        """One file, whole or from a byte on."""
        behaviour, path = self.behaviour, self.path.lstrip("/")
        behaviour.requests.append((path, self.headers.get("Range", "")))
        data = behaviour.files.get(path)
        if data is None:
            self.send_error(404)
            return
        start, wanted = 0, self.headers.get("Range", "")
        if wanted and behaviour.ranges:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if behaviour.named:
            self.send_header("X-Linked-Etag", f'"{behaviour.named}"')
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = start + behaviour.cuts.pop(0) if behaviour.cuts else len(data)
        for place in range(start, min(end, len(data)), 16384):
            self.wfile.write(data[place : min(place + 16384, end)])
            if behaviour.slow and self.stopping.wait(behaviour.slow):
                break

    def log_message(self, *_: object) -> None:
        """Nothing to the console."""


@contextmanager
def model_server(behaviour: Behaviour) -> Iterator[str]:
    """Serve until the context ends; yields the address."""
    stopping = threading.Event()
    handler = type("Handler", (_Handler,), {"behaviour": behaviour, "stopping": stopping})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


def sha256(data: bytes) -> str:
    """The checksum that a catalogue would record."""
    return hashlib.sha256(data).hexdigest()
