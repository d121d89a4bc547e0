"""What Kiss3DGen mini learns from: true bundles, mirrored and recoloured, with captions, and photos of the objects.

Everything that does not change is made once and kept: the latents of each variant (a file beside the run) and the
features of each caption. Photos are the random views that `backend.data.prepare` renders for CUPID, joined by id.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
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


def other_hues(variants: list[Variant]) -> list[tuple[int, int]]:
    """Pairs of variants (wanted, given) that differ in hue alone; a caption of the wanted one names its colour."""
    same: dict[tuple[int, bool], list[int]] = {}
    for index, variant in enumerate(variants):
        same.setdefault((variant.item, variant.mirrored), []).append(index)
    return [
        (wanted, given)
        for group in same.values()
        for wanted in group
        for given in group
        if wanted != given and variants[wanted].captions and colors.names_a_color(variants[wanted].captions[-1])
    ]


class BundleTraining:
    """Latents, captions and photos of one split, ready to draw from."""

    def __init__(
        self, data: Path, photos: Path | None, split: str, vae: Any, settings: Any, cache: Path,
        degraded: Path | None = None,
    ) -> None:  # fmt: skip
        """data: folder of `backend.data.bundles`; photos: folder of `backend.data.prepare`, or None for no photos;
        degraded: folder of `backend.data.bundles --degraded`, or None for no pairs with them.
        """
        dataset = BundleDataset(data, split)
        self.pictures = dataset.pictures()
        self.variants = plan_variants(self.pictures, dataset.captions)
        if split != "train":
            self.variants = [variant for variant in self.variants if not variant.mirrored and not variant.hue]
        self.latents = self._latents(vae, cache / f"latents-{split}.safetensors", self.variants, self.pictures)
        self.worse_rows, self.worse = self._worse(degraded, split, dataset.ids, vae, cache)
        self.hue_pairs = torch.tensor(other_hues(self.variants), dtype=torch.long).reshape(-1, 2)
        self.texts = sorted({caption for variant in self.variants for caption in variant.captions} | {""})
        self.text_index = {text: index for index, text in enumerate(self.texts)}
        self.tokens, self.pooled = self._features(settings.text_tokens, cache / f"texts-{split}.safetensors")
        self.photos = read_photos(photos, split, dataset.ids, settings.image_size) if photos else None

    def _latents(
        self, vae: Any, path: Path, variants: list[Variant], pictures: np.ndarray, about: str = ""
    ) -> Tensor:  # fmt: skip
        """Packed latents [N,T,4C] float16 of variants of `pictures`; read from `path` if they belong to this
        autoencoder and to `about`."""
        digest = hashlib.sha256((str([v.hue for v in variants]) + about).encode())
        for parameter in vae.state_dict().values():
            digest.update(parameter.cpu().numpy().tobytes())
        key = digest.hexdigest()[:16]
        if path.exists():
            stored = load_file(path)
            if key in stored:
                return stored[key]
        logger.info("encoding %d bundles", len(variants))
        parts = []
        for start in range(0, len(variants), ENCODE_BATCH):
            chosen = variants[start : start + ENCODE_BATCH]
            batch = np.stack([picture_of(variant, pictures) for variant in chosen])
            with torch.no_grad():
                parts.append(encode_pictures(vae, torch.from_numpy(batch).permute(0, 3, 1, 2) / 255.0).half())
        latents = torch.cat(parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: latents}, path)
        return latents

    def _worse(
        self, folder: Path | None, split: str, ids: list[str], vae: Any, cache: Path
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The variants [M] whose object was also made worse, and latents [M,T,4C] float16 of them made worse."""
        nothing = torch.zeros(0, dtype=torch.long), self.latents[:0]
        if folder is None:
            return nothing
        try:
            dataset = BundleDataset(folder, split)
        except FileNotFoundError:
            logger.warning("%s holds no %s bundle: none is learnt from", folder, split)
            return nothing
        place = {name: index for index, name in enumerate(dataset.ids)}
        rows = [row for row, variant in enumerate(self.variants) if ids[variant.item] in place]
        variants = [replace(self.variants[row], item=place[ids[self.variants[row].item]]) for row in rows]
        path = cache / f"latents-{split}-degraded.safetensors"
        return torch.tensor(rows), self._latents(vae, path, variants, dataset.pictures(), ",".join(dataset.ids))

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
        told, views = self.texts_of(chosen, generator), []
        if self.photos is not None:
            for index in chosen.tolist():
                view = int(torch.randint(self.photos.shape[1], (1,), generator=generator))
                views.append(self._photo(self.variants[index], view))
        photos = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255.0 if views else None
        return self.latents[chosen].float(), *told, photos

    def texts_of(
        self, chosen: Tensor, generator: torch.Generator, colored: bool = False
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Tokens [B,L,384] and pooled [B,384] of one caption of each of the variants `chosen` [B]; `colored`: of the
        one that names its colour, which is the last."""
        told = []
        for index in chosen.tolist():
            captions = self.variants[index].captions
            pick = len(captions) - 1 if colored else int(torch.randint(len(captions), (1,), generator=generator))
            told.append(self.text_index[captions[pick]])
        rows = torch.tensor(told, dtype=torch.long)
        return self.tokens[rows].float(), self.pooled[rows].float()

    def draw_worse(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Variants [B] to restore and the latents [B,T,4C] of their degraded bundles; empty where there are none."""
        if not len(self.worse_rows):
            return self.worse_rows, self.worse.float()
        picks = torch.randint(len(self.worse_rows), (count,), generator=generator)
        return self.worse_rows[picks], self.worse[picks].float()

    def draw_hues(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Variants [B] to reach and the latents [B,T,4C] of the same objects in another hue; empty without any."""
        if not len(self.hue_pairs):
            return self.hue_pairs[:, 0], self.latents[:0].float()
        pairs = self.hue_pairs[torch.randint(len(self.hue_pairs), (count,), generator=generator)]
        return pairs[:, 0], self.latents[pairs[:, 1]].float()

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
