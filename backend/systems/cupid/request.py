"""The parameters of a CUPID job, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from backend.contract.errors import MaquetteError
from backend.systems.cupid.known_camera import KnownCamera, parse_camera
from backend.systems.cupid.networks import PROFILES
from backend.systems.finishing import PIVOTS, TEXTURE_SIZE, FinishOptions

MOST_STEPS = 200
LEAST_TRIANGLES, MOST_TRIANGLES = 100, 2_000_000
LEAST_TEXTURE, MOST_TEXTURE = 256, 4096
MOST_HYPOTHESES = 8  # sampled in one batch, shown side by side
MOST_NAMES, LONGEST_NAME = 12, 63  # of a scene's objects; Blender takes 63 bytes


@dataclass(frozen=True)
class Request:
    """The parameters of a job, checked. focal is the locked normalised fx of the full picture, or None.

    steps is how many a sampler takes, None as many as the weights were made for.
    camera is the full picture's, in the object's frame, if it is known. hypotheses is how many answers are handed over.
    names are what a scene's objects are called, in the masks' order.
    triangles, texture_size and normal_map are as in `FinishOptions`; splats asks for splats.ply; pivot is where the GLB
    has its origin. profile is how the networks are kept in memory (`networks.py`), None what fits.
    """

    seed: int = 42
    steps: int | None = None
    weights: str = "mini"
    config: str = "mini"
    focal: float | None = None
    camera: KnownCamera | None = None
    hypotheses: int = 1
    triangles: int | None = None
    texture_size: int = TEXTURE_SIZE
    normal_map: bool = False
    splats: bool = False
    pivot: str = "cube"
    profile: str | None = None
    names: tuple[str, ...] = ()

    @property
    def finish(self) -> FinishOptions:
        """How the mesh is finished."""
        return FinishOptions(self.triangles, self.texture_size, self.normal_map)


def parse_request(parameters: dict[str, Any]) -> Request:
    """Check a job's parameters. Errors: `MaquetteError` bad_input naming the parameter."""
    unknown = sorted(set(parameters) - {field.name for field in fields(Request)})
    if unknown:
        raise MaquetteError("bad_input", f"CUPID has no parameter {unknown[0]!r}; remove it.")
    given = {name: value for name, value in parameters.items() if value is not None}
    if given.get("steps") == 0 and given["steps"] is not False:
        del given["steps"]
    for name in ("seed", "steps", "hypotheses", "triangles", "texture_size"):
        if name in given and (not isinstance(given[name], int) or isinstance(given[name], bool)):
            raise MaquetteError("bad_input", f"The parameter {name} must be a whole number.")
    for name in ("normal_map", "splats"):
        if not isinstance(given.get(name, False), bool):
            raise MaquetteError("bad_input", f"The parameter {name} must be true or false.")
    for name in ("weights", "config", "pivot", "profile"):
        if name in given and not isinstance(given[name], str):
            raise MaquetteError("bad_input", f"The parameter {name} must be a name.")
    if "camera" in given:
        if "focal" in given:
            raise MaquetteError("bad_input", "A known camera has its own focal length; leave focal out.")
        given["camera"] = parse_camera(given["camera"])
    if "names" in given:
        given["names"] = _names(given["names"])
    request = Request(**given)
    if not 0 <= request.seed < 2**63:
        raise MaquetteError("bad_input", "The seed must be zero or a positive number.")
    if request.steps is not None and not 1 <= request.steps <= MOST_STEPS:
        raise MaquetteError("bad_input", f"The number of steps must be between 1 and {MOST_STEPS}.")
    if not 1 <= request.hypotheses <= MOST_HYPOTHESES:
        raise MaquetteError("bad_input", f"The number of hypotheses must be between 1 and {MOST_HYPOTHESES}.")
    if request.triangles is not None and not LEAST_TRIANGLES <= request.triangles <= MOST_TRIANGLES:
        raise MaquetteError(
            "bad_input", f"The number of triangles must be between {LEAST_TRIANGLES} and {MOST_TRIANGLES:,}."
        )
    if not LEAST_TEXTURE <= request.texture_size <= MOST_TEXTURE:
        raise MaquetteError("bad_input", f"The texture size must be between {LEAST_TEXTURE} and {MOST_TEXTURE} pixels.")
    if request.profile is not None and request.profile not in PROFILES:
        raise MaquetteError("bad_input", f"The profile must be one of {', '.join(PROFILES)}.")
    if request.pivot not in PIVOTS:
        raise MaquetteError("bad_input", f"The pivot must be one of {', '.join(PIVOTS)}.")
    if request.focal is not None:
        numeric = isinstance(request.focal, int | float) and not isinstance(request.focal, bool)
        if not numeric or not math.isfinite(request.focal) or not 0.05 <= request.focal <= 100:
            raise MaquetteError("bad_input", "The focal length must be between 0.05 and 100 picture widths.")
    return request


def _names(value: Any) -> tuple[str, ...]:
    """The parameter names. Errors: `MaquetteError` bad_input."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise MaquetteError("bad_input", "The parameter names must be a list of texts.")
    if len(value) > MOST_NAMES or any(len(name) > LONGEST_NAME for name in value):
        text = f"A scene takes {MOST_NAMES} names of at most {LONGEST_NAME} letters; shorten the list or the names."
        raise MaquetteError("bad_input", text)
    return tuple(name.strip() for name in value)
