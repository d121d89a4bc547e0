"""The published way to cut the object out (CUPID spec section 5, step 2), where it is installed: U2-Net through rembg.

rembg (MIT) is a package that is not among ours; `U2-Net` (Apache-2.0) is an entry of the catalogue. Both have to be
there: nothing is downloaded behind the artist's back. Without them the plain cut-out of `masking.py` has to do.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.catalog.catalog import models_folder
from backend.contract.errors import MaquetteError

logger = logging.getLogger(__name__)

PACKAGE = "rembg"
MODEL = "u2net"
LONGEST_SIDE = 1024  # as published: larger pictures are shrunk before the network
FOLDER_VARIABLE = "U2NET_HOME"  # where rembg looks for its files


def package_there() -> bool:
    """Whether rembg can be imported."""
    return importlib.util.find_spec(PACKAGE) is not None


def weights_folder() -> Path | None:
    """The folder that holds U2-Net: the catalogue's, or the one that rembg itself uses; None when neither does."""
    own = os.environ.get(FOLDER_VARIABLE) or os.path.join(os.environ.get("XDG_DATA_HOME", "~"), ".u2net")
    for folder in (models_folder() / MODEL, Path(own).expanduser()):
        if (folder / f"{MODEL}.onnx").is_file():
            return folder
    return None


def available() -> bool:
    """Whether a background can be removed here."""
    return package_there() and weights_folder() is not None


def remove_background(rgb: np.ndarray) -> np.ndarray:
    """Alpha [H,W] uint8 of what stands in front in `rgb` [H,W,3] uint8.

    Errors: `MaquetteError` bad_input, next step give_mask, when the tool fails.
    """
    height, width = rgb.shape[:2]
    picture = Image.fromarray(np.ascontiguousarray(rgb), "RGB")
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    folder = weights_folder()
    try:
        tool, session = _session(str(folder))
        mask = tool.remove(picture, session=session, only_mask=True)
    except Exception as error:  # a foreign tool over a foreign runtime: whatever it raises, a mask helps
        logger.warning("rembg failed", exc_info=error)
        raise MaquetteError(
            "bad_input", "U2-Net could not cut the object out; give a mask.", repr(error), "give_mask"
        ) from error
    return np.asarray(mask.convert("L").resize((width, height), Image.Resampling.BICUBIC))


@functools.lru_cache(maxsize=1)
def _session(folder: str) -> tuple[Any, Any]:
    """The package and its session over the weights in `folder`; kept, because it reads 176 MB."""
    os.environ[FOLDER_VARIABLE] = folder
    tool = importlib.import_module(PACKAGE)
    return tool, tool.new_session(MODEL)
