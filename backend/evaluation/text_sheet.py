"""`python -m backend evaluate kiss3dgen-sheet --out sheet.png`: what a fixed list of sentences becomes, nothing chosen.

Each result shows its bundle (four colour views over four normal views) and its mesh from two sides. The sentences are
written down here and the seed is the same for all, so that nothing can be picked afterwards; the last row asks for what
no training object is.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData
from backend.evaluation.contact_sheet import FAINT, GAP, PANEL, font, ruled_sheet, side_view
from backend.systems.base import Hooks
from backend.systems.kiss3dgen.pipeline import KissSystem, bundle_from_text, mesh_of
from backend.systems.kiss3dgen.request import Request

logger = logging.getLogger(__name__)

SENTENCES = (
    "a wooden chair", "an old wooden barrel", "a red sports car",
    "a round table", "a street lamp", "a pine tree",
    "a small house with a red roof", "a treasure chest", "a sword",
    "a blue sofa", "a bookshelf", "a stone well",
    "a yellow truck", "a potted plant", "a green bottle",
    "an apple", "a grey rock", "a wooden bridge",
    "a bed", "a robot", "a spaceship",
    "a grand piano", "a giraffe", "a bicycle",
)  # fmt: skip
HEADINGS = ("bundle", "", "mesh", "from behind")
SIDES = (math.radians(30.0), math.radians(210.0))  # turned from the front


@dataclass(frozen=True)
class Made:
    """A sentence, the bundle picture [2S,4S,3] in [0,1] it became, and the mesh; None where there is none."""

    sentence: str
    picture: np.ndarray
    mesh: MeshData | None


def text_sheet(results: Sequence[Made], title: str) -> Image.Image:
    """Draw all results in their order. Errors: `MaquetteError` without any."""
    if not results:
        raise MaquetteError("bad_input", "There is no result for a sheet; give at least one sentence.")
    sheet, draw, places = ruled_sheet(len(results), title, HEADINGS)
    for (x, y), result in zip(places, results, strict=True):
        shown = Image.fromarray(np.rint(255 * result.picture.clip(0, 1)).astype(np.uint8))
        sheet.paste(shown.resize((2 * PANEL, PANEL), Image.Resampling.LANCZOS), (x, y))
        for place, turn in enumerate(SIDES if result.mesh is not None else ()):
            panel = side_view(result.mesh, None, turn)
            sheet.paste(panel, (x + (2 + place) * (PANEL + GAP), y))
        note = "" if result.mesh is not None else " \u00b7 no mesh"
        draw.text((x, y + PANEL + 2), result.sentence + note, FAINT, font(12))
    return sheet


def make(system: KissSystem, sentence: str, seed: int, weights: str) -> Made:
    """The bundle and the mesh of a sentence. Errors: `MaquetteError`, but for a bundle without an object."""
    request = Request(prompt=sentence, seed=seed, weights=weights)
    picture = bundle_from_text(system.networks(request), request, Hooks())
    try:
        return Made(sentence, picture, mesh_of(picture, request, Hooks(), system.device))
    except MaquetteError as error:
        logger.info("%s: %s", sentence, error)
        return Made(sentence, picture, None)


def main(arguments: Sequence[str]) -> int:
    """The command. Errors: `MaquetteError`."""
    parser = argparse.ArgumentParser(prog="python -m backend evaluate kiss3dgen-sheet", description=__doc__)
    parser.add_argument("--sentences", type=Path, help="a file with one sentence a line; default: the built-in list")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="mini")
    parser.add_argument("--out", type=Path, required=True, help="PNG")
    options = parser.parse_args(arguments)
    sentences: Sequence[str] = SENTENCES
    if options.sentences is not None:
        lines = options.sentences.read_text(encoding="utf-8").splitlines()
        sentences = [line.strip() for line in lines if line.strip()]
    system = KissSystem()
    results = []
    for sentence in sentences:
        results.append(make(system, sentence, options.seed, options.weights))
        logger.info("%d of %d: %s", len(results), len(sentences), sentence)
    title = f"Kiss3DGen {options.weights}: {len(results)} sentences, seed {options.seed}, nothing chosen"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    text_sheet(results, title).save(options.out, optimize=True)
    return 0
