"""Kiss3DGen's cameras in torch: those of the large reconstruction model, of ISOMER's rasteriser and of projection.

Two worlds (spec 5). The bundle frame is y up, azimuth 0 looks from +z, 90 from +x; ISOMER and projection use it. The
LRM's is z up, azimuth 0 looks from +x, 90 from +y; `LRM_TO_BUNDLE` turns its points. Camera axes are OpenGL's (x right,
y up, z back). Clip space has its y row negated: a picture's row index grows with clip y. Angles in degrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backend.systems.kiss3dgen.bundle import AZIMUTHS, ELEVATION, FOV, RADIUS, view_axes

LRM_RADIUS = 3.5
LRM_PREVIEW_RADIUS = 4.15
NEAR, FAR = 0.1, 1000.0
NDC_NEAR, NDC_FAR = 1.0, 100.0  # of the projection cameras' depth
LRM_TO_BUNDLE = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))  # points [N,3] @ this


def bundle_view_matrices(radius: float, azimuths: Sequence[float] = AZIMUTHS, elevation: float = ELEVATION) -> Tensor:
    """World to camera [V,4,4] float32 of cameras at `radius` that look at the origin, in the bundle frame."""
    views = torch.eye(4, dtype=torch.float64).repeat(len(azimuths), 1, 1)
    for view, azimuth in zip(views, azimuths, strict=True):
        left, up, back = torch.as_tensor(view_axes(azimuth, elevation))
        view[:3, :3] = torch.stack([-left, up, back])
        view[2, 3] = -radius
    return views.float()


def projection_matrix(fov: float = FOV) -> Tensor:
    """Camera to clip [4,4] float32 of a square picture, y negated."""
    focal = 1.0 / math.tan(math.radians(fov) / 2)
    depth, shift = -(FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)
    rows = [[focal, 0, 0, 0], [0, -focal, 0, 0], [0, 0, depth, shift], [0, 0, -1, 0]]
    return torch.tensor(rows, dtype=torch.float32)


def isomer_cameras(radius: float = RADIUS, azimuths: Sequence[float] = AZIMUTHS) -> tuple[Tensor, Tensor]:
    """World to camera [V,4,4] and camera to clip [4,4] of ISOMER's views."""
    return bundle_view_matrices(radius, azimuths), projection_matrix()


def to_clip(points: Tensor, views: Tensor, projection: Tensor) -> Tensor:
    """Points [N,3] in clip space [V,N,4] of cameras [V,4,4] with a projection [4,4]."""
    whole = (projection @ views).transpose(1, 2)
    return points @ whole[:, :3] + whole[:, None, 3]


def to_ndc(points: Tensor, radius: float = RADIUS, azimuths: Sequence[float] = AZIMUTHS) -> Tensor:
    """Points [N,3] as projection sees them [V,N,3]: x to the left, y up, z from 0 at depth 1 to 1 at depth 100."""
    clip = to_clip(points, *(part.to(points) for part in isomer_cameras(radius, azimuths)))
    depth = clip[..., 3]
    z = NDC_FAR / (NDC_FAR - NDC_NEAR) * (1 - NDC_NEAR / depth)
    return torch.stack([-clip[..., 0] / depth, -clip[..., 1] / depth, z], dim=-1)


def lrm_camera_to_world(
    radius: float = LRM_RADIUS, azimuths: Sequence[float] = AZIMUTHS, elevation: float = ELEVATION
) -> Tensor:
    """Camera to world [V,4,4] float32 in the LRM's z-up world."""
    turn = torch.tensor(LRM_TO_BUNDLE, dtype=torch.float32)
    views = bundle_view_matrices(radius, azimuths, elevation)
    poses = torch.linalg.inv(views)
    poses[:, :3] = turn @ poses[:, :3]  # bundle points are points @ turn, so directions go back by turn
    return poses


def lrm_input_cameras(radius: float = LRM_RADIUS, azimuths: Sequence[float] = AZIMUTHS) -> Tensor:
    """What the LRM is told of each view [V,16]: three rows of camera to world, then focal lengths and centre as shares
    of the picture."""
    poses = lrm_camera_to_world(radius, azimuths)[:, :3].reshape(len(azimuths), 12)
    focal = 0.5 / math.tan(math.radians(FOV) / 2)
    return torch.cat([poses, torch.tensor([focal, focal, 0.5, 0.5]).expand(len(azimuths), 4)], dim=1)
