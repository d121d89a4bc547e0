"""LoRA files of three layouts on a small transformer: one output, unmatched keys refused, put on and taken off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from backend.contract.errors import MaquetteError
from backend.systems.kiss3dgen.flux import lora as loras
from backend.systems.kiss3dgen.flux.config import build_empty, read_config
from backend.systems.kiss3dgen.flux.lora import Lora, attach_lora, detach_lora, parse_lora, read_lora
from backend.systems.kiss3dgen.flux.names import DOUBLE, SINGLE
from backend.systems.kiss3dgen.flux.networks import load_flux
from backend.systems.kiss3dgen.flux.tensors import RandomTensors, expected_shapes, load_into
from tests.fakes.tiny_flux import TINY, write_tiny_config

ENTRY = TINY["networks"]["transformer"]
RANK, ALPHA = 3, 1.5
INNER = 32


def pair(name: str, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """down [RANK, columns], up [rows, RANK] of the layer that the original calls `name`."""
    generator = torch.Generator().manual_seed(sum(name.encode()))
    return torch.randn(RANK, columns, generator=generator), torch.randn(rows, RANK, generator=generator)


def pairs() -> dict[str, tuple[Tensor, Tensor]]:
    """The layers that all three layouts can name: attention of a double block, second half of a single block."""
    return {
        "double_blocks.1.img_attn.qkv": pair("a", 3 * INNER, INNER),
        "double_blocks.1.txt_attn.qkv": pair("b", 3 * INNER, INNER),
        "double_blocks.0.img_attn.proj": pair("c", INNER, INNER),
        "double_blocks.0.txt_attn.proj": pair("d", INNER, INNER),
        "single_blocks.2.linear2": pair("e", INNER, 5 * INNER),
    }


def modules_of(original: str) -> list[str]:
    kind, block, name = original.split(".", 2)
    table, prefix = (DOUBLE, "transformer_blocks") if kind == "double_blocks" else (SINGLE, "single_transformer_blocks")
    return [f"{prefix}.{block}.{part}" for part in table[name]]


def kohya(scale: float = ALPHA / RANK) -> dict[str, Tensor]:
    found = {}
    for name, (down, up) in pairs().items():
        prefix = "lora_unet_" + name.replace(".", "_")
        found[f"{prefix}.lora_down.weight"], found[f"{prefix}.lora_up.weight"] = down, up
        found[f"{prefix}.alpha"] = torch.tensor(scale * RANK)
    return found


def peft(prefix: str = "transformer.") -> dict[str, Tensor]:
    found = {}
    for name, (down, up) in pairs().items():
        for module, part in zip(modules_of(name), up.chunk(len(modules_of(name))), strict=True):
            found[f"{prefix}{module}.lora_A.weight"], found[f"{prefix}{module}.lora_B.weight"] = down, part
            found[f"{prefix}{module}.alpha"] = torch.tensor(ALPHA)
    return found


def xlabs() -> dict[str, Tensor]:
    """XLabs has no alpha: its scale is in the numbers."""
    new = {"img_attn.qkv": "qkv_lora1", "txt_attn.qkv": "qkv_lora2", "img_attn.proj": "proj_lora1",
           "txt_attn.proj": "proj_lora2", "linear2": "proj_lora"}  # fmt: skip
    found = {}
    for name, (down, up) in pairs().items():
        kind, block, layer = name.split(".", 2)
        prefix = f"{kind}.{block}.processor.{new[layer]}"
        found[f"{prefix}.down.weight"], found[f"{prefix}.up.weight"] = down, up * ALPHA / RANK
    return found


def transformer() -> Any:
    network = build_empty(ENTRY)
    return load_into(network, RandomTensors(expected_shapes(network), "t", 1), "t", torch.float32, torch.device("cpu"))


def answer(network: Any) -> Tensor:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        out: Tensor = network(
            hidden_states=torch.randn(1, 8, 16, generator=generator),
            encoder_hidden_states=torch.randn(1, 4, INNER, generator=generator),
            pooled_projections=torch.randn(1, 24, generator=generator), timestep=torch.ones(1), guidance=torch.ones(1),
            img_ids=torch.zeros(8, 3), txt_ids=torch.zeros(4, 3),
        ).sample  # fmt: skip
    return out


def fused(lora: Lora) -> Any:
    network = transformer()
    with torch.no_grad():
        for layer in lora.layers:
            weight = network.get_submodule(layer).weight
            weight += lora.delta(layer, weight.device)
    return network


def test_three_layouts_are_one_lora() -> None:
    plain = answer(transformer())
    given = {"kohya": kohya(), "peft": peft(), "xlabs": xlabs(), "peft without prefix": peft("")}
    answers = {}
    for name, tensors in given.items():
        lora = parse_lora(tensors, transformer(), name)
        assert lora.layout == name.split()[0] and lora.ranks == (RANK,) and len(lora.layers) == 9
        answers[name] = answer(fused(lora))
    assert float((answers["kohya"] - plain).abs().max()) > 1e-2, "it changes something"
    for name, value in answers.items():
        assert torch.allclose(value, answers["kohya"], atol=1e-5), name


def test_attached_is_fused_and_taken_off_is_gone() -> None:
    lora = parse_lora(kohya(), transformer())
    network = transformer()
    plain = answer(network)
    attach_lora(network, lora)
    assert torch.allclose(answer(network), answer(fused(lora)), atol=1e-4)
    detach_lora(network)
    assert torch.equal(answer(network), plain)
    attach_lora(network, lora, 0.0)
    assert torch.allclose(answer(network), plain, atol=1e-6)


def test_a_lora_is_fused_while_the_weights_are_read(tmp_path: Path) -> None:
    tiny = write_tiny_config(tmp_path / "tiny.json")
    save_file(kohya(), tmp_path / "bundle.safetensors")
    networks = load_flux("random", tiny, seed=1)
    plain = networks["transformer"].transformer_blocks[1].attn.to_k.weight
    lora = read_lora(tmp_path / "bundle.safetensors", ENTRY)
    networks.use_lora(lora, 0.5)
    gained = networks["transformer"].transformer_blocks[1].attn.to_k.weight - plain
    assert torch.allclose(gained, 0.5 * lora.delta("transformer_blocks.1.attn.to_k", plain.device), atol=1e-5)
    kept = networks["transformer"]
    networks.use_lora(lora, 0.5)
    assert networks["transformer"] is kept, "the same LoRA again changes nothing"
    networks.use_lora(None)
    assert torch.equal(networks["transformer"].transformer_blocks[1].attn.to_k.weight, plain)
    given = load_flux("random", tiny, seed=1, lora=str(tmp_path / "bundle.safetensors"))
    given.select_lora("mesh", 0.5)
    assert torch.equal(given["transformer"].transformer_blocks[1].attn.to_k.weight, plain + gained)
    given.select_lora("dream")
    assert given.lora is not None and given.lora[1] == 0.5, "a kind that is not there changes nothing"


@pytest.mark.parametrize(("layout", "key"), [
    (kohya, "lora_unet_double_blocks_7_img_attn_qkv.lora_up.weight"),
    (kohya, "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"),
    (peft, "transformer.transformer_blocks.9.attn.to_q.lora_A.weight"),
    (peft, "transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector"),
    (xlabs, "double_blocks.0.processor.ip_adapter.down.weight"),
])  # fmt: skip
def test_unmatched_keys_are_refused_by_name(layout: Any, key: str) -> None:
    with pytest.raises(MaquetteError, match="belongs to no layer") as caught:
        parse_lora({**layout(), key: torch.zeros(RANK, INNER)}, transformer())
    assert key in str(caught.value)


def test_what_does_not_fit_or_is_cut_off_is_refused(tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_proj.lora_up.weight"
    with pytest.raises(MaquetteError, match=r"double_blocks_0_img_attn_proj has shapes \[3, 32\] and \[31, 3\]"):
        parse_lora({**kohya(), name: torch.zeros(31, RANK)}, transformer())
    half = kohya()
    del half[name]
    with pytest.raises(MaquetteError, match="double_blocks_0_img_attn_proj a half is missing"):
        parse_lora(half, transformer())
    with pytest.raises(MaquetteError, match="is empty"):
        parse_lora({}, transformer())
    with pytest.raises(MaquetteError, match="is not there"):
        read_lora(tmp_path / "no.safetensors", ENTRY)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(MaquetteError, match="damaged"):
        read_lora(tmp_path / "torn.safetensors", ENTRY)


def test_alpha_comes_from_the_file() -> None:
    bare = {key: value for key, value in peft().items() if not key.endswith("alpha")}
    layer = "transformer_blocks.0.attn.to_out.0"
    assert parse_lora(bare, transformer()).layers[layer][0].scale == 1.0
    told = {loras.METADATA: '{"transformer.r": 3, "transformer.lora_alpha": 6}'}
    assert parse_lora(bare, transformer(), metadata=told).layers[layer][0].scale == 2.0
    assert parse_lora(kohya(), transformer()).layers[layer][0].scale == pytest.approx(ALPHA / RANK)


def test_the_last_layers_halves_are_swapped() -> None:
    down, up = pair("f", 2 * INNER, INNER)
    name = "lora_unet_final_layer_adaLN_modulation_1"
    lora = parse_lora({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, transformer())
    assert torch.allclose(lora.delta("norm_out.linear", torch.device("cpu")), torch.cat(up.chunk(2)[::-1]) @ down)


def test_a_lora_for_the_published_size_fits_in_shapes() -> None:
    network = build_empty(read_config("full")["networks"]["transformer"])
    rank, found = 64, {}
    with torch.device("meta"):
        for block in range(19):
            for name, (rows, columns) in {"img_attn_qkv": (3, 1), "img_mlp_0": (4, 1), "txt_mlp_2": (1, 4)}.items():
                prefix = f"lora_unet_double_blocks_{block}_{name}"
                found[f"{prefix}.lora_down.weight"] = torch.empty(rank, columns * 3072)
                found[f"{prefix}.lora_up.weight"] = torch.empty(rows * 3072, rank)
        for block in range(38):
            prefix = f"lora_unet_single_blocks_{block}_linear1"
            found[f"{prefix}.lora_down.weight"] = torch.empty(rank, 3072)
            found[f"{prefix}.lora_up.weight"] = torch.empty(7 * 3072, rank)
    lora = parse_lora(found, network)
    assert lora.ranks == (64,) and len(lora.layers) == 19 * 5 + 38 * 4
    assert lora.layers["single_transformer_blocks.37.proj_mlp"][0].up.shape == (4 * 3072, rank)
