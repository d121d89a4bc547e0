"""The parameters of a Kiss3DGen job, checked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from backend.contract.errors import MaquetteError
from backend.systems.finishing import PIVOTS, TEXTURE_SIZE, FinishOptions

MOST_STEPS = 200
LONGEST_PROMPT = 2000  # letters
LEAST_TRIANGLES, MOST_TRIANGLES = 100, 2_000_000
LEAST_TEXTURE, MOST_TEXTURE = 256, 4096
STARTS = ("hull", "sphere", "lrm")
_WHOLE = ("seed", "steps", "triangles", "texture_size")
_TEXTS = ("prompt", "weights", "config", "base", "profile", "start", "pivot")


@dataclass(frozen=True)
class Request:
    """The parameters of a job, checked.

    prompt: what to make, or what to make of a mesh; "" where a photo or a mesh says it. steps: of the Heun schedule,
    None what the weights are made for. strength: how much of a mesh's bundle may change, None the flow's own.
    base: the Flux model that published weights build on. start: the mesh that is refined, None the flow's own.
    """

    prompt: str = ""
    seed: int = 42
    steps: int | None = None
    strength: float | None = None
    weights: str = "mini"
    config: str = "mini"
    base: str = "dev"
    profile: str | None = None
    start: str | None = None
    triangles: int | None = None
    texture_size: int = TEXTURE_SIZE
    normal_map: bool = False
    pivot: str = "cube"

    @property
    def finish(self) -> FinishOptions:
        """How the mesh is finished."""
        return FinishOptions(self.triangles, self.texture_size, self.normal_map)


def parse_request(parameters: dict[str, Any]) -> Request:
    """Check a job's parameters. Errors: `MaquetteError` bad_input naming the parameter."""
    unknown = sorted(set(parameters) - {field.name for field in fields(Request)})
    if unknown:
        raise MaquetteError("bad_input", f"Kiss3DGen has no parameter {unknown[0]!r}; remove it.")
    given = {name: value for name, value in parameters.items() if value is not None}
    if given.get("steps") == 0 and given["steps"] is not False:
        del given["steps"]
    for name in _WHOLE:
        if name in given and (not isinstance(given[name], int) or isinstance(given[name], bool)):
            raise MaquetteError("bad_input", f"The parameter {name} must be a whole number.")
    for name in _TEXTS:
        if not isinstance(given.get(name, ""), str):
            raise MaquetteError("bad_input", f"The parameter {name} must be a text.")
    if not isinstance(given.get("normal_map", False), bool):
        raise MaquetteError("bad_input", "The parameter normal_map must be true or false.")
    strength = given.get("strength", 0.5)
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0.0 <= strength <= 1.0:
        raise MaquetteError("bad_input", "The strength must be between 0 (keep everything) and 1 (keep nothing).")
    request = Request(**given)
    _within("seed", request.seed, 0, 2**63 - 1)
    _within("steps", request.steps, 1, MOST_STEPS)
    _within("triangles", request.triangles, LEAST_TRIANGLES, MOST_TRIANGLES)
    _within("texture_size", request.texture_size, LEAST_TEXTURE, MOST_TEXTURE)
    if len(request.prompt) > LONGEST_PROMPT:
        raise MaquetteError("bad_input", f"The prompt is longer than {LONGEST_PROMPT} letters; shorten it.")
    if request.pivot not in PIVOTS:
        raise MaquetteError("bad_input", f"The pivot must be one of {', '.join(PIVOTS)}.")
    if request.start is not None and request.start not in STARTS:
        raise MaquetteError("bad_input", f"The start mesh must be one of {', '.join(STARTS)}.")
    return request


def _within(name: str, value: int | None, low: int, high: int) -> None:
    if value is not None and not low <= value <= high:
        raise MaquetteError("bad_input", f"The parameter {name} must be between {low} and {high:,}.")
