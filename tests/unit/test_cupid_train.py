"""Training of CUPID on a handful of made-up objects: every stage runs a step, exports, and loads strictly again."""

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.contract.errors import MaquetteError
from backend.data import crops, shards, views
from backend.systems.cupid import train
from backend.systems.cupid.data_prep import uv_cube
from backend.systems.cupid.structure_flow import SparseStructureFlowModel
from backend.systems.cupid.train_view_reader import with_mirrored
from backend.training.checkpoints import load_tensors

OBJECTS, VIEWS = 4, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of boxes of random sizes with flat pictures: no rendering, the right shapes."""
    folder = tmp_path_factory.mktemp("shards")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        cubes = np.zeros((OBJECTS, 32, 32, 32), bool)
        for cube in cubes:
            low = random.integers(2, 14, 3)
            cube[low[0] : 30 - low[0], low[1] : 30 - low[1], low[2] : 30 - low[2]] = True
        cameras = [views.random_cameras(VIEWS, i) for i in range(OBJECTS)]
        picture = crops.encode_image(random.integers(0, 256, (96, 96, 4)).astype(np.uint8))
        count = OBJECTS * VIEWS
        tensors = {
            "images": np.frombuffer(picture * count, np.uint8),
            "image_offsets": np.arange(count + 1, dtype=np.int64) * len(picture),
            "occupancy": np.stack([shards.pack_cube(cube) for cube in cubes]),
            "world_to_camera": np.array([[c.world_to_camera for c in row] for row in cameras], np.float32),
            "intrinsics": np.array([[c.intrinsics for c in row] for row in cameras], np.float32),
        }
        entry = {"ids": list("abcd"), "captions": [""] * OBJECTS, "split": split, "views": VIEWS, "seed": 0}
        shards.write_shard(folder / f"{split}-00000.safetensors", tensors, entry)
    shards.write_index(folder)
    return folder


def request(stage: str, data: Path, out: Path, **changes: object) -> train.TrainRequest:
    options = {
        "stage": stage,
        "data": data,
        "out": out,
        "config": "mini",
        "minutes": 0.001,
        "resume": False,
        "export": True,
        "device": "cpu",
        "batch": 2,
        "rate": 0.0,
        "total": 100,
        "seed": 0,
    }
    return train.TrainRequest(**(options | changes))  # type: ignore[arg-type]


def test_uv_volumes_agree_with_the_specified_cube() -> None:
    """Tolerance 1e-5: float32 against float64."""
    camera = views.random_cameras(3, 7)[2]
    intrinsics = camera.intrinsics @ np.diag([1.7, 1.7, 1.0])
    raw, _ = uv_cube(camera.world_to_camera, intrinsics, 8)
    matrices = (torch.from_numpy(m).float()[None] for m in (camera.world_to_camera, intrinsics))
    volume = train.uv_volumes(*matrices, 8)[0].numpy()
    assert volume[1:] == pytest.approx(raw.clip(0, 1), abs=1e-5)
    inside = ((raw >= 0.01) & (raw <= 0.99)).all(0)
    assert np.array_equal(volume[0] > 0, inside) and inside.any() and not inside.all()


def test_random_crops_keep_the_object_in_the_picture() -> None:
    cameras, intrinsics = train.random_crops(64, 3)
    centre = cameras[:, :3, 3:]
    uv = (intrinsics @ centre)[:, :2, 0] / centre[:, 2]
    assert ((uv > 0) & (uv < 1)).all()
    again = train.random_crops(64, 3)
    assert torch.equal(again[0], cameras) and torch.equal(again[1], intrinsics)


def test_stages_run_in_order_export_and_load(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "weights"
    monkeypatch.setattr(train, "MINI_WEIGHTS", weights)
    with pytest.raises(MaquetteError, match="ss_enc"):
        train.train(request("structure_flow", data, tmp_path))
    for stage in ("uv_vae", "structure_vae", "view_reader", "structure_flow"):
        result = train.train(request(stage, data, tmp_path))
        assert all(np.isfinite(value) for value in result.values())
        assert (tmp_path / stage / "state.json").exists()
    models = train.model_config("mini")
    device = torch.device("cpu")
    for role in ("uv_enc", "ss_enc"):
        assert train.frozen(train.SparseStructureEncoder, models, role, device).training is False
    flow = train.frozen(SparseStructureFlowModel, models, "structure_flow", device)
    assert flow(torch.zeros(1, 16, 8, 8, 8), torch.tensor([500.0]), torch.zeros(1, 69, 256)).shape == (1, 16, 8, 8, 8)
    assert (weights / "pipeline.json").exists()
    resumed = train.UvVae(request("uv_vae", data, tmp_path / "elsewhere", seed=5))
    assert resumed.load_shipped()
    shipped = train.frozen(train.SparseStructureEncoder, models, "uv_enc", device)
    assert torch.equal(resumed.module.encoder.input_layer.weight, shipped.input_layer.weight)


def test_the_flow_starts_with_the_encoder_that_was_trained_on_views(data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    train.train(request("view_reader", data, tmp_path, export_to=weights))
    stage = train.StructureFlow(request("structure_flow", data, tmp_path, export_to=weights))
    stored = load_tensors(weights / "view_reader")
    for name, tensor in stage.module.encoder.state_dict().items():
        assert torch.equal(tensor, stored["encoder." + name].float()), name


def test_most_of_minis_times_lie_near_the_noise(data: Path, tmp_path: Path) -> None:
    mini = train.StructureFlow(request("structure_flow", data, tmp_path))
    times = mini._times(4000, torch.Generator().manual_seed(0))
    assert float((times > 0.95).float().mean()) == pytest.approx(0.8 * 0.5 + 0.2 * 0.026, abs=0.03)
    mini.noisy_share = 0.0  # as published
    assert float((mini._times(4000, torch.Generator().manual_seed(0)) > 0.95).float().mean()) < 0.05


def test_directions_of_views_follow_the_mirrored_pictures() -> None:
    pictures = torch.arange(8, dtype=torch.uint8).view(1, 1, 8, 1).expand(64, 8, 8, 4)
    directions = torch.tensor([[0.6, 0.0, 0.8]]).expand(64, 3)
    seen, told = with_mirrored(pictures, directions, torch.Generator().manual_seed(0))
    flipped = seen[:, 0, 0, 0] > seen[:, 0, 0, -1]
    assert 0 < int(flipped.sum()) < 64
    assert torch.equal(told[:, 0] < 0, flipped) and torch.equal(told[:, 1:], directions[:, 1:])


def test_an_unknown_stage_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(MaquetteError, match="structure_flow"):
        train.train(request("everything", data, tmp_path))
