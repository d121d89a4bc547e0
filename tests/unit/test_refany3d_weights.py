"""RefAny3D's published files, found where the catalogue puts them, with tiny numbers in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backend.catalog.catalog import find_model
from backend.contract.errors import MaquetteError
from backend.systems.refany3d import config, networks
from tests.fakes.tiny_refany3d import write_tiny_config
from tests.unit.test_flux_networks import installed, random_tensors

__all__ = ["installed"]  # a fixture: Flux's parts in a models folder
torch.set_num_threads(1)
ROUNDED = torch.bfloat16


def put_base(root: Path, model: str, **arguments: object) -> None:
    folder = root / model / "transformer"
    folder.mkdir(parents=True)
    tensors = random_tensors("transformer", **arguments)
    for number in (1, 2, 3):
        part = dict(list(tensors.items())[number - 1 :: 3])
        save_file(part, folder / f"diffusion_pytorch_model-0000{number}-of-00003.safetensors")


def test_the_published_files(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    folder = tmp_path / "refany3d_configs"
    folder.mkdir()
    write_tiny_config(folder / "full.json")
    monkeypatch.setattr(config, "CONFIG_FOLDER", folder)
    with pytest.raises(MaquetteError, match="RefAny3D .FLUX.1 dev Non-Commercial License. is not installed") as caught:
        networks.load_networks("published")
    assert caught.value.failure.next_step == "install_model"
    own = networks.load_networks("random", "full", seed=3).transformer
    files = installed / networks.MODEL
    files.mkdir()
    for name in networks.LORAS:
        tensors = getattr(own, name).published_tensors()
        save_file({key: value.to(ROUNDED) for key, value in tensors.items()}, files / f"{name}.safetensors")
    embedder = {key: value.to(ROUNDED) for key, value in own.domain_embedder.state_dict().items()}
    torch.save(embedder, files / "domain_embedder.pth")
    assert {path.name for path in files.iterdir()} == {file.path for file in find_model(networks.MODEL).files}
    with pytest.raises(MaquetteError, match="FLUX.1-dev"):
        networks.load_networks("published")
    put_base(installed, "flux1_dev")
    loaded = networks.load_networks("published", profile="full")
    made = loaded.transformer
    for name in networks.LORAS:
        wanted, found = getattr(own, name).published_tensors(), getattr(made, name).published_tensors()
        assert wanted.keys() == found.keys()
        assert all(torch.equal(found[key], wanted[key].to(ROUNDED).float()) for key in wanted)
    for key, value in made.domain_embedder.state_dict().items():
        assert torch.equal(value, embedder[key].float())
    assert made.guided and loaded.settings.guidance == 3.5 and loaded.settings.dynamic
    assert set(loaded.flux) == set(networks.ROLES)
    put_base(installed, "flux1_schnell", guidance_embeds=False)
    quick = networks.load_networks("published", base="schnell", profile="full")
    assert not quick.transformer.guided
    assert (quick.settings.guidance, quick.settings.dynamic, quick.settings.text_tokens) == (1.0, False, 256)


def test_the_catalogue_says_whose_licence_it_is() -> None:
    entry = find_model(networks.MODEL)
    assert "Non-Commercial" in entry.licence and "not for commercial work" in entry.purpose
    assert set(entry.needs) == {"flux1_parts", "flux1_dev_fp8"}
    assert [file.path for file in entry.files] == ["default.safetensors", "coord.safetensors", "domain_embedder.pth"]
