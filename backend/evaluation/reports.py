"""How an evaluation leaves what it found: a report as JSON, its summary in the log, a picture beside it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from PIL import Image

logger = logging.getLogger(__name__)


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write `report` to `path`, whose folder is made: what is there is kept if a long evaluation is stopped later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1), encoding="utf-8")


def save_report(path: Path, report: dict[str, Any]) -> None:
    """Write a finished `report` to `path`, and its `summary` to the log."""
    write_report(path, report)
    logger.info("summary: %s", json.dumps(report["summary"]))


def save_sheet(path: Path, sheet: Image.Image) -> None:
    """Write `sheet` to `path`, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
