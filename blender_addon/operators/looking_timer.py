"""Looking at the scene one view a tick of a timer, so that the artist can go on, or cancel; then the job is sent.

`refining` and `rendering` have one timer each: they say what a view is, and how their job is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import bpy

from ...backend.contract.errors import MaquetteError
from ..runtime import pump
from ..runtime.job_store import JobRecord
from ..scene import guard

logger = logging.getLogger(__name__)

TICK_SECONDS, WAIT_SECONDS = 0.05, 0.5


class Look(Protocol):
    """Something that is being looked at; `record` is what the job will be."""

    record: JobRecord


AnyLook = TypeVar("AnyLook", bound=Look)


class LookingTimer(Generic[AnyLook]):
    """Looks at one thing at a time. `current`: that thing; `trouble`: why the last one could not be looked at."""

    def __init__(
        self, subject: str, step: Callable[[AnyLook], bool], send: Callable[[AnyLook], None],
        drop: Callable[[AnyLook], None] = lambda look: None,
    ) -> None:  # fmt: skip
        """subject: what is looked at, for sentences. step: renders the next view and says whether it was the last.
        send: sends the job. drop: takes away what was rendered when nothing is sent. step and send may raise
        `MaquetteError`.
        """
        self.subject, self._step, self._send, self._drop = subject, step, send, drop
        self.current: AnyLook | None = None
        self.trouble = ""
        self._callback = self.advance  # Blender knows a timer by the function object, and each access makes a new one

    def begin(self, make: Callable[[], AnyLook]) -> JobRecord:
        """Start to look at what `make` gives. Errors: its own, and `MaquetteError` while something is looked at."""
        if self.current is not None:
            text = f'"{self.current.record.title}" is being looked at. Wait a moment, or cancel it.'
            raise MaquetteError("bad_input", text)
        self.current, self.trouble = make(), ""
        if not bpy.app.background and not bpy.app.timers.is_registered(self._callback):
            bpy.app.timers.register(self._callback, first_interval=TICK_SECONDS, persistent=True)
        return self.current.record

    def cancel(self) -> None:
        """Stop looking; nothing was sent and nothing stays."""
        if self.current is not None:
            dropped, self.current = self.current, None
            self._drop(dropped)

    def stop(self) -> None:
        """Stop looking and take the timer away."""
        self.cancel()
        if bpy.app.timers.is_registered(self._callback):
            bpy.app.timers.unregister(self._callback)

    def advance(self) -> float | None:
        """Render the next view, after the last one send the job. Returns the seconds until the next call, None at the
        end.

        The border of the timer: a failure is kept for the panel to show.
        """
        look = self.current
        if look is None:
            return None
        if guard.waiting_reason():
            return WAIT_SECONDS
        try:
            done = self._step(look)
            if done:
                self._send(look)
                self.current = None
        except MaquetteError as error:
            done, self.trouble = True, str(error)
        except Exception:
            logger.exception("%s could not be looked at", self.subject)
            self.trouble = f"The {self.subject} could not be looked at. Save the file, and try again after a restart."
            done = True
        if done:
            self.cancel()  # nothing is left to cancel when all went well
        pump.redraw()
        return None if done else TICK_SECONDS
