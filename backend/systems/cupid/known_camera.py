"""A camera that is known: checked as a job's parameter, and as the UV half of stage 1's latent.

The authors' way to condition on a camera is to hold the UV half of the latent while sampling (spec 13). That half is
the encoded UV cube of the camera of the crop, normalised as the flow's latents are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.contract.errors import MaquetteError
from backend.contract.frames import crop_intrinsics
from backend.systems.cupid.flow_sampler import normalise
from backend.systems.cupid.model import CupidModel
from backend.systems.cupid.structure_sampler import LATENT_CHANNELS
from backend.systems.cupid.structure_vae import DownsampleBlock3d
from backend.systems.cupid.uv_cube import uv_volumes

KEYS = {"world_to_camera", "intrinsics"}
ROTATION_SLACK = 1e-3  # how far from orthonormal a rotation may be written
FOCAL_RANGE = (0.05, 100.0)  # picture widths


@dataclass(frozen=True)
class KnownCamera:
    """`world_to_camera` [4,4] in the object's frame, normalised `intrinsics` [3,3] of the full picture."""

    world_to_camera: np.ndarray
    intrinsics: np.ndarray

    def of_crop(self, box: tuple[float, float, float, float]) -> np.ndarray:
        """Intrinsics [3,3] of the part `box` (left, top, right, bottom in units of the picture)."""
        return crop_intrinsics(self.intrinsics, box)


def parse_camera(value: Any) -> KnownCamera:
    """Check the parameter `camera`. Errors: `MaquetteError` bad_input saying what is wrong with it."""
    if not isinstance(value, dict) or set(value) != KEYS:
        raise _refused("it must have world_to_camera and intrinsics, nothing else")
    camera, lens = _matrix(value["world_to_camera"], 4), _matrix(value["intrinsics"], 3)
    rotation = camera[:3, :3]
    turned = np.abs(rotation @ rotation.T - np.eye(3)).max() <= ROTATION_SLACK and np.linalg.det(rotation) > 0
    if not turned or not np.array_equal(camera[3], [0, 0, 0, 1]):
        raise _refused("world_to_camera must turn and shift, without scale or mirror")
    low, high = FOCAL_RANGE
    focal = np.array([lens[0, 0], lens[1, 1]])
    if not ((low <= focal) & (focal <= high)).all() or not np.array_equal(lens[2], [0, 0, 1]) or lens[1, 0] != 0:
        raise _refused(f"its focal lengths must lie between {low:g} and {high:g} picture sizes")
    if np.abs(rotation.T @ camera[:3, 3]).max() <= 0.5:
        raise _refused("it stands inside the object's unit cube")
    if camera[2, 3] <= 0:
        raise _refused("the object lies behind it")
    return KnownCamera(camera, lens)


def uv_latent(networks: CupidModel, camera: KnownCamera, box: tuple[float, float, float, float]) -> Tensor:
    """Normalised UV half [1,8,r,r,r] of the structure latent that `camera` gives in the crop `box`.

    Errors: `MaquetteError` model_missing without the encoder of UV cubes.
    """
    if "uv_enc" not in networks.networks:
        raise MaquetteError(
            "model_missing", "These weights cannot follow a known camera; install the encoder of UV cubes.",
            detail="uv_enc", next_step="install_model",
        )
    device = networks.device
    halvings = sum(isinstance(block, DownsampleBlock3d) for block in networks["uv_enc"].blocks)
    resolution = networks["structure_flow"].resolution * 2**halvings
    matrix = torch.from_numpy(camera.world_to_camera).float()[None].to(device)
    lens = torch.from_numpy(camera.of_crop(box)).float()[None].to(device)
    latent = networks["uv_enc"](uv_volumes(matrix, lens, resolution))
    return normalise(latent, networks.settings.structure_normalization, LATENT_CHANNELS)


def _matrix(value: Any, size: int) -> np.ndarray:
    try:
        matrix = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise _refused("a matrix is not made of numbers") from error
    if matrix.shape != (size, size) or not np.isfinite(matrix).all():
        raise _refused(f"a matrix is not {size} by {size} finite numbers")
    return matrix


def _refused(reason: str) -> MaquetteError:
    return MaquetteError("bad_input", f"The known camera cannot be used: {reason}; correct it or leave it out.")
