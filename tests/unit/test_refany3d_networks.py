"""RefAny3D's network on a small size: blocks answer as the dense form, views are kept exactly, variants of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.contract.errors import MaquetteError
from backend.nn.attention import product_attention
from backend.systems.kiss3dgen.flux.quantise import Int8Linear, quantise_linears
from backend.systems.kiss3dgen.flux.streaming import stream_blocks
from backend.systems.refany3d import bench, positions
from backend.systems.refany3d.attention import Mask, attend
from backend.systems.refany3d.bench import Inputs
from backend.systems.refany3d.config import read_config, read_settings
from backend.systems.refany3d.training_loss import draw_step, dropped, mixed, training_loss
from backend.systems.refany3d.transformer import RefAny3DTransformer

SIDE, TEXT, CHANNELS, VIEWS = 3, 5, 8, 4
TRANSFORMER = {
    "patch_size": 1, "in_channels": CHANNELS, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 12, "pooled_projection_dim": 10, "guidance_embeds": True,
    "axes_dims_rope": [4, 6, 6],
}  # fmt: skip
SETTINGS = {
    "size": 16 * SIDE, "views": VIEWS, "text": "minilm", "text_tokens": TEXT, "steps": 2, "guidance": 3.5,
    "image_guidance": 2.0, "rank": 4,
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A JSON file of a network of a few thousand numbers."""
    path = tmp_path / "tiny.json"
    described = {"settings": SETTINGS, "networks": {"transformer": {"name": "FluxTransformer2DModel",
                                                                    "args": TRANSFORMER}}}  # fmt: skip
    path.write_text(json.dumps(described))
    return str(path)


def made(config: str, **changed: Any) -> tuple[RefAny3DTransformer, Inputs]:
    """The network, with other arguments for `RefAny3DTransformer`, and inputs for it."""
    network, settings = bench.random_network(config)
    inputs = bench.random_inputs(network, settings, SIDE)
    if changed:
        parts = {name: changed.pop(name, getattr(network, name)) for name in ("default", "coord", "domain_embedder")}
        network = RefAny3DTransformer(network.base, *parts.values(), **changed).requires_grad_(False)
    return network, inputs


@torch.no_grad()
def answer(network: RefAny3DTransformer, inputs: Inputs, conditions: Any = None, **changed: Any) -> Tensor:
    """Both velocities of `inputs` in one tensor."""
    given = {"t": inputs.t, "guidance": inputs.guidance, **changed}
    seen = inputs.conditions if conditions is None else conditions
    parts = network.predict(inputs.rgb, inputs.coord, seen, inputs.text, inputs.pooled, **given)
    return torch.cat([part for part in parts if part is not None])


def test_blocks_answer_as_the_dense_form(config: str) -> None:
    network, inputs = made(config)
    dense = torch.cat(bench.DenseForm(network, inputs).predict())
    assert dense.abs().max() > 0.3
    torch.testing.assert_close(answer(network, inputs), dense, rtol=1e-4, atol=1e-5)


