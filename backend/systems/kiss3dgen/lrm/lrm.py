"""Four views and their cameras to a coloured mesh in the bundle frame, by the published LRM (spec section 7)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.catalog.catalog import find_model, is_installed, models_folder
from backend.contract.errors import MaquetteError
from backend.systems.base import Hooks
from backend.systems.kiss3dgen.bundle import AZIMUTHS
from backend.systems.kiss3dgen.cameras import lrm_input_cameras
from backend.systems.kiss3dgen.lrm.generator import LrmConfig, LrmGenerator, load_generator, random_generator
from backend.systems.kiss3dgen.lrm.surface import LrmMesh, extract_mesh

logger = logging.getLogger(__name__)

MODEL = "kiss3dgen_lrm"
FILE = "final_ckpt.ckpt"


def load_lrm(weights: str = "published", device: str = "cpu", seed: int = 0) -> LrmGenerator:
    """The LRM of the published size: "published", "random" (seeded), or the file that `weights` names.

    Errors: `MaquetteError` model_missing.
    """
    if weights == "random":
        return random_generator(LrmConfig(), seed).to(device)
    return load_generator(published_file() if weights == "published" else Path(weights)).to(device)


def published_file() -> Path:
    """Where the catalogue installs the checkpoint. Errors: `MaquetteError` model_missing."""
    if not is_installed(models_folder(), find_model(MODEL)):
        raise MaquetteError(
            "model_missing", "The reconstruction model is not installed; install it, or start from the hull.",
            str(models_folder() / MODEL), "install_model",
        )  # fmt: skip
    return models_folder() / MODEL / FILE


def reconstruct(
    generator: LrmGenerator, views: np.ndarray, hooks: Hooks | None = None, azimuths: Sequence[float] = AZIMUTHS
) -> LrmMesh:
    """The mesh that `views` [V,S,S,3] in [0,1] on white show, seen from `azimuths` (degrees) at elevation 5.

    Errors: ValueError for views of another shape; `Cancelled`.
    """
    if views.ndim != 4 or views.shape[1] != views.shape[2] or views.shape[3] != 3 or len(views) != len(azimuths):
        raise ValueError(f"Views {views.shape} do not fit {len(azimuths)} square pictures.")
    planes = make_planes(generator, views, azimuths)
    if hooks is not None:
        hooks.check_cancelled()
    mesh = extract_mesh(generator, planes, hooks)
    logger.info("the reconstruction model made %d vertices, %d faces", len(mesh.vertices), len(mesh.faces))
    return mesh


@torch.no_grad()
def make_planes(generator: LrmGenerator, views: np.ndarray, azimuths: Sequence[float] = AZIMUTHS) -> Tensor:
    """Planes [1,3,C,H,W] of views [V,S,S,3]."""
    like = next(generator.parameters())
    pictures = torch.from_numpy(np.ascontiguousarray(views, np.float32)).permute(0, 3, 1, 2)
    size = (generator.config.image_size,) * 2
    pictures = F.interpolate(pictures, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    planes: Tensor = generator(pictures.to(like), lrm_input_cameras(azimuths=azimuths).to(like))
    return planes
