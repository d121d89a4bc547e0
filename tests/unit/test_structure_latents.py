"""Mirrored training views are what a mirrored object would give, and latents are kept between runs."""

from pathlib import Path

import torch
from torch import nn

from backend.systems.cupid.structure_latents import LatentSet, mirrored_views
from backend.systems.cupid.train import random_crops, uv_volumes
from tests.unit.test_cupid_train import data  # noqa: F401  (the fixture: a folder of tiny shards)


def test_a_mirrored_cube_is_the_cube_of_the_mirrored_camera() -> None:
    cameras, intrinsics = random_crops(3, 5)
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    lens = intrinsics.clone()
    lens[:, 0, 2] = 1 - lens[:, 0, 2]
    expected = uv_volumes(mirror @ cameras @ mirror, lens, 16)
    found = mirrored_views(uv_volumes(cameras, intrinsics, 16))
    inside = expected[:, :1] > 0
    assert torch.equal(found[:, :1] > 0, inside) and inside.float().mean() > 0.1
    assert float(((found - expected).abs() * inside).max()) < 1e-4


class Pool(nn.Module):
    """An encoder's stand-in with weights: eight scaled means of 4^3 blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 2.0, 8))
        self.calls = 0

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        pooled = nn.functional.avg_pool3d(volume, 4).mean(1, keepdim=True)
        return pooled * self.scale.view(1, -1, 1, 1, 1)


def test_latents_are_made_once_and_drawn_normalised(data: Path, tmp_path: Path) -> None:  # noqa: F811
    device = torch.device("cpu")
    shape, cube = Pool(), Pool()
    first = LatentSet(data, "train", shape, cube, uv_volumes, device, cache=tmp_path)
    made = shape.calls, cube.calls
    again = LatentSet(data, "train", shape, cube, uv_volumes, device, cache=tmp_path)
    assert (shape.calls, cube.calls) == made and torch.equal(first.cubes, again.cubes)
    shape.scale.data *= 2
    other = LatentSet(data, "train", shape, cube, uv_volumes, device, cache=tmp_path)
    assert shape.calls > made[0] and not torch.equal(first.shapes, other.shapes)
    image, latent = first.draw(32, torch.Generator().manual_seed(0))
    assert image.shape[:2] == (32, 4) and latent.shape == (32, 16, 8, 8, 8)
    assert bool((image[:, :3] <= image[:, 3:] + 1e-6).all()) and 0.3 < float(latent.std()) < 3.0
