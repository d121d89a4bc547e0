"""Products through oneDNN are torch's own to the last bits, and gradients never go that way."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from backend.nn import cpu_products


@pytest.fixture(params=[False, True], ids=["torch", "onednn"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways on every machine: oneDNN gives the same answer on processors where it is not quicker."""
    monkeypatch.setattr(cpu_products, "onednn_is_quicker", lambda: request.param)
    monkeypatch.setattr(cpu_products, "amd_family", lambda: cpu_products.ZEN_5)
    return bool(request.param)


def drawn(*shape: int) -> torch.Tensor:
    """Normal numbers that are the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_linear_layers(way: bool) -> None:
    layer = nn.Linear(128, 96)
    x = drawn(2, 700, 128)[:, 50:650]  # not contiguous
    with torch.no_grad():
        torch.testing.assert_close(cpu_products.apply(layer, x), layer(x), rtol=1e-5, atol=1e-5)
        bent = functional.gelu(layer(x), approximate="tanh")
        torch.testing.assert_close(cpu_products.apply(layer, x, gelu=True), bent, rtol=1e-5, atol=1e-5)
        bare = cpu_products.linear(x, layer.weight)
        torch.testing.assert_close(bare, functional.linear(x, layer.weight), rtol=1e-5, atol=1e-5)
    cpu_products.apply(layer, x).sum().backward()
    assert layer.weight.grad is not None and float(layer.weight.grad.abs().sum()) > 0


def test_attention(way: bool) -> None:
    q, k, v = drawn(2, 600, 3, 32).transpose(1, 2), drawn(2, 3, 520, 32), drawn(2, 3, 520, 32)
    with torch.no_grad():
        wanted = functional.scaled_dot_product_attention(q, k, v)
        torch.testing.assert_close(cpu_products.attention(q, k, v), wanted, rtol=1e-5, atol=1e-5)
        bias = drawn(520)
        wanted = functional.scaled_dot_product_attention(q, k, v, bias.expand(2, 3, 600, -1))
        torch.testing.assert_close(cpu_products.attention(q, k, v, bias), wanted, rtol=1e-5, atol=1e-5)
    keys = k.clone().requires_grad_(True)
    cpu_products.attention(q, keys, v).sum().backward()
    assert keys.grad is not None


def test_other_precisions_stay_with_torch(way: bool) -> None:
    layer, x = nn.Linear(128, 96).bfloat16(), drawn(700, 128).bfloat16()
    with torch.no_grad():
        assert torch.equal(cpu_products.apply(layer, x), layer(x))
        norm = nn.LayerNorm(128)
        assert torch.equal(cpu_products.apply(norm, x.float()), norm(x.float()))
        bent = functional.gelu(norm(x.float()), approximate="tanh")
        assert torch.equal(cpu_products.apply(norm, x.float(), gelu=True), bent)


@pytest.mark.parametrize(
    ("words", "family"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n", 26),
        ("vendor_id\t: GenuineIntel\ncpu family\t: 6\n", 0),
        ("AMD64 Family 25 Model 33 Stepping 2, AuthenticAMD", 25),
        ("arm64", 0),
    ],
)
def test_amds_families(words: str, family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object, **__: object) -> None:
        raise FileNotFoundError("no such file")

    monkeypatch.setattr("builtins.open", unreadable)
    monkeypatch.setattr("platform.processor", lambda: words)
    assert cpu_products.amd_family.__wrapped__() == family
