"""From a photo to the reference bundle that Stage I starts from (spec 6.1): framing, four views, a rough mesh, normals.

The four views are photographed at the LRM's azimuths 0, 90, 180 and 270, but the photo's own side is the last of them.
So the bundle's first view is the LRM's 270 degrees, and the mesh made here stands a quarter turn from the bundle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from backend.rendering.views import render_view
from backend.systems.base import Hooks
from backend.systems.kiss3dgen.bundle import (
    Bundle,
    directions_to_bundle_frame,
    encode_normals,
    from_bundle_frame,
    view_cameras,
    world_to_local,
)
from backend.systems.kiss3dgen.cameras import LRM_PREVIEW_RADIUS
from backend.systems.kiss3dgen.foreground import prepare_photo
from backend.systems.kiss3dgen.lrm.generator import LrmGenerator
from backend.systems.kiss3dgen.lrm.lrm import reconstruct
from backend.systems.kiss3dgen.lrm.surface import LrmMesh
from backend.systems.kiss3dgen.zero123 import GUIDANCE, STEPS, generate_views
from backend.systems.kiss3dgen.zero123_networks import Zero123Networks

TILE_ORDER = (3, 0, 1, 2)
"""Which of the multi-view model's tiles the bundle's views show: its last is the front."""
PREVIEW_AZIMUTHS = (270.0, 0.0, 90.0, 180.0)
SUPERSAMPLE = 2
STAGES = ("views", "rough_mesh")


@dataclass(frozen=True)
class ReferenceSettings:
    """How a reference bundle is made.

    steps, guidance: of the multi-view model. tile: pixels of the bundle's tiles. published_framing: the whole photo is
    framed instead of the object, as published. rendered_colors: the rough mesh's colours instead of the views'.
    """

    steps: int = STEPS
    guidance: float = GUIDANCE
    tile: int = 512
    published_framing: bool = False
    rendered_colors: bool = False


def reference_bundle(
    photo: np.ndarray, views_model: Zero123Networks, mesh_model: LrmGenerator, seed: int = 0,
    settings: ReferenceSettings | None = None, hooks: Hooks | None = None,
) -> Bundle:  # fmt: skip
    """The bundle of a cut-out photo [H,W,4] uint8, its front being the photo's side.

    Errors: ValueError when nothing of the photo is opaque; `Cancelled`.
    """
    settings, hooks = settings or ReferenceSettings(), hooks or Hooks()
    framed = prepare_photo(photo, settings.published_framing)
    hooks.stage(STAGES[0])
    views = generate_views(views_model, framed, seed, settings.steps, settings.guidance, hooks)
    hooks.stage(STAGES[1])
    mesh = reconstruct(mesh_model, views, hooks)
    return bundle_of(views, mesh, settings.tile, settings.rendered_colors)


def bundle_of(views: np.ndarray, mesh: LrmMesh, tile: int = 512, rendered_colors: bool = False) -> Bundle:
    """The bundle of the multi-view model's tiles [4,S,S,3] and the mesh that the LRM made of them."""
    colors, normals, mask = draw_mesh(mesh, tile)
    if not rendered_colors:
        colors = resize_views(views[list(TILE_ORDER)], tile)
    return Bundle(colors, normals, mask)


def draw_mesh(
    mesh: LrmMesh, tile: int, azimuths: tuple[float, ...] = PREVIEW_AZIMUTHS, radius: float = LRM_PREVIEW_RADIUS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unlit colours [V,S,S,3], encoded local normals [V,S,S,3] (both on white) and coverage [V,S,S] of the mesh."""
    vertices = from_bundle_frame(mesh.vertices)
    cameras, intrinsics = view_cameras(radius, azimuths)
    shades = mesh.colors.astype(np.float32) / 255.0
    drawn = [
        render_view(vertices, mesh.faces, camera, intrinsics, (tile, tile), shades, supersample=SUPERSAMPLE)
        for camera in cameras
    ]
    mask = np.stack([view.alpha for view in drawn])
    world = directions_to_bundle_frame(np.stack([view.normal for view in drawn]))
    normals = encode_normals(world_to_local(world, azimuths=azimuths), mask)
    colors = np.stack([view.color for view in drawn])  # on white already
    return colors.astype(np.float32), normals.astype(np.float32), mask.astype(np.float32)


def resize_views(views: np.ndarray, tile: int) -> np.ndarray:
    """Views [V,S,S,3] at `tile` pixels a side, float32 in [0,1]."""
    if views.shape[1] == tile:
        return np.ascontiguousarray(views, np.float32)
    pictures = torch.from_numpy(np.ascontiguousarray(views, np.float32)).permute(0, 3, 1, 2)
    resized = F.interpolate(pictures, (tile, tile), mode="bicubic", align_corners=False, antialias=True)
    values: np.ndarray = resized.clamp(0, 1).permute(0, 2, 3, 1).contiguous().numpy()
    return values
