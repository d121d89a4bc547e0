"""Blobs over HTTP, streamed both ways: the disk and the hash work in a thread while the socket fills the next part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from backend.contract.errors import Failure
from backend.jobs.blob_store import BlobStore
from backend.jobs.failures import DISK_FULL
from backend.server.auth import HttpFailure, drain

PART_BYTES = 1024 * 1024
"""One hand-over between loop and thread a MiB: below, the hand-overs cost more than the bytes (measured)."""


async def receive_blob(store: BlobStore, sha256: str, request: Request) -> bool:
    """Store the body of `request` as `sha256`; False when it was here already (the body is read and dropped).

    Errors: `MaquetteError` bad_input on a wrong hash, OSError, `HttpFailure` 507 when it cannot fit.
    """
    if store.exists(sha256):
        async for _ in request.stream():
            pass
        return False
    announced = int(request.headers.get("content-length", 0))
    if not store.has_room(announced):
        await drain(request.receive)
        raise HttpFailure(507, Failure("disk_full", DISK_FULL, f"{announced} bytes", "free_disk"))
    try:
        await _write_body(store, sha256, request)
    except OSError:
        await drain(request.receive)
        raise
    return True


async def _write_body(store: BlobStore, sha256: str, request: Request) -> None:
    loop = asyncio.get_running_loop()
    with store.writer(sha256) as writer:
        pending: asyncio.Future[None] | None = None
        part = bytearray()
        try:
            async for chunk in request.stream():
                part += chunk
                if len(part) >= PART_BYTES:
                    if pending is not None:
                        await pending
                    pending = loop.run_in_executor(None, writer.write, part)
                    part = bytearray()
        finally:
            if pending is not None:
                await pending
        writer.write(part)
        await run_in_threadpool(writer.commit)


async def send_blob(path: Path) -> AsyncIterator[bytes]:
    """The bytes of the file at `path`, a MiB at a time, reading one part ahead. Errors: OSError."""
    loop = asyncio.get_running_loop()
    with open(path, "rb", buffering=0) as stream:
        ahead = loop.run_in_executor(None, stream.read, PART_BYTES)
        while part := await ahead:
            ahead = loop.run_in_executor(None, stream.read, PART_BYTES)
            yield part
