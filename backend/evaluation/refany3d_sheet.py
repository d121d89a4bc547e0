"""One picture of many painted pictures, in order and not chosen: what was shown, picture, point map, mesh put in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.evaluation.contact_sheet import BACKGROUND, PANEL, captioned_sheet

HEADINGS = ("views", "picture", "point map", "mesh in the picture")
LONGEST_NAME = 52  # letters of a caption's sentence


@dataclass(frozen=True)
class Shown:
    """views [N,S,S,3] uint8; picture [S,S,3], points [S,S,3] or None and composed [S,S,3] or None, in [0,1]; composed
    is the mesh in its own colours before the picture under the solved camera."""

    views: np.ndarray
    picture: np.ndarray
    points: np.ndarray | None
    composed: np.ndarray | None


def picture_sheet(results: Sequence[Shown], entries: Sequence[dict[str, Any]], title: str) -> Image.Image:
    """Draw `results` with the numbers of their report `entries`, same order. Errors: `MaquetteError` without any."""
    if not results:
        raise MaquetteError("bad_input", "There is no picture for a sheet; evaluate at least one object.")
    rows = [(_panels(result), caption(entry)) for result, entry in zip(results, entries, strict=False)]
    return captioned_sheet(rows, title, HEADINGS)


def caption(entry: dict[str, Any]) -> str:
    """The line below a result: its sentence, how far point map and mesh agree, and whether the camera is trusted."""
    prompt = str(entry["prompt"])
    prompt = prompt if len(prompt) <= LONGEST_NAME else prompt[: LONGEST_NAME - 1] + "\u2026"
    if not entry["camera_found"]:
        return f"{prompt} \u00b7 no camera"
    trusted = "" if entry["camera_solved"] else " \u00b7 camera not trusted"
    return (
        f"{prompt} \u00b7 {entry['pointmap_error']:.2f} \u00b7 IoU {entry['silhouette_iou']:.2f}"
        f" \u00b7 {entry['masked_psnr']:.0f} dB{trusted}"
    )


def _panels(result: Shown) -> list[Image.Image]:
    """Four of the views in one panel, and the three pictures; a grey panel for what is not there."""
    count, half = len(result.views), PANEL // 2
    grid = Image.new("RGB", (PANEL, PANEL), BACKGROUND)
    for place in range(4):
        view = Image.fromarray(result.views[place * count // 4]).resize((half, half), Image.Resampling.LANCZOS)
        grid.paste(view, (place % 2 * half, place // 2 * half))
    empty = Image.new("RGB", (PANEL, PANEL), BACKGROUND)
    others = (result.picture, result.points, result.composed)
    return [grid, *(empty if each is None else _panel(each) for each in others)]


def _panel(picture: np.ndarray) -> Image.Image:
    levels = Image.fromarray(np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8))
    return levels if levels.size == (PANEL, PANEL) else levels.resize((PANEL, PANEL), Image.Resampling.LANCZOS)
