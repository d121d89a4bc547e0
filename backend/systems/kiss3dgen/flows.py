"""The flows' parameters: `flows.json` is the one place, this file reads and checks it (spec sections 6 and 8).

Stage I: which bundle sampling starts from, how much of it may change, how loud a photo and the tile ControlNet are.
ISOMER: the radius of its cameras and the steps of its two stages. A file of one's own may replace the shipped one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from backend.contract.errors import MaquetteError
from backend.systems.kiss3dgen.flux.sampler import SampleSettings

FLOWS_FILE = Path(__file__).with_name("flows.json")
INITS = ("none", "template", "reference", "rendered")
"""Where sampling starts: noise, a template bundle, the reference bundle of a photo, the rendered bundle of a mesh."""
LORAS = ("image", "mesh")
VIEWS = 4
LIMITS = {
    "strength": (0.0, 1.0),
    "redux_strength": (0.0, 2.0),
    "control_scale": (0.0, 2.0),
    "control_end": (0.0, 1.0),
    "level": (0.0, 1.0),
    "lora_scale": (0.0, 2.0),
    "steps": (1, 200),
    "seed": (0, 2**63 - 1),
    "radius": (1.0, 20.0),
    "stage1_steps": (0, 2000),
    "stage2_steps": (0, 2000),
    "fov_degrees": (1.0, 120.0),
}


@dataclass(frozen=True)
class StageOneFlow:
    """One row of section 6. redux_strength None: no photo tokens. control_scale 0: no ControlNet.

    level: of small weights, the noise that the row's strength stands for, left in one step (None: the row's steps).
    """

    init: str
    strength: float
    lora: str
    steps: int
    seed: int
    lora_scale: float
    redux_strength: float | None = None
    control_scale: float = 0.0
    control_end: float = 1.0
    level: float | None = None

    @property
    def needs_photo(self) -> bool:
        """Whether a photo speaks through Redux."""
        return self.redux_strength is not None

    @property
    def needs_control(self) -> bool:
        """Whether the tile ControlNet is used."""
        return self.control_scale > 0

    def settings(self, steps: int | None = None, strength: float | None = None) -> SampleSettings:
        """For the sampler; `steps` and `strength` replace the flow's own."""
        wanted = self.strength if strength is None else strength
        return SampleSettings(
            steps=steps or self.steps,
            strength=wanted,
            level=None if self.level is None else min(1.0, self.level * wanted / self.strength),
            redux_strength=1.0 if self.redux_strength is None else self.redux_strength,
            control_scale=self.control_scale,
            control_end=self.control_end,
            lora=self.lora,
            lora_scale=self.lora_scale,
        )


@dataclass(frozen=True)
class IsomerFlow:
    """One row of section 8. Weights a view: azimuth 0, 90, 180, 270."""

    radius: float
    stage1_steps: int
    stage2_steps: int
    geometry_weights: tuple[float, ...]
    color_weights: tuple[float, ...]
    fov_degrees: float


@dataclass(frozen=True)
class Flows:
    """Both tables by the flow's name."""

    stage1: Mapping[str, StageOneFlow]
    isomer: Mapping[str, IsomerFlow]

    def stage_one(self, name: str) -> StageOneFlow:
        """Stage I's row `name`. Errors: `MaquetteError` bad_input."""
        if name not in self.stage1:
            raise _wrong(f"there is no flow {name[:40]!r}; it has {', '.join(self.stage1)}")
        return self.stage1[name]

    def isomer_of(self, name: str) -> IsomerFlow:
        """ISOMER's row for the Stage I flow `name`; a variant without a row takes that of its first word."""
        row = self.isomer.get(name) or self.isomer.get(name.split("_")[0])
        if row is None:
            raise _wrong(f"there is no refinement for the flow {name[:40]!r}")
        return row


def read_flows(path: Path = FLOWS_FILE) -> Flows:
    """Read and check a file of flows. Errors: `MaquetteError` bad_input naming the flow and what is wrong with it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MaquetteError(
            "bad_input", f"The file of flows {path.name} cannot be read; correct it or remove it.", str(error)
        ) from error
    for table in ("common", "stage1", "isomer", "isomer_common"):
        if not isinstance(values.get(table), dict):
            raise _wrong(f"the table {table} is missing")
    stage1 = {name: _row(StageOneFlow, name, {**values["common"], **row}) for name, row in values["stage1"].items()}
    isomer = {
        name: _row(IsomerFlow, name, {**values["isomer_common"], **row}) for name, row in values["isomer"].items()
    }
    return Flows(stage1, isomer)


def _row(kind: type, name: str, values: Mapping[str, Any]) -> Any:
    known = {field.name for field in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise _wrong(f"the flow {name} has an unknown entry {key}")
        if key in LIMITS and value is not None:
            low, high = LIMITS[key]
            kinds: Any = int if isinstance(low, int) else int | float
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                raise _wrong(f"{key} of the flow {name} must be between {low} and {high}")
    for key, allowed in (("init", INITS), ("lora", LORAS)):
        if key in values and values[key] not in allowed:
            raise _wrong(f"{key} of the flow {name} must be one of {', '.join(allowed)}")
    checked = dict(values)
    for key in ("geometry_weights", "color_weights"):
        if key in checked:
            weights = checked[key]
            right = isinstance(weights, list) and len(weights) == VIEWS
            if not right or not all(isinstance(weight, int | float) and weight >= 0 for weight in weights):
                raise _wrong(f"{key} of the flow {name} must be four numbers of at least 0")
            checked[key] = tuple(float(weight) for weight in weights)
    try:
        return kind(**checked)
    except TypeError as error:
        raise _wrong(f"the flow {name} lacks an entry", str(error)) from error


def _wrong(what: str, detail: str = "") -> MaquetteError:
    return MaquetteError("bad_input", f"The file of flows is not right: {what}. Correct it or remove it.", detail)
