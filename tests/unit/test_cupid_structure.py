"""Dense networks and structure decoding: published sizes, types, limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backend.systems.cupid import structure_decode
from backend.systems.cupid.structure_flow import SparseStructureFlowModel, patchify, unpatchify
from backend.systems.cupid.structure_vae import SparseStructureDecoder, SparseStructureEncoder, pixel_shuffle_3d

torch.set_num_threads(1)

PUBLISHED_FLOW = {
    "resolution": 16,
    "in_channels": 16,
    "out_channels": 16,
    "model_channels": 1024,
    "cond_channels": 1024,
    "num_blocks": 24,
    "num_heads": 16,
    "mlp_ratio": 4,
    "patch_size": 1,
    "pe_mode": "ape",
    "qk_rms_norm": True,
    "use_fp16": True,
}
SMALL_FLOW = {
    "resolution": 4,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "cond_channels": 12,
    "num_blocks": 1,
    "num_heads": 4,
    "patch_size": 2,
    "qk_rms_norm": True,
}
PUBLISHED_VAE: dict[str, Any] = {
    "latent_channels": 8,
    "num_res_blocks": 2,
    "num_res_blocks_middle": 2,
    "use_fp16": True,
}


def values(module: torch.nn.Module) -> int:
    """Numbers in the state dict."""
    return sum(tensor.numel() for tensor in module.state_dict().values())


def test_published_flow_has_the_published_names_and_size() -> None:
    with torch.device("meta"):
        model = SparseStructureFlowModel.from_config(PUBLISHED_FLOW)
    state = model.state_dict()
    assert len(state) == 489
    assert state["pos_emb"].shape == (4096, 1024)
    assert state["blocks.23.cross_attn.to_kv.weight"].shape == (2048, 1024)
    # The float32 file has 2,239,067,672 bytes; its header (names and shapes) takes some ten thousand.
    assert 0 < 2_239_067_672 - 4 * values(model) < 100_000


@pytest.mark.parametrize(("build", "size"), [("decoder", 294_698_604), ("encoder", 237_206_376)])
def test_published_uv_vae_has_the_published_size(build: str, size: int) -> None:
    with torch.device("meta"):
        if build == "decoder":
            model: torch.nn.Module = SparseStructureDecoder(out_channels=3, channels=[512, 128, 32], **PUBLISHED_VAE)
        else:
            model = SparseStructureEncoder(in_channels=3, channels=[32, 128, 512], **PUBLISHED_VAE)
    assert 0 < size - 4 * values(model) < 100_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flow_runs_in_its_own_type_and_answers_in_the_latents(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = SparseStructureFlowModel.from_config(SMALL_FLOW)
    torch.nn.init.normal_(model.out_layer.weight, std=0.1)
    x, t, cond = torch.randn(2, 4, 4, 4, 4), torch.tensor([900.0, 10.0]), torch.randn(2, 5, 12)
    expected = model(x, t, cond)
    out = model.to(dtype)(x, t, cond)
    assert out.dtype == torch.float32 and out.shape == x.shape
    torch.testing.assert_close(out, expected, atol=0.1, rtol=0.1)


def test_full_token_weights_change_nothing_and_zero_weights_hide_a_token() -> None:
    torch.manual_seed(0)
    model = SparseStructureFlowModel.from_config(SMALL_FLOW)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    x, t, cond = torch.randn(1, 4, 4, 4, 4), torch.tensor([500.0]), torch.randn(1, 5, 12)
    weight = torch.ones(1, 5)
    torch.testing.assert_close(model(x, t, cond, weight), model(x, t, cond), atol=1e-5, rtol=1e-5)
    weight[0, 2] = 0
    torch.testing.assert_close(model(x, t, cond, weight), model(x, t, cond[:, [0, 1, 3, 4]]), atol=1e-3, rtol=1e-3)


def test_a_new_flow_answers_zero_and_wrong_input_is_refused() -> None:
    model = SparseStructureFlowModel.from_config(SMALL_FLOW)
    out = model(torch.randn(1, 4, 4, 4, 4), torch.tensor([500.0]), torch.randn(1, 5, 12))
    assert not out.any()
    with pytest.raises(ValueError, match="does not fit"):
        model(torch.randn(1, 3, 4, 4, 4), torch.tensor([500.0]), torch.randn(1, 5, 12))
    with pytest.raises(ValueError, match="ape"):
        SparseStructureFlowModel.from_config({**SMALL_FLOW, "pe_mode": "rope"})


def test_patches_and_pixel_shuffle_are_permutations() -> None:
    x = torch.arange(2 * 3 * 64.0).reshape(2, 3, 4, 4, 4)
    torch.testing.assert_close(unpatchify(patchify(x, 2), 2), x)
    shuffled = pixel_shuffle_3d(torch.arange(8.0).reshape(1, 8, 1, 1, 1), 2)
    assert shuffled[0, 0, 1, 0, 1] == 5  # dx*4 + dy*2 + dz


def test_threshold_sinks_only_as_far_as_needed() -> None:
    logits = torch.full((2, 1, 4, 4, 4), -3.0)
    logits[0, 0, 1] = 1.0
    logits[1, 0, 0, 0, :3] = -0.02
    logits[1, 0, 3, :2] = -0.07
    found = structure_decode.expanded_voxels(logits)
    assert (found[:, 0] == 0).sum() == 16
    assert (found[:, 0] == 1).sum() == 11
    assert (structure_decode.active_voxels(logits)[:, 0] == 0).all()


def test_very_low_logits_still_end() -> None:
    logits = torch.full((1, 1, 4, 4, 4), -200.0)
    logits[0, 0, 0, 0] = -100.0
    assert len(structure_decode.expanded_voxels(logits)) == 64
    with pytest.raises(ValueError, match="finite"):
        structure_decode.expanded_voxels(torch.full((1, 1, 4, 4, 4), float("nan")))
    with pytest.raises(ValueError, match="lower the minimum"):
        structure_decode.expanded_voxels(torch.zeros(1, 1, 2, 2, 2))
