"""Stage I's networks: published sizes and keys, strict loading, layouts, memory profiles, the catalogue's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backend.catalog.catalog import FOLDER_VARIABLE, find_model
from backend.contract.errors import MaquetteError
from backend.systems.kiss3dgen.flux import config, names, needs, networks, places, quantise, work
from backend.systems.kiss3dgen.flux.config import build_empty, count_parameters, read_config
from backend.systems.kiss3dgen.flux.networks import load_flux
from backend.systems.kiss3dgen.flux.streaming import module_bytes, stream_blocks
from backend.systems.kiss3dgen.flux.tensors import (
    OriginalTensors,
    RandomTensors,
    Shape,
    check_strict,
    expected_shapes,
    load_into,
)
from backend.training.checkpoints import save_model
from tests.fakes.tiny_flux import TINY, write_tiny_config

CPU = torch.device("cpu")
MILLIONS = {  # published files in 16 bit: 23.80, 6.60, 0.168, 0.857, 0.129, 0.246 and 9.52 GB
    "transformer": 11901.4, "controlnet": 3302.0, "vae": 83.8, "image_encoder": 428.2, "redux": 64.5, "clip": 123.1,
    "t5": 4762.3,
}  # fmt: skip
README = Path(config.__file__).parents[1] / "README.md"


class Shapes:
    """A source that has shapes only."""

    def __init__(self, known: dict[str, Shape]) -> None:
        self.known = known

    def shapes(self) -> dict[str, Shape]:
        return self.known

    def read(self, name: str, device: torch.device) -> torch.Tensor:
        return torch.zeros(self.known[name], device=device)


def published_dev_shapes(inner: int = 3072, doubles: int = 19, singles: int = 38, text: int = 4096) -> dict[str, Shape]:
    """All 780 tensors of FLUX.1-dev's original file, written down from its architecture."""
    found: dict[str, Shape] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (rows, columns), (rows,)

    linear("img_in", inner, 64)
    linear("txt_in", inner, text)
    for embedder, width in (("time_in", 256), ("vector_in", 768), ("guidance_in", 256)):
        linear(f"{embedder}.in_layer", inner, width)
        linear(f"{embedder}.out_layer", inner, inner)
    for block in range(doubles):
        for side in ("img", "txt"):
            prefix = f"double_blocks.{block}.{side}"
            linear(f"{prefix}_mod.lin", 6 * inner, inner)
            linear(f"{prefix}_attn.qkv", 3 * inner, inner)
            linear(f"{prefix}_attn.proj", inner, inner)
            linear(f"{prefix}_mlp.0", 4 * inner, inner)
            linear(f"{prefix}_mlp.2", inner, 4 * inner)
            for which in ("query", "key"):
                found[f"{prefix}_attn.norm.{which}_norm.scale"] = (128,)
    for block in range(singles):
        prefix = f"single_blocks.{block}"
        linear(f"{prefix}.modulation.lin", 3 * inner, inner)
        linear(f"{prefix}.linear1", 7 * inner, inner)
        linear(f"{prefix}.linear2", inner, 5 * inner)
        for which in ("query", "key"):
            found[f"{prefix}.norm.{which}_norm.scale"] = (128,)
    linear("final_layer.linear", 64, inner)
    linear("final_layer.adaLN_modulation.1", 2 * inner, inner)
    return found


def test_the_full_configuration_has_the_published_sizes() -> None:
    entries = read_config("full")["networks"]
    assert set(entries) == set(config.ROLES)
    for role, millions in MILLIONS.items():
        assert count_parameters(entries[role]) / 1e6 == pytest.approx(millions, abs=0.06), role


def test_every_key_of_flux_dev_has_its_place() -> None:
    stored = published_dev_shapes()
    assert len(stored) == 780
    network = build_empty(read_config("full")["networks"]["transformer"])
    assert len(network.state_dict()) == 1160
    check_strict(network, OriginalTensors(Shapes(stored)), "transformer")
    for lost in ("guidance_in.in_layer.bias", "double_blocks.18.txt_attn.qkv.weight", "single_blocks.37.linear1.bias"):
        short = {name: shape for name, shape in stored.items() if name != lost}
        with pytest.raises(MaquetteError, match="lack the tensor"):
            check_strict(network, OriginalTensors(Shapes(short)), "transformer")
    with pytest.raises(MaquetteError, match="unknown tensor surplus"):
        check_strict(network, OriginalTensors(Shapes({**stored, "surplus": (1,)})), "transformer")


