"""What Kiss3DGen mini learns from: true bundles, mirrored and recoloured, with captions, and photos of the objects.

Everything that does not change is made once and kept: the latents of each variant (a file beside the run) and the
features of each caption. Photos are the random views that `backend.data.prepare` renders for CUPID, joined by id.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.data.bundles import BundleDataset
from backend.data.shards import ShardDataset
from backend.formats.images import photo_on_white

from . import colors
from .flux.latents import encode_pictures
from .flux.text import MiniLM

logger = logging.getLogger(__name__)

MIRRORED_TILES = (0, 3, 2, 1)
"""Which tile a mirrored object's tile comes from: its left and right views trade places."""
RECOLORED = 2  # variants of each object in another hue
ENCODE_BATCH = 32


@dataclass(frozen=True)
class Variant:
    """One picture to learn: index of the object, whether mirrored, hue turned by degrees, and its captions."""

    item: int
    mirrored: bool
    hue: float
    captions: tuple[str, ...]


def mirror(picture: np.ndarray) -> np.ndarray:
    """The bundle [2S,4S,C] of the object mirrored left to right: tiles flipped and re-ordered, normals' red turned."""
    height, width, channels = picture.shape
    side = height // 2
    tiles = picture.reshape(2, side, 4, side, channels)[:, :, list(MIRRORED_TILES), ::-1].copy()
    background = (tiles[1] >= 250).all(-1)
    tiles[1, ..., 0] = np.where(background, tiles[1, ..., 0], 255 - tiles[1, ..., 0])
    return np.asarray(tiles.reshape(height, width, channels))


def recolor(picture: np.ndarray, degrees: float) -> np.ndarray:
    """The bundle uint8 [2S,4S,3] with the hue of its colour row turned."""
    side = picture.shape[0] // 2
    result = picture.copy()
    result[:side] = np.rint(colors.turn_hue(picture[:side] / 255.0, degrees) * 255.0)
    return result


def captions_of(caption: str, picture: np.ndarray, changed: bool) -> tuple[str, ...]:
    """What may be said of a bundle uint8 [2S,4S,4]: its caption, and the caption with its main colour if that is clear.

    changed: the hue is not the object's own, so a caption that names a colour no longer holds.
    """
    side = picture.shape[0] // 2
    if colors.names_a_color(caption):
        return () if changed else (caption,)
    name = colors.main_color(picture[:side, :, :3] / 255.0, picture[:side, :, 3] > 200)
    if name is None:
        return (caption,)
    return (colors.with_color(caption, name),) if changed else (caption, colors.with_color(caption, name))


def plan_variants(pictures: np.ndarray, captions: list[str], seed: int = 0) -> list[Variant]:
    """The pictures to learn of each object: as it is, mirrored, and in RECOLORED other hues (if it has a colour)."""
    rng = np.random.default_rng(seed)
    variants = []
    for item, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        own = captions_of(caption, picture, changed=False)
        variants += [Variant(item, False, 0.0, own), Variant(item, True, 0.0, own)]
        for index in range(RECOLORED):
            degrees = float(rng.uniform(40.0, 320.0))
            turned = np.concatenate([recolor(picture[..., :3], degrees), picture[..., 3:]], -1)
            said = captions_of(caption, turned, changed=True)
            if said:
                variants.append(Variant(item, bool(index % 2), degrees, said))
    return variants


def picture_of(variant: Variant, pictures: np.ndarray) -> np.ndarray:
    """The variant's picture uint8 [2S,4S,3]."""
    picture = pictures[variant.item, ..., :3]
    picture = recolor(picture, variant.hue) if variant.hue else picture
    return mirror(picture) if variant.mirrored else picture


