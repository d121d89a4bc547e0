"""Training of CUPID's second stage on made-up spheres: targets, one step of both stages, export and loading."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.contract.errors import MaquetteError
from backend.data import crops, shards, surface, views
from backend.geometry.dual_marching_cubes import extract_mesh
from backend.nn.sparse_tensor import SparseTensor
from backend.systems.cupid import model, slat_data, train
from backend.systems.cupid.mesh_cleanup import visible_parts
from backend.systems.cupid.model import build
from backend.systems.cupid.train_slat_flow import SLatFlow
from backend.systems.cupid.train_slat_vae import SLatVae, frozen
from backend.training.checkpoints import save_model

torch.set_num_threads(1)
OBJECTS, VIEWS, RADIUS = 2, 2, 0.13
TRUNK = {"num_blocks": 1, "num_heads": 2, "mlp_ratio": 2, "window_size": 8, "latent_channels": 4}
SPLATS = {"num_gaussians": 4, "voxel_size": 1.5, "scaling_bias": 0.004, "opacity_bias": 0.1,
          "3d_filter_kernel_size": 0.0009, "scaling_activation": "softplus"}  # fmt: skip


def sphere(seed: int = 0, radius: float = RADIUS) -> slat_data.Surface:
    """A sphere in the middle, red where x is positive and blue elsewhere."""
    normals = np.random.default_rng(seed).normal(size=(shards.SURFACE_POINTS, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    axis = np.arange(65) / 64 - 0.5
    solid = sum(x**2 for x in np.meshgrid(axis, axis, axis, indexing="ij")) < radius**2
    colors = np.where(normals[:, :1] > 0, [[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]]).astype(np.float32)
    return slat_data.Surface(normals * radius, normals, colors, solid)


def plate() -> slat_data.Surface:
    """A square without thickness at z = 0.003, seen from both sides."""
    random = np.random.default_rng(1)
    points = np.zeros((shards.SURFACE_POINTS, 3), np.float32)
    points[:, :2], points[:, 2] = random.uniform(-0.3, 0.3, (len(points), 2)), 0.003
    normals = np.zeros_like(points)
    normals[:, 2] = random.choice([-1, 1], len(points))
    return slat_data.Surface(points, normals, np.full_like(points, 0.5), np.zeros((65, 65, 65), bool))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of spheres with noise as pictures."""
    folder = tmp_path_factory.mktemp("shards")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        objects = [sphere(i, RADIUS + 0.01 * i) for i in range(OBJECTS)]
        cameras = [views.random_cameras(VIEWS, i) for i in range(OBJECTS)]
        picture = crops.encode_image(random.integers(0, 256, (96, 96, 4)).astype(np.uint8))
        count = OBJECTS * VIEWS
        tensors = {
            "images": np.frombuffer(picture * count, np.uint8),
            "image_offsets": np.arange(count + 1, dtype=np.int64) * len(picture),
            "world_to_camera": np.array([[c.world_to_camera for c in row] for row in cameras], np.float32),
            "intrinsics": np.array([[c.intrinsics for c in row] for row in cameras], np.float32),
            "solid": np.stack([shards.pack_cube(item.solid) for item in objects]),
            "points": np.stack([item.points.astype(np.float16) for item in objects]),
            "normals": np.stack([np.rint(item.normals * 127).astype(np.int8) for item in objects]),
            "colors": np.stack([(item.colors * 255).astype(np.uint8) for item in objects]),
        }
        for name, resolution in (("occupancy", 32), ("occupancy64", 64)):
            cubes = [surface.surface_occupancy(item.points, item.normals, resolution, 1) for item in objects]
            tensors[name] = np.stack([shards.pack_cube(cube) for cube in cubes])
        entry = {"ids": ["a", "b"], "captions": [""] * OBJECTS, "split": split, "views": VIEWS, "seed": 0}
        shards.write_shard(folder / f"{split}-00000.safetensors", tensors, entry)
    shards.write_index(folder)
    return folder


