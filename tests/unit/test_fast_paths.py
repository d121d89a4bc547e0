"""What is quicker must answer the same: attention by rows, prepared contexts, half precision, checkpointing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from backend.nn import attention
from backend.nn.attention import product_attention, rows_attention
from backend.nn.sparse_tensor import SparseTensor
from backend.systems.cupid.slat_flow import VisualLatentConditioningSLatFlowModel
from backend.systems.cupid.structure_flow import SparseStructureFlowModel

BF16_TOLERANCE = 0.03  # of the answer's norm: bf16 has eight bits, and two blocks round a dozen times


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference against the norm of what was wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def fill(module: torch.nn.Module) -> None:
    """Small random numbers instead of the zeros that training starts from."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def dense_flow() -> SparseStructureFlowModel:
    """Two blocks over 8^3 = 512 tokens."""
    torch.manual_seed(0)
    flow = SparseStructureFlowModel(
        resolution=8, in_channels=16, model_channels=64, cond_channels=32, out_channels=16, num_blocks=2, num_heads=2,
        patch_size=1, qk_rms_norm=True,
    )  # fmt: skip
    fill(flow)
    return flow.eval()


def sparse_flow() -> VisualLatentConditioningSLatFlowModel:
    """Two blocks at half the resolution of its voxels."""
    torch.manual_seed(0)
    flow = VisualLatentConditioningSLatFlowModel(
        resolution=16, in_channels=8, model_channels=64, cond_channels=32, cond_latent_channels=8, out_channels=8,
        num_blocks=2, num_heads=2, patch_size=2, io_block_channels=[16], qk_rms_norm=True, visual_feat_resolution=16,
    )  # fmt: skip
    fill(flow)
    return flow.eval()


def voxels(count: int) -> torch.Tensor:
    """Random voxels [count,4] of one object in a 16^3 grid, in order."""
    chosen = torch.randperm(16**3, generator=torch.Generator().manual_seed(2))[:count].sort().values
    rows = [torch.zeros_like(chosen), chosen // 256, chosen // 16 % 16, chosen % 16]
    return torch.stack(rows, 1).int()


@pytest.mark.parametrize("weighted", [False, True])
def test_attention_by_rows_is_attention(weighted: bool) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 600, 2, 64).transpose(1, 2).bfloat16()  # not a multiple of the rows, laid out as projections are
    k, v = (torch.randn(2, 300, 2, 64).transpose(1, 2).bfloat16() for _ in range(2))
    mask = torch.log(torch.rand(2, 1, 1, 300) + 1e-7).bfloat16() if weighted else None
    wanted = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), None if mask is None else mask.double())
    assert relative(rows_attention(q, k, v, mask), wanted) < 0.01
    exact = rows_attention(q.float(), k.float(), v.float(), None if mask is None else mask.float())
    assert relative(exact, wanted) < 1e-5


def test_attention_goes_by_rows_where_the_fused_kernel_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(arguments)
        return rows_attention(*arguments)

    monkeypatch.setattr(attention, "rows_attention", counted)
    monkeypatch.setattr(attention, "cpu_has_amx", lambda: False)
    q = torch.randn(1, 2, 512, 32)
    product_attention(q, q, q)
    assert not calls, "float32 stays with the fused kernel: the golden vectors hold to the last bit"
    half = q.bfloat16()
    product_attention(half, half, half)
    assert len(calls) == 1
    product_attention(half, half, half, torch.ones(1, 1, 1, 512, dtype=torch.bool))
    monkeypatch.setattr(attention, "cpu_has_amx", lambda: True)
    product_attention(half, half, half)
    assert len(calls) == 1


def test_long_sequences_train_with_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 1, 64, 16, requires_grad=True)
    short = torch.autograd.grad(product_attention(q, q, q).square().sum(), q)[0]
    monkeypatch.setattr(attention, "SPELLED_OUT", 64)
    assert relative(torch.autograd.grad(product_attention(q, q, q).square().sum(), q)[0], short) < 1e-5


