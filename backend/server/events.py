"""Server-sent events: replay from the journal, then follow. It is the only source, so nothing is missed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from backend.contract.messages import TERMINAL_EVENTS, JobEvent, to_json
from backend.jobs.journal import Journal

HEARTBEAT_SECONDS = 5.0
"""A comment line this often lets the add-on tell a quiet backend from a dead one."""

PAGE = 500
"""Events read from the journal at once."""


class EventHub:
    """Wakes the streams when the journal has grown. `publish` is for any thread, the rest for the loop's."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Event] = set()
        self._closed = False

    def open(self) -> None:
        """Begin to listen to the journal, on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._journal.listener = self.publish

    def close(self) -> None:
        """End all streams, so that the server can stop."""
        self._closed = True
        self._journal.listener = lambda event: None
        self._wake()

    @property
    def closed(self) -> bool:
        """Whether the server stops."""
        return self._closed

    def publish(self, event: JobEvent) -> None:
        """Tell the streams that `event` is in the journal."""
        if self._loop is not None and not self._closed:
            self._loop.call_soon_threadsafe(self._wake)

    async def stream(self, after: int, job_id: str = "") -> AsyncIterator[bytes]:
        """Events above `after` as server-sent events; a job's stream ends with the job, the stream of all never."""
        wake = asyncio.Event()
        self._waiting.add(wake)
        try:
            while not self._closed:
                wake.clear()
                finished = bool(job_id) and await run_in_threadpool(self._is_finished, job_id)
                events = await run_in_threadpool(self._journal.events, after, job_id, PAGE)
                if events:
                    after = events[-1].sequence
                    yield b"".join(encode_event(event) for event in events)
                    if job_id and events[-1].kind in TERMINAL_EVENTS:
                        return
                elif finished:
                    return  # the caller has seen the end already
                if len(events) < PAGE:
                    try:
                        await asyncio.wait_for(wake.wait(), HEARTBEAT_SECONDS)
                    except TimeoutError:
                        yield b": still here\n\n"
        finally:
            self._waiting.discard(wake)

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()

    def _is_finished(self, job_id: str) -> bool:
        """Whether no further event of this job can come (it ended, or was forgotten)."""
        summary = self._journal.summary(job_id)
        return summary is None or summary.state in TERMINAL_EVENTS


def encode_event(event: JobEvent) -> bytes:
    """One server-sent event."""
    return f"id: {event.sequence}\ndata: {json.dumps(to_json(event))}\n\n".encode()
