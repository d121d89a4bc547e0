"""A system's configurations: one JSON file each, which holds every size and switch of its networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backend.contract.errors import MaquetteError


def read_configuration(folder: Path, config: str, title: str) -> dict[str, Any]:
    """`config`.json in the system's `folder` (mini or full), or any JSON file. title: the system's, for the error.

    Errors: `MaquetteError` bad_input.
    """
    path = folder / f"{config}.json"
    if not path.exists():
        path = Path(config)
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaquetteError(
            "bad_input", f"There is no {title} configuration {config!r}; use mini or full.", detail=str(error)
        ) from error
    return loaded
