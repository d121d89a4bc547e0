"""The whole path from picture bytes to artifacts with tiny random networks, and what it says when things go wrong."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from backend.contract.errors import Cancelled, MaquetteError
from backend.contract.meshes import mesh_from_bytes
from backend.formats.images import encode_png
from backend.geometry.pose import Camera
from backend.systems.base import Hooks
from backend.systems.cupid import model, object_stage, pipeline, structure_decode, structure_stage
from backend.systems.cupid.camera_solver import Correspondences, solve_camera
from backend.systems.cupid.flow_sampler import FlowSettings, with_steps
from backend.systems.cupid.occupancy_mesh import mesh_from_occupancy
from backend.systems.cupid.photo_texture import TEXTURE_SIZE
from backend.systems.cupid.pipeline import CupidSystem, parse_request

FLOW = {"model_channels": 32, "cond_channels": 32, "num_blocks": 1, "num_heads": 2, "mlp_ratio": 2, "pe_mode": "ape"}
TRUNK = {"resolution": 8, "model_channels": 32, "latent_channels": 8, "num_blocks": 1, "num_heads": 2}
MODELS = {
    "image_encoder": ("ImageEncoder", {"image_size": 24, "patch_size": 12, "channels": 32, "num_blocks": 1,
                                       "num_heads": 2}),
    "structure_flow": ("SparseStructureFlowModel", {"resolution": 4, "in_channels": 16, "out_channels": 16,
                                                    "patch_size": 2, **FLOW}),
    "ss_dec": ("SparseStructureDecoder", {"out_channels": 1, "latent_channels": 8, "num_res_blocks": 1,
                                          "num_res_blocks_middle": 1, "channels": [16, 8]}),
    "uv_dec": ("SparseStructureDecoder", {"out_channels": 3, "latent_channels": 8, "num_res_blocks": 1,
                                          "num_res_blocks_middle": 1, "channels": [16, 8]}),
    "slat_flow": ("ElasticVisualLatentConditioningSLatFlowModel", {
        "resolution": 8, "in_channels": 8, "out_channels": 8, "cond_latent_channels": 8, "patch_size": 2,
        "visual_feat_channels": [4, 4], "visual_feat_resolution": 24, "num_io_res_blocks": 2,
        "io_block_channels": [16], **FLOW}),
    "slat_enc": ("SLatEncoder", {"in_channels": 32, **TRUNK}),
    "slat_dec_mesh": ("SLatMeshDecoder", {"representation_config": {"use_color": True}, **TRUNK}),
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def tiny_model(stage_2: bool = False, occupancy_bias: float = 0.0) -> model.CupidModel:
    """Random networks of every role; the occupancy decoder's bias sets how much of the grid is filled."""
    torch.manual_seed(0)
    roles = [role for role in MODELS if stage_2 or role not in (*model.STAGE_2, "slat_enc")]
    networks = {role: model.build({"name": MODELS[role][0], "args": MODELS[role][1]}).eval() for role in roles}
    last = networks["ss_dec"].out_layer[-1]
    torch.nn.init.constant_(last.bias, occupancy_bias)
    if stage_2:  # a fresh decoder answers zero everywhere: make a surface
        torch.nn.init.normal_(networks["slat_dec_mesh"].out_layer.weight, std=0.5)
    sampler = FlowSettings(steps=2, cfg_strength=1.0)
    return model.CupidModel(networks, model.CupidSettings(24, 24, sampler, sampler), torch.device("cpu"))


def system_with(networks: model.CupidModel) -> CupidSystem:
    system = CupidSystem("cpu")
    system.use_model(networks)
    return system


def photo(size: tuple[int, int] = (60, 40)) -> bytes:
    rgba = np.zeros((size[1], size[0], 4), np.uint8)
    rgba[8:30, 12:40] = (200, 80, 40, 255)
    return encode_png(rgba)


class Recorder(Hooks):
    """Remembers stages and steps, and cancels after some steps if asked to."""

    def __init__(self, cancel_after: int | None = None) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.steps = 0
        self.cancel_after = cancel_after

    def on_stage(self, name: str) -> None:
        self.seen.append(name)

    def on_step(self, stage: str, index: int, count: int) -> None:
        self.steps += 1

    def cancelled(self) -> bool:
        return self.cancel_after is not None and self.steps >= self.cancel_after


def run(networks: model.CupidModel, hooks: Hooks | None = None, **parameters):
    result = system_with(networks).run(pipeline.TASK, {"image": photo()}, parameters, hooks or Hooks())
    return {artifact.name: artifact.data for artifact in result.artifacts}, result.report


