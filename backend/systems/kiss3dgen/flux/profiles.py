"""The memory profiles of Stage I, and which networks they treat how."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """half: 16-bit numbers. int8: large layers as integers. staged: one stage's networks at a time. streamed: blocks
    visit the device."""

    half: bool = False
    int8: bool = False
    staged: bool = False
    streamed: bool = False


PROFILES = {
    "full": Profile(),
    "half": Profile(half=True),
    "int8": Profile(half=True, int8=True, staged=True),
    "offload": Profile(half=True, int8=True, staged=True, streamed=True),
}
STAGE_OF = {
    "clip": "text",
    "t5": "text",
    "image_encoder": "image",
    "redux": "image",
    "controlnet": "denoise",
    "transformer": "denoise",
}
BLOCKS = {
    "transformer": ("transformer_blocks", "single_transformer_blocks"),
    "controlnet": ("transformer_blocks", "single_transformer_blocks"),
    "t5": ("encoder.block",),
}
"""The lists of blocks in which large layers become integers; other networks are small."""
STREAMED = ("transformer", "controlnet", "t5")
