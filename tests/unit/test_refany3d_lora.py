"""RefAny3D's published files: their exact tensors, and what is said of files that are not theirs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from backend.contract.errors import MaquetteError
from backend.systems.kiss3dgen.flux.config import build_empty
from backend.systems.refany3d import lora
from backend.systems.refany3d.config import read_config
from tests.unit.test_refany3d_networks import TRANSFORMER


@pytest.fixture(scope="module")
def full() -> Any:
    """FLUX.1-dev's transformer without memory."""
    return build_empty(read_config("full")["networks"]["transformer"])


@pytest.fixture(scope="module")
def small() -> Any:
    """A small transformer of the same class."""
    return build_empty({"name": "FluxTransformer2DModel", "args": TRANSFORMER})


def tensors_of(transformer: Any, rank: int = 4) -> dict[str, Tensor]:
    """A file for `transformer`."""
    generator = torch.Generator().manual_seed(rank)
    shapes = lora.lora_shapes(transformer, rank)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def test_the_published_files_load_strictly(full: Any) -> None:
    shapes = lora.lora_shapes(full)
    assert len(lora.adapted_layers(full)) == 343
    assert len(shapes) == 686
    assert sum(math.prod(shape) for shape in shapes.values()) == 57_951_232
    assert shapes["transformer.x_embedder.lora_A.weight"] == (16, 64)
    assert shapes["transformer.transformer_blocks.18.norm1.linear.lora_B.weight"] == (18432, 16)
    assert shapes["transformer.transformer_blocks.0.ff.net.2.lora_A.weight"] == (16, 12288)
    assert shapes["transformer.single_transformer_blocks.37.proj_out.lora_A.weight"] == (16, 15360)
    named = {name.split(".", 1)[1] for name in shapes}
    for absent in ("attn.add_q_proj", "norm1_context", "ff.net.0", "context_embedder", "norm_out"):
        assert not any(absent in name for name in named)
    with torch.device("meta"):
        file = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    loaded = lora.parse_lora(file, full, "default.safetensors")
    assert loaded.rank == 16
    assert set(loaded.published_tensors()) == set(file)
    assert loaded.layer("proj_out") is None  # the top-level layer of the same name is not adapted


def test_the_published_embedder_loads_strictly(full: Any) -> None:
    with torch.device("meta"):
        embedder = lora.new_domain_embedder(full.inner_dim)
    file = embedder.state_dict()
    assert {name: tuple(value.shape) for name, value in file.items()} == {
        "0.weight": (2, 256), "1.weight": (3072, 256), "1.bias": (3072,), "3.weight": (3072, 3072), "3.bias": (3072,),
    }  # fmt: skip
    assert sum(value.numel() for value in file.values()) == 10_230_272
    loaded = lora.parse_domain_embedder(file, full.inner_dim, "domain_embedder.pth")
    assert [type(part).__name__ for part in loaded] == ["Embedding", "Linear", "SiLU", "Linear"]
    with pytest.raises(MaquetteError, match=r"2\.weight"):
        lora.parse_domain_embedder({**file, "2.weight": file["1.bias"]}, full.inner_dim, "domain_embedder.pth")


def test_files_of_other_shapes_are_refused_by_the_tensors_name(small: Any) -> None:
    good = tensors_of(small)
    name = "transformer.transformer_blocks.0.attn.to_q.lora_B.weight"
    for change, words in (
        ({name: None}, "lack the tensor " + name),
        ({name: torch.zeros(3, 4)}, r"has shape \[3, 4\]"),
        ({"transformer.proj_out.lora_A.weight": torch.zeros(4, 32)}, "unknown tensor transformer.proj_out"),
        ({"transformer.x_embedder.alpha": torch.ones(())}, "unknown tensor transformer.x_embedder.alpha"),
        ({"transformer.transformer_blocks.0.attn.add_q_proj.lora_A.weight": torch.zeros(4, 32)}, "add_q_proj"),
    ):
        file = {key: value for key, value in {**good, **change}.items() if value is not None}
        with pytest.raises(MaquetteError, match=words) as error:
            lora.parse_lora(file, small, "coord.safetensors")
        assert error.value.failure.next_step == "install_model"
    with pytest.raises(MaquetteError, match="lack the tensor"):
        lora.parse_lora({}, small, "coord.safetensors")


def test_files_come_back_as_they_were_written(small: Any, tmp_path: Path) -> None:
    path = tmp_path / "default.safetensors"
    save_file(tensors_of(small), path)
    read = lora.read_lora(path, small)
    again = tmp_path / "again.safetensors"
    lora.save_lora(again, read)
    for name, value in lora.read_lora(again, small).published_tensors().items():
        assert torch.equal(value, tensors_of(small)[name])


def test_the_embedder_is_read_from_either_file(tmp_path: Path) -> None:
    embedder = lora.new_domain_embedder(32)
    assert not any(embedder(torch.arange(2)).flatten().tolist())  # zero at the start of training
    torch.save({name: value.bfloat16() for name, value in embedder.state_dict().items()}, tmp_path / "e.pth")
    save_file(embedder.state_dict(), tmp_path / "e.safetensors")
    for name, dtype in (("e.pth", torch.bfloat16), ("e.safetensors", torch.float32)):
        loaded = lora.read_domain_embedder(tmp_path / name, 32)
        assert torch.equal(loaded[0].weight, embedder[0].weight.to(dtype))


class Harm:
    """What a pickle may carry beside tensors."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('ran')",))


def test_files_that_are_none_are_refused(small: Any, tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match="not there"):
        lora.read_lora(tmp_path / "default.safetensors", small)
    (tmp_path / "default.safetensors").write_bytes(b"nothing")
    with pytest.raises(MaquetteError, match="damaged"):
        lora.read_lora(tmp_path / "default.safetensors", small)
    torch.save({"0.weight": Harm()}, tmp_path / "domain_embedder.pth")
    with pytest.raises(MaquetteError, match="damaged"):
        lora.read_domain_embedder(tmp_path / "domain_embedder.pth", 32)
    torch.save([1, 2], tmp_path / "domain_embedder.pth")
    with pytest.raises(MaquetteError, match="list of tensors"):
        lora.read_domain_embedder(tmp_path / "domain_embedder.pth", 32)


def test_a_new_lora_changes_nothing(small: Any) -> None:
    with torch.device("cpu"):
        started = lora.new_lora(small, 4, torch.Generator().manual_seed(0))
    spread = torch.cat([layer.lora_A.flatten() for layer in started.layers.values()]).std()
    assert abs(float(spread) - 1 / 4) < 0.02
    assert not any(bool(layer.lora_B.any()) for layer in started.layers.values())