class BundleTraining:
    """Latents, captions and photos of one split, ready to draw from."""

    def __init__(self, data: Path, photos: Path | None, split: str, vae: Any, settings: Any, cache: Path) -> None:
        """data: folder of `backend.data.bundles`; photos: folder of `backend.data.prepare`, or None for no photos."""
        dataset = BundleDataset(data, split)
        self.pictures = dataset.pictures()
        self.variants = plan_variants(self.pictures, dataset.captions)
        if split != "train":
            self.variants = [variant for variant in self.variants if not variant.mirrored and not variant.hue]
        self.latents = self._latents(vae, cache / f"latents-{split}.safetensors")
        self.texts = sorted({caption for variant in self.variants for caption in variant.captions} | {""})
        self.text_index = {text: index for index, text in enumerate(self.texts)}
        self.tokens, self.pooled = self._features(settings.text_tokens, cache / f"texts-{split}.safetensors")
        self.photos = read_photos(photos, split, dataset.ids, settings.image_size) if photos else None

    def _latents(self, vae: Any, path: Path) -> Tensor:
        """Packed latents [N,T,4C] float16 of every variant; read from `path` if they belong to this autoencoder."""
        digest = hashlib.sha256(str([v.hue for v in self.variants]).encode())
        for parameter in vae.state_dict().values():
            digest.update(parameter.cpu().numpy().tobytes())
        key = digest.hexdigest()[:16]
        if path.exists():
            stored = load_file(path)
            if key in stored:
                return stored[key]
        logger.info("encoding %d bundles", len(self.variants))
        parts = []
        for start in range(0, len(self.variants), ENCODE_BATCH):
            chosen = self.variants[start : start + ENCODE_BATCH]
            batch = np.stack([picture_of(variant, self.pictures) for variant in chosen])
            with torch.no_grad():
                parts.append(encode_pictures(vae, torch.from_numpy(batch).permute(0, 3, 1, 2) / 255.0).half())
        latents = torch.cat(parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: latents}, path)
        return latents

    def _features(self, count: int, path: Path) -> tuple[Tensor, Tensor]:
        """Tokens [M,L,384] and pooled [M,384] of every caption, float16; read from `path` if they are the same."""
        key = hashlib.sha256(f"{count} {self.texts}".encode()).hexdigest()[:16]
        stored = load_file(path) if path.exists() else {}
        if f"{key}.tokens" in stored:
            return stored[f"{key}.tokens"], stored[f"{key}.pooled"]
        logger.info("encoding %d captions", len(self.texts))
        encoder = MiniLM(count)
        tokens, pooled = [], []
        for start in range(0, len(self.texts), 64):
            features = encoder.encode(self.texts[start : start + 64])
            tokens.append(features.tokens.half())
            pooled.append(features.pooled.half())
        found = torch.cat(tokens), torch.cat(pooled)
        save_file({f"{key}.tokens": found[0], f"{key}.pooled": found[1]}, path)
        return found

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """A batch: latents [B,T,4C], tokens [B,L,384], pooled [B,384], photos [B,3,s,s] in [0,1] on white or None."""
        chosen = torch.randint(len(self.variants), (count,), generator=generator)
        texts, views = [], []
        for index in chosen.tolist():
            variant = self.variants[index]
            pick = int(torch.randint(len(variant.captions), (1,), generator=generator))
            texts.append(self.text_index[variant.captions[pick]])
            if self.photos is not None:
                view = int(torch.randint(self.photos.shape[1], (1,), generator=generator))
                views.append(self._photo(variant, view))
        told = torch.tensor(texts)
        photos = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255.0 if views else None
        return self.latents[chosen].float(), self.tokens[told].float(), self.pooled[told].float(), photos

    def _photo(self, variant: Variant, view: int) -> np.ndarray:
        """The variant as a photo uint8 [s,s,3]."""
        assert self.photos is not None
        photo = self.photos[variant.item, view]
        if variant.hue:
            photo = np.rint(colors.turn_hue(photo / 255.0, variant.hue) * 255.0).astype(np.uint8)
        return photo[:, ::-1] if variant.mirrored else photo


def read_photos(folder: Path, split: str, ids: list[str], size: int) -> np.ndarray:
    """Random views of the objects `ids` on white, uint8 [n,V,size,size,3]; white where an object has none."""
    dataset = ShardDataset(folder, split)
    place = {name: index for index, name in enumerate(dataset.ids)}
    images = dataset.images
    photos = np.full((len(ids), dataset.views, size, size, 3), 255, dtype=np.uint8)
    for item, name in enumerate(ids):
        if name not in place:
            continue
        for view, rgba in enumerate(images[place[name]]):
            photos[item, view] = np.rint(255.0 * photo_on_white(rgba, (size, size))[0])
    return photos
