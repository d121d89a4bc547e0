"""The LRM: its encoder beside transformers' own, its names and sizes, strict loading, and surfaces of known fields."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from safetensors.torch import save_file
from torch import Tensor

from backend.contract.errors import Cancelled, MaquetteError
from backend.geometry.flexicubes import extract_surface, grid_vertices
from backend.systems.base import Hooks
from backend.systems.kiss3dgen.lrm.generator import LrmConfig, LrmGenerator, load_generator, random_generator
from backend.systems.kiss3dgen.lrm.image_encoder import CameraImageEncoder
from backend.systems.kiss3dgen.lrm.lrm import load_lrm, make_planes, reconstruct
from backend.systems.kiss3dgen.lrm.surface import closed_field, extract_mesh
from tests.unit.test_flexicubes import all_cubes

torch.set_num_threads(1)
SMALL = LrmConfig(
    image_size=64, encoder_channels=24, encoder_layers=2, encoder_heads=2, encoder_hidden=48, patch_size=16,
    trained_size=32, channels=32, layers=2, heads=2, low_resolution=4, plane_channels=8, decoder_hidden=16, grid=12,
)  # fmt: skip
PUBLISHED_PARAMETERS = 378_681_518
Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(scope="module")
def small() -> LrmGenerator:
    return random_generator(SMALL, 1)


@pytest.fixture
def views() -> np.ndarray:
    return np.random.default_rng(0).random((4, 40, 40, 3), np.float32)


def affine(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def published_shapes() -> Shapes:
    """Every tensor below `lrm_generator.`, written down from spec section 7 and the names of the goldens."""
    width = 768
    shapes: Shapes = affine("encoder.camera_embedder.0", width, 16) | affine("encoder.camera_embedder.2", width, width)
    shapes |= {"encoder.model.embeddings.cls_token": (1, 1, width)}
    shapes |= {"encoder.model.embeddings.position_embeddings": (1, 197, width)}
    shapes |= affine("encoder.model.embeddings.patch_embeddings.projection", width, 3, 16, 16)
    shapes |= affine("encoder.model.layernorm", width)
    for index in range(12):
        layer = f"encoder.model.encoder.layer.{index}"
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            shapes |= affine(f"{layer}.attention.{part}", width, width)
        shapes |= affine(f"{layer}.intermediate.dense", 4 * width, width)
        shapes |= affine(f"{layer}.output.dense", width, 4 * width)
        shapes |= affine(f"{layer}.layernorm_before", width) | affine(f"{layer}.layernorm_after", width)
        shapes |= affine(f"{layer}.adaLN_modulation.1", 4 * width, width)
    shapes |= {"transformer.pos_embed": (1, 3072, 1024)} | affine("transformer.norm", 1024)
    shapes |= {"transformer.deconv.weight": (1024, 80, 2, 2), "transformer.deconv.bias": (80,)}
    for index in range(16):
        layer = f"transformer.layers.{index}"
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= affine(f"{layer}.{norm}", 1024)
        shapes |= {f"{layer}.cross_attn.q_proj_weight": (1024, 1024), f"{layer}.cross_attn.k_proj_weight": (1024, 768)}
        shapes |= {f"{layer}.cross_attn.v_proj_weight": (1024, 768)}
        shapes |= {f"{layer}.{kind}_attn.out_proj.weight": (1024, 1024) for kind in ("cross", "self")}
        shapes |= {f"{layer}.self_attn.in_proj_weight": (3072, 1024)}
        shapes |= affine(f"{layer}.mlp.0", 4096, 1024) | affine(f"{layer}.mlp.3", 1024, 4096)
    for name, inputs, outputs in (
        ("sdf", 240, 1), ("rgb", 240, 3), ("material", 240, 2), ("deformation", 240, 3), ("weight", 1920, 21),
    ):  # fmt: skip
        net = f"synthesizer.decoder.net_{name}"
        shapes |= affine(f"{net}.0", 64, inputs) | affine(f"{net}.2", 64, 64)
        shapes |= affine(f"{net}.4", 64, 64) | affine(f"{net}.6", outputs, 64)
    return shapes


def test_the_published_size_has_the_published_tensors_and_planes() -> None:
    with torch.device("meta"):
        generator = LrmGenerator(LrmConfig())
        planes = generator(torch.zeros(4, 3, 512, 512), torch.zeros(4, 16))
        tokens = generator.encoder(torch.zeros(1, 3, 512, 512), torch.zeros(1, 16))
    assert {name: tuple(value.shape) for name, value in generator.state_dict().items()} == published_shapes()
    assert sum(parameter.numel() for parameter in generator.parameters()) == PUBLISHED_PARAMETERS
    assert tokens.shape == (1, 1025, 768) and planes.shape == (1, 3, 80, 64, 64)
    # a checkpoint of training: the numbers and Adam's two moments, in single precision; the published one has 4.6 GB
    assert 3 * 4 * PUBLISHED_PARAMETERS == pytest.approx(4.6e9, rel=0.02)


def test_without_a_camera_the_encoder_is_the_plain_vision_transformer() -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=48, patch_size=16
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = ViTModel(config, add_pooling_layer=False).eval()
        encoder = CameraImageEncoder(32, 4, 2, 64, 16, 48).eval()
    missing, unexpected = encoder.model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all("adaLN_modulation" in name for name in missing)
    for name, parameter in encoder.named_parameters():
        if "adaLN_modulation" in name:
            torch.nn.init.zeros_(parameter)
    pictures = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (pictures - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        wanted = plain(normal).last_hidden_state
        assert torch.allclose(encoder(pictures, torch.rand(2, 16)), wanted, atol=1e-5)
    with pytest.raises(ValueError, match="patches"):
        encoder(torch.rand(1, 3, 40, 48), torch.rand(1, 16))


def test_positions_are_stretched_and_every_view_is_told_its_camera(small: LrmGenerator, views: np.ndarray) -> None:
    table = small.encoder.model.embeddings.positions(64, 64)
    assert table.shape == (1, 17, 24)
    assert torch.equal(table[:, 0], small.encoder.model.embeddings.position_embeddings[:, 0])
    first = make_planes(small, views)
    assert first.shape == (1, 3, 8, 8, 8)
    turned = make_planes(small, views, (90.0, 180.0, 270.0, 0.0))
    assert float((first - turned).abs().max()) > 1e-6
    # tokens of views have no order of their own: only the pairs of view and camera count
    again = make_planes(small, views[[1, 2, 3, 0]], (90.0, 180.0, 270.0, 0.0))
    assert torch.allclose(first, again, atol=1e-5)


def checkpoint(path: Path, tensors: dict[str, Tensor], **more: object) -> Path:
    """A training checkpoint as published: the generator below its prefix, and other things beside it."""
    stored = {f"lrm_generator.{name}": value for name, value in tensors.items()}
    torch.save({"state_dict": {**stored, "loss.scale": torch.ones(1)}, "epoch": 3, **more}, path)
    return path


def test_loads_checkpoints_and_safetensors_strictly(small: LrmGenerator, tmp_path: Path) -> None:
    tensors = {name: value.clone() for name, value in small.state_dict().items()}
    save_file(tensors, tmp_path / "plain.safetensors")
    for file in (checkpoint(tmp_path / "whole.ckpt", tensors), tmp_path / "plain.safetensors"):
        loaded = load_generator(file, SMALL).state_dict()
        assert all(torch.equal(value, tensors[name]) for name, value in loaded.items())
    gone = {name: value for name, value in tensors.items() if name != "transformer.pos_embed"}
    with pytest.raises(MaquetteError, match="lack the tensor transformer.pos_embed"):
        load_generator(checkpoint(tmp_path / "gone.ckpt", gone), SMALL)
    wrong = {**tensors, "synthesizer.decoder.net_sdf.0.weight": torch.zeros(16, 23)}
    with pytest.raises(MaquetteError, match="net_sdf.0.weight.*16, 23"):
        load_generator(checkpoint(tmp_path / "wrong.ckpt", wrong), SMALL)
    with pytest.raises(MaquetteError, match="unknown tensor encoder.more"):
        load_generator(checkpoint(tmp_path / "more.ckpt", {**tensors, "encoder.more": torch.zeros(1)}), SMALL)


def test_what_is_no_checkpoint_is_refused(small: LrmGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MaquetteError, match="cannot be read"):  # a pickle that wants a class of ours
        load_generator(checkpoint(tmp_path / "code.ckpt", dict(small.state_dict()), more=Path("x")), SMALL)
    (tmp_path / "cut.safetensors").write_bytes(b"nothing")
    with pytest.raises(MaquetteError, match="cannot be read"):
        load_generator(tmp_path / "cut.safetensors", SMALL)
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path))
    with pytest.raises(MaquetteError, match="not installed") as caught:
        load_lrm("published")
    assert caught.value.code == "model_missing"


def ball(center: tuple[float, float, float], radius: float) -> tuple[LrmGenerator, Tensor]:
    """A generator and planes whose field is radius^2 - |p - center|^2, and whose red grows with the LRM's x.

    Every plane holds half of both squares it sees, so that each coordinate is counted once.
    """
    config = LrmConfig(
        encoder_layers=0, layers=0, encoder_channels=8, encoder_heads=1, channels=8, heads=1, low_resolution=2,
        plane_channels=2, decoder_hidden=2, decoder_layers=2, grid=32,
    )  # fmt: skip
    generator = random_generator(config)
    for parameter in generator.synthesizer.parameters():
        torch.nn.init.zeros_(parameter)
    side = 128
    place = (torch.arange(side) + 0.5) / side * 2 - 1
    planes = torch.zeros(1, 3, 2, side, side)
    for index, (column, row) in enumerate(((0, 1), (0, 2), (2, 1))):
        planes[0, index, 0] = -0.5 * ((place[None] - center[column]) ** 2 + (place[:, None] - center[row]) ** 2)
    planes[0, 0, 1] = place[None].expand(side, side)
    lifted = 10.0  # above zero everywhere, so that the ReLU lets it through
    sdf, rgb = generator.synthesizer.decoder.net_sdf, generator.synthesizer.decoder.net_rgb
    sdf[0].weight.data[0, [0, 2, 4]] = 1.0
    sdf[0].bias.data[0] = lifted
    sdf[2].weight.data[0, 0] = 1.0
    sdf[2].bias.data[0] = radius**2 - lifted
    rgb[0].weight.data[0, 1], rgb[0].bias.data[0] = 1.0, lifted
    rgb[2].weight.data[0, 0], rgb[2].bias.data[0] = 8.0, -8.0 * lifted
    return generator, planes


def test_a_known_field_becomes_its_mesh_in_the_bundle_frame() -> None:
    generator, planes = ball((0.3, -0.2, 0.1), 0.5)
    mesh = extract_mesh(generator, planes)
    made = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert made.is_watertight and made.euler_number == 2
    assert made.volume == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.03)  # positive: it faces outward
    assert made.center_mass == pytest.approx([-0.2, 0.1, 0.3], abs=0.01)  # the LRM's (x, y, z) is our (z, x, y)
    assert mesh.colors.dtype == np.uint8 and mesh.vertices.dtype == np.float32 and mesh.faces.dtype == np.int64
    wanted = 255 / (1 + np.exp(-8.0 * mesh.vertices[:, 2]))
    assert np.abs(mesh.colors[:, 0] - wanted).max() < 6  # red follows x, which is the bundle's z; planes are 128 wide
    assert mesh.metallic == pytest.approx(0.5) and mesh.roughness == pytest.approx(0.5008)


def test_only_where_the_surface_passes_is_as_good_as_everywhere() -> None:
    generator = random_generator(SMALL, 2)
    planes = torch.randn(1, 3, 8, 8, 8, generator=torch.Generator().manual_seed(3))
    decoder, cubes = generator.synthesizer.decoder, all_cubes(SMALL.grid)
    positions = grid_vertices(SMALL.grid, SMALL.extent)
    features = generator.synthesizer.features(planes, positions[None])[0]
    decoder.net_sdf[-1].bias -= decoder.distance(features).median()  # as much inside as outside
    mesh = extract_mesh(generator, planes)
    field = closed_field(decoder.distance(features)[:, 0], SMALL.grid)
    moved = positions + torch.tanh(decoder.deformation(features)) / (4 * SMALL.grid)
    vertices, faces = extract_surface(moved, field, cubes, decoder.weights(features[cubes]), SMALL.grid)
    assert len(vertices) > 50
    assert np.array_equal(faces[:, [0, 2, 1]].numpy(), mesh.faces)
    assert np.allclose(vertices[:, [1, 2, 0]].numpy(), mesh.vertices, atol=1e-5)


@pytest.mark.parametrize("value", [-2.0, 3.0])
def test_empty_and_full_fields_get_a_closed_surface(value: float) -> None:
    field = closed_field(torch.full((7**3,), value), 6).view(7, 7, 7)
    assert float(field[3, 3, 3]) > 0 and float(field[0].max()) < 0 and float(field[:, :, -1].max()) < 0


def test_a_field_that_leaves_the_grid_is_closed_there() -> None:
    generator, planes = ball((0.0, 0.0, 0.8), 0.5)
    mesh = extract_mesh(generator, planes)
    assert trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).is_watertight
    assert float(mesh.vertices[:, 1].max()) <= 1.05 + 1e-4  # the LRM's up is the bundle's


def test_views_become_a_mesh_or_stop(small: LrmGenerator, views: np.ndarray) -> None:
    mesh = reconstruct(small, views)
    assert len(mesh.faces) and len(mesh.colors) == len(mesh.vertices)

    class Impatient(Hooks):
        def cancelled(self) -> bool:
            return True

    with pytest.raises(Cancelled):
        reconstruct(small, views, Impatient())
    with pytest.raises(ValueError, match="square"):
        reconstruct(small, views[:3])
