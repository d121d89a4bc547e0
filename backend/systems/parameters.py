"""Checks of a job's parameters that every system's `request.py` makes; each names the parameter.

Errors of everything here: `MaquetteError` bad_input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from backend.contract.errors import MaquetteError
from backend.systems.finishing import PIVOTS

MOST_SEED = 2**63 - 1  # what a torch generator takes
MOST_STEPS = 200
LEAST_TRIANGLES, MOST_TRIANGLES = 100, 2_000_000
LEAST_TEXTURE, MOST_TEXTURE = 256, 4096


def given_parameters(title: str, request: type, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that say something: without those that are None, and steps 0, the weights' own number.

    title: the system's, for the sentence about one that is no field of the dataclass `request`.
    """
    unknown = sorted(set(parameters) - {field.name for field in fields(request)})
    if unknown:
        raise bad_parameter(f"{title} has no parameter {unknown[0]!r}; remove it.")
    given = {name: value for name, value in parameters.items() if value is not None}
    if given.get("steps") == 0 and given["steps"] is not False:
        del given["steps"]
    return given


def require_whole(given: Mapping[str, Any], *names: str) -> None:
    """Those of `names` that are given are whole numbers."""
    for name in names:
        if name in given and (not isinstance(given[name], int) or isinstance(given[name], bool)):
            raise bad_parameter(f"The parameter {name} must be a whole number.")


def require_text(given: Mapping[str, Any], *names: str) -> None:
    """Those of `names` that are given are texts."""
    for name in names:
        if not isinstance(given.get(name, ""), str):
            raise bad_parameter(f"The parameter {name} must be a text.")


def require_truth(given: Mapping[str, Any], *names: str) -> None:
    """Those of `names` that are given are true or false."""
    for name in names:
        if not isinstance(given.get(name, False), bool):
            raise bad_parameter(f"The parameter {name} must be true or false.")


def is_number(value: Any, low: float, high: float) -> bool:
    """Whether `value` is a finite number between `low` and `high`."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return numeric and math.isfinite(value) and low <= value <= high


def within(name: str, value: int | None, low: int, high: int) -> None:
    """`value` is None or between `low` and `high`."""
    if value is not None and not low <= value <= high:
        raise bad_parameter(f"The {name.replace('_', ' ')} must be between {low:,} and {high:,}.")


def one_of(name: str, value: str | None, choices: Iterable[str]) -> None:
    """`value` is None or one of `choices`."""
    known = tuple(choices)
    if value is not None and value not in known:
        raise bad_parameter(f"The {name} must be one of {', '.join(known)}.")


def check_sampling(seed: int, steps: int | None) -> None:
    """What a sampler is told."""
    if not 0 <= seed <= MOST_SEED:
        raise bad_parameter("The seed must be zero or a positive number.")
    within("number of steps", steps, 1, MOST_STEPS)


def check_finish(triangles: int | None, texture_size: int, pivot: str) -> None:
    """How a mesh is finished (`finishing.FinishOptions`) and where its file has the origin."""
    within("number of triangles", triangles, LEAST_TRIANGLES, MOST_TRIANGLES)
    within("texture_size", texture_size, LEAST_TEXTURE, MOST_TEXTURE)
    one_of("pivot", pivot, PIVOTS)


def bad_parameter(sentence: str) -> MaquetteError:
    """The error for a parameter that cannot be used."""
    return MaquetteError("bad_input", sentence)
