"""The fake system's proposal of object masks: three equal upright stripes of the picture, whatever it shows."""

from __future__ import annotations

import io

from PIL import Image

from backend.systems.base import ArtifactData

TASK = "propose_masks"
COUNT = 3


def mask_files(size: tuple[int, int]) -> tuple[ArtifactData, ...]:
    """mask_0.png to mask_2.png for a picture of `size` (width, height), and a thumbnail."""
    files = []
    for number in range(COUNT):
        mask = Image.new("L", size, 0)
        mask.paste(255, (number * size[0] // COUNT, 0, (number + 1) * size[0] // COUNT, size[1]))
        files.append(ArtifactData(f"mask_{number}.png", _png(mask), "image/png"))
    return (*files, ArtifactData("thumbnail.png", _png(Image.new("RGB", (32, 32), (90, 120, 200))), "image/png"))


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
