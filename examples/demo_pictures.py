"""The demo's pictures and measures: picture beside render, and a row of views all around."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from backend.evaluation.contact_sheet import BACKGROUND, FAINT, INK, fitted, font, ghosted, on_background
from backend.formats.images import photo_on_white
from backend.rendering.image_metrics import mask_iou, psnr
from backend.systems.cupid.results import fit_size

MARGIN = 32
GAP = 24
CAPTION = 40  # height of the line below a panel
PANEL = 512  # longer side of picture and render
TURNTABLE_GAP = 8


def with_mask(picture: Image.Image, mask: Image.Image | None) -> Image.Image:
    """The picture as RGBA, its alpha that of the mask if there is one."""
    result = picture.convert("RGBA")
    if mask is not None:
        result.putalpha(mask.convert("L").resize(result.size, Image.Resampling.BILINEAR))
    return result


def measure(picture: Image.Image, render: Image.Image) -> dict[str, float]:
    """Mask IoU, and PSNR on white, between the object in the picture and Blender's render of it (both RGBA)."""
    size = fit_size(picture.size)
    wanted, wanted_alpha = photo_on_white(np.asarray(picture), size)
    shown, alpha = photo_on_white(np.asarray(render.convert("RGBA")), size)
    return {
        "mask_iou": round(mask_iou(alpha >= 0.5, wanted_alpha >= 0.5), 4),
        "psnr": round(psnr(shown, wanted), 2),
    }


def side_by_side(picture: Image.Image, render: Image.Image | None, captions: Sequence[tuple[str, str]]) -> Image.Image:
    """The picture, and Blender's render over a faint ghost of it. captions: (left, right) text below each panel."""
    shown = fitted(picture, PANEL)
    size = shown.size
    overlay = ghosted(shown, size)
    if render is not None:
        resized = fitted(render, PANEL).resize(size)
        overlay.paste(resized, (0, 0), resized)
    width, height = 2 * MARGIN + 2 * size[0] + GAP, 2 * MARGIN + size[1] + CAPTION - MARGIN // 2
    page = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(page)
    for place, panel in enumerate((on_background(shown, size), overlay)):
        left, top = MARGIN + place * (size[0] + GAP), MARGIN
        page.paste(panel, (left, top))
        draw.rectangle((left - 1, top - 1, left + size[0], top + size[1]), outline=(204, 204, 204))
        baseline = top + size[1] + 12
        draw.text((left, baseline), captions[place][0], INK, font(16))
        draw.text((left + size[0], baseline), captions[place][1], FAINT, font(16), anchor="ra")
    return page


def turntable_strip(views: np.ndarray) -> Image.Image:
    """Views [N,S,S,4] uint8 in one row."""
    count, side = views.shape[:2]
    page = Image.new("RGB", (2 * MARGIN + count * side + (count - 1) * TURNTABLE_GAP, 2 * MARGIN + side), BACKGROUND)
    for index, view in enumerate(views):
        panel = on_background(Image.fromarray(view), (side, side))
        page.paste(panel, (MARGIN + index * (side + TURNTABLE_GAP), MARGIN))
    return page
