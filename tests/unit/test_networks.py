"""Memory profiles, random weights of any size, the full configuration's shapes, and the cap on voxels."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from backend.contract.errors import MaquetteError
from backend.nn.devices import cpu_has_bf16
from backend.nn.sparse_tensor import SparseTensor
from backend.systems.cupid import model, networks
from backend.systems.cupid.networks import Networks, choose_profile, count_parameters
from backend.systems.cupid.request import parse_request
from backend.systems.cupid.structure_decode import Structure, most_certain
from backend.training.checkpoints import save_model
from tests.unit.test_pipeline import MODELS

CPU = torch.device("cpu")
MILLIONS = {  # specification section 1
    "structure_flow": 555.6, "slat_flow": 600.4, "ss_dec": 73.7, "uv_dec": 73.7, "ss_enc": 59.3, "uv_enc": 59.3,
    "slat_enc": 85.8, "slat_dec_gs": 85.4, "slat_dec_rf": 85.4, "slat_dec_mesh": 90.9,
}  # fmt: skip


@pytest.fixture
def tiny_config(tmp_path: Path) -> str:
    """A configuration of tiny networks of both stages."""
    config = json.loads((model.CONFIG_FOLDER / "full.json").read_text())
    config["models"] = {role: {"name": name, "args": args} for role, (name, args) in MODELS.items()}
    config["image"] = {"encoder_size": 24, "visual_size": 24}
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(config))
    return str(path)


def test_the_full_configuration_has_the_published_sizes() -> None:
    entries = model.read_config("full")["models"]
    for role, millions in MILLIONS.items():
        assert count_parameters(partial(model.build, entries[role])) / 1e6 == pytest.approx(millions, abs=0.06), role
    assert count_parameters(partial(model.build, entries["image_encoder"])) / 1e6 == pytest.approx(304.4, abs=0.1)


def test_random_networks_are_seeded_and_say_something(tiny_config: str) -> None:
    first, again, other = (model.load_model("random", tiny_config, seed=seed) for seed in (1, 1, 2))
    for role in first.networks:
        same = zip(first[role].state_dict().items(), again[role].state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for (_, a), b in same), role
        matrices = [(n, p) for n, p in first[role].named_parameters() if p.ndim > 1]
        assert all(bool(p.any()) for _, p in matrices), f"{role} has a matrix of zeros"
        others = dict(other[role].named_parameters())
        assert any(not torch.equal(p, others[n]) for n, p in matrices), role
    latent, voxel = torch.randn(1, 16, 4, 4, 4), SparseTensor(torch.tensor([[0, 3, 3, 3]]).int(), torch.randn(1, 8))
    with torch.no_grad():
        mesh = first["slat_dec_mesh"](voxel)[0]
        assert len(mesh.faces) == 12 * 5**2, "the five grid vertices a side of one voxel make one closed box"
        velocity = first["structure_flow"](latent, torch.tensor([500.0]), torch.randn(1, 9, 32))
    assert velocity.isfinite().all() and float(velocity.std()) > 1e-3


def test_offload_keeps_one_stage_and_makes_it_again_the_same(tiny_config: str) -> None:
    loaded = model.load_model("random", tiny_config, profile="offload")
    kept = loaded.networks
    assert isinstance(kept, Networks) and not kept.present and loaded.has_stage_2
    assert loaded["image_encoder"] is loaded["image_encoder"]
    first = {name: value.clone() for name, value in loaded["structure_flow"].state_dict().items()}
    loaded["ss_dec"]
    assert set(kept.present) == {"structure_flow", "ss_dec"}
    loaded["slat_flow"]
    assert set(kept.present) == {"slat_flow"}
    again = loaded["structure_flow"].state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert "slat_dec_rf" not in kept and kept.get("slat_dec_rf") is None


@pytest.mark.parametrize("profile", ["full", "half", "offload"])
def test_a_job_runs_in_every_profile(tiny_config: str, profile: str) -> None:
    from backend.systems.base import Hooks
    from backend.systems.cupid import pipeline
    from tests.unit.test_pipeline import photo

    system = pipeline.CupidSystem("cpu")
    parameters = {"weights": "random", "config": tiny_config, "profile": profile, "steps": 2}
    report = system.run(pipeline.TASK, {"image": photo()}, parameters, Hooks()).report
    assert report["stage_2"] and report["triangles"] > 0
    loaded = system._networks(parse_request({**parameters, "seed": 42}))
    wanted = torch.bfloat16 if profile != "full" and cpu_has_bf16() else torch.float32
    assert loaded["slat_flow"].blocks[0].mlp.mlp[0].weight.dtype == wanted
    assert loaded["slat_flow"].input_layer.weight.dtype == torch.float32


def test_weights_on_disk_are_read_a_stage_at_a_time(tmp_path: Path) -> None:
    for role in (*model.STAGE_1, *model.STAGE_2):
        name, args = MODELS[role]
        save_model(tmp_path, role, name, args, dict(model.build({"name": name, "args": args}).state_dict()))
    loaded = model.load_model(str(tmp_path), "mini", profile="offload")
    stored = model.load_tensors(tmp_path / "slat_flow")
    for name, value in loaded["slat_flow"].float().state_dict().items():
        wanted = stored[name] if name.startswith(("input_layer", "out_layer")) else stored[name].bfloat16().float()
        assert torch.allclose(value, wanted, atol=1e-2), name
    assert set(loaded.networks.present) == {"slat_flow"}  # type: ignore[attr-defined]


def test_the_default_profile_is_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    published = 1_900_000_000
    for free, dtype, wanted in (
        (24, torch.bfloat16, "half"), (6, torch.bfloat16, "offload"), (8, torch.float32, "offload"),
        (16, torch.float32, "half"), (0, torch.bfloat16, "offload"),
    ):  # fmt: skip
        monkeypatch.setattr(networks, "free_memory", lambda device, answer=free: answer * 2**30)
        monkeypatch.setattr(networks, "inference_dtype", lambda device, answer=dtype: answer)
        assert choose_profile(published, CPU) == wanted
        assert choose_profile(20_000_000, CPU) == "full", "mini stays in float32"


def test_unknown_profiles_are_refused() -> None:
    with pytest.raises(MaquetteError, match="full, half, offload"):
        parse_request({"profile": "tiny"})


def test_too_many_voxels_lose_the_least_certain_cells() -> None:
    logits = torch.zeros(1, 1, 8, 8, 8)
    logits[..., :4] = 1.0  # a certain half
    logits[0, 0, 0, 0, 0] = 9.0
    coords = torch.argwhere(logits[:, 0] > -1).int()
    full = Structure(coords, coords, torch.zeros(len(coords), 2))
    kept = most_certain(full, logits)
    assert len(kept.coords) == 8**3 // 8 and kept.dropped == 8**3 - 8**3 // 8
    assert bool((kept.coords[:, 3] < 4).all()) and kept.coords[0].tolist() == [0, 0, 0, 0]
    assert len(torch.unique(kept.coords // 2, dim=0)) <= 4**3 // 4
    assert torch.equal(kept.coords, torch.unique(kept.coords, dim=0)), "rows stay in order"
    few = Structure(coords[coords[:, 1] == 7][::4], coords, torch.zeros(len(coords), 2))
    assert torch.equal(most_certain(few, logits).coords, few.coords) and most_certain(few, logits).dropped == 0