def configuration(resolution: int, in_channels: int) -> dict:
    """A configuration with every network of stage 2 and an image encoder, as small as they can be."""
    latent = {"resolution": resolution, **TRUNK}
    flow = {"resolution": resolution, "in_channels": 4, "out_channels": 4, "model_channels": 16, "cond_channels": 16,
            "cond_latent_channels": 4, "visual_feat_channels": [2, 2, 2, 2], "visual_feat_resolution": 32,
            "num_blocks": 1, "num_heads": 2, "io_block_channels": [8], "qk_rms_norm": True}  # fmt: skip
    image = {"image_size": 96, "patch_size": 24, "channels": 16, "num_blocks": 1, "num_heads": 2}
    mesh = {**latent, "model_channels": 32, "representation_config": {"use_color": True}}
    models = {
        "image_encoder": ("ImageEncoder", image),
        "slat_enc": ("SLatEncoder", {**latent, "model_channels": 24, "in_channels": in_channels}),
        "slat_dec_gs": ("SLatGaussianDecoder", {**latent, "model_channels": 24, "representation_config": SPLATS}),
        "slat_dec_mesh": ("SLatMeshDecoder", mesh),
        "slat_flow": ("ElasticVisualLatentConditioningSLatFlowModel", flow),
    }
    return {"models": {role: {"name": name, "args": args} for role, (name, args) in models.items()}}