def test_memory_that_is_used_again_changes_no_answer(config: str) -> None:
    network, inputs = made(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in network.base.named_parameters():
            if ".attn.norm_" in name:
                weight.uniform_(0.5, 2.0, generator=generator)
    given = (inputs.rgb, inputs.coord, inputs.conditions, inputs.text, inputs.pooled, inputs.t, inputs.guidance)
    before = [part.clone() for part in given[:5]]
    recorded = torch.cat(network.predict(*given))  # what is recorded keeps everything
    for _ in range(2):
        torch.testing.assert_close(answer(network, inputs), recorded, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(part, kept) for part, kept in zip(given, before, strict=False))


@pytest.mark.parametrize("views", [1, 4, 6])
@pytest.mark.parametrize("mask", [Mask.TRAINED, Mask.INDEPENDENT, Mask.NONE])
def test_attention_is_that_of_the_table(views: int, mask: Mask) -> None:
    generator = torch.Generator().manual_seed(views)
    sizes = positions.sequence(3, 4, views)
    q, k, v = (torch.randn(2, 2, sizes.total, 8, generator=generator) for _ in range(3))
    counts = torch.tensor([3, *([4] * (2 * views + 2))])
    branches = torch.repeat_interleave(torch.arange(len(counts)), counts)
    table = positions.group_mask(views, mask is Mask.INDEPENDENT)[branches][:, branches]
    seen = torch.ones_like(table) if mask is Mask.NONE else table
    wanted = product_attention(q, k, v, torch.zeros(seen.shape).masked_fill(~seen, -torch.inf))
    wanted = wanted.transpose(1, 2).flatten(2)
    torch.testing.assert_close(attend(q, k, v, sizes, sizes, views, mask), wanted)
    if mask is not Mask.NONE:  # only the noise asks, as in the last block
        noise = sizes.only("rgb", "coord")
        kept = slice(sizes.text, sizes.main)
        torch.testing.assert_close(attend(q[:, :, kept], k, v, noise, sizes, views, mask), wanted[:, kept])


@pytest.mark.parametrize("masked", [True, False], ids=["table", "no-mask"])
def test_one_of_equal_views_stands_for_all(config: str, masked: bool) -> None:
    network, inputs = made(config)
    one = torch.randn(1, 2, SIDE * SIDE, CHANNELS, generator=torch.Generator().manual_seed(5))
    all_of_them = one.repeat_interleave(VIEWS, 1)
    wanted = answer(network, inputs, all_of_them, masked=masked)
    kept = network.prepare(one, inputs.pooled, copies=VIEWS)
    torch.testing.assert_close(answer(network, inputs, kept, masked=masked), wanted, rtol=1e-4, atol=1e-5)
    alone = network.prepare(one, inputs.pooled)
    assert (answer(network, inputs, alone, masked=masked) - wanted).abs().max() > 1e-3
    apart, _ = made(config, shared_positions=False)
    with pytest.raises(ValueError, match="not alike"):
        apart.prepare(one, inputs.pooled, copies=VIEWS)
    if masked:
        independent, _ = made(config, independent=True)
        wanted = answer(independent, inputs, all_of_them)
        cache = independent.cache_conditions(one, inputs.pooled, copies=VIEWS)
        torch.testing.assert_close(answer(independent, inputs, cache), wanted, rtol=1e-4, atol=1e-5)


def test_the_order_of_views_says_nothing_but_pairs_do(config: str) -> None:
    network, inputs = made(config)
    plain, order = answer(network, inputs), torch.tensor([2, 0, 3, 1])
    both = inputs.conditions[:, torch.cat([order, order + VIEWS])]
    torch.testing.assert_close(answer(network, inputs, both), plain, rtol=1e-4, atol=1e-5)
    points = inputs.conditions[:, torch.cat([torch.arange(VIEWS), order + VIEWS])]
    assert (answer(network, inputs, points) - plain).abs().max() > 1e-3


def test_a_batch_is_its_samples(config: str) -> None:
    network, first = made(config)
    _, settings = bench.random_network(config)
    second = bench.random_inputs(network, settings, SIDE, seed=7)
    names = ("rgb", "coord", "conditions", "text", "pooled")
    joined = Inputs(*(torch.cat([getattr(first, name), getattr(second, name)]) for name in names))
    times, alone = torch.tensor([0.3, 0.8]), []
    for one, t in ((first, 0.3), (second, 0.8)):
        alone.append(answer(network, one, t=t))
    together = answer(network, joined, t=times).view(2, 2, SIDE * SIDE, CHANNELS)
    torch.testing.assert_close(together, torch.stack(alone, 1), rtol=1e-4, atol=1e-5)
    kept = network.prepare(joined.conditions, joined.pooled)
    for _ in range(2):
        again = answer(network, joined, kept, t=times).view(2, 2, SIDE * SIDE, CHANNELS)
        torch.testing.assert_close(again, together, rtol=1e-4, atol=1e-5)


def test_one_set_of_conditions_serves_several_pictures(config: str) -> None:
    network, inputs = made(config)
    other = torch.randn(inputs.rgb.shape, generator=torch.Generator().manual_seed(3))
    kept = network.prepare(inputs.conditions, inputs.pooled)
    text, pooled = inputs.text.expand(2, -1, -1), inputs.pooled.expand(2, -1)
    both = Inputs(torch.cat([inputs.rgb, other]), inputs.coord.expand(2, -1, -1), inputs.conditions, text, pooled)
    together = answer(network, both, kept)
    torch.testing.assert_close(together[::2], answer(network, inputs), rtol=1e-4, atol=1e-5)


def test_kept_views_are_exact_over_the_steps(config: str) -> None:
    network, inputs = made(config)
    kept = network.prepare(inputs.conditions, inputs.pooled)
    for t in (1.0, 0.5):
        torch.testing.assert_close(
            answer(network, inputs, kept, t=t), answer(network, inputs, t=t), rtol=1e-4, atol=1e-5
        )
    assert kept.rows  # the second step found what layers made of the views' vectors


def test_keys_are_kept_only_where_views_are_independent(config: str) -> None:
    published, inputs = made(config)
    with pytest.raises(MaquetteError, match="independent"):
        published.cache_conditions(inputs.conditions, inputs.pooled)
    network, _ = made(config, independent=True)
    cache = network.cache_conditions(inputs.conditions, inputs.pooled)
    tokens = 2 * VIEWS * SIDE * SIDE
    assert cache.bytes == 3 * 2 * tokens * 32 * 4  # blocks, keys and values, tokens, numbers, float32
    for t in (1.0, 0.5):
        torch.testing.assert_close(
            answer(network, inputs, cache, t=t), answer(network, inputs, t=t), rtol=1e-4, atol=1e-5
        )
    published, _ = made(config)
    assert (answer(published, inputs) - answer(network, inputs)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="independent"):
        answer(network, inputs, cache, masked=False)


def test_views_that_several_noises_share_learn_the_same(config: str) -> None:
    """One pass over two meshes' views for four noisy pictures gives the gradients of four passes."""
    network, first = made(config, independent=True)
    _, settings = bench.random_network(config)
    second = bench.random_inputs(network, settings, SIDE, seed=7)
    both = Inputs(*(torch.cat([getattr(first, name), getattr(second, name)]).repeat_interleave(2, 0)
                    for name in ("rgb", "coord", "conditions", "text", "pooled")))  # fmt: skip
    times = torch.tensor([0.2, 0.9, 0.5, 0.7])
    weights = list(network.requires_grad_(True).parameters())

    def gradients(shared: bool) -> list[torch.Tensor]:
        kept = network.cache_conditions(both.conditions[::2], both.pooled[::2]) if shared else None
        seen = both.conditions if kept is None else kept
        found = network.predict(both.rgb, both.coord, seen, both.text, both.pooled, times, 3.5)
        value = torch.stack([part.square().sum() for part in found if part is not None]).sum()
        return [part for part in torch.autograd.grad(value, weights, allow_unused=True) if part is not None]

    apart, together = gradients(False), gradients(True)
    assert len(apart) == len(together) > 20
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4 * float(one.abs().max() + 1))


