"""The LRM's mesh as ISOMER's start: without crumbs, and as large as the bundle's outlines say.

The published programs feed the mesh as it is and choose ISOMER's camera radius so that it fits, 4.15 to 4.5 by flow
(spec 8). Here the radius is the bundle's and the mesh is scaled to it, which is the same up to a scale of the world.
"""

from __future__ import annotations

import logging

import numpy as np

from backend.geometry.mesh_repair import without_crumbs
from backend.systems.base import Hooks
from backend.systems.kiss3dgen.bundle import AZIMUTHS, RADIUS, Bundle
from backend.systems.kiss3dgen.lrm.generator import LrmGenerator
from backend.systems.kiss3dgen.lrm.lrm import reconstruct
from backend.systems.kiss3dgen.start_mesh import Surface, in_view

logger = logging.getLogger(__name__)

ROUNDS = 6  # perspective makes the extent not quite proportional to the scale
SCALE_LIMITS = (0.5, 2.0)


def lrm_start(bundle: Bundle, generator: LrmGenerator, radius: float = RADIUS, hooks: Hooks | None = None) -> Surface:
    """The mesh that the bundle's colours show, in the bundle frame. Errors: `Cancelled`."""
    mesh = reconstruct(generator, bundle.rgb, hooks)
    used, faces = np.unique(without_crumbs(mesh.vertices, mesh.faces), return_inverse=True)
    vertices = mesh.vertices[used]
    scale = fit_scale(vertices, bundle.mask, radius)
    logger.info("the reconstruction model's mesh is scaled by %.3f to the outlines", scale)
    return (scale * vertices).astype(np.float32), faces.reshape(-1, 3).astype(np.int64)


def fit_scale(vertices: np.ndarray, mask: np.ndarray, radius: float = RADIUS) -> float:
    """By what the vertices [N,3] are to be multiplied so that they are as wide and high as the masks [4,S,S] show.

    The median over the views' widths and heights; 1 where no mask shows anything.
    """
    wanted = {view: mask_extent(mask[view]) for view in range(len(mask)) if (mask[view] >= 0.5).any()}
    scale = 1.0
    for _ in range(ROUNDS if wanted and len(vertices) else 0):
        ratios = []
        for view, extent in wanted.items():
            places, _ = in_view(scale * vertices, AZIMUTHS[view], radius)
            ratios.append(extent / np.maximum(np.ptp(places, axis=0), 1e-6))
        scale = float(np.clip(scale * np.median(ratios), *SCALE_LIMITS))
    return scale


def mask_extent(mask: np.ndarray) -> np.ndarray:
    """Width and height [2] of what a mask [S,S] shows, as shares of the picture."""
    rows, columns = np.nonzero(mask >= 0.5)
    return (np.array([np.ptp(columns), np.ptp(rows)]) + 1) / len(mask)
