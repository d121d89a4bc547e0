"""Which category a bundle shows: a small network trained on true bundles of the training objects.

The judge of text to 3D: it has seen real renders only, its own accuracy on unseen objects is reported beside its
verdicts, and chance is what always naming the commonest category would score, or one in the number of categories if
that is more favourable to the generator under test.
"""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from backend.data.bundles import BundleDataset
from backend.evaluation.halving_layers import halving_layers

logger = logging.getLogger(__name__)

VIEWS = 4
CHANNELS = 7  # colours, normals, mask


class BundleClassifier(nn.Module):
    """The same convolutions on every view [B,4,7,S,S], averaged over the views: logits [B,categories]."""

    def __init__(self, categories: int, width: int = 32) -> None:
        super().__init__()
        widths = (CHANNELS, width, 2 * width, 4 * width, 4 * width)
        self.layers = halving_layers(widths)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(2 * widths[-1], categories)

    def forward(self, views: Tensor) -> Tensor:
        batch = views.shape[0]
        features = self.layers(views.flatten(0, 1))
        features = features.mean((2, 3)).reshape(batch, VIEWS, -1)
        logits: Tensor = self.head(self.dropout(torch.cat([features.mean(1), features.amax(1)], -1)))
        return logits


@dataclass(frozen=True)
class Judge:
    """A trained classifier, its categories, and how often it names the category of true bundles it never saw."""

    network: BundleClassifier
    categories: tuple[str, ...]
    accuracy: float
    chance: float

    def verdicts(self, pictures: np.ndarray) -> list[str]:
        """The category of each bundle picture uint8 [N,2S,4S,4]."""
        self.network.eval()
        with torch.no_grad():
            return [self.categories[i] for i in self.network(as_views(pictures)).argmax(1).tolist()]


def as_views(pictures: np.ndarray) -> Tensor:
    """Bundle pictures uint8 [N,2S,4S,4] as views [N,4,7,S,S] in [0,1]."""
    count, height, width, _ = pictures.shape
    side = height // 2
    tiles = torch.from_numpy(np.ascontiguousarray(pictures)).reshape(count, 2, side, VIEWS, side, 4)
    tiles = tiles.permute(0, 3, 1, 5, 2, 4).float() / 255.0  # view, row, channel
    return torch.cat([tiles[:, :, 0, :3], tiles[:, :, 1, :3], tiles[:, :, 0, 3:]], 2)


def read_categories(assets: Path) -> dict[str, str]:
    """The category of each object id of a dataset with objects.csv."""
    with (assets / "objects.csv").open(newline="", encoding="utf-8") as file:
        return {row["id"]: row["category"] for row in csv.DictReader(file)}


def train_judge(bundles: Path, assets: Path, epochs: int = 12, seed: int = 0) -> Judge:
    """Train on the training objects' true bundles and measure on the validation objects'."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    known = read_categories(assets)
    train, val = (BundleDataset(bundles, split) for split in ("train", "val"))
    categories = tuple(sorted({known[name] for name in train.ids}))
    place = {name: index for index, name in enumerate(categories)}
    views, labels = as_views(train.pictures()).half(), torch.tensor([place[known[name]] for name in train.ids])
    network = BundleClassifier(len(categories)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    batch = 32
    steps = epochs * (len(labels) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=rng)
        for start in range(0, len(order) - batch + 1, batch):
            chosen = order[start : start + batch]
            loss = functional.cross_entropy(
                network(_varied(views[chosen].float(), rng)), labels[chosen], label_smoothing=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        logger.info("classifier: loss %.3f", float(loss.detach()))
    counts = torch.bincount(labels)
    judge = Judge(network, categories, 0.0, float(counts.max() / counts.sum()))
    named = judge.verdicts(val.pictures())
    right = [verdict == known[name] for verdict, name in zip(named, val.ids, strict=True)]
    return Judge(network, categories, float(np.mean(right)), judge.chance)


def _varied(views: Tensor, rng: torch.Generator) -> Tensor:
    """Views in another order of the colour channels, blurred a little, shifted by up to two pixels; half mirrored."""
    order = [*torch.randperm(3, generator=rng).tolist(), 3, 4, 5, 6]
    if float(torch.rand(1, generator=rng)) < 0.5:
        views = views[:, :, order]
    if float(torch.rand(1, generator=rng)) < 0.5:
        views = views.flip(-1)[:, [0, 3, 2, 1]]
        normal = torch.where(views[:, :, 6:7] > 0.5, 1.0 - views[:, :, 3:4], views[:, :, 3:4])
        views = torch.cat([views[:, :, :3], normal, views[:, :, 4:]], 2)
    if float(torch.rand(1, generator=rng)) < 0.5:
        views = functional.avg_pool2d(functional.pad(views.flatten(0, 1), (1, 1, 1, 1), mode="replicate"), 3, 1).view(
            views.shape
        )
    shift = torch.randint(-2, 3, (2,), generator=rng).tolist()
    return torch.roll(views, shift, (-2, -1))
