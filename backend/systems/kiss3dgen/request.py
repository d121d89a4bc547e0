"""The parameters of a Kiss3DGen job, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.systems.finishing import TEXTURE_SIZE, FinishOptions
from backend.systems.parameters import (
    bad_parameter,
    check_finish,
    check_sampling,
    given_parameters,
    is_number,
    one_of,
    require_text,
    require_truth,
    require_whole,
)

LONGEST_PROMPT = 2000  # letters
STARTS = ("hull", "sphere", "lrm")
ENHANCE, EDIT = "enhance", "edit"


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
    def purpose(self) -> str:
        """What is done to a mesh that is sent: a sentence asks for an edit; without one it is enhanced."""
        return EDIT if self.prompt.strip() else ENHANCE

    @property
    def finish(self) -> FinishOptions:
        """How the mesh is finished."""
        return FinishOptions(self.triangles, self.texture_size, self.normal_map)


def parse_request(parameters: dict[str, Any]) -> Request:
    """Check a job's parameters. Errors: `MaquetteError` bad_input naming the parameter."""
    given = given_parameters("Kiss3DGen", Request, parameters)
    require_whole(given, "seed", "steps", "triangles", "texture_size")
    require_text(given, "prompt", "weights", "config", "base", "profile", "start", "pivot")
    require_truth(given, "normal_map")
    if not is_number(given.get("strength", 0.5), 0.0, 1.0):
        raise bad_parameter("The strength must be between 0 (keep everything) and 1 (keep nothing).")
    request = Request(**given)
    check_sampling(request.seed, request.steps)
    check_finish(request.triangles, request.texture_size, request.pivot)
    one_of("start mesh", request.start, STARTS)
    if len(request.prompt) > LONGEST_PROMPT:
        raise bad_parameter(f"The prompt is longer than {LONGEST_PROMPT} letters; shorten it.")
    return request
