"""One picture of many results, in order and not chosen: input, overlay, and two other sides of each, with captions.

`Recorder` listens to an evaluation and keeps its first answers; `contact_sheet` draws them. The overlay shows the
result through its solved camera over a faint grey ghost of the input, so that a miss is seen as a miss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backend.contract.errors import MaquetteError
from backend.contract.frames import look_at
from backend.contract.meshes import MeshData
from backend.rendering.views import render_mesh

if TYPE_CHECKING:
    from backend.evaluation.cupid import Answer
    from backend.evaluation.views import TestView

BACKGROUND = (228, 228, 228)  # neutral: neither white nor dark objects vanish on it
INK = (60, 60, 60)
FAINT = (128, 128, 128)
GHOST = 0.25  # how much of the input is left below the overlay
PANEL = 128  # pixels of a panel's side
GAP = 8  # between the panels of a result
MARGIN = 32  # around the sheet and between results
CAPTION = 18  # height of a caption line
COLUMNS = 3
SIDE_FOCAL = 2.0  # of the picture's width, for the two other sides
SIDE_ELEVATION = math.radians(20.0)
SIDES = (math.radians(90.0), math.radians(180.0))  # turned from the solved camera
HEADINGS = ("input", "overlay", "side", "back")


@dataclass(frozen=True)
class Result:
    """An input picture rgba [H,W,4] uint8 and its answer, None when the system refused."""

    rgba: np.ndarray
    answer: Answer | None


class Recorder:
    """Keeps the inputs and answers of the first `count` views that an evaluation asks about."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.results: list[Result] = []

    def watch(self, answer: Callable[[TestView], Answer]) -> Callable[[TestView], Answer]:
        """`answer` itself, listened to; what it raises is passed on."""

        def listening(view: TestView) -> Answer:
            found: Answer | None = None
            try:
                found = answer(view)
                return found
            finally:
                if len(self.results) < self.count:
                    self.results.append(Result(view.rgba, found))

        return listening


def contact_sheet(results: Sequence[Result], entries: Sequence[dict[str, Any]], title: str) -> Image.Image:
    """Draw `results` with the numbers of their report `entries` (same order). Errors: `MaquetteError` without any."""
    if not results:
        raise MaquetteError("bad_input", "There is no result for a contact sheet; evaluate at least one view.")
    rows = [(panels(result), caption(entry)) for result, entry in zip(results, entries, strict=False)]
    return captioned_sheet(rows, title, HEADINGS)


def captioned_sheet(rows: Sequence[tuple[list[Image.Image], str]], title: str, headings: Sequence[str]) -> Image.Image:
    """A sheet of results, each the panels below `headings` and the line below them."""
    sheet, draw, places = ruled_sheet(len(rows), title, headings)
    for (x, y), (shown, line) in zip(places, rows, strict=True):
        for place, panel in enumerate(shown):
            sheet.paste(panel, (x + place * (PANEL + GAP), y))
        draw.text((x, y + PANEL + 2), line, FAINT, font(12))
    return sheet


