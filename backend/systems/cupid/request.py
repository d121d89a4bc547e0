"""The parameters of a CUPID job, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backend.systems.cupid.known_camera import KnownCamera, parse_camera
from backend.systems.cupid.networks import PROFILES
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
    within,
)

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
    given = given_parameters("CUPID", Request, parameters)
    require_whole(given, "seed", "steps", "hypotheses", "triangles", "texture_size")
    require_truth(given, "normal_map", "splats")
    require_text(given, "weights", "config", "pivot", "profile")
    if "camera" in given:
        if "focal" in given:
            raise bad_parameter("A known camera has its own focal length; leave focal out.")
        given["camera"] = parse_camera(given["camera"])
    if "names" in given:
        given["names"] = _names(given["names"])
    request = Request(**given)
    check_sampling(request.seed, request.steps)
    check_finish(request.triangles, request.texture_size, request.pivot)
    within("number of hypotheses", request.hypotheses, 1, MOST_HYPOTHESES)
    one_of("profile", request.profile, PROFILES)
    if request.focal is not None and not is_number(request.focal, 0.05, 100):
        raise bad_parameter("The focal length must be between 0.05 and 100 picture widths.")
    return request


def _names(value: Any) -> tuple[str, ...]:
    """The parameter names. Errors: `MaquetteError` bad_input."""
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise bad_parameter("The parameter names must be a list of texts.")
    if len(value) > MOST_NAMES or any(len(name) > LONGEST_NAME for name in value):
        text = f"A scene takes {MOST_NAMES} names of at most {LONGEST_NAME} letters; shorten the list or the names."
        raise bad_parameter(text)
    return tuple(name.strip() for name in value)
