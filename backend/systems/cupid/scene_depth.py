"""The depth of a photo: an image that the artist gives, or MoGe's answer where that is installed (spec section 9).

Depths run along the camera's z, in metres or any other unit; 0, negative and infinite ones mean "unknown". A 16-bit
PNG is taken for millimetres, as depth cameras write them.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.formats import exr

logger = logging.getLogger(__name__)

MOGE_VARIABLE = "MAQUETTE_MOGE"  # the checkpoint's file or folder; nothing is downloaded behind the artist's back
FAR = 1e6  # depths beyond are "nothing there": renderers write 1e10 for the sky
SAME_SHAPE = 0.03  # relative difference of the sides' ratio up to which depth and photo show the same
CHANNELS = ("Z", "Depth", "depth", "V", "Y", "R")
PNG_UNIT = 0.001  # metres


@dataclass(frozen=True)
class DepthMap:
    """`depth` [H,W] float32 (0: unknown), the depth prior's own `intrinsics` [3,3] if it has any, and its `source`."""

    depth: np.ndarray
    intrinsics: np.ndarray | None
    source: str

    def resized(self, size: tuple[int, int]) -> np.ndarray:
        """Depth [h,w] at `size` (width, height): the nearest measurement, because means across edges are nowhere."""
        width, height = size
        rows = ((np.arange(height) + 0.5) / height * self.depth.shape[0]).astype(int)
        columns = ((np.arange(width) + 0.5) / width * self.depth.shape[1]).astype(int)
        return np.asarray(self.depth[rows[:, None], columns[None]])

    def even(self, most: int) -> np.ndarray:
        """Depth [h,w] on an even grid of at most twice `most` pixels a side: every n-th measurement, so that slopes
        between neighbours are true, which they are not in `resized`."""
        step = max(1, max(self.depth.shape) // most)
        height, width = (side // step * step for side in self.depth.shape)
        return np.asarray(self.depth[step // 2 : height : step, step // 2 : width : step])


def read_depth(data: bytes, size: tuple[int, int]) -> DepthMap:
    """The depth in an .npy, PNG or EXR file for a photo of `size` (width, height). Errors: `MaquetteError`."""
    values = _decoded(data)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2 or min(values.shape) < 8:
        raise _bad("The depth image must be one plane of numbers; save a single channel.", str(values.shape))
    ratio = values.shape[1] / values.shape[0] / (size[0] / size[1])
    if abs(ratio - 1.0) > SAME_SHAPE:
        raise _bad(
            "The depth image has another shape than the photo; choose the depth of this photo, uncropped.",
            f"depth {values.shape[1]} x {values.shape[0]}, photo {size[0]} x {size[1]}",
        )
    depth = values.astype(np.float32)
    depth = np.where(np.isfinite(depth) & (depth > 0) & (depth < FAR), depth, 0.0).astype(np.float32)
    if not depth.any():
        raise _bad("The depth image holds no depth; choose another one.", "no positive finite value")
    return DepthMap(depth, None, "image")


def moge_available() -> bool:
    """Whether MoGe and its checkpoint are there."""
    return importlib.util.find_spec("moge") is not None and bool(os.environ.get(MOGE_VARIABLE))


def estimate_depth(rgb: np.ndarray, device: torch.device) -> DepthMap:
    """MoGe's depth and camera for the photo [H,W,3] uint8. Errors: `MaquetteError` when its checkpoint is unusable."""
    try:
        moge: Any = importlib.import_module("moge.model.v1")
        network = moge.MoGeModel.from_pretrained(os.environ[MOGE_VARIABLE]).to(device).eval()
    except Exception as error:  # whatever a package of others raises: the artist may go on without it
        raise MaquetteError(
            "model_missing", "MoGe cannot be loaded; check its checkpoint or give a depth image.", repr(error)
        ) from error
    image = torch.from_numpy(rgb.astype(np.float32) / 255.0).permute(2, 0, 1).to(device)
    answer = {name: value.float().cpu().numpy() for name, value in network.infer(image).items()}
    known = answer["mask"].astype(bool) & np.isfinite(answer["depth"])
    depth = np.where(known, answer["depth"], 0.0).astype(np.float32)
    return DepthMap(depth, answer["intrinsics"].astype(np.float64), "moge")


def _decoded(data: bytes) -> np.ndarray:
    try:
        if data[:6] == b"\x93NUMPY":
            return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.float32)
        if data[:4] == exr.MAGIC:
            return _depth_channel(exr.read_exr(data))
        picture = Image.open(io.BytesIO(data))
        if picture.mode in ("I;16", "I;16B", "I"):
            return np.asarray(picture, np.float32) * PNG_UNIT
        if picture.mode == "F":
            return np.asarray(picture, np.float32)
    except exr.ExrError as error:
        raise _bad(f"The depth image cannot be used. {error}", str(error.__cause__)) from error
    except (OSError, ValueError, EOFError) as error:
        raise _bad("The depth image cannot be read; give an EXR, a 16-bit PNG or an .npy file.", repr(error)) from error
    raise _bad("This picture has too few depth steps; give an EXR, a 16-bit PNG or an .npy file.", picture.mode)


def _depth_channel(channels: dict[str, np.ndarray]) -> np.ndarray:
    """The channel that holds depth: by its name, else by its name in a layer, else the only one."""
    for wanted in CHANNELS:
        for name, values in channels.items():
            if name == wanted or name.endswith(f".{wanted}"):
                return values
    if len(channels) == 1:
        return next(iter(channels.values()))
    raise _bad("The EXR file holds no depth channel; save the Z or Depth pass.", ", ".join(channels))


def _bad(message: str, detail: str) -> MaquetteError:
    return MaquetteError("bad_input", message, detail=detail)
