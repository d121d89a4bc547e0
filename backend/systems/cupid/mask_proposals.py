"""Task propose_masks: a photo's object masks for the artist to judge before anything is made of them. No networks.

Its input is image, its artifacts are mask_0.png, mask_1.png, ... at the size that the photo is decoded to, from left to
right, thumbnail.png with all of them numbered over the photo, and report.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backend.contract.errors import MaquetteError
from backend.formats.images import SOLID_ALPHA, Picture, decode_image, encode_png
from backend.systems.base import ArtifactData, Hooks, RunResult
from backend.systems.cupid.request import Request
from backend.systems.cupid.scene_masks import masks_picture, propose_masks

TASK = "propose_masks"
SHOWN_SIDE = 512  # pixels of the thumbnail's longer side: the masks are judged by it
DIGITS = 40  # pixels: their height, legible where the sidebar shows the thumbnail at a third of its size
DARK, WHITE = (20, 20, 20), (255, 255, 255)


def proposed_masks(inputs: dict[str, bytes], request: Request, hooks: Hooks) -> RunResult:
    """Task propose_masks; see the module. Errors: `MaquetteError` bad_input when the objects cannot be told apart."""
    if set(inputs) != {"image"}:
        text = "Masks are proposed for one picture; choose an image."
        raise MaquetteError("bad_input", text, ", ".join(sorted(inputs)), "choose_image")
    picture = decode_image(inputs["image"])
    masks = propose_masks(picture)
    hooks.stage("finish")
    thumbnail = encode_png(numbered_picture(picture, masks))
    report = {
        "system": "cupid", "task": TASK, "image_size": list(picture.original_size), "mask_size": list(picture.size),
        "source": "alpha" if picture.has_alpha else "background", "masks": [_described(mask) for mask in masks],
    }  # fmt: skip
    hooks.finish()
    report["seconds"] = {name: round(value, 4) for name, value in hooks.seconds.items()}
    artifacts = (
        *(ArtifactData(f"mask_{index}.png", encode_png(mask), "image/png") for index, mask in enumerate(masks)),
        ArtifactData("thumbnail.png", thumbnail, "image/png"),
        ArtifactData("report.json", json.dumps(report, indent=1).encode(), "application/json"),
    )
    return RunResult(artifacts, report)


def numbered_picture(picture: Picture, masks: Sequence[np.ndarray]) -> np.ndarray:
    """The picture [h,w,3] uint8 with every mask coloured, and numbered from 1 in its middle."""
    image = Image.fromarray(masks_picture(picture, masks))
    scale = min(1.0, SHOWN_SIDE / max(image.size))
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(DIGITS)
    for number, mask in enumerate(masks, start=1):
        row, column = _middle(mask)
        draw.text((column * scale, row * scale), str(number), WHITE, font, "mm", stroke_width=4, stroke_fill=DARK)
    return np.asarray(image)


def _middle(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of the mask's pixel that is nearest to the mean of all of them: a bent object's mean lies off."""
    places = np.argwhere(mask > SOLID_ALPHA)
    row, column = places[((places - places.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    return int(row), int(column)


def _described(mask: np.ndarray) -> dict[str, object]:
    """Share of the picture, and box (left, top, right, bottom) in parts of it."""
    rows, columns = np.nonzero(mask > SOLID_ALPHA)
    height, width = mask.shape
    box = (columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height)
    return {"share": round(len(rows) / mask.size, 5), "box": [round(float(value), 4) for value in box]}
