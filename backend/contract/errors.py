"""Failures as both processes see them: a code, a sentence for an artist, detail for a report, a next step.

The codes are the closed list of DESIGN.md. Code that meets a failure it can explain raises `MaquetteError`; the
three borders (operator, route, worker) turn it into a `Failure` message. Everything else becomes `internal` there.
"""

from __future__ import annotations

from dataclasses import dataclass

CODES = (
    "out_of_memory",
    "model_missing",
    "licence_required",
    "offline",
    "bad_input",
    "disk_full",
    "driver",
    "timeout",
    "cancelled",
    "internal",
)

NEXT_STEPS = (
    "",
    "choose_image",
    "give_mask",
    "retry",
    "free_disk",
    "set_up",
    "open_log",
    "install_model",
    "lower_settings",
)
"""What the interface can offer as a button beside the sentence; the empty string offers nothing."""


@dataclass(frozen=True)
class Failure:
    """One failure as it travels: `message` is shown, `detail` goes into the report."""

    code: str
    message: str
    detail: str = ""
    next_step: str = ""

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"unknown failure code {self.code!r}")
        if self.next_step not in NEXT_STEPS:
            raise ValueError(f"unknown next step {self.next_step!r}")


class MaquetteError(Exception):
    """A failure with an explanation. `str(error)` is the sentence for the artist."""

    def __init__(self, code: str, message: str, detail: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.failure = Failure(code, message, detail, next_step)

    @property
    def code(self) -> str:
        return self.failure.code


class Cancelled(MaquetteError):
    """Raised inside a system by `Hooks.check_cancelled` once the user has pressed Cancel."""

    def __init__(self) -> None:
        super().__init__("cancelled", "The job was cancelled.")