def test_bases_without_guidance(tmp_path: Path, config: str) -> None:
    described = json.loads(Path(config).read_text())
    described["networks"]["transformer"]["args"]["guidance_embeds"] = False
    path = tmp_path / "schnell.json"
    path.write_text(json.dumps(described))
    network, inputs = made(str(path))
    plain = answer(network, inputs, guidance=None)
    assert torch.equal(answer(network, inputs, guidance=7.0, condition_guidance=3.0), plain)
    guided, _ = made(config)
    assert (answer(guided, inputs, guidance=7.0) - answer(guided, inputs)).abs().max() > 1e-4
    with pytest.raises(ValueError, match="guidance"):
        answer(guided, inputs, guidance=None)


def test_weights_without_point_maps(config: str) -> None:
    network, inputs = made(config, points=False)
    views = inputs.conditions[:, :VIEWS]
    rgb, coord = network.predict(inputs.rgb, None, views, inputs.text, inputs.pooled, inputs.t, inputs.guidance)
    assert coord is None and rgb.shape == inputs.rgb.shape
    kept = network.prepare(views, inputs.pooled)
    again, _ = network.predict(inputs.rgb, None, kept, inputs.text, inputs.pooled, inputs.t, inputs.guidance)
    torch.testing.assert_close(again, rgb, rtol=1e-4, atol=1e-5)


def test_ablations_change_the_answer(config: str) -> None:
    network, inputs = made(config)
    plain = answer(network, inputs)
    for change in ({"coord": None}, {"default": None}, {"domain_embedder": None}, {"shared_positions": False},
                   {"shift": -32}):  # fmt: skip
        other, _ = made(config, **change)
        assert (answer(other, inputs) - plain).abs().max() > 1e-3, change


def test_oblong_pictures_need_their_grid(config: str) -> None:
    network, inputs = made(config)
    cut = Inputs(
        inputs.rgb[:, :6], inputs.coord[:, :6], inputs.conditions[:, :, :6], inputs.text, inputs.pooled
    )  # fmt: skip
    with pytest.raises(ValueError, match="grid"):
        answer(network, cut)
    flat, high = answer(network, cut, grid=(2, 3)), answer(network, cut, grid=(3, 2))
    assert (flat - high).abs().max() > 1e-3
    kept = network.prepare(cut.conditions, cut.pooled, grid=(2, 3))
    torch.testing.assert_close(answer(network, cut, kept), flat, rtol=1e-4, atol=1e-5)


