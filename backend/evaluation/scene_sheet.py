"""One picture of evaluated scenes: photo, result with depth, and from above the true boxes beside the found ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from backend.contract.errors import MaquetteError
from backend.data.scenes import RenderedScene
from backend.evaluation.contact_sheet import BACKGROUND, CAPTION, FAINT, GAP, INK, MARGIN, font, ghosted

PANEL = (208, 156)
COLUMNS = 2
HEADINGS = ("photo", "with depth", "from above", "without depth", "from above")
SHADES = ((200, 60, 50), (40, 140, 70), (50, 90, 210), (200, 140, 20), (130, 60, 180), (30, 150, 160))
TRUE = (120, 120, 120)
FINE = 3  # times as large while lines are drawn


@dataclass(frozen=True)
class SceneResult:
    """A scene and two answers (with depth, without): pictures [h,w,4] premultiplied, objects as (object_to_world in the
    true world, box [2,3]), and placement errors by object."""

    truth: RenderedScene
    pictures: tuple[np.ndarray, ...]
    found: tuple[list[tuple[np.ndarray, np.ndarray]], ...]
    errors: tuple[list[float], ...]


def scene_sheet(shown: Sequence[SceneResult], title: str) -> Image.Image:
    """Draw all scenes. Errors: `MaquetteError` without any."""
    if not shown:
        raise MaquetteError("bad_input", "There is no scene for a sheet; evaluate at least one.")
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    cell = len(HEADINGS) * (PANEL[0] + GAP) - GAP
    pitch = PANEL[1] + CAPTION + MARGIN // 2
    top = MARGIN + 2 * CAPTION + MARGIN // 2
    sheet = Image.new("RGB", (columns * (cell + MARGIN) + MARGIN, top + rows * pitch + MARGIN // 2), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 8), f"{title}. Grey boxes from above are true, coloured ones found.", INK, font(16))
    for index, result in enumerate(shown):
        x, y = MARGIN + index % columns * (cell + MARGIN), top + index // columns * pitch
        for place, (heading, panel) in enumerate(zip(HEADINGS, _panels(result), strict=True)):
            left = x + place * (PANEL[0] + GAP)
            sheet.paste(panel, (left, y))
            if index < columns:
                draw.text((left, top - CAPTION - 4), heading, FAINT, font(12))
        texts = [", ".join(f"{100 * error:.0f} %" for error in errors) for errors in result.errors]
        draw.text((x, y + PANEL[1] + 2), f"{result.truth.id}: errors with depth {texts[0]}; without {texts[1]}", FAINT,
                  font(12))  # fmt: skip
    return sheet


def _panels(result: SceneResult) -> list[Image.Image]:
    photo = Image.fromarray(result.truth.color).convert("RGBA").resize(PANEL, Image.Resampling.LANCZOS)
    panels = [photo.convert("RGB")]
    for picture, found in zip(result.pictures, result.found, strict=True):
        panels += [_overlay(photo, picture), _from_above(result.truth, found)]
    return panels


def _overlay(photo: Image.Image, picture: np.ndarray) -> Image.Image:
    """The result over a faint grey ghost of the photo."""
    straight = picture[..., :3] / np.maximum(picture[..., 3:], 1e-3)
    pixels = np.rint(255 * np.dstack([straight, picture[..., 3]]).clip(0, 1)).astype(np.uint8)
    drawn = Image.fromarray(pixels).resize(PANEL, Image.Resampling.LANCZOS)
    panel = ghosted(photo, PANEL)
    panel.paste(drawn, (0, 0), drawn)
    return panel


def _from_above(truth: RenderedScene, found: list[tuple[np.ndarray, np.ndarray]]) -> Image.Image:
    """The ground with the true boxes and the found ones; up is away from the camera."""
    away = truth.world_to_camera[2, :2] / max(float(np.linalg.norm(truth.world_to_camera[2, :2])), 1e-6)
    turn = np.array([[away[1], -away[0]], [away[0], away[1]]])  # world x, y to right and away
    true = [_outline(matrix, box) @ turn.T for matrix, box in zip(truth.object_to_world, truth.bounds, strict=True)]
    ours = [_outline(matrix, box) @ turn.T for matrix, box in found]
    corners = np.concatenate(true)
    middle = (corners.min(axis=0) + corners.max(axis=0)) / 2.0
    extent = np.ptp(corners, axis=0) * 1.5
    scale = FINE * min(PANEL[0] / max(extent[0], 1e-6), PANEL[1] / max(extent[1], 1e-6))
    panel = Image.new("RGB", (FINE * PANEL[0], FINE * PANEL[1]), BACKGROUND)
    draw = ImageDraw.Draw(panel)

    def place(points: np.ndarray) -> list[tuple[float, float]]:
        moved = (points - middle) * scale
        return [(FINE * PANEL[0] / 2 + px, FINE * PANEL[1] / 2 - py) for px, py in moved]

    for outline in true:
        draw.polygon(place(outline), fill=(206, 206, 206), outline=TRUE, width=FINE)
    for index, outline in enumerate(ours):
        draw.polygon(place(outline), outline=SHADES[index % len(SHADES)], width=2 * FINE)
    return panel.resize(PANEL, Image.Resampling.LANCZOS)


def _outline(object_to_world: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The four lower corners [4,2] of a box [2,3] on the ground."""
    low, high = box
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    points = np.column_stack([corners, np.full(4, low[2])])
    return np.asarray((points @ object_to_world[:3, :3].T + object_to_world[:3, 3])[:, :2])
