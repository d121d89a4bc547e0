"""RefAny3D's networks with tiny numbers: real classes, pictures of 32 pixels, in a second on one core."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tests.fakes.tiny_flux import TINY as TINY_FLUX

SIZE = 32
TINY: dict[str, Any] = {
    "settings": {
        "size": SIZE, "views": 4, "text": "clip_t5", "text_tokens": 12, "steps": 3, "guidance": 3.5,
        "image_guidance": 2.0, "rank": 4,
    },
    "networks": {role: TINY_FLUX["networks"][role] for role in ("transformer", "vae", "clip", "t5")},
}  # fmt: skip


def write_tiny_config(path: Path, guidance_embeds: bool = True, **settings: Any) -> str:
    """The tiny configuration as a file, some settings changed; returns its path for `load_networks`."""
    config = copy.deepcopy(TINY)
    config["settings"].update(settings)
    config["networks"]["transformer"]["args"]["guidance_embeds"] = guidance_embeds
    path.write_text(json.dumps(config))
    return str(path)