def test_stage_1_alone_delivers_everything_and_says_so():
    hooks = Recorder()
    artifacts, report = run(tiny_model(), hooks)
    assert list(artifacts) == ["asset.mesh", "asset.glb", "camera.json", "thumbnail.png", "report.json"]
    assert report["notes"][0] == object_stage.ONLY_STAGE_1 and not report["stage_2"]
    assert tuple(hooks.seen) == pipeline.STAGES and hooks.steps == 2
    mesh = mesh_from_bytes(artifacts["asset.mesh"])
    assert len(mesh.faces) == report["triangles"] > 0
    texture = np.asarray(Image.open(io.BytesIO(mesh.texture)))
    assert texture.shape == (TEXTURE_SIZE, TEXTURE_SIZE, 3) and mesh.uvs is not None and mesh.colors is None
    asset = next(iter(trimesh.load(io.BytesIO(artifacts["asset.glb"]), file_type="glb").geometry.values()))
    material = asset.visual.material
    assert np.array_equal(np.asarray(material.baseColorTexture.convert("RGB")), texture)
    assert (material.roughnessFactor, material.metallicFactor) == (1.0, 0.0)
    camera = json.loads(artifacts["camera.json"])
    assert camera["image_size"] == [60, 40] and set(camera) == {
        "world_to_camera", "intrinsics", "image_size", "residual_px", "inlier_share", "trusted", "message"}  # fmt: skip
    assert set(json.loads(artifacts["report.json"])["seconds"]) == set(pipeline.STAGES)
    assert report["mask"] == "alpha" and report["peak_mib"] > 0


@pytest.mark.parametrize("project_photo", [False, True])
def test_stage_2_runs_with_random_weights(monkeypatch, project_photo):
    monkeypatch.setattr(structure_decode, "FILLED_SHARE", 1.0)
    monkeypatch.setattr(structure_decode, "COARSE_SHARE", 1.0)
    hooks = Recorder()
    networks = tiny_model(stage_2=True)
    networks = replace(networks, settings=replace(networks.settings, project_photo=project_photo))
    artifacts, report = run(networks, hooks)
    assert report["stage_2"] and report["notes"] == [] and hooks.steps == 4
    mesh = mesh_from_bytes(artifacts["asset.mesh"])
    assert len(mesh.faces) > 0 and bool(mesh.texture) == project_photo and (mesh.colors is None) == project_photo


def test_of_a_grid_full_of_noise_the_most_certain_voxels_enter_stage_2():
    _, report = run(tiny_model(stage_2=True, occupancy_bias=5.0))
    assert report["stage_2"] and report["voxels"] == 8**3 * structure_decode.FILLED_SHARE
    assert report["notes"] == ["448 of 512 voxels left out, the least certain: more would take too long"]
    _, report = run(tiny_model(occupancy_bias=5.0))
    assert report["notes"] == [object_stage.ONLY_STAGE_1] and report["voxels"] == 512


def test_same_seed_same_result_other_seed_other_result():
    networks = tiny_model()
    first, second, other = (run(networks, seed=seed)[0]["asset.mesh"] for seed in (1, 1, 2))
    system = CupidSystem("cpu")
    assert first == second and len(other) > 0 and system.name == "cupid"


def test_too_few_voxels_is_one_sentence():
    with pytest.raises(MaquetteError, match="No object took shape") as caught:
        run(tiny_model(occupancy_bias=-50.0))
    assert caught.value.failure.next_step == "retry"


def test_cancel_stops_between_steps():
    hooks = Recorder(cancel_after=1)
    with pytest.raises(Cancelled):
        run(tiny_model(), hooks, steps=50)
    assert hooks.steps <= 2


def test_unsolvable_camera_still_delivers_the_object(monkeypatch):
    def flat(*_):
        raise ValueError("The camera cannot be solved: the points lie in a plane; try another seed.")

    monkeypatch.setattr(structure_stage.camera_solver, "solve_camera", flat)
    for stage_2 in (False, True):
        artifacts, report = run(tiny_model(stage_2=stage_2))
        camera = json.loads(artifacts["camera.json"])
        assert camera["world_to_camera"] is None and "plane" in camera["message"] and not camera["trusted"]
        mesh = mesh_from_bytes(artifacts["asset.mesh"])
        assert len(mesh.faces) > 0 and "mask_iou" not in report
        assert mesh.colors is not None and mesh.texture == b""


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"sede": 1}, "no parameter 'sede'"),
        ({"seed": -1}, "seed"),
        ({"seed": "1"}, "whole number"),
        ({"steps": -1}, "between 1"),
        ({"steps": False}, "whole number"),
        ({"names": "lamp"}, "list of texts"),
        ({"names": ["x" * 64]}, "at most 63"),
        ({"steps": True}, "whole number"),
        ({"focal": float("nan")}, "focal"),
        ({"focal": "wide"}, "focal"),
        ({"weights": 3}, "must be a text"),
    ],
)
def test_bad_parameters_are_named(parameters, words):
    with pytest.raises(MaquetteError, match=words) as caught:
        parse_request(parameters)
    assert caught.value.code == "bad_input"


