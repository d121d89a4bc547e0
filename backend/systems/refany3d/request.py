"""The parameters and inputs of a RefAny3D job, checked."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.contract.reference_views import VIEW_COUNTS
from backend.formats.images import decode_image
from backend.systems.parameters import (
    bad_parameter,
    check_sampling,
    given_parameters,
    is_number,
    require_text,
    require_truth,
    require_whole,
    within,
)
from backend.systems.refany3d.condition_views import split_strip
from backend.systems.refany3d.point_maps import Bounds, foreground, from_bytes

LONGEST_PROMPT = 2000  # letters
MOST_VARIANTS = 8
MOST_GUIDANCE = 20.0
FOCALS = (0.2, 20.0)  # picture widths: from a fisheye's to a telescope's
LONGEST_STRIP = 16_384  # eight views of 2048 pixels
LEAST_SIDE = 16  # pixels of a view


@dataclass(frozen=True)
class Request:
    """The parameters of a job, checked.

    prompt: what the picture shows. negative: what it should not show. steps: None the weights' own. guidance,
    image_guidance: None or 0 the weights' own, 1 is none. masked_black: see `sampler`. variants: pictures, of seeds
    that follow one another. bounds_min, bounds_max: the object's box in Blender's world. focal: of the picture's lens
    in picture widths, 0 for unknown. base: the Flux model that published weights build on.
    """

    prompt: str = ""
    negative: str = ""
    seed: int = 42
    steps: int | None = None
    guidance: float | None = None
    image_guidance: float | None = None
    masked_black: bool = False
    variants: int = 1
    weights: str = "mini"
    config: str = "mini"
    base: str = "dev"
    profile: str | None = None
    bounds_min: tuple[float, ...] = (-0.5, -0.5, -0.5)
    bounds_max: tuple[float, ...] = (0.5, 0.5, 0.5)
    focal: float = 0.0

    @property
    def bounds(self) -> Bounds:
        """The object's box."""
        return Bounds(np.array(self.bounds_min, np.float64), np.array(self.bounds_max, np.float64))


def parse_request(parameters: dict[str, Any]) -> Request:
    """Check a job's parameters. Errors: `MaquetteError` bad_input naming the parameter."""
    given = given_parameters("RefAny3D", Request, parameters)
    require_whole(given, "seed", "steps", "variants")
    require_text(given, "prompt", "negative", "weights", "config", "base", "profile")
    require_truth(given, "masked_black")
    for name in ("guidance", "image_guidance"):
        if not is_number(given.get(name, 1.0), 0.0, MOST_GUIDANCE):
            raise bad_parameter(f"The {name.replace('_', ' ')} must be between 0 and {MOST_GUIDANCE:.0f}.")
    focal = given.get("focal", 0.0)
    if focal != 0 and not is_number(focal, *FOCALS) or isinstance(focal, bool):
        raise bad_parameter(f"The focal length must be 0 (unknown) or {FOCALS[0]} to {FOCALS[1]:.0f} picture widths.")
    for name in ("bounds_min", "bounds_max"):
        given[name] = _corner(name, given.get(name, getattr(Request, name)))
    request = Request(**given)
    check_sampling(request.seed, request.steps)
    within("number of variants", request.variants, 1, MOST_VARIANTS)
    for name in ("prompt", "negative"):
        if len(getattr(request, name)) > LONGEST_PROMPT:
            raise bad_parameter(f"The {name} is longer than {LONGEST_PROMPT} letters; shorten it.")
    if not request.prompt.strip():
        raise bad_parameter("There is no text; write what the picture shows, for example: a chair on a beach.")
    extent = request.bounds.high - request.bounds.low
    if (extent < 0).any() or extent.max() <= 0:
        raise bad_parameter("The object's box is empty: bounds_max must lie beyond bounds_min.")
    return request


def read_conditions(inputs: dict[str, bytes], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Views and point maps [N,size,size,3] uint8 of the inputs `views` and `points`.

    Other sizes are brought to `size`: colours as published (bicubic), places by the nearest pixel, for a blend of two
    is none. Errors: `MaquetteError` bad_input.
    """
    unknown = sorted(set(inputs) - {"views", "points"})
    if unknown:
        raise MaquetteError("bad_input", f"This task takes no input {unknown[0]!r}; remove it.")
    tiles = []
    for name in ("views", "points"):
        if name not in inputs:
            raise MaquetteError(
                "bad_input", "RefAny3D needs views of a mesh and their point maps; select a mesh.", name
            )
        strip = decode_image(inputs[name], LONGEST_STRIP).rgba[..., :3]
        high, wide = strip.shape[:2]
        if wide % high or wide // high not in VIEW_COUNTS or high < LEAST_SIDE:
            raise MaquetteError(
                "bad_input", "The views must be 4, 6 or 8 squares in one row; capture them again.",
                f"{name}: {wide} x {high} pixels",
            )  # fmt: skip
        tiles.append(split_strip(strip))
    views, points = tiles
    if views.shape != points.shape:
        raise MaquetteError(
            "bad_input", "Views and point maps do not belong together; capture them again.",
            f"{views.shape} and {points.shape}",
        )  # fmt: skip
    if not foreground(from_bytes(points)).any():
        raise MaquetteError("bad_input", "The views show no object; select a mesh with faces.")
    resized = (_resized(tile, size, how) for tile, how in zip(tiles, (Image.BICUBIC, Image.NEAREST), strict=True))
    first, second = resized
    return first, second


def _resized(tiles: np.ndarray, size: int, how: int) -> np.ndarray:
    if tiles.shape[1] == size:
        return tiles
    return np.stack([np.asarray(Image.fromarray(tile).resize((size, size), how)) for tile in tiles])


def _corner(name: str, value: Any) -> tuple[float, ...]:
    limit = 1e9
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(is_number(x, -limit, limit) for x in value):
        raise bad_parameter(f"The parameter {name} must be three numbers.")
    return tuple(float(x) for x in value)


def png_with_text(pixels: np.ndarray, texts: dict[str, str]) -> bytes:
    """PNG of `pixels` [H,W,3] in [0,1] that carries `texts` as its metadata, in UTF-8."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    stream = io.BytesIO()
    levels = np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)
    Image.fromarray(levels).save(stream, "PNG", pnginfo=info)
    return stream.getvalue()