def test_blocks_may_visit_the_device(config: str) -> None:
    network, inputs = made(config)
    plain = answer(network, inputs)
    parts = ("transformer_blocks", "single_transformer_blocks")
    visits: list[str] = []
    for part in parts:
        for block in network.base.get_submodule(part):
            block.register_forward_pre_hook(lambda *_: visits.append("visit"))
    assert stream_blocks(network.base, parts, torch.device("cpu"), room=0) == 3
    assert torch.equal(answer(network, inputs), plain)
    assert len(visits) == 3


def test_layers_may_be_of_8_bits(tmp_path: Path, config: str) -> None:
    described = json.loads(Path(config).read_text())
    described["networks"]["transformer"]["args"]["num_attention_heads"] = 4  # the widest layers are large enough then
    path = tmp_path / "wide.json"
    path.write_text(json.dumps(described))
    network, inputs = made(str(path))
    plain = answer(network, inputs)
    layers = [module for module in network.base.modules() if isinstance(module, torch.nn.Linear)]
    assert quantise_linears(network.base, ("transformer_blocks", "single_transformer_blocks")) == 10
    for module in network.base.modules():
        if isinstance(module, Int8Linear):
            twin = next(
                layer for layer in layers if layer.bias is module.bias and layer.weight.shape == module.weight.shape
            )
            module.take(twin.weight)
    rounded = answer(network, inputs)
    assert not torch.equal(rounded, plain)
    assert (rounded - plain).norm() < 0.02 * plain.norm()


def test_the_loss_reaches_its_own_weights_only(config: str) -> None:
    network, inputs = made(config)
    for parameter in network.own_parameters:
        parameter.requires_grad_(True)
    draw = draw_step((1, SIDE * SIDE, CHANNELS), torch.Generator().manual_seed(5))
    given = (network, inputs.rgb, inputs.coord, inputs.conditions, inputs.text, inputs.pooled)
    loss, parts = training_loss(*given, draw)
    loss.backward()
    torch.testing.assert_close(loss.detach(), parts["rgb"] + parts["coord"])
    assert all(parameter.grad is None for parameter in network.base.parameters())
    assert sum(float(parameter.grad.abs().sum()) > 0 for parameter in network.own_parameters
               if parameter.grad is not None) > 60  # fmt: skip
    with torch.no_grad():
        for parameter in network.own_parameters:
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
        assert training_loss(*given, draw)[0] < loss


def test_draws_are_those_of_the_recipe() -> None:
    draw = draw_step((4000, 2, 1), torch.Generator().manual_seed(0))
    logits = torch.logit(draw.t)
    assert abs(float(logits.mean())) < 0.05 and abs(float(logits.std()) - 1) < 0.05
    for gone in (draw.no_text, draw.no_pictures):
        assert 0.08 < float(gone.float().mean()) < 0.12
    assert not torch.equal(draw.no_text, draw.no_pictures)
    assert not torch.equal(draw.rgb_noise, draw.coord_noise)
    latents = torch.ones(2, 3, 1)
    halves = mixed(latents, torch.zeros(2, 3, 1), torch.tensor([0.25, 1.0]))
    assert halves[0].unique().tolist() == [0.75] and halves[1].unique().tolist() == [0.0]
    told = dropped(torch.ones(2, 3), torch.zeros(3), torch.tensor([True, False]))
    assert told.tolist() == [[0.0] * 3, [1.0] * 3]


@pytest.mark.parametrize("name", ["mini", "mid", "full"])
def test_configurations_hang_together(name: str) -> None:
    config = read_config(name)
    settings, args = read_settings(config), config["networks"]["transformer"]["args"]
    latents = config["networks"]["vae"]["args"]["latent_channels"]
    assert args["in_channels"] == 4 * latents
    assert sum(args["axes_dims_rope"]) == args["attention_head_dim"]
    assert settings.size % 16 == 0 and settings.views == 8


def test_unknown_configurations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match="mini or full"):
        read_config("huge")
    with pytest.raises(MaquetteError, match="do not fit"):
        read_settings({"settings": {"size": 128, "wings": 2}})


def test_the_bench_prints_its_numbers(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    assert bench.main(["--config", config, "--device", "cpu", "--threads", "1", "--repeats", "1"]) == 0
    torch.set_num_threads(before)
    result = json.loads(capsys.readouterr().out)
    assert max(result["largest_difference"], result["guided_largest_difference"]) < 1e-4 < result["largest_answer"]
    assert result["tokens"] == TEXT + (2 + 2 * VIEWS) * SIDE * SIDE
    assert result["times_quicker"] > 0 and result["adapted_layers"] == 1 + 6 + 2 * 6
    assert result["guided_blocks_seconds"] > result["blocks_seconds"]
