"""Sparse voxels against dense torch and against plain loops (CUPID spec section 4.4).

Float64 or float32, tolerances stated.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.nn.sparse_attention import SparseCrossAttention, SparseSelfAttention, group_ids, plan_groups
from backend.nn.sparse_blocks import SparseModulatedCrossBlock, SparseResBlock3d, SparseTransformerBlock
from backend.nn.sparse_conv import SparseConv3d
from backend.nn.sparse_ops import SparseGroupNorm, downsample, subdivide, upsample
from backend.nn.sparse_tensor import SparseTensor

torch.set_num_threads(1)


def voxels(seed: int, counts: tuple[int, ...] = (70, 41), channels: int = 8, size: int = 12) -> SparseTensor:
    """Random voxels in a size^3 grid, one item a count; rows in random order inside an item."""
    generator = torch.Generator().manual_seed(seed)
    coords, feats = [], []
    for count in counts:
        flat = torch.randperm(size**3, generator=generator)[:count]
        coords.append(torch.stack([flat // size**2, flat // size % size, flat % size], dim=1).int())
        feats.append(torch.randn(count, channels, generator=generator))
    return SparseTensor.from_batch(coords, feats)


def dense_of(x: SparseTensor, size: int) -> Tensor:
    """Dense volume [B,C,size,size,size]."""
    volume = x.feats.new_zeros(x.batch_size, size, size, size, x.feats.shape[1])
    b, i, j, k = x.coords.long().unbind(1)
    volume = volume.index_put((b, i, j, k), x.feats)
    return volume.permute(0, 4, 1, 2, 3)


def test_from_batch_keeps_items_apart_and_allows_an_empty_one() -> None:
    empty = torch.zeros(0, 3, dtype=torch.int32)
    x = SparseTensor.from_batch([torch.tensor([[1, 2, 3]]).int(), empty], [torch.ones(1, 2), torch.zeros(0, 2)])
    assert (x.batch_size, x.lengths, x.layout) == (2, [1, 0], [slice(0, 1), slice(1, 1)])
    assert x.items()[0][0].tolist() == [[1, 2, 3]]


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one row a voxel"):
        SparseTensor(torch.zeros(2, 4).int(), torch.zeros(3, 1))


def test_convolution_equals_the_dense_one_at_voxels() -> None:
    x, layer = voxels(0), SparseConv3d(8, 5)
    weight = layer.conv.weight.permute(0, 4, 1, 2, 3)
    dense = F.conv3d(dense_of(x, 12), weight, layer.conv.bias, padding=1)
    b, i, j, k = x.coords.long().unbind(1)
    assert torch.allclose(layer(x).feats, dense[b, :, i, j, k], atol=1e-5)


def test_convolution_gradients_equal_the_dense_ones() -> None:
    x, layer = voxels(1, channels=4), SparseConv3d(4, 3).double()
    probe = torch.randn(len(x), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    feats = x.feats.double().requires_grad_()
    (layer(x.replace(feats)).feats * probe).sum().backward()
    dense_feats, dense_weight = x.feats.double().requires_grad_(), layer.conv.weight.detach().clone().requires_grad_()
    volume = F.conv3d(dense_of(x.replace(dense_feats), 12), dense_weight.permute(0, 4, 1, 2, 3), padding=1)
    b, i, j, k = x.coords.long().unbind(1)
    (volume[b, :, i, j, k] * probe).sum().backward()
    for ours, theirs in ((feats.grad, dense_feats.grad), (layer.conv.weight.grad, dense_weight.grad)):
        assert ours is not None and theirs is not None and torch.allclose(ours, theirs, atol=1e-10)


def test_convolution_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, layer = voxels(3), SparseConv3d(8, 6)
    whole = layer(x).feats
    monkeypatch.setattr("backend.nn.sparse_conv.CHUNK_ELEMENTS", 27 * 8 * 10)
    assert torch.allclose(layer(x).feats, whole, atol=1e-6)


def test_one_by_one_kernel_reads_its_buffer_as_in_by_out() -> None:
    x, layer = voxels(4), SparseConv3d(8, 6, 1)
    expected = x.feats @ layer.conv.weight.reshape(8, 6) + layer.conv.bias
    assert torch.equal(layer(x).feats, expected)


def test_a_repeated_voxel_is_refused() -> None:
    x = SparseTensor(torch.zeros(2, 4).int(), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="once"):
        SparseConv3d(4, 4)(x)


def test_downsample_divides_by_one_more_than_the_count() -> None:
    coords = torch.tensor([[0, 4, 4, 4], [0, 0, 0, 1], [0, 1, 1, 1]]).int()
    down = downsample(SparseTensor(coords, torch.tensor([[6.0], [3.0], [9.0]])))
    assert down.coords.tolist() == [[0, 0, 0, 0], [0, 2, 2, 2]]
    assert down.feats.tolist() == [[4.0], [3.0]]


def test_upsample_goes_back_through_two_levels() -> None:
    x = voxels(5)
    first = downsample(x)
    second = downsample(first)
    back = upsample(upsample(second))
    assert torch.equal(back.coords, x.coords)
    parent = {tuple(c): f for c, f in zip(second.coords.tolist(), second.feats, strict=True)}
    for (b, i, j, k), row in zip(x.coords.tolist(), back.feats, strict=True):
        assert torch.equal(row, parent[(b, i // 4, j // 4, k // 4)])


def test_upsample_without_a_downsample_is_refused() -> None:
    with pytest.raises(ValueError, match="downsample first"):
        upsample(voxels(6))


def test_subdivide_order() -> None:
    x = subdivide(SparseTensor(torch.tensor([[0, 1, 2, 3]]).int(), torch.tensor([[7.0]])))
    assert x.coords[:3].tolist() == [[0, 2, 4, 6], [0, 2, 4, 7], [0, 2, 5, 6]]
    assert len(x) == 8 and bool((x.feats == 7).all())


def test_group_norm_has_statistics_of_one_item() -> None:
    x, norm = voxels(7), SparseGroupNorm(4, 8)
    expected = [F.group_norm(feats.T[None], 4)[0].T for _, feats in x.items()]
    assert torch.allclose(norm(x).feats, torch.cat(expected), atol=1e-5)


@pytest.mark.parametrize(("window", "shift"), [(None, 0), (4, 0), (4, 2)])
def test_self_attention_equals_a_loop_over_groups(window: int | None, shift: int) -> None:
    x, layer = voxels(8), SparseSelfAttention(8, 2, window, shift, qk_rms_norm=True)
    groups = group_ids(x, window, shift)
    q, k, v = layer.to_qkv(x.feats).view(-1, 3, 2, 4).unbind(1)
    q, k = layer.q_rms_norm(q), layer.k_rms_norm(k)
    expected = torch.zeros_like(q)
    for group in groups.unique():
        rows = groups == group
        heads = [t[rows].transpose(0, 1) for t in (q, k, v)]
        expected[rows] = F.scaled_dot_product_attention(*heads).transpose(0, 1)
    assert torch.allclose(layer(x).feats, layer.to_out(expected.flatten(1)), atol=1e-5)


def test_windows_hold_every_voxel_once_and_waste_little() -> None:
    plan = plan_groups(voxels(9, (600, 500), size=16), 8, 4)
    assert sorted(plan.inverse.tolist()) == list(range(1100))
    assert sum(bucket.rows.numel() for bucket in plan.buckets) < 1.5 * 1100


def test_token_weights_of_one_change_nothing_and_of_zero_hide() -> None:
    x, layer = voxels(10), SparseCrossAttention(8, 6, 2)
    context = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    plain = layer(x, context).feats
    assert torch.allclose(layer(x, context, torch.ones(2, 5)).feats, plain, atol=1e-5)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]).expand(2, 5)
    assert torch.allclose(layer(x, context, weight).feats, layer(x, context[:, :3]).feats, atol=1e-4)


def test_items_do_not_see_each_other() -> None:
    x = voxels(11)
    block = SparseModulatedCrossBlock(8, 6, 2, 2, qk_rms_norm=True)
    conv = SparseResBlock3d(8, 8, 8, "down")
    generator = torch.Generator().manual_seed(3)
    for parameter in [*block.parameters(), *conv.parameters()]:
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    mod, context = torch.randn(2, 8, generator=generator), torch.randn(2, 5, 6, generator=generator)
    both = conv(block(x, mod, context), mod)
    for item, (coords, feats) in enumerate(x.items()):
        alone = SparseTensor.from_batch([coords], [feats])
        part = slice(item, item + 1)
        result = conv(block(alone, mod[part], context[part]), mod[part])
        assert torch.allclose(result.feats, both.feats[both.layout[item]], atol=1e-5)


def test_training_under_autocast_is_finite_and_repeats() -> None:
    x = voxels(12)

    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        block, conv = SparseTransformerBlock(8, 2, 2, 4, 2), SparseConv3d(8, 8)
        with torch.autocast("cpu", torch.bfloat16):
            loss = conv(block(upsample(downsample(x)))).feats.float().square().mean()
        loss.backward()
        return [p.grad for p in [*block.parameters(), *conv.parameters()] if p.grad is not None]

    first, second = gradients(), gradients()
    assert len(first) == 10 and all(bool(g.isfinite().all()) for g in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
