"""What a system is: named inputs in, named artifacts out, stages and steps told on the way.

A system runs in a worker process, on the command line and in tests alike; it knows neither HTTP nor Blender.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from backend.contract.errors import Cancelled
from backend.contract.messages import SystemInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArtifactData:
    """A file a system made: its name, its bytes and its media type."""

    name: str
    data: bytes
    media_type: str


@dataclass(frozen=True)
class RunResult:
    """What a run returns: `artifacts` in the order they are to be shown, `report` as plain JSON values."""

    artifacts: tuple[ArtifactData, ...]
    report: dict[str, Any] = field(default_factory=dict)


class Hooks:
    """How a running system talks to whoever started it. The base class times stages and listens to nobody.

    A subclass overrides the `on_*` methods and `cancelled`.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stage = ""
        self._since = 0.0

    def stage(self, name: str) -> None:
        """Enter the stage `name`; the time of the one before is booked in `seconds`."""
        self.check_cancelled()
        self.finish()
        self._stage, self._since = name, time.perf_counter()
        self.on_stage(name)

    def step(self, index: int, count: int) -> None:
        """Say that step `index` of `count` (1-based) of the present stage is done. Errors: `Cancelled`."""
        self.check_cancelled()
        self.on_step(self._stage, index, count)

    def preview(self, png: bytes) -> None:
        """Show a picture of the work so far."""
        self.on_preview(png)

    def wants_preview(self) -> bool:
        """Whether one would be shown now: ask before making a costly one."""
        return type(self).on_preview is not Hooks.on_preview

    def message(self, text: str) -> None:
        """Say one sentence that the artist should read."""
        self.on_message(text)

    def finish(self) -> None:
        """Close the present stage and book its time."""
        if self._stage:
            self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + time.perf_counter() - self._since
            self._stage = ""

    def check_cancelled(self) -> None:
        """Errors: `Cancelled` once the user has asked for it."""
        if self.cancelled():
            raise Cancelled

    def cancelled(self) -> bool:
        """Whether the user wants this run to stop."""
        return False

    def on_stage(self, name: str) -> None:
        """A stage begins."""
        logger.info("stage %s", name)

    def on_step(self, stage: str, index: int, count: int) -> None:
        """A step of `stage` is done."""

    def on_preview(self, png: bytes) -> None:
        """A picture of the work so far is there."""

    def on_message(self, text: str) -> None:
        """There is something to say."""
        logger.info("%s", text)


class System(Protocol):
    """One published system. `name` is its key on the wire; `stages` are its stage names in order."""

    name: str
    title: str
    tasks: tuple[str, ...]
    stages: tuple[str, ...]

    def info(self) -> SystemInfo:
        """What the panel shows: cheap, loads nothing."""
        ...

    def run(self, task: str, inputs: dict[str, bytes], parameters: dict[str, Any], hooks: Hooks) -> RunResult:
        """Do the work. Loads the networks on first use and keeps them.

        Errors: `MaquetteError` with a code and a sentence; anything else is a defect and is reported as `internal`.
        """
        ...
