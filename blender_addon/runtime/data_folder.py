"""One data folder for each running Blender: the first takes `data`, a second one at the same time takes `data-2`.

The claim is a lock on an open file, so that it ends with the process however that dies.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from ...backend.contract.errors import MaquetteError

MOST_BLENDERS = 16


class DataFolder:
    """A claimed folder; `release` gives it back."""

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        self.path = path
        self._lock = lock

    def release(self) -> None:
        """Give the folder back."""
        self._lock.close()


def claim_data_folder(root: Path) -> DataFolder:
    """Claim the first free data folder below `root`. Errors: `MaquetteError` when `root` cannot be written."""
    for number in range(1, MOST_BLENDERS + 1):
        path = root / ("data" if number == 1 else f"data-{number}")
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = (path / "lock").open("ab")
        except OSError as error:
            raise MaquetteError(
                "disk_full",
                f'Maquette cannot write to "{root}". Choose another data folder in the preferences.',
                repr(error),
                "set_up",
            ) from error
        if _try_lock(lock):
            return DataFolder(path, lock)
        lock.close()
    raise MaquetteError("internal", "Too many Blenders use Maquette at once. Close one of them.")


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