def test_full_size_runs_in_shapes_with_the_controlnet() -> None:
    answer, peak = work.flux_step("full", with_control=True)
    assert answer.shape == (1, 8192, 64)
    needed = {profile: needs.WORK_BYTES[profile] for profile in ("half", "int8", "offload")}
    assert peak < min(needed.values()), "the work of a step fits into what every profile sets aside"
    assert work.decoding("full", tiled=False) < needed["half"]
    assert work.decoding("full", tiled=True) < peak


def test_the_readme_says_what_each_profile_needs() -> None:
    entries = read_config("full")["networks"]
    assert "\n".join(needs.table(entries)) in README.read_text(encoding="utf-8")
    gigabytes = {profile: needs.needs(entries, profile).card / 1e9 for profile in ("half", "int8", "offload")}
    assert gigabytes["half"] < 48 and gigabytes["int8"] < 24 and gigabytes["offload"] < 12
    for free, wanted in ((80, "half"), (23, "int8"), (11, "offload"), (0, "offload")):
        assert needs.choose_profile(entries, int(free * 1e9), torch.device("cuda")) == wanted
    assert needs.choose_profile(entries, 0, CPU) == "int8", "on a CPU blocks have nowhere to go"
    assert needs.choose_profile(read_config("mini")["networks"], 0, CPU) == "full"


def test_the_original_layout_gives_the_same_network() -> None:
    entry = TINY["networks"]["transformer"]
    inner, mlp = 32, 4
    network = build_empty(entry)
    load_into(network, RandomTensors(expected_shapes(network), "t", 3), "t", torch.float32, CPU)
    own = network.state_dict()
    stored = {}
    for original, modules in names.original_layers(2, 3):
        for kind in ("weight", "bias"):
            parts = [own[f"{module}.{kind}"] for module in modules]
            if modules == ("norm_out.linear",):
                parts = list(parts[0].chunk(2)[::-1])
            stored[f"{original}.{kind}"] = torch.cat(parts)
    for original, module in names.original_norms(2, 3):
        stored[f"{original}.scale"] = own[f"{module}.weight"]
    assert stored["single_blocks.0.linear1.weight"].shape == ((3 + mlp) * inner, inner)

    class Stored(Shapes):
        def read(self, name: str, device: torch.device) -> torch.Tensor:
            return stored[name]

    again = build_empty(entry)
    source = OriginalTensors(Stored({name: tuple(value.shape) for name, value in stored.items()}))
    load_into(again, source, "t", torch.float32, CPU)
    for name, value in again.state_dict().items():
        assert torch.equal(value, own[name]), name


@pytest.mark.parametrize(("change", "match"), [
    (lambda known: known.pop("proj_out.bias"), "x lack the tensor proj_out.bias"),
    (lambda known: known.update({"proj_out.bias": (3,)}), r"proj_out.bias of x has shape \[3\], not \[16\]"),
    (lambda known: known.update({"proj_in.bias": (3,)}), "unknown tensor proj_in.bias"),
])  # fmt: skip
def test_loading_is_strict(change, match: str) -> None:  # type: ignore[no-untyped-def]
    network = build_empty(TINY["networks"]["transformer"])
    known = expected_shapes(network)
    change(known)
    with pytest.raises(MaquetteError, match=match):
        load_into(network, Shapes(known), "x", torch.float32, CPU)


def test_t5_may_name_its_embedding_either_way() -> None:
    entry = TINY["networks"]["t5"]
    for kept in ("shared.weight", "encoder.embed_tokens.weight"):
        network = build_empty(entry)
        known = {name: shape for name, shape in expected_shapes(network).items() if "block" in name or "final" in name}
        load_into(network, RandomTensors({**known, kept: (300, 32)}, "t5", 0), "t5", torch.float32, CPU)
        assert network.shared.weight is network.encoder.embed_tokens.weight
        assert network(torch.arange(5)[None]).last_hidden_state.isfinite().all()