@pytest.mark.parametrize(("config", "steps"), [("mini", 12), ("full", 25)])
def test_without_a_number_both_stages_take_the_weights_own_steps(config, steps):
    settings = model.read_settings(model.read_config(config))
    for asked in ({}, {"steps": 0}, {"steps": None}):
        request = parse_request(asked)
        assert request.steps is None
        for sampler in (settings.structure_sampler, settings.latent_sampler):
            assert with_steps(sampler, request.steps).steps == steps
    assert with_steps(settings.structure_sampler, parse_request({"steps": 7}).steps).steps == 7


def test_other_tasks_and_missing_inputs():
    with pytest.raises(MaquetteError, match="cannot do"):
        CupidSystem("cpu").run("text_to_3d", {}, {}, Hooks())
    with pytest.raises(MaquetteError, match="one picture"):
        CupidSystem("cpu").run(pipeline.TASK, {}, {}, Hooks())


def test_missing_weights_and_unknown_class(tmp_path):
    with pytest.raises(MaquetteError, match="does not exist"):
        model.load_model(str(tmp_path / "none"))
    with pytest.raises(MaquetteError, match="image_encoder"):
        model.load_model(str(tmp_path))
    with pytest.raises(MaquetteError, match="class Unknown"):
        model.build({"name": "Unknown", "args": {}})
    with pytest.raises(MaquetteError, match="mini or full"):
        model.load_model("random", "huge")


def test_weights_of_the_wrong_shape_name_the_tensor(tmp_path):
    from backend.training.checkpoints import save_model

    for role in model.STAGE_1:
        name, args = MODELS[role]
        tensors = dict(model.build({"name": name, "args": args}).state_dict())
        if role == "uv_dec":
            tensors["input_layer.bias"] = torch.zeros(3)
        save_model(tmp_path, role, name, args, tensors)
    with pytest.raises(MaquetteError, match="input_layer.bias of uv_dec"):
        model.load_model(str(tmp_path))


def test_camera_settings_recover_a_known_camera():
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (300, 3))
    intrinsics = np.array([[1.4, 0, 0.47], [0, 1.4, 0.52], [0, 0, 1.0]])
    world_to_camera = np.eye(4)
    world_to_camera[2, 3] = 2.5
    truth = Camera(intrinsics, world_to_camera, 0.0)
    image = (points + [0, 0, 2.5]) @ intrinsics.T
    uv = image[:, :2] / image[:, 2:] + rng.normal(0, 0.002, (300, 2))
    uv[:5] += 0.3  # a few points are wrong
    given, settings = Correspondences(points, uv, points[:0], 1 / 32), {"solver": "robust"}
    solved = solve_camera(given, settings)
    assert np.abs(solved.intrinsics - truth.intrinsics).max() < 0.1
    assert solved.intrinsics[0, 0] == solved.intrinsics[1, 1] and solved.intrinsics[0, 1] == 0
    assert solve_camera(given, settings, focal=1.2).intrinsics[0, 0] == pytest.approx(1.2)


def test_mesh_of_voxels_is_closed_faces_out_and_keeps_thin_parts():
    occupancy = np.zeros((16, 16, 16), bool)
    occupancy[4:12, 4:12, 4:12] = True
    occupancy[5:11, 5:11, 5:11] = False  # only the surface, as stage 1 predicts it
    vertices, faces = mesh_from_occupancy(occupancy)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and 0.35**3 < mesh.volume < 0.55**3  # eight voxels are 0.5 wide; one component, no cavity
    plate = np.zeros((16, 16, 16), bool)
    plate[3:13, 3:13, 8] = True
    assert len(mesh_from_occupancy(plate)[1]) > 50
    assert len(mesh_from_occupancy(np.zeros((8, 8, 8), bool))[1]) == 0


def test_picture_bytes_reach_the_report():
    broken = io.BytesIO(photo()).getvalue()[:40]
    with pytest.raises(MaquetteError, match="picture"):
        system_with(tiny_model()).run(pipeline.TASK, {"image": broken}, {}, Hooks())


def test_the_command_writes_its_files(tmp_path, monkeypatch):
    from backend.systems import command, registry

    monkeypatch.setattr(registry, "get_system", lambda name: system_with(tiny_model()))
    picture = tmp_path / "photo.png"
    picture.write_bytes(photo())
    assert command.main(["--image", str(picture), "--out", str(tmp_path / "out"), "--steps", "1"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"asset.glb", "camera.json", "overlay.png", "report.json"}
    with pytest.raises(MaquetteError, match="cannot be read"):
        command.main(["--image", str(tmp_path / "none.png"), "--out", str(tmp_path)])


def test_the_artist_sees_what_was_taken_for_the_object_before_the_result():
    pictures: list[bytes] = []
    hooks = Recorder()
    hooks.on_preview = pictures.append
    run(tiny_model(), hooks)
    first, last = (np.asarray(Image.open(io.BytesIO(png))) for png in pictures)
    assert first.shape[2] == 4 and max(first.shape[:2]) <= 256
    assert first[..., 3].max() == 255 and first[..., 3].min() == 0  # the photo's object, cut out
    assert last.shape == (256, 256, 4)
