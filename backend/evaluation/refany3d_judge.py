"""Whether a picture shows the surroundings that its sentence asks for: a small network trained on the training scenes.

It names ground, light, weather and what is behind. It has seen true renders only; how often it is right on true
pictures of objects it never saw is reported beside its verdicts, and so is what always naming the commonest scores.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.data import reference_words
from backend.data.reference_scenes import SceneDataset
from backend.data.reference_words import SceneWords
from backend.evaluation.halving_layers import halving_layers

logger = logging.getLogger(__name__)

PARTS: dict[str, tuple[str, ...]] = {
    "ground": reference_words.GROUNDS,
    "light": reference_words.LIGHTS,
    "weather": reference_words.WEATHERS,
    "background": reference_words.BACKGROUNDS,
}
"""What is judged, and the words for it; their order is that of `SceneWords.numbers`."""
SIDE = 64  # pixels that the network sees of a picture's side
BATCH = 32
CHUNK = 256  # pictures that are made small at once
EPOCHS = 10
LEAST_STEPS = 60  # of training, however few scenes there are


class SceneClassifier(nn.Module):
    """Pictures [B,3,SIDE,SIDE] to one row of logits [B, words] for each of PARTS."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width, 4 * width)
        self.layers = halving_layers(widths)
        self.dropout = nn.Dropout(0.3)
        self.heads = nn.ModuleList(nn.Linear(4 * widths[-1], len(words)) for words in PARTS.values())

    def forward(self, pictures: Tensor) -> list[Tensor]:
        features = self.layers(pictures)
        half = features.shape[2] // 2  # ground is below, sky and walls above
        pooled = [part for rows in (features[:, :, :half], features[:, :, half:])
                  for part in (rows.mean((2, 3)), rows.amax((2, 3)))]  # fmt: skip
        told = self.dropout(torch.cat(pooled, 1))
        return [head(told) for head in self.heads]


@dataclass(frozen=True)
class SceneJudge:
    """A trained classifier. accuracy: of true pictures of unseen objects, by part; chance: of the commonest word."""

    network: SceneClassifier
    accuracy: dict[str, float]
    chance: dict[str, float]

    def verdicts(self, pictures: Sequence[np.ndarray] | np.ndarray) -> list[SceneWords]:
        """What each picture [S,S,3], uint8 or in [0,1], shows; neighbours are not judged."""
        self.network.eval()
        found = []
        with torch.no_grad():
            for start in range(0, len(pictures), BATCH):
                logits = self.network(small(pictures[start : start + BATCH]))
                found.append(torch.stack([part.argmax(1) for part in logits], 1))
        numbers = torch.cat(found).numpy() if found else np.zeros((0, len(PARTS)), int)
        return [SceneWords.of_numbers(np.array([*row, 0])) for row in numbers]


def agreement(found: Sequence[SceneWords], wanted: Sequence[SceneWords]) -> dict[str, float]:
    """How often each of PARTS is the same, and `all` of them in one picture."""
    same = {part: [getattr(a, part) == getattr(b, part) for a, b in zip(found, wanted, strict=True)] for part in PARTS}
    rates = {part: float(np.mean(values)) for part, values in same.items()}
    return rates | {"all": float(np.mean(np.all(list(same.values()), axis=0)))}


def train_judge(scenes: Path, epochs: int = EPOCHS, seed: int = 0) -> SceneJudge:
    """Train on the training scenes, measure on the validation objects'. Errors: FileNotFoundError."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    train, val = (SceneDataset(scenes, split) for split in ("train", "val"))
    shown = train.pictures
    pictures = torch.cat([_levels(shown[start : start + CHUNK]) for start in range(0, len(shown), CHUNK)])
    labels = torch.from_numpy(np.stack([words.numbers()[: len(PARTS)] for words in train.words]).astype(np.int64))
    network = SceneClassifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    batches = max(1, len(labels) // BATCH)
    steps = max(epochs * batches, LEAST_STEPS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    network.train()
    for step in range(steps):
        if step % batches == 0:
            order = torch.randperm(len(labels), generator=generator)
        chosen = order[step % batches * BATCH :][:BATCH]
        logits = network(_varied(pictures[chosen].float() / 255.0, generator))
        losses = [functional.cross_entropy(part, labels[chosen, i]) for i, part in enumerate(logits)]
        loss = torch.stack(losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % max(1, steps // 5) == 0:
            logger.info("scene classifier, step %d of %d: loss %.3f", step, steps, float(loss.detach()))
    unmeasured = SceneJudge(network, {}, {})
    accuracy = agreement(unmeasured.verdicts(val.pictures), val.words)
    chance = {part: _commonest(train.words, val.words, part) for part in PARTS}
    return SceneJudge(network, accuracy, chance)


def small(pictures: Sequence[np.ndarray] | np.ndarray) -> Tensor:
    """Pictures [S,S,3], uint8 or in [0,1], as [B,3,SIDE,SIDE] in [0,1]."""
    stacked = np.stack(list(pictures))
    scaled = stacked.astype(np.float32) / (255.0 if stacked.dtype == np.uint8 else 1.0)
    tensor = torch.from_numpy(scaled).permute(0, 3, 1, 2)
    return functional.interpolate(tensor, (SIDE, SIDE), mode="area")


def _levels(pictures: np.ndarray) -> Tensor:
    """`small` as uint8: thousands of pictures are kept."""
    return (small(pictures) * 255).round().to(torch.uint8)


def _varied(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Half mirrored, a little blurred, moved by up to four pixels: true renders are sharper than painted pictures."""
    if float(torch.rand(1, generator=generator)) < 0.5:
        pictures = pictures.flip(-1)
    if float(torch.rand(1, generator=generator)) < 0.5:
        pictures = functional.avg_pool2d(functional.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1)
    shift = torch.randint(-4, 5, (2,), generator=generator).tolist()
    padded = functional.pad(pictures, (4, 4, 4, 4), mode="replicate")
    moved = padded[..., 4 + shift[0] : 4 + shift[0] + SIDE, 4 + shift[1] : 4 + shift[1] + SIDE]
    return moved.contiguous(memory_format=torch.channels_last)


def _commonest(train: Sequence[SceneWords], val: Sequence[SceneWords], part: str) -> float:
    """How often the training scenes' commonest word is right for the validation scenes."""
    words = [getattr(scene, part) for scene in train]
    commonest = max(PARTS[part], key=words.count)
    return float(np.mean([getattr(scene, part) == commonest for scene in val]))