def ruled_sheet(
    count: int, title: str, headings: Sequence[str]
) -> tuple[Image.Image, ImageDraw.ImageDraw, list[tuple[int, int]]]:
    """A sheet with room for `count` results of a panel for each heading, what draws on it, and their corners."""
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    cell = len(headings) * PANEL + (len(headings) - 1) * GAP
    pitch = PANEL + CAPTION + MARGIN // 2
    top = MARGIN + 2 * CAPTION + MARGIN // 2
    sheet = Image.new("RGB", (columns * (cell + MARGIN) + MARGIN, top + rows * pitch + MARGIN // 2), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 8), title, INK, font(16))
    for column in range(columns):
        for place, heading in enumerate(headings):
            x = MARGIN + column * (cell + MARGIN) + place * (PANEL + GAP)
            draw.text((x, top - CAPTION - 4), heading, FAINT, font(12))
    places = [(MARGIN + i % columns * (cell + MARGIN), top + i // columns * pitch) for i in range(count)]
    return sheet, draw, places


def caption(entry: dict[str, Any]) -> str:
    """The small line below a result: its name and how well it fits."""
    name = str(entry.get("id", "")).replace("_", " ")
    name = name if len(name) <= 44 else name[:43] + "\u2026"
    if entry.get("error"):
        return f"{name} \u00b7 no result"
    return (
        f"{name} \u00b7 IoU {entry['mask_iou']:.2f} \u00b7 {entry['rotation_error_deg']:.0f}\u00b0"
        f" ({entry['rotation_error_sym_deg']:.0f}\u00b0 up to symmetry)"
    )


def panels(result: Result) -> list[Image.Image]:
    """The four panels of a result; empty ones where there is nothing to show."""
    picture = fitted(Image.fromarray(result.rgba), PANEL)
    empty = Image.new("RGB", (PANEL, PANEL), BACKGROUND)
    if result.answer is None:
        return [on_background(picture, (PANEL, PANEL)), empty, empty, empty]
    mesh, camera, intrinsics = result.answer
    ghost = overlay = ghosted(picture, (PANEL, PANEL))
    if camera is not None and intrinsics is not None:
        shown = _rgba(mesh, camera, intrinsics, picture.size)
        overlay = _centred(ghost, shown)
    return [on_background(picture, (PANEL, PANEL)), overlay, *(side_view(mesh, camera, turn) for turn in SIDES)]


def side_view(mesh: MeshData, camera: np.ndarray | None, turn: float) -> Image.Image:
    """The whole object [PANEL,PANEL] from a viewpoint `turn` radians around it, counted from the solved camera."""
    azimuth = -math.pi / 2
    if camera is not None:
        eye = -camera[:3, :3].T @ camera[:3, 3]
        azimuth = math.atan2(eye[1], eye[0])
    middle, radius = np.zeros(3), 0.5
    if len(mesh.vertices):
        middle = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2.0
        radius = max(float(np.linalg.norm(mesh.vertices - middle, axis=1).max()), 1e-3)
    flat = math.cos(SIDE_ELEVATION)
    direction = np.array(
        [flat * math.cos(azimuth + turn), flat * math.sin(azimuth + turn), math.sin(SIDE_ELEVATION)]
    )
    pose = look_at(middle + radius / math.sin(math.atan(0.5 / SIDE_FOCAL)) * direction, middle)
    intrinsics = np.array([[SIDE_FOCAL, 0.0, 0.5], [0.0, SIDE_FOCAL, 0.5], [0.0, 0.0, 1.0]])
    return on_background(_rgba(mesh, pose, intrinsics, (PANEL, PANEL)), (PANEL, PANEL))


def _rgba(mesh: MeshData, camera: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int]) -> Image.Image:
    view = render_mesh(mesh, camera, intrinsics, size, background=(0.0, 0.0, 0.0))
    straight = view.color / np.maximum(view.alpha, 1e-3)[..., None]
    return Image.fromarray(np.rint(255 * np.dstack([straight, view.alpha]).clip(0, 1)).astype(np.uint8))


# ------------------------------------------------------------------------- layout, shared with the pictures of the demo


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The typeface that Pillow carries, so that every machine draws the same."""
    return ImageFont.load_default(size)


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """`picture` as RGBA with its longer side `side` pixels long."""
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.convert("RGBA").resize(size, Image.Resampling.LANCZOS)


def on_background(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An RGBA picture in the middle of an RGB panel of `size`."""
    return _centred(Image.new("RGB", size, BACKGROUND), picture)


def ghosted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A faint grey ghost of an RGBA picture in the middle of an RGB panel of `size`."""
    grey = on_background(picture, size).convert("L").convert("RGB")
    return Image.blend(Image.new("RGB", size, BACKGROUND), grey, GHOST)


def _centred(panel: Image.Image, picture: Image.Image) -> Image.Image:
    """A copy of `panel` with an RGBA picture over its middle."""
    result = panel.copy()
    place = (panel.width - picture.width) // 2, (panel.height - picture.height) // 2
    result.paste(picture, place, picture)
    return result
