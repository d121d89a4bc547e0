"""The published layout as the catalogue installs it: which file becomes which network, and what is said without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from backend.catalog.catalog import load_catalog
from backend.contract.errors import MaquetteError
from backend.systems.cupid import dinov2, model
from backend.training.checkpoints import save_model

ROLES = {  # what the published pipeline.json says, as far as we load it
    "sparse_structure_flow_model": "ckpts/suv_flow_img_dit_L_16l8_fp16",
    "sparse_structure_decoder": "ckpts/ss_dec_conv3d_16l8_fp16",
    "sparse_structure_uv_decoder": "ckpts/uv_vae_conv3d_16l8_fp16_decoder",
    "sparse_structure_encoder": "ckpts/ss_enc_conv3d_16l8_fp16",
    "sparse_structure_uv_encoder": "ckpts/uv_vae_conv3d_16l8_fp16_encoder",
    "slat_flow_model": "ckpts/slat_flow_img_dit_L_64l8p2_fp16",
    "slat_decoder_gs": "ckpts/slat_dec_gs_swin8_B_64l8gs32_fp16",
    "slat_decoder_mesh": "ckpts/slat_dec_mesh_swin8_B_64l8m256c_fp16",
    "slat_decoder_rf": "ckpts/slat_dec_rf_swin8_B_64l8r16_fp16",
}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models folder with every needed file as an empty file of the right size (it takes no room)."""
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path))
    for name in ("cupid", "dinov2_vitl14_reg"):
        for file in load_catalog()[name].wanted():
            path = tmp_path / name / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as stream:
                stream.truncate(file.bytes or 2)
    (tmp_path / "cupid" / "pipeline.json").write_text(json.dumps({"name": "Pipeline", "args": {"models": ROLES}}))
    return tmp_path


def test_every_network_is_found_in_its_published_place(models: Path) -> None:
    folder = model.weights_folder("published")
    assert folder == models / "cupid" and model.missing_weights(folder) == []
    places = model._places(folder)
    wanted = {*model.STAGE_1, *model.STAGE_2, *model.OPTIONAL}
    assert set(places) == wanted
    assert places["slat_enc"].name == "slat_enc_swin8_B_64l8_fp16", "pipeline.json does not list it"
    assert places["image_encoder"] == models / "dinov2_vitl14_reg" / "model"
    assert model._entry(places["image_encoder"]) == dinov2.ENTRY


def test_nothing_installed_says_where_to_install(models: Path) -> None:
    (models / "cupid" / "ckpts" / "slat_enc_swin8_B_64l8_fp16.safetensors").unlink()
    with pytest.raises(MaquetteError, match="Install them under Models") as caught:
        model.load_model("published")
    assert caught.value.code == "model_missing" and caught.value.failure.next_step == "install_model"


def test_a_folder_without_the_encoder_lacks_it(models: Path) -> None:
    (models / "dinov2_vitl14_reg" / "model.safetensors").unlink()
    assert model.missing_weights(models / "cupid") == ["image_encoder"]
    for place in (models / "cupid" / "dinov2_vitl14_reg", models / "cupid"):
        place.mkdir(exist_ok=True)
        (place / dinov2.AUTHORS_FILE).write_bytes(b"x")
        assert dinov2.find_dinov2(models / "cupid") == place
        (place / dinov2.AUTHORS_FILE).unlink()


def test_the_published_layout_loads_and_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    """Mini's sizes under the published names."""
    entries = model.read_config("mini")["models"]
    folder = tmp_path / "weights"
    names = {"structure_flow": "sparse_structure_flow_model", "ss_dec": "sparse_structure_decoder",
             "uv_dec": "sparse_structure_uv_decoder"}  # fmt: skip
    torch.manual_seed(0)
    made = {role: model.build(entries[role]) for role in (*names, "image_encoder")}
    for role, network in made.items():
        place = folder / (ROLES[names[role]] if role in names else role)
        place.parent.mkdir(parents=True, exist_ok=True)
        save_model(place.parent, place.name, entries[role]["name"], entries[role]["args"], network.state_dict())
    (folder / "pipeline.json").write_text(json.dumps({"name": "Pipeline", "args": {"models": ROLES}}))
    loaded = model.load_model(str(folder), "mini")
    for role, network in made.items():
        state = loaded[role].state_dict()
        assert all(torch.equal(state[key], value.float()) for key, value in network.state_dict().items())
    assert not loaded.has_stage_2
