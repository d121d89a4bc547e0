"""The time embedding's exponential is exact to less than a unit in the last place, on every machine the same."""

import numpy as np
import torch

from backend.nn.embeddings import single_precision_exp, timestep_embedding, timestep_frequencies


def test_the_exponential_is_good_to_the_last_place() -> None:
    x = torch.linspace(-12.0, 2.0, 20_001)
    exact = torch.exp(x.double())
    unit = torch.from_numpy(np.spacing(exact.float().numpy())).double()
    found = single_precision_exp(x)
    assert found.dtype == torch.float32
    assert float(((found.double() - exact).abs() / unit).max()) < 0.7
    assert float(single_precision_exp(torch.zeros(1))) == 1.0


def test_the_embedding_is_cosines_then_sines() -> None:
    frequencies = timestep_frequencies(4)
    assert np.allclose(frequencies, [1.0, 0.1, 0.01, 0.001], rtol=1e-6)
    embedded = timestep_embedding(torch.tensor([0.0, 10.0]), 9)
    assert embedded.shape == (2, 9) and bool((embedded[:, 8] == 0).all())
    assert np.allclose(embedded[1, :4], np.cos(10 * frequencies)) and np.allclose(embedded[0], [1] * 4 + [0] * 5)
