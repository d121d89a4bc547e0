"""`python -m backend batch`: an object of every line of a text file, or of every photo, each in a folder of its own.

What fails is named and does not stop the rest; what is there already is left alone, so a batch can be taken up again.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.contract.errors import MaquetteError
from backend.systems import registry
from backend.systems.base import Hooks
from backend.systems.command import write_result

logger = logging.getLogger(__name__)

LONGEST_NAME = 48  # letters of a folder's name after its number
DONE = "report.json"  # written last


@dataclass(frozen=True)
class Item:
    """One object to make: its folder's name, its sentence or "", its photo or None."""

    folder: str
    text: str = ""
    image: Path | None = None


def main(arguments: Sequence[str]) -> int:
    """The command; status 1 when something could not be made. Errors: `MaquetteError` when nothing can."""
    parser = argparse.ArgumentParser(prog="python -m backend batch", description=__doc__)
    parser.add_argument("--text", type=Path, help="text file (UTF-8) with one sentence a line")
    parser.add_argument("--image", type=Path, nargs="+", default=[], help="photos, one object each")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results' folders")
    parser.add_argument("--system", help="default: kiss3dgen for text, cupid for photos")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--steps", type=int, help="sampler steps; default: what the weights were made for")
    parser.add_argument("--weights", default="mini", help="mini, published or a folder; default: mini")
    parser.add_argument("--config", default="mini", help="mini or full; default: mini")
    parser.add_argument("--triangles", type=int, help="budget of the meshes; default: as many as there are")
    parser.add_argument("--texture-size", type=int, help="pixels a side of the textures; default: 1024")
    options = parser.parse_args(arguments)
    if (options.text is None) == (not options.image):
        parser.error("give --text with a file of sentences, or --image with photos")
    items = sentence_items(options.text) if options.text is not None else photo_items(options.image)
    names = ("seed", "steps", "weights", "config", "triangles", "texture_size")
    parameters = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    system = options.system or ("kiss3dgen" if options.text is not None else "cupid")
    failed = run_items(items, system, parameters, options.out)
    logger.info("%d of %d made, in %s", len(items) - len(failed), len(items), options.out)
    return 1 if failed else 0


def sentence_items(path: Path) -> list[Item]:
    """An item of every line that is not empty. Errors: `MaquetteError` bad_input when there are none."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MaquetteError(
            "bad_input", f"The text file {path} cannot be read; give plain text in UTF-8.", detail=repr(error)
        ) from error
    texts = [text for text in (" ".join(line.split()) for line in lines) if text]
    if not texts:
        raise MaquetteError("bad_input", f"The text file {path} has no sentences; write one a line.")
    return [Item(folder_name(number, text), text=text) for number, text in enumerate(texts, start=1)]


def photo_items(paths: Sequence[Path]) -> list[Item]:
    """An item of every photo."""
    return [Item(folder_name(number, path.stem), image=path) for number, path in enumerate(paths, start=1)]


def folder_name(number: int, text: str) -> str:
    """A folder's name that sorts as the list does and says what is in it: 003_a_red_chair."""
    words = re.sub(r"[^\w]+", "_", text.lower()).strip("_")[:LONGEST_NAME].rstrip("_")
    return f"{number:03d}_{words}" if words else f"{number:03d}"


def run_items(items: Sequence[Item], system_name: str, parameters: dict[str, Any], out: Path) -> list[Item]:
    """Make every item that is not there yet; returns those that could not be made."""
    system = registry.get_system(system_name)
    failed = []
    for number, item in enumerate(items, start=1):
        folder = out / item.folder
        if (folder / DONE).exists():
            logger.info("%d of %d: %s is there already", number, len(items), item.folder)
            continue
        logger.info("%d of %d: %s", number, len(items), item.text or item.image)
        try:
            images = [item.image.read_bytes()] if item.image is not None else []
            inputs = {"image": images[0]} if images else {}
            task = "image_to_3d" if images else "text_to_3d"
            prompt = {"prompt": item.text} if item.text else {}
            result = system.run(task, inputs, parameters | prompt, Hooks())
            write_result(result, images, folder)
            if not (folder / DONE).exists():
                (folder / DONE).write_text(json.dumps(result.report, indent=1), "utf-8")
        except (MaquetteError, OSError) as error:
            if isinstance(error, MaquetteError) and error.code == "disk_full":
                raise  # nor would the rest fit
            logger.error("%s: %s", item.folder, error)
            failed.append(item)
    return failed