@pytest.fixture(params=["surface", "tokens"])
def config(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The encoder of mini (surface features at 32^3), and of the published kind (image tokens at 64^3)."""
    content = configuration(32, slat_data.SURFACE_CHANNELS) if request.param == "surface" else configuration(64, 16)
    (tmp_path / f"{request.param}.json").write_text(json.dumps(content))
    monkeypatch.setattr(model, "CONFIG_FOLDER", tmp_path)
    return str(request.param)


def asked(stage: str, data: Path, out: Path, config: str, **changes: object) -> train.TrainRequest:
    options = {
        "stage": stage, "data": data, "out": out, "config": config, "minutes": 0.001, "resume": False, "export": True,
        "device": "cpu", "batch": 1, "rate": 0.0, "total": 100, "seed": 0, "export_to": out / "weights",
    }  # fmt: skip
    return train.TrainRequest(**(options | changes))  # type: ignore[arg-type]


def give_image_encoder(folder: Path, config: str) -> None:
    entry = train.model_config(config)["image_encoder"]
    torch.manual_seed(0)
    state = build(entry).state_dict()
    save_model(folder, "image_encoder", entry["name"], entry["args"], state)


def test_distances_to_a_sphere() -> None:
    """Tolerance 0.002: a third of a cell of the 128-grid; 4,096 points and their planes."""
    random = np.random.default_rng(2)
    directions = random.normal(size=(500, 3))
    radii = RADIUS + random.uniform(-0.025, 0.025, 500)
    places = directions / np.linalg.norm(directions, axis=1, keepdims=True) * radii[:, None]
    found = slat_data.surface_field(sphere(), places, 1 / 128)
    assert found.distance == pytest.approx(radii - RADIUS, abs=2e-3)
    red = places[:, 0] > 0.04
    assert found.colors[red] == pytest.approx(np.tile([1.0, 0.0, 0.0], (int(red.sum()), 1)), abs=1e-3)
    assert (found.normals * directions).sum(1).min() > 0


def test_the_carved_solid_decides_far_from_every_point() -> None:
    found = slat_data.surface_field(sphere(), np.array([[0.0, 0.0, 0.0], [0.4, 0.0, 0.0]]), 1 / 128)
    assert found.distance[0] < -0.1 and found.distance[1] > 0.2


def test_a_plate_without_thickness_is_thick_enough_for_the_grid() -> None:
    heights = np.linspace(-0.02, 0.02, 81)
    places = np.stack([np.full(81, 0.1), np.full(81, -0.05), heights + 0.003], axis=1)
    inside = slat_data.surface_field(plate(), places, 1 / 128).distance < 0
    thickness = inside.sum() * (heights[1] - heights[0])
    assert thickness == pytest.approx(slat_data.THINNEST / 128, abs=2e-3)


def test_an_object_that_touches_the_grid_is_closed_there() -> None:
    solid = np.ones((65, 65, 65), bool)
    points = np.stack([np.full(100, -0.5), *np.random.default_rng(0).uniform(-0.5, 0.5, (2, 100))], axis=1)
    normals = np.tile(np.float32([-1, 0, 0]), (100, 1))
    wall = slat_data.Surface(points.astype(np.float32), normals, np.ones_like(normals), solid)
    distance, _ = slat_data.cube_targets(wall, np.array([[0, 64, 64]]), 128)
    low = slat_data.CORNERS[:, 0] == 0
    assert (distance[0, low] > 0).all() and (distance[0, ~low] < 0).all()


def test_targets_describe_the_sphere() -> None:
    """The surface extracted from the targets is the sphere, to a fifth of a cell, once its cavity is gone."""
    ball = sphere()
    voxels = np.argwhere(surface.surface_occupancy(ball.points, ball.normals, 32, 1))
    cubes = slat_data.children(voxels)
    distance, attributes = slat_data.cube_targets(ball, cubes, 128)
    feats = np.zeros((len(cubes), 101), np.float32)
    feats[:, :8] = distance + 1 / 128
    mesh = extract_mesh(torch.from_numpy(cubes), torch.from_numpy(feats), 128)
    rows, faces = visible_parts(mesh.vertices.numpy(), mesh.faces.numpy(), voxels, 32)
    radius = np.linalg.norm(mesh.vertices.numpy()[rows], axis=1)
    assert len(rows) < len(mesh.vertices) and len(faces) < len(mesh.faces)
    assert not set(range(len(rows))) - set(faces.ravel().tolist())
    assert radius.mean() == pytest.approx(RADIUS, abs=1.5e-3) and radius.std() < 1.5e-3
    assert attributes.min() >= 0 and attributes.max() <= 1.001


def test_an_inner_side_that_hangs_on_the_outer_one_is_taken_out() -> None:
    """A ball of faces inside a shell of voxels, one face of which reaches out of the shell."""
    voxels = np.argwhere(np.pad(np.zeros((6, 6, 6), bool), 1, constant_values=True))
    vertices = np.random.default_rng(0).uniform(-0.3, 0.3, (40, 3))
    vertices[0] = 0.45
    inner = np.arange(1, 40).reshape(-1, 3)
    hull = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]] * 10)
    signed = np.linalg.det(vertices[hull]).sum()
    hull = hull if signed > 0 else hull[:, ::-1]
    rows, faces = visible_parts(vertices, np.concatenate([inner, hull]), voxels, 8)
    assert rows.tolist() == [0, 1, 2, 3] and len(faces) == 30


def test_a_mesh_of_a_cavity_alone_is_kept() -> None:
    vertices = np.eye(4, 3)
    faces = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
    rows, kept = visible_parts(vertices, faces, np.zeros((0, 3), int), 32)
    assert len(rows) == 4 and np.array_equal(kept, faces)


def test_features_say_where_the_surface_is() -> None:
    ball = sphere()
    voxels = np.argwhere(surface.surface_occupancy(ball.points, ball.normals, 32, 1))
    lonely = np.array([[0, 0, 0]])
    features = slat_data.surface_features(ball, np.concatenate([voxels, lonely]), 32)
    centres = (voxels + 0.5) / 32 - 0.5
    assert np.linalg.norm(centres + features[:-1, 6:9] / 32, axis=1) == pytest.approx(RADIUS, abs=4e-3)
    assert features[:-1, 9] / 32 == pytest.approx(np.linalg.norm(centres, axis=1) - RADIUS, abs=2e-3)
    assert features.shape[1] == slat_data.SURFACE_CHANNELS and np.abs(features).max() <= slat_data.LIMIT


def test_voxels_turn_with_the_surface() -> None:
    ball = sphere(3)
    moved = slat_data.Surface(ball.points + np.float32([0.1, 0.2, 0.05]), ball.normals, ball.colors, ball.solid)
    turn = slat_data.cube_turn(np.random.default_rng(5))
    turned = moved.turned(turn)
    voxels = np.argwhere(surface.surface_occupancy(moved.points, moved.normals, 32, 1))
    expected = np.argwhere(surface.surface_occupancy(turned.points, turned.normals, 32, 1))
    assert not np.array_equal(turn, np.eye(3))
    assert np.array_equal(slat_data.turn_voxels(voxels, turn, 32), expected)
    inside = np.array([[0.05, 0.02, 0.01]]) @ turn.T
    assert turned.inside_share(inside) == pytest.approx([1.0])


def test_disturbed_voxels_stay_in_order_and_in_the_grid() -> None:
    voxels = np.argwhere(np.ones((4, 4, 4), bool))[:40]
    answer = slat_data.disturb_voxels(voxels, 4, np.random.default_rng(0), 0.5, 0.3)
    keys = (answer * [16, 4, 1]).sum(1)
    assert (np.diff(keys) > 0).all() and answer.min() >= 0 and answer.max() <= 3
    assert {tuple(v) for v in answer} != {tuple(v) for v in voxels}


def test_disturbed_cameras_still_look_at_the_object() -> None:
    cameras = torch.stack([torch.from_numpy(c.world_to_camera).float() for c in views.random_cameras(4, 0)])
    intrinsics = torch.tensor([[1.5, 0, 0.5], [0, 1.5, 0.5], [0, 0, 1]]).repeat(4, 1, 1)
    moved, matrices = slat_data.disturb_cameras(cameras, intrinsics, torch.Generator().manual_seed(0), 0.02)
    turns = moved[:, :3, :3]
    assert torch.allclose(turns @ turns.transpose(1, 2), torch.eye(3).expand(4, 3, 3), atol=1e-5)
    assert not torch.equal(moved, cameras)
    centre = (matrices @ moved[:, :3, 3:])[..., 0]
    assert (centre[:, :2] / centre[:, 2:] - 0.5).abs().max() < 0.1


def test_both_stages_run_export_and_load(config: str, data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    if config == "tokens":
        give_image_encoder(weights, config)
    result = train.train(asked("slat_vae", data, tmp_path, config))
    assert all(np.isfinite(value) for value in result.values()) and "val_sign" in result
    give_image_encoder(weights, config)
    (weights / "pipeline.json").write_text(json.dumps({"structure_normalization": {"mean": [0.5]}}))
    request = asked("slat_flow", data, tmp_path, config, batch=2)
    result = train.train(request)
    assert np.isfinite(result["val_loss"])
    pipeline = json.loads((weights / "pipeline.json").read_text())
    assert pipeline["structure_normalization"] == {"mean": [0.5]} and len(pipeline["slat_normalization"]["std"]) == 4
    decoder = frozen(request, "slat_dec_mesh")
    voxels = torch.tensor([[0, 5, 5, 5], [0, 5, 5, 6]])
    assert decoder.cubes(SparseTensor(voxels, torch.zeros(2, 4))).feats.shape == (128, 101)
    assert frozen(request, "slat_flow").training is False
    again = SLatFlow(request)
    assert (again.latent_encoder is not None) == (config == "tokens")


def test_the_loss_falls_on_one_object(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.json").write_text(json.dumps(configuration(32, slat_data.SURFACE_CHANNELS)))
    monkeypatch.setattr(model, "CONFIG_FOLDER", tmp_path)
    stage = SLatVae(asked("slat_vae", data, tmp_path, "one"))
    optimizer = torch.optim.AdamW(stage.module.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss, parts = stage.loss(torch.Generator().manual_seed(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert 0 <= parts["sign"] <= 1


def test_mirrored_views_agree_with_the_mirrored_picture() -> None:
    """A mirrored object lands where the mirrored picture shows it: tolerance 1e-5, float32."""
    camera = views.random_cameras(1, 3)[0]
    point = np.array([0.1, -0.2, 0.05, 1.0])
    moved, matrix = slat_data.mirrored_camera(camera.world_to_camera, camera.intrinsics)
    seen = camera.intrinsics @ (camera.world_to_camera @ point)[:3]
    other = matrix @ (moved @ (np.diag([-1.0, 1, 1, 1]) @ point))[:3]
    assert other[:2] / other[2] == pytest.approx([1 - seen[0] / seen[2], seen[1] / seen[2]], abs=1e-5)


def test_a_stage_without_its_predecessor_says_so(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.json").write_text(json.dumps(configuration(32, slat_data.SURFACE_CHANNELS)))
    monkeypatch.setattr(model, "CONFIG_FOLDER", tmp_path)
    monkeypatch.setattr("backend.systems.cupid.train_slat_vae.MINI_WEIGHTS", tmp_path / "nothing")
    with pytest.raises(MaquetteError, match="image_encoder"):
        train.train(asked("slat_flow", data, tmp_path, "one"))
    give_image_encoder(tmp_path / "weights", "one")
    with pytest.raises(MaquetteError, match="slat_enc"):
        train.train(asked("slat_flow", data, tmp_path, "one"))


def test_an_image_encoder_of_another_width_is_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.json").write_text(json.dumps(configuration(64, 24)))
    monkeypatch.setattr(model, "CONFIG_FOLDER", tmp_path)
    give_image_encoder(tmp_path / "weights", "one")
    with pytest.raises(MaquetteError, match="24 channels"):
        train.train(asked("slat_vae", data, tmp_path, "one"))