@pytest.mark.parametrize("weighted", [False, True])
def test_a_prepared_condition_is_the_condition(weighted: bool) -> None:
    flow, tokens = dense_flow(), torch.randn(1, 30, 32, generator=torch.Generator().manual_seed(3))
    weight = torch.linspace(0, 1, 30)[None] if weighted else None
    x, t = torch.randn(1, 16, 8, 8, 8, generator=torch.Generator().manual_seed(4)), torch.tensor([700.0])
    with torch.no_grad():
        wanted = flow(x, t, tokens, weight)
        assert relative(flow(x, t, flow.prepare(tokens, weight)), wanted) < 1e-6
        assert relative(flow(x, t, tokens.flip(1), weight), wanted) > 1e-3 or not weighted
    sparse, coords = sparse_flow(), voxels(700)
    latent = SparseTensor(coords, torch.randn(700, 8, generator=torch.Generator().manual_seed(5)))
    local = torch.randn(700, 24, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        wanted = sparse(latent, t, tokens, local, weight).feats
        assert relative(sparse(latent, t, sparse.prepare(tokens, weight), local).feats, wanted) < 1e-6


def test_one_token_stands_for_the_null_condition() -> None:
    flow, nothing = dense_flow(), torch.zeros(2, 30, 32)
    x, t = torch.randn(2, 16, 8, 8, 8, generator=torch.Generator().manual_seed(4)), torch.tensor([700.0, 20.0])
    prepared = flow.prepare(nothing)
    assert prepared.blocks[0].keys.shape[1] == 1
    with torch.no_grad():
        assert relative(flow(x, t, prepared), flow(x, t, nothing)) < 1e-6
    assert flow.prepare(nothing, torch.ones(2, 30)).blocks[0].keys.shape[1] == 30, "weights belong to their tokens"


def test_half_precision_answers_as_float32_does() -> None:
    flow, tokens = dense_flow(), torch.randn(1, 30, 32, generator=torch.Generator().manual_seed(3))
    x, t = torch.randn(1, 16, 8, 8, 8, generator=torch.Generator().manual_seed(4)), torch.tensor([700.0])
    latent = SparseTensor(voxels(900), torch.randn(900, 8, generator=torch.Generator().manual_seed(5)))
    local, sparse = torch.randn(900, 24, generator=torch.Generator().manual_seed(6)), sparse_flow()
    with torch.no_grad():
        dense_wanted, sparse_wanted = flow(x, t, tokens), sparse(latent, t, tokens, local).feats
        flow.set_compute_dtype(torch.bfloat16)
        sparse.set_compute_dtype(torch.bfloat16)
        dense_found, sparse_found = flow(x, t, flow.prepare(tokens)), sparse(latent, t, tokens, local).feats
    assert flow.input_layer.weight.dtype == torch.float32 == flow.blocks[0].norm2.weight.dtype
    assert dense_found.dtype == sparse_found.dtype == torch.float32
    assert relative(dense_found, dense_wanted) < BF16_TOLERANCE
    assert relative(sparse_found, sparse_wanted) < BF16_TOLERANCE


def test_checkpointing_changes_no_gradient() -> None:
    tokens = torch.randn(1, 30, 32, generator=torch.Generator().manual_seed(3))
    latent = SparseTensor(voxels(300), torch.randn(300, 8, generator=torch.Generator().manual_seed(5)))
    local = torch.randn(300, 24, generator=torch.Generator().manual_seed(6))
    x, t = torch.randn(1, 16, 8, 8, 8, generator=torch.Generator().manual_seed(4)), torch.tensor([700.0])
    for flow, run in (
        (dense_flow(), lambda flow: flow(x, t, tokens)),
        (sparse_flow(), lambda flow: flow(latent, t, tokens, local).feats),
    ):
        flow.visual_conv_blocks = torch.nn.ModuleList()  # its image features were given ready-made
        gradients = []
        for flow.checkpointing in (False, True):
            gradients.append(torch.autograd.grad(run(flow).square().mean(), list(flow.parameters())))
        assert all(relative(b, a) < 1e-5 for a, b in zip(*gradients, strict=True) if float(a.abs().max()) > 1e-9)
