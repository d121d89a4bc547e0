"""The data folder of one backend: made, proven writable, locked."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import IO

from backend.contract.errors import MaquetteError
from backend.jobs import files
from backend.jobs.failures import DISK_FULL, is_disk_full
from backend.jobs.journal import Journal

logger = logging.getLogger(__name__)

SUB_FOLDERS = ("jobs", "blobs", "logs")


def open_data_folder(data: Path) -> IO[str]:
    """Make `data` with its sub-folders, prove that it can be written and lock it.

    Returns the lock: it holds until it is closed or this process ends. Errors: `MaquetteError` with the reason.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        for name in SUB_FOLDERS:
            (data / name).mkdir(exist_ok=True)
        files.write_file(data / "writable.txt", b"This folder belongs to Maquette.\n")
        lock = open(data / "backend.lock", "a+", encoding="utf-8")
    except OSError as error:
        if is_disk_full(error):
            raise MaquetteError("disk_full", DISK_FULL, str(error), "free_disk") from error
        reason = "is read-only" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "cannot be used"
        raise MaquetteError(
            "bad_input", f"The data folder {data} {reason}. Choose another folder in the preferences.", str(error),
            "set_up",
        ) from error  # fmt: skip
    try:
        _lock(lock)
    except OSError as error:
        lock.close()
        raise MaquetteError(
            "bad_input", f"Another Maquette backend already uses the data folder {data}. Give this one its own folder.",
            str(error), "set_up",
        ) from error  # fmt: skip
    return lock


def open_journal(data: Path) -> Journal:
    """The journal of `data`; a damaged one is set aside and rebuilt from the job folders by the queue's recovery.

    Errors: `MaquetteError` disk_full, `sqlite3.OperationalError`.
    """
    path = data / "journal.sqlite"
    try:
        return Journal(path)
    except sqlite3.OperationalError as error:
        if is_disk_full(error):
            raise MaquetteError("disk_full", DISK_FULL, str(error), "free_disk") from error
        raise
    except sqlite3.DatabaseError:
        logger.exception("the journal is damaged and set aside; the job list is rebuilt from the job folders")
        for suffix in ("", "-wal", "-shm"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                os.replace(part, part.with_name(f"damaged-{int(time.time())}-{part.name}"))
        return Journal(path)


def _lock(stream: IO[str]) -> None:
    """Take an exclusive lock that ends with the process. Errors: OSError when another process holds it."""
    if os.name == "nt":
        import msvcrt

        stream.seek(0)
        msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
