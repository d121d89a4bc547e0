"""Which networks RefAny3D has, with which numbers, and everything of it that is not a network.

One implementation serves the published sizes (`configs/full.json`), ours (`configs/mini.json`) and a middle size with
random weights for measuring (`configs/mid.json`). The networks are described as Kiss3DGen's are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.contract.errors import MaquetteError

from .lora import RANK

CONFIG_FOLDER = Path(__file__).with_name("configs")


@dataclass(frozen=True)
class Settings:
    """Everything that is not a network.

    size: side of pictures, views and point maps in pixels. views: that the weights were trained with; fewer work.
    text: "clip_t5" or "minilm", with `text_tokens` at most. steps: of sampling.
    guidance: the distilled one, or by words where the transformer has no guidance embedder. condition_guidance: told to
    the views. image_guidance: towards the views, 1 for none. dynamic: whether the schedule shifts with the size.
    rank: of both LoRAs. points: False for weights without point maps. independent: views look at themselves only, so
    that they can be kept from step to step; not equal to the published model. shared_positions: all views stand in the
    same place. shift: columns from the picture to the views; None takes minus the width.
    """

    size: int
    views: int
    text: str
    text_tokens: int
    steps: int
    guidance: float
    image_guidance: float
    condition_guidance: float = 1.0
    dynamic: bool = True
    rank: int = RANK
    points: bool = True
    independent: bool = False
    shared_positions: bool = True
    shift: int | None = None


def read_config(config: str) -> dict[str, Any]:
    """The configuration `mini`, `mid` or `full`, or a JSON file. Errors: `MaquetteError` bad_input."""
    path = CONFIG_FOLDER / f"{config}.json"
    if not path.exists():
        path = Path(config)
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaquetteError(
            "bad_input", f"There is no RefAny3D configuration {config!r}; use mini or full.", detail=str(error)
        ) from error
    return loaded


def read_settings(config: Mapping[str, Any]) -> Settings:
    """The part "settings" of a configuration. Errors: `MaquetteError` bad_input."""
    try:
        return Settings(**config["settings"])
    except (KeyError, TypeError) as error:
        raise MaquetteError(
            "bad_input", "The settings of this configuration do not fit this version; use mini or full.", str(error)
        ) from error
