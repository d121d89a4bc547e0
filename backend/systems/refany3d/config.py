"""Which networks RefAny3D has, with which numbers, and everything of it that is not a network.

One implementation serves the published sizes (`configs/full.json`), ours (`configs/mini.json`) and a middle size with
random weights for measuring (`configs/mid.json`). The networks are described as Kiss3DGen's are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.contract.errors import MaquetteError
from backend.systems.configuration import read_configuration

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
    same place. shift: columns from the picture to the views; None takes minus the width. tries: pictures that are
    painted of each seed, of which the one that fits its mesh best is kept (`consistency.py`); 1 as published.
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
    tries: int = 1


def read_config(config: str) -> dict[str, Any]:
    """The configuration `mini`, `mid` or `full`, or a JSON file. Errors: `MaquetteError` bad_input."""
    return read_configuration(CONFIG_FOLDER, config, "RefAny3D")


def read_settings(config: Mapping[str, Any]) -> Settings:
    """The part "settings" of a configuration. Errors: `MaquetteError` bad_input."""
    try:
        return Settings(**config["settings"])
    except (KeyError, TypeError) as error:
        raise MaquetteError(
            "bad_input", "The settings of this configuration do not fit this version; use mini or full.", str(error)
        ) from error
