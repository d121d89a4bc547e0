"""The parameters of a CUPID job, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from backend.contract.errors import MaquetteError
from backend.systems.cupid.known_camera import KnownCamera, parse_camera

MOST_STEPS = 200


@dataclass(frozen=True)
class Request:
    """The parameters of a job, checked. focal is the locked normalised fx of the full picture, or None.

    camera is the full picture's, in the object's frame, if it is known.
    """

    seed: int = 42
    steps: int | None = None
    weights: str = "mini"
    config: str = "mini"
    focal: float | None = None
    camera: KnownCamera | None = None


def parse_request(parameters: dict[str, Any]) -> Request:
    """Check a job's parameters. Errors: `MaquetteError` bad_input naming the parameter."""
    unknown = sorted(set(parameters) - {"seed", "steps", "weights", "config", "focal", "camera"})
    if unknown:
        raise MaquetteError("bad_input", f"CUPID has no parameter {unknown[0]!r}; remove it.")
    given = {name: value for name, value in parameters.items() if value is not None}
    for name in ("seed", "steps"):
        if name in given and (not isinstance(given[name], int) or isinstance(given[name], bool)):
            raise MaquetteError("bad_input", f"The parameter {name} must be a whole number.")
    for name in ("weights", "config"):
        if name in given and not isinstance(given[name], str):
            raise MaquetteError("bad_input", f"The parameter {name} must be a name.")
    if "camera" in given:
        if "focal" in given:
            raise MaquetteError("bad_input", "A known camera has its own focal length; leave focal out.")
        given["camera"] = parse_camera(given["camera"])
    request = Request(**given)
    if not 0 <= request.seed < 2**63:
        raise MaquetteError("bad_input", "The seed must be zero or a positive number.")
    if request.steps is not None and not 1 <= request.steps <= MOST_STEPS:
        raise MaquetteError("bad_input", f"The number of steps must be between 1 and {MOST_STEPS}.")
    if request.focal is not None:
        numeric = isinstance(request.focal, int | float) and not isinstance(request.focal, bool)
        if not numeric or not math.isfinite(request.focal) or not 0.05 <= request.focal <= 100:
            raise MaquetteError("bad_input", "The focal length must be between 0.05 and 100 picture widths.")
    return request