def test_int8_rows_lose_little() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(96, 200), torch.randn(5, 200)
    integers, scale = quantise.quantise_rows(weight)
    assert integers.dtype == torch.int8 and int(integers.abs().max()) == quantise.LARGEST
    error = quantise.widen(integers, scale, torch.float32) - weight
    assert float((error.abs().amax(1) / scale).max()) <= 0.501, "half a step at most"
    linear = torch.nn.Linear(200, 96)
    linear.weight = torch.nn.Parameter(weight)
    layer = quantise.Int8Linear(linear)
    layer.take(weight)
    wanted = linear(x)
    assert float((layer(x) - wanted).detach().norm() / wanted.detach().norm()) < 0.01
    assert quantise.quantise_rows(torch.zeros(2, 3))[0].eq(0).all()


def test_profiles_keep_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "SMALLEST_LAYER", 1)
    tiny = write_tiny_config(tmp_path / "tiny.json")
    full = load_flux("random", tiny, profile="full")
    assert set(full.present) == set(full.parts) and full.dtype == torch.float32
    frugal = load_flux("random", tiny, profile="offload")
    assert not frugal.present
    frugal.text.encode(["a chair"])
    assert set(frugal.present) == {"clip", "t5"}
    block = frugal["transformer"].transformer_blocks[0]
    assert set(frugal.present) == {"transformer"}, "the text encoders left"
    assert isinstance(block.attn.to_q, quantise.Int8Linear) and block.attn.to_q.weight.dtype == torch.int8
    assert isinstance(frugal["transformer"].proj_out, torch.nn.Linear), "the last layer stays as it is"
    assert frugal["vae"].use_tiling and not full["vae"].use_tiling
    frugal["controlnet"]
    assert set(frugal.present) == {"transformer", "vae", "controlnet"}
    again = load_flux("random", tiny, profile="full", seed=1)
    assert not torch.equal(again["transformer"].proj_out.weight, full["transformer"].proj_out.weight)
    with pytest.raises(MaquetteError, match="full, half, int8, offload"):
        load_flux("random", tiny, profile="tiny")


def test_streamed_blocks_answer_as_resident_ones() -> None:
    entry = TINY["networks"]["transformer"]
    answers, left = [], []
    for room in (None, 0, 2 * 10**5):
        network = build_empty(entry)
        load_into(network, RandomTensors(expected_shapes(network), "t", 0), "t", torch.float32, CPU)
        blocks = ("transformer_blocks", "single_transformer_blocks")
        if room is not None:
            left.append(stream_blocks(network, blocks, CPU, room))
        answer = network(
            hidden_states=torch.ones(1, 8, 16), encoder_hidden_states=torch.ones(1, 4, 32),
            pooled_projections=torch.ones(1, 24), timestep=torch.ones(1), guidance=torch.ones(1),
            img_ids=torch.zeros(8, 3), txt_ids=torch.zeros(4, 3),
        ).sample  # fmt: skip
        answers.append(answer)
    assert left[0] == 5 and 0 < left[1] < 5 and module_bytes(network.transformer_blocks[0]) < 2 * 10**5
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


