"""Files that are whole or absent: written beside their place, synced, then renamed (DESIGN.md, decision 4)."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".part"


def temporary_path(folder: Path) -> Path:
    """A fresh name in `folder` for a file that is still being written."""
    return folder / f"{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that after any crash the file is either whole or not there. Errors: OSError."""
    temporary = temporary_path(path.parent)
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            sync_file(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_file` for a JSON value."""
    write_file(path, json.dumps(value, indent=1).encode())


def sync_file(descriptor: int) -> None:
    """Return once the bytes of an open file are on the disk."""
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable. Windows has no such call; there the rename itself is journalled."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> int:
    """Delete files that were being written when an earlier process died; returns how many."""
    leftovers = list(folder.rglob(f"*{TEMPORARY_SUFFIX}"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)
