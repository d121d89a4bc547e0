"""The fake system's pictures of a mesh: variant i is view i as it was sent, with its point map and a camera solved from
that map as RefAny3D solves it.

Seed 13: no camera is found for the first picture. Seed 14: its camera is not to be trusted.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from backend.contract.errors import MaquetteError
from backend.systems.base import ArtifactData, RunResult
from backend.systems.refany3d.camera_from_points import solve_picture
from backend.systems.refany3d.point_maps import Bounds

TASK = "render_picture"
UNSURE = "The camera is uncertain: this engine was asked to say so."


def result(inputs: dict[str, bytes], parameters: dict[str, Any]) -> RunResult:
    """Pictures, point maps and cameras. Errors: `MaquetteError` when what was sent is not of the agreed form."""
    views, points = (_tiles(inputs[name]) for name in ("views", "points"))
    if not parameters.get("prompt") or views.shape != points.shape or len(views) not in (4, 6, 8):
        raise MaquetteError("bad_input", "The text is missing, or the views are not of the agreed form.")
    bounds = Bounds(np.array(parameters["bounds_min"]), np.array(parameters["bounds_max"]))
    files, variants = [], []
    negative = parameters.get("negative", "")
    for number in range(int(parameters["variants"])):
        seed = int(parameters["seed"]) + number
        camera = solve_picture(points[number] / 255.0, bounds).to_json()
        if seed == 13:
            camera |= {"world_to_camera": None, "intrinsics": None, "trusted": False, "reason": "There is no object."}
        elif seed == 14:
            camera |= {"trusted": False, "reason": UNSURE}
        files += [
            ArtifactData(
                f"picture-{number}.png", _png(views[number], parameters["prompt"], seed, negative), "image/png"
            ),
            ArtifactData(f"points-{number}.png", _png(points[number], "", seed), "image/png"),
            ArtifactData(f"points-{number}.exr", b"places", "image/x-exr"),
        ]
        variants.append({"seed": seed, "camera": camera})
    files.append(ArtifactData("thumbnail.png", files[0].data, "image/png"))
    return RunResult(tuple(files), {"variants": variants, "inputs": sorted(inputs)})


def _tiles(png: bytes) -> np.ndarray:
    """The tiles [N,S,S,3] uint8 of a strip."""
    strip = np.array(Image.open(io.BytesIO(png)).convert("RGB"))
    return np.stack(np.split(strip, strip.shape[1] // strip.shape[0], axis=1))


def _png(pixels: np.ndarray, prompt: str, seed: int, negative: str = "") -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("prompt", prompt)
    if negative:
        text.add_itxt("negative", negative)
    text.add_text("seed", str(seed))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", pnginfo=text)
    return stream.getvalue()
