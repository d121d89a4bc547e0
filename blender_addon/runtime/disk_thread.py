"""One thread that reads and writes files for the timer, in the order in which it was asked.

A queue and a flag are all that the main thread touches: an executor of the standard library takes several locks a task,
and on a busy machine the timer was seen to wait 10 ms for one of them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any


class Task:
    """Work for the thread; `result` is there once `done` says so."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._finished = threading.Event()
        self._answer: Any = None
        self._error: Exception | None = None

    def done(self) -> bool:
        """Whether the work has ended, well or not."""
        return self._finished.is_set()

    def result(self) -> Any:
        """What the work returned; waits for it. Errors: what the work raised."""
        self._finished.wait()
        if self._error is not None:
            raise self._error
        return self._answer

    def run(self) -> None:
        """Do the work. What it raises is kept for `result`."""
        try:
            self._answer = self._work()
        except Exception as error:  # handed to whoever asks for the result
            self._error = error
        self._finished.set()


class DiskThread:
    """Starts its thread with the first task."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], Any]) -> Task:
        """Queue `work` and return at once."""
        task = Task(work)
        self._tasks.put(task)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="maquette-disk", daemon=True)
            self._thread.start()
        return task

    def close(self) -> None:
        """Finish everything that was asked for, then end."""
        if self._thread is not None:
            self._tasks.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task.run()
