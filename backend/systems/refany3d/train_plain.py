"""Objects on white, as RefAny3D mini learns them beside its scenes: all of such a picture can be read from the views.

In a scene light, shadow and ground are most of the error, so that a small model learns last what it is for: to look at
the views. Here the unlit object stands alone before white, about as large and as central as in framed scenes
(`PICTURES` of each object, drawn by our own rasteriser), or the picture is one of the views itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.contract.meshes import MeshData
from backend.data.prepare import object_seed
from backend.data.reference_layout import ELEVATION_DEGREES, camera_at
from backend.systems.refany3d.condition_views import ConditionViews, draw_at, joined
from backend.systems.refany3d.config import Settings
from backend.systems.refany3d.train_data import Batch, ObjectTokens, caption_features, fingerprint

PICTURES = 4
OF_VIEWS = 0.25  # of the pictures are views
SHARES = (0.6, 0.85)  # of the picture's side that the object takes
SPREAD = 0.3  # of the free room that its place takes
SAMPLED = 4000  # vertices that tell how large an object is seen


def plain_caption(item: str) -> str:
    """What a picture of `item`, the object's caption, is told as."""
    return f"{item} on white"


def draw_plain(name: str, meshes: Sequence[MeshData], size: int) -> ConditionViews:
    """PICTURES of an object, by cameras that its name decides. Errors: ValueError when there is no face."""
    rng = np.random.default_rng(object_seed(name, 0))
    vertices, faces = joined(meshes)
    used = vertices[np.unique(faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    scale = 1.0 / max(float((high - low).max()), 1e-12)
    foot = np.array([*(low + high)[:2] / 2.0, low[2]])
    seen = (used[:: max(1, len(used) // SAMPLED)] - foot) * scale
    cameras = []
    for _ in range(PICTURES):
        azimuth, elevation = rng.uniform(0.0, 2.0 * np.pi), np.radians(rng.uniform(*ELEVATION_DEGREES))
        camera, _ = camera_at(seen, azimuth, elevation, rng, SHARES, SPREAD)
        cameras.append((camera.world_to_camera, camera.intrinsics))
    return draw_at(meshes, (vertices - foot) * scale, cameras, size)


class PlainTraining:
    """The plain pictures of the objects that have views, ready to draw from."""

    def __init__(
        self, ids: Sequence[str], captions: Mapping[str, str], paths: Mapping[str, Path], vae: Any,
        settings: Settings, views: ObjectTokens, cache: Path,
    ) -> None:  # fmt: skip
        """ids: of objects; captions: what each is. cache: folder of what is kept."""
        size = settings.size
        key = f"plain-{fingerprint(vae, f'{size} {PICTURES} {SHARES} {SPREAD}')}"
        self.views = views
        self.pictures = ObjectTokens(ids, paths, lambda name, meshes: draw_plain(name, meshes, size), vae, key, cache)
        self.ids = [name for name in dict.fromkeys(ids) if views.usable([name]) and self.pictures.usable([name])]
        texts = sorted({plain_caption(captions[name]) for name in self.ids})
        self.rows = torch.tensor([texts.index(plain_caption(captions[name])) for name in self.ids])
        self.tokens, self.pooled = caption_features(texts, settings.text_tokens, cache / "captions-plain.safetensors")

    def __len__(self) -> int:
        return len(self.ids)

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """`count` random pictures."""
        chosen = torch.randint(len(self), (count,), generator=generator)
        ids = [self.ids[index] for index in chosen.tolist()]
        of_views = torch.rand(count, generator=generator) < OF_VIEWS
        numbers = torch.rand(count, generator=generator)
        rgb, coord = [], []
        for name, is_view, number in zip(ids, of_views.tolist(), numbers.tolist(), strict=True):
            stored = (self.views if is_view else self.pictures).of([name])[0]
            half = len(stored) // 2
            place = int(number * half)
            rgb.append(stored[place])
            coord.append(stored[half + place])
        rows = self.rows[chosen]
        return Batch(
            torch.stack(rgb), torch.stack(coord), self.tokens[rows].float(), self.pooled[rows].float(), ids
        )  # fmt: skip