def test_a_folder_of_our_layout(tmp_path: Path) -> None:
    tiny = write_tiny_config(tmp_path / "tiny.json")
    for role in ("transformer", "vae"):
        entry = TINY["networks"][role]
        save_model(tmp_path, role, entry["name"], entry["args"], dict(config.build(entry).state_dict()))
    loaded = load_flux(str(tmp_path), tiny)
    assert set(loaded) == {"transformer", "vae"} and loaded.profile == networks.PROFILES["full"]
    (tmp_path / "vae.json").unlink()
    with pytest.raises(MaquetteError, match="weights of vae are not there"):
        load_flux(str(tmp_path), tiny)
    with pytest.raises(MaquetteError, match="does not exist"):
        load_flux(str(tmp_path / "nowhere"), tiny)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with tiny networks in the places of the published ones, beside the transformer."""
    folder = tmp_path / "configs"
    folder.mkdir()
    write_tiny_config(folder / "full.json")
    (folder / "bases.json").write_text((config.CONFIG_FOLDER / "bases.json").read_text())
    monkeypatch.setattr(config, "CONFIG_FOLDER", folder)
    monkeypatch.setattr(places, "CONFIG_FOLDER", folder)
    root = tmp_path / "models"
    monkeypatch.setenv(FOLDER_VARIABLE, str(root))
    for role, (model, stem) in places.PUBLISHED.items():
        stored = random_tensors(role)
        path = root / model / f"{stem}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.bfloat16() for name, value in stored.items()}, path)
    for file in find_model(places.PARTS).files:
        path = root / places.PARTS / file.path
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    for split in (root / places.PARTS / "text_encoder_2").glob("model-*"):
        split.unlink()
    whole = root / places.PARTS / "text_encoder_2" / "model.safetensors"
    whole.rename(whole.with_name("model-00001-of-00002.safetensors"))
    save_file({}, whole.with_name("model-00002-of-00002.safetensors"))
    return root


def random_tensors(role: str, **arguments: object) -> dict[str, torch.Tensor]:
    entry = networks.with_arguments(TINY["networks"][role], **arguments)
    known = expected_shapes(build_empty(entry))
    known.pop("encoder.embed_tokens.weight", None)
    source = RandomTensors(known, role, 5)
    return {name: source.read(name, CPU) for name in known}


def test_published_files_are_found_where_the_catalogue_puts_them(installed: Path) -> None:
    with pytest.raises(MaquetteError, match="FLUX.1-dev .FLUX.1 dev Non-Commercial License. is not installed"):
        load_flux("published", base="dev")
    own = random_tensors("transformer")
    (installed / "flux1_dev_fp8").mkdir()
    packed = {f"model.diffusion_model.{name}": value.to(torch.float8_e4m3fn) for name, value in own.items()}
    save_file({**packed, "vae.unused": torch.zeros(1)}, installed / "flux1_dev_fp8" / "flux1-dev-fp8.safetensors")
    with pytest.raises(MaquetteError, match="Kiss3DGen .FLUX.1 dev Non-Commercial License. is not installed"):
        load_flux("published", base="dev")
    layer = "transformer_blocks.0.attn.to_q"
    for file, size in (("rgb_normal", 1.0), ("rgb_normal_redux", 2.0)):
        pair = {"lora_A": torch.ones(2, 32), "lora_B": torch.full((32, 2), size)}
        path = installed / "kiss3dgen" / f"{file}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({f"transformer.{layer}.{side}.weight": value for side, value in pair.items()}, path)
    loaded = load_flux("published", base="dev", profile="full")
    assert set(loaded) == set(config.ROLES), "the other packing of the same base is taken"
    plain = own[f"{layer}.weight"].to(torch.float8_e4m3fn).float()
    for kind, gained in (("image", 2.0), ("mesh", 4.0)):
        loaded.select_lora(kind)
        assert torch.allclose(loaded["transformer"].get_submodule(layer).weight, plain + gained), kind
    assert loaded.settings.guidance == 3.5
    wanted = own["proj_out.weight"].to(torch.float8_e4m3fn).float()
    assert torch.equal(loaded["transformer"].proj_out.weight, wanted)
    folder = installed / "openflux1" / "transformer"
    folder.mkdir(parents=True)
    free = random_tensors("transformer", guidance_embeds=False)
    for number in (1, 2, 3):
        part = dict(list(free.items())[number - 1 :: 3])
        save_file(part, folder / f"diffusion_pytorch_model-0000{number}-of-00003.safetensors")
    open_base = load_flux("published", base="openflux", profile="full")
    assert not open_base["transformer"].config.guidance_embeds and open_base.settings.guidance is None
    assert open_base.settings.guidance_scale == 3.5


def test_every_base_is_in_the_catalogue_with_its_licence() -> None:
    bases = places.read_bases()
    assert set(bases) == {"dev", "dev_fp8", "schnell", "openflux"}
    licences = {name: base.licence for name, base in bases.items()}
    assert licences["schnell"] == licences["openflux"] == "Apache-2.0"
    assert "Non-Commercial" in licences["dev"] and licences["dev"] == licences["dev_fp8"]
    for base in bases.values():
        files = {file.path for file in find_model(base.model).files}
        assert any(path.startswith(base.transformer) for path in files), base.name
        assert base.guidance_embeds or base.settings["guidance"] is None
    for model, stem in places.PUBLISHED.values():
        assert any(file.path.startswith(stem) for file in find_model(model).files), stem
    with pytest.raises(MaquetteError, match="dev, dev_fp8, schnell, openflux"):
        load_flux("random", base="pro")
    assert json.loads((config.CONFIG_FOLDER / "mini.json").read_text())["settings"]["tile"] == 64
