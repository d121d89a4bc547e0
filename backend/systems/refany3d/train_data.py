"""What RefAny3D mini learns from: scenes with point maps (`backend.data.reference_scenes`), and views of their objects.

Everything that does not change is made once and kept beside the run: tokens of pictures and point maps, the features of
captions, and for each object the tokens of its views and their point maps, drawn by our own rasteriser.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.contract.meshes import MeshData
from backend.data.reference_scenes import SceneDataset
from backend.formats.glb_reader import GlbError, read_glb
from backend.systems.kiss3dgen.flux.text import MiniLM
from backend.systems.refany3d.condition_views import ConditionViews, azimuths, draw_conditions
from backend.systems.refany3d.config import Settings
from backend.systems.refany3d.encoding import condition_tokens, encode_pictures, to_tensor
from backend.systems.refany3d.train_framing import LEAST_SIDE, SHARE, framed

logger = logging.getLogger(__name__)

ENCODE_BATCH = 16
OBJECTS_PER_FILE = 64
TEXTS_PER_BATCH = 64

Draw = Callable[[str, Sequence[MeshData]], ConditionViews]


@dataclass(frozen=True)
class Batch:
    """rgb, coord [B,T,C] clean tokens; text [B,L,E]; pooled [B,P]; ids: the object of each."""

    rgb: Tensor
    coord: Tensor
    text: Tensor
    pooled: Tensor
    ids: list[str]


class SceneTraining:
    """The scenes of one split as tokens, ready to draw from."""

    def __init__(self, data: Path, split: str, vae: Any, settings: Settings, cache: Path) -> None:
        """data: folder of `backend.data.reference_scenes`. cache: folder of what is kept. Errors: FileNotFoundError."""
        dataset = SceneDataset(data, split)
        self.ids, self.captions = dataset.ids, dataset.captions
        cache.mkdir(parents=True, exist_ok=True)
        self.rgb, self.coord = scene_tokens(dataset, vae, cache / f"scenes-{split}.safetensors")
        self.texts = sorted({"", *self.captions})
        self.rows = torch.tensor([self.texts.index(caption) for caption in self.captions])
        self.tokens, self.pooled = caption_features(
            self.texts, settings.text_tokens, cache / f"captions-{split}.safetensors"
        )

    def __len__(self) -> int:
        return len(self.ids)

    def empty_text(self) -> tuple[Tensor, Tensor]:
        """Tokens [L,E] and pooled [P] of the empty sentence, the first of `texts`."""
        return self.tokens[0].float(), self.pooled[0].float()

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """`count` random scenes."""
        chosen = torch.randint(len(self), (count,), generator=generator)
        rows = self.rows[chosen]
        return Batch(
            self.rgb[chosen].float(), self.coord[chosen].float(), self.tokens[rows].float(), self.pooled[rows].float(),
            [self.ids[index] for index in chosen.tolist()],
        )  # fmt: skip


class ObjectTokens:
    """Tokens [2N,T,C] of N pictures of each object and of their point maps, made once and read when they are drawn.

    Files `KEY-NNNNN.safetensors` of at most OBJECTS_PER_FILE objects each. An object that cannot be drawn is left out
    and logged; see `usable`.
    """

    def __init__(self, ids: Sequence[str], paths: Mapping[str, Path], draw: Draw, vae: Any, key: str, cache: Path):
        """draw: the pictures of an object, by its name and meshes. key: what tells these tokens from others."""
        self.vae, self.cache, self.key, self.draw = vae, cache, key, draw
        cache.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, Any] = {}
        for path in sorted(cache.glob(f"{key}-*.safetensors")):
            self._open(path)
        missing = [name for name in dict.fromkeys(ids) if name not in self._files]
        if missing:
            logger.info("drawing %d objects for %s", len(missing), key)
        for start in range(0, len(missing), OBJECTS_PER_FILE):
            self._make(missing[start : start + OBJECTS_PER_FILE], paths)

    def _open(self, path: Path) -> None:
        stored = safe_open(path, framework="pt")
        self._files |= dict.fromkeys(stored.keys(), stored)

    def _make(self, ids: Sequence[str], paths: Mapping[str, Path]) -> None:
        """Draw, encode and write one file."""
        made: dict[str, Tensor] = {}
        for name in ids:
            try:
                drawn = self.draw(name, read_glb(paths[name].read_bytes()))
            except (KeyError, OSError, GlbError, ValueError) as error:
                logger.warning("object %s has no views and is left out: %s", name, error)
                continue
            made[name] = condition_tokens(self.vae, drawn.views, drawn.points)[0].half()
        if not made:
            return
        number = len(list(self.cache.glob(f"{self.key}-*.safetensors")))
        path = self.cache / f"{self.key}-{number:05d}.safetensors"
        partial = path.with_suffix(".partial")
        save_file(made, partial)
        partial.replace(path)
        self._open(path)

    def usable(self, ids: Sequence[str]) -> list[int]:
        """Which of `ids` have tokens."""
        return [index for index, name in enumerate(ids) if name in self._files]

    def of(self, ids: Sequence[str]) -> Tensor:
        """Tokens [B,2N,T,C] of objects."""
        return torch.stack([self._files[name].get_tensor(name).float() for name in ids])


def object_views(
    ids: Sequence[str], paths: Mapping[str, Path], vae: Any, size: int, views: int, cache: Path
) -> ObjectTokens:
    """The conditions of objects: `views` of each and their point maps."""

    def draw(_: str, meshes: Sequence[MeshData]) -> ConditionViews:
        return draw_conditions(meshes, size, azimuths(views))

    return ObjectTokens(ids, paths, draw, vae, f"views-{fingerprint(vae, f'{size} {views}')}", cache)


def keep(data: SceneTraining, indices: Sequence[int]) -> None:
    """Leave only the scenes `indices` in `data`."""
    chosen = torch.tensor(list(indices), dtype=torch.long)
    data.rgb, data.coord, data.rows = data.rgb[chosen], data.coord[chosen], data.rows[chosen]
    data.ids = [data.ids[index] for index in indices]
    data.captions = [data.captions[index] for index in indices]


def fingerprint(vae: Any, about: str) -> str:
    """16 letters that tell an autoencoder, its scaling and `about` from others."""
    digest = hashlib.sha256(f"{about} {vae.config.scaling_factor} {vae.config.shift_factor}".encode())
    for parameter in vae.state_dict().values():
        digest.update(parameter.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def scene_tokens(dataset: SceneDataset, vae: Any, path: Path) -> tuple[Tensor, Tensor]:
    """Tokens [n,T,C] float16 of all pictures and of all point maps, framed; read from `path` if they are the same."""
    key = fingerprint(vae, ",".join(dataset.ids) + f"{dataset.size} {SHARE} {LEAST_SIDE}")
    stored = load_file(path) if path.exists() else {}
    if f"{key}.rgb" not in stored:
        logger.info("encoding %d scenes", len(dataset))
        pairs = [framed(picture, points) for picture, points in zip(dataset.pictures, dataset.points, strict=True)]
        stored = {
            f"{key}.{name}": _encoded(vae, np.stack(pictures))
            for name, pictures in zip(("rgb", "coord"), zip(*pairs, strict=True), strict=True)
        }
        save_file(stored, path)
    return stored[f"{key}.rgb"], stored[f"{key}.coord"]


@torch.no_grad()
def _encoded(vae: Any, pictures: Any) -> Tensor:
    """Tokens [n,T,C] float16 of pictures uint8 [n,S,S,3]."""
    parts = [
        encode_pictures(vae, to_tensor(pictures[start : start + ENCODE_BATCH])).half().cpu()
        for start in range(0, len(pictures), ENCODE_BATCH)
    ]
    return torch.cat(parts)


def caption_features(texts: list[str], count: int, path: Path) -> tuple[Tensor, Tensor]:
    """MiniLM's tokens [M,count,384] and pooled [M,384] of `texts`, float16; read from `path` if they are the same."""
    key = hashlib.sha256(f"{count} {texts}".encode()).hexdigest()[:16]
    stored = load_file(path) if path.exists() else {}
    if f"{key}.tokens" not in stored:
        logger.info("encoding %d captions", len(texts))
        encoder = MiniLM(count)
        features = [
            encoder.encode(texts[start : start + TEXTS_PER_BATCH]) for start in range(0, len(texts), TEXTS_PER_BATCH)
        ]
        stored = {
            f"{key}.tokens": torch.cat([part.tokens.half() for part in features]),
            f"{key}.pooled": torch.cat([part.pooled.half() for part in features]),
        }
        save_file(stored, path)
    return stored[f"{key}.tokens"], stored[f"{key}.pooled"]
