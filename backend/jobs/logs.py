"""One rotating log file a process."""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOG_BYTES = 2 * 1024 * 1024
LOG_FILES = 3
"""Three files of 2 MiB hold some days of work and still fit into a report."""

FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


def log_to_file(path: Path) -> None:
    """Send this process's logging to `path` and crashes of the interpreter to standard error. Errors: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.raiseExceptions = False  # a full disk must not turn each log line into a traceback on standard error
    logging.captureWarnings(True)
    faulthandler.enable()


@contextmanager
def log_also_to(path: Path) -> Iterator[None]:
    """Send what is logged inside the context to `path` as well. Errors: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
