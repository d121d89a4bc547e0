"""Messages between the backend and a worker: four bytes of length (big-endian), then JSON."""

from __future__ import annotations

import json
import struct
import threading
from typing import IO, Any

HEADER = struct.Struct(">I")
LIMIT_BYTES = 16 * 1024 * 1024
"""No message is nearly this long (bytes of pictures and meshes travel as files); more means a broken stream."""


class MessagePipe:
    """Two byte streams as one stream of messages each way. Any thread may send; one thread receives."""

    def __init__(self, reader: IO[bytes], writer: IO[bytes]) -> None:
        self._reader = reader
        self._writer = writer
        self._lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Write one message. Errors: OSError when the other side is gone."""
        body = json.dumps(message).encode()
        with self._lock:
            self._writer.write(HEADER.pack(len(body)) + body)
            self._writer.flush()

    def receive(self) -> dict[str, Any] | None:
        """Wait for one message; None when the other side is gone or sent nonsense."""
        header = self._read(HEADER.size)
        if header is None:
            return None
        (length,) = HEADER.unpack(header)
        if length > LIMIT_BYTES:
            return None
        body = self._read(length)
        return None if body is None else json.loads(body)

    def _read(self, count: int) -> bytes | None:
        parts, missing = [], count
        while missing:
            try:
                part = self._reader.read(missing)
            except (OSError, ValueError):  # ValueError: the stream was closed by another thread
                return None
            if not part:
                return None
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)
