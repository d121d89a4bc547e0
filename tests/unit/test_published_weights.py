"""Files with every key and shape of the published checkpoints load strictly into our classes; any other is refused.

The files are as large as the published ones, to the byte. They are written one at a time, mapped, never copied into
memory, and deleted at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from backend.catalog.catalog import load_catalog
from backend.contract.errors import MaquetteError
from backend.systems.cupid import model
from backend.training.checkpoints import load_strict, load_tensors
from tests.published import BLOCK_BYTES, FILES, Published, header_and_payload, write_file

PROBES = 3  # values compared at the beginning of every tensor


@pytest.fixture(params=FILES, ids=lambda published: published.name)
def published(request: pytest.FixtureRequest) -> Published:
    return request.param


@pytest.fixture
def place(published: Published, tmp_path: Path) -> Iterator[Path]:
    """The file without its suffix."""
    path = tmp_path / f"{published.name}.safetensors"
    write_file(published, path)
    yield path.with_suffix("")
    path.unlink()


def our_class(published: Published) -> torch.nn.Module:
    """Our network by the published class name and arguments, without memory of its own."""
    with torch.device("meta"):
        return model.build({"name": published.class_name, "args": published.args})


def test_the_file_has_the_published_size(published: Published) -> None:
    header, single, half = header_and_payload(published)
    assert len(header) + single + half == published.bytes
    recorded = {Path(file.path).stem: file.bytes for file in load_catalog()["cupid"].files if file.bytes}
    assert recorded[published.name] == published.bytes


def test_loads_strictly_and_every_tensor_in_its_place(published: Published, place: Path) -> None:
    assert place.with_suffix(".safetensors").stat().st_size == published.bytes
    network, tensors = our_class(published), load_tensors(place)
    assert set(tensors) == set(published.shapes)
    load_strict(network, tensors, published.name, assign=True)
    loaded = network.state_dict()
    _, single, _ = header_and_payload(published)
    values = np.random.default_rng(0).normal(0, 0.02, BLOCK_BYTES)
    blocks = {"F32": values.astype("<f4")[: BLOCK_BYTES // 4], "F16": values.astype("<f2")[: BLOCK_BYTES // 2]}
    dtypes = {"F32": torch.float32, "F16": torch.float16}
    place_in = {"F32": 0, "F16": 0}
    for key in sorted(published.shapes, key=lambda key: (published.dtype(key) != "F32", key)):
        kind, count = published.dtype(key), int(np.prod(published.shapes[key]))
        tensor = loaded[key]
        assert tuple(tensor.shape) == published.shapes[key] and tensor.dtype == dtypes[kind], key
        wanted = blocks[kind].take(range(place_in[kind], place_in[kind] + min(PROBES, count)), mode="wrap")
        assert np.array_equal(tensor.flatten()[:PROBES].numpy(), wanted), key
        place_in[kind] += count
    assert place_in["F32"] * 4 == single


def test_what_does_not_fit_is_refused_by_name(published: Published) -> None:
    tensors = {key: torch.empty(shape, device="meta") for key, shape in published.shapes.items()}
    network = our_class(published)
    for key in (min(tensors), max(tensors), max(tensors, key=lambda name: tensors[name].numel())):
        shape = published.shapes[key]
        with pytest.raises(MaquetteError, match=rf"{key} of the net has shape \[{shape[0] + 1}"):
            wrong = torch.empty((shape[0] + 1, *shape[1:]), device="meta")
            load_strict(network, tensors | {key: wrong}, "the net", assign=True)
        with pytest.raises(MaquetteError, match=f"the net lack the tensor {key}"):
            load_strict(network, {name: t for name, t in tensors.items() if name != key}, "the net", assign=True)
    with pytest.raises(MaquetteError, match="unknown tensor blocks.99.extra") as caught:
        load_strict(network, tensors | {"blocks.99.extra": torch.empty(1)}, "the net", assign=True)
    assert caught.value.code == "model_missing" and caught.value.failure.next_step == "install_model"


def test_the_safetensors_library_reads_our_header(tmp_path: Path) -> None:
    smallest = min(FILES, key=lambda published: published.bytes)
    write_file(smallest, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="pt") as handle:
        assert {key: tuple(handle.get_slice(key).get_shape()) for key in handle.keys()} == smallest.shapes
    (tmp_path / "x.safetensors").unlink()
