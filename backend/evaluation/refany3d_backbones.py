"""The published columns that need other networks' weights: CLIP-I, CLIP-T and DINO (refany3d spec 11).

None of these weights comes with Maquette. `--clip FOLDER` and `--dino FOLDER` name folders in the layout that
transformers reads; without them the report says that the columns are missing. Which networks the publication took is
not told, so the folders' names stand in the report. Backgrounds are taken out of all pictures first: by the point map
of a painted picture, by the masks of the views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from backend.contract.errors import MaquetteError
from backend.systems.refany3d.point_maps import foreground, from_bytes

COLUMNS = ("clip_i_avg", "clip_i_max", "clip_t", "dino_avg", "dino_max")
MISSING = {
    "clip": "CLIP-I and CLIP-T are missing: no weights were named (--clip).",
    "dino": "DINO is missing: no weights were named (--dino).",
    "gim": "GIM is missing: its matcher is not part of Maquette; matches and matches_views have its role.",
}


@dataclass(frozen=True)
class Backbone:
    """A network that turns pictures, and for CLIP sentences, into unit vectors."""

    kind: str
    name: str
    network: Any
    images: Any
    tokenizer: Any = None

    @torch.no_grad()
    def pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Unit vectors [N,D] of pictures [S,S,3] uint8."""
        given = self.images(images=[Image.fromarray(each) for each in pictures], return_tensors="pt")
        if self.kind == "clip":
            return functional.normalize(self.network.get_image_features(**given), dim=-1)
        return functional.normalize(self.network(**given).last_hidden_state[:, 0], dim=-1)

    @torch.no_grad()
    def sentence(self, text: str) -> Tensor:
        """Unit vector [1,D] of a sentence."""
        given = self.tokenizer([text], padding=True, truncation=True, return_tensors="pt")
        return functional.normalize(self.network.get_text_features(**given), dim=-1)


def read_backbones(clip: Path | None, dino: Path | None) -> list[Backbone]:
    """Those whose folders are given. Errors: `MaquetteError` bad_input for a folder that cannot be read."""
    from transformers import AutoModel, AutoTokenizer, BitImageProcessor, CLIPImageProcessor, CLIPModel

    found = []
    for kind, folder in (("clip", clip), ("dino", dino)):
        if folder is None:
            continue
        try:
            if kind == "clip":
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                network = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
                images: Any = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
            else:
                tokenizer = None
                network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
                images = BitImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            sentence = f"The folder {folder} holds no {kind.upper()} that can be read; name another one."
            raise MaquetteError("bad_input", sentence, str(error)) from error
        found.append(Backbone(kind, folder.name, network.eval(), images, tokenizer))
    return found


def score(
    backbone: Backbone,
    picture: np.ndarray,
    points: np.ndarray | None,
    views: np.ndarray,
    view_points: np.ndarray,
    prompt: str,
) -> dict[str, float]:
    """The columns of one picture [S,S,3] in [0,1] against `views` and their point maps [N,S,S,3] uint8."""
    shown = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    alone = shown if points is None else np.where(foreground(points)[..., None], shown, np.uint8(255))
    masks = foreground(from_bytes(view_points))
    references = [np.where(mask[..., None], view, np.uint8(255)) for mask, view in zip(masks, views, strict=True)]
    vectors = backbone.pictures([alone, *references])
    likeness = (vectors[1:] @ vectors[0]).numpy()
    name = "clip_i" if backbone.kind == "clip" else "dino"
    found = {f"{name}_avg": float(likeness.mean()), f"{name}_max": float(likeness.max())}
    if backbone.kind == "clip":
        found["clip_t"] = float((backbone.pictures([shown])[0] * backbone.sentence(prompt)[0]).sum())
    return found
