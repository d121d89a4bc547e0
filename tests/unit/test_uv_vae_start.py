"""The pooling start answers UV cubes before any training, and refuses networks it does not know."""

import pytest
import torch

from backend.systems.cupid.structure_vae import SparseStructureDecoder, SparseStructureEncoder
from backend.systems.cupid.train import random_crops, uv_volumes
from backend.systems.cupid.uv_vae_start import fits, start_as_pooling


def test_the_start_answers_uv_cubes() -> None:
    torch.manual_seed(0)
    encoder = SparseStructureEncoder(3, 8, 0, [8, 16, 64], 1)
    decoder = SparseStructureDecoder(3, 8, 0, [64, 16, 8], 1)
    volume = uv_volumes(*random_crops(4, 3), 32)
    support = volume[:, :1]

    def error() -> float:
        with torch.no_grad():
            uv = torch.sigmoid(decoder(encoder(volume))[:, 1:])
        return float(((uv - volume[:, 1:]).abs() * support).sum() / support.sum() / 2)

    before = error()
    start_as_pooling(encoder, decoder)
    assert before > 0.15 and error() < 0.05
    with torch.no_grad():
        assert ((decoder(encoder(volume))[:, :1] > 0).float() == support).float().mean() > 0.97


def test_other_layers_are_refused() -> None:
    encoder = SparseStructureEncoder(3, 8, 1, [8, 16, 64], 1)
    decoder = SparseStructureDecoder(3, 8, 1, [64, 16, 8], 1)
    assert not fits(encoder, decoder)
    with pytest.raises(ValueError, match="random"):
        start_as_pooling(encoder, decoder)
