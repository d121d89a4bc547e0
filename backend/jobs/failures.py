"""Exceptions as `Failure` messages: the translation used at the route border and at the worker border."""

from __future__ import annotations

import errno
import sqlite3
import traceback

from backend.contract.errors import Failure, MaquetteError

DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
DETAIL_LIMIT = 8000
"""Characters of a traceback kept in a failure: enough for a report, small enough for an event."""

WORKER_DIED = "The worker stopped unexpectedly. Press Retry to run the job again."
BACKEND_DIED = "The backend stopped while this job was running. Press Retry to run it again."
DISK_FULL = "The disk is full. Free some space and press Retry."
OUT_OF_MEMORY = "There is not enough memory for this job. Lower the settings or close other programs, then retry."
UNEXPECTED = "Something went wrong inside the backend. Press Retry, or open the log to report it."


def failure_from(error: BaseException) -> Failure:
    """The failure that `error` stands for; a defect becomes `internal` with its traceback as detail."""
    if isinstance(error, MaquetteError):
        return error.failure
    detail = "".join(traceback.format_exception(error))[-DETAIL_LIMIT:]
    if is_disk_full(error):
        return Failure("disk_full", DISK_FULL, detail, "free_disk")
    if is_out_of_memory(error):
        return Failure("out_of_memory", OUT_OF_MEMORY, detail, "lower_settings")
    return Failure("internal", UNEXPECTED, detail, "retry")


def is_disk_full(error: BaseException) -> bool:
    """Whether `error` says that no byte more can be written."""
    if isinstance(error, OSError):
        return error.errno in DISK_ERRNOS
    # SQLite's own text for SQLITE_FULL; a full disk under the write-ahead log may also surface as an I/O error.
    return isinstance(error, sqlite3.OperationalError) and ("is full" in str(error) or "disk I/O" in str(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on a device. Torch is recognised by name: the server never imports it."""
    if isinstance(error, MemoryError) or any(c.__name__ == "OutOfMemoryError" for c in type(error).__mro__):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # torch's CPU allocator raises a plain RuntimeError with this text.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
