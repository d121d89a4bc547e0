"""Several photos of one object: shared occupancy and own UV halves in sampling, the choice, the fit, the whole path."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backend.contract.errors import MaquetteError
from backend.contract.frames import look_at
from backend.contract.meshes import mesh_from_bytes
from backend.geometry.pose import Camera
from backend.systems.base import Hooks
from backend.systems.command import photo_inputs
from backend.systems.cupid import pipeline, silhouette_fit
from backend.systems.cupid.condition import Condition, encode_photo
from backend.systems.cupid.flow_sampler import FlowSettings, sample_flow, time_sequence
from backend.systems.cupid.hypotheses import gallery
from backend.systems.cupid.latent_stage import sample_latent
from backend.systems.cupid.model import CupidModel, CupidSettings
from backend.systems.cupid.object_stage import make_object
from backend.systems.cupid.photo import MOST_PHOTOS, prepare_image, prepare_photos
from backend.systems.cupid.request import Request
from backend.systems.cupid.silhouette_fit import fit_silhouette, fit_silhouettes, silhouette
from backend.systems.cupid.structure_decode import Structure
from backend.systems.cupid.structure_sampler import decode_latents, sample_structure, with_views
from backend.systems.cupid.structure_stage import SolvedCamera, ranking, same_lens
from tests.unit.test_pipeline import Recorder, photo, system_with, tiny_model
from tests.unit.test_silhouette_fit import RESOLUTION, camera, chair, hypothesis, photo_alpha, turned, whole_picture

SIDE = Camera(camera().intrinsics, look_at(np.array([-0.2, -2.0, 0.4]), np.zeros(3)), 0.0)


class TokenFlow(nn.Module):
    """A velocity field that is, everywhere, the mean of the tokens it is shown."""

    resolution, in_channels = 4, 16

    def prepare(self, tokens: Tensor, weights: Tensor | None = None) -> Tensor:
        return tokens

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor, weights: Tensor | None = None) -> Tensor:
        assert len(x) == len(t) == len(tokens)
        return tokens.mean((1, 2)).view(-1, 1, 1, 1, 1).expand_as(x)


def token_model(hypotheses: int = 2, cfg_strength: float = 0.0) -> CupidModel:
    """TokenFlow between decoders that change nothing."""
    networks = {"structure_flow": TokenFlow(), "ss_dec": nn.Identity(), "uv_dec": nn.Identity()}
    sampler = FlowSettings(steps=3, cfg_strength=cfg_strength)
    settings = replace(CupidSettings(24, 24, sampler, sampler), hypotheses=hypotheses)
    return CupidModel(networks, settings, torch.device("cpu"))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_one_photo_is_sampled_as_ever() -> None:
    networks = tiny_model()
    networks = replace(networks, settings=replace(networks.settings, hypotheses=3))
    condition = encode_photo(networks, prepare_image(photo(), None, networks))
    with torch.inference_mode():
        occupancy, uv_logits = sample_structure(networks, [condition], seeded(), None, Hooks())
        flow, shown = networks["structure_flow"], condition.repeated(3)
        noise = torch.randn((3, 16, 4, 4, 4), generator=seeded())
        sampled = sample_flow(
            lambda x, t, seen: flow(x, t, seen.tokens, seen.weights), noise, shown, shown.empty(),
            networks.settings.structure_sampler,
        ).samples  # fmt: skip
        assert torch.equal(occupancy, networks["ss_dec"](sampled[:, :8]))
        assert uv_logits.shape[0] == 1 and torch.equal(uv_logits[0], networks["uv_dec"](sampled[:, 8:]))


@pytest.mark.parametrize("cfg_strength", [0.0, 2.0])
def test_occupancy_moves_with_the_mean_and_each_view_with_its_own_velocity(cfg_strength: float) -> None:
    values = (1.0, 2.0, 6.0)
    conditions = [Condition(torch.full((1, 3, 2), value)) for value in values]
    networks = token_model(2, cfg_strength)
    occupancy, views = sample_structure(networks, conditions, seeded(), None, Hooks())
    generator = seeded()
    once = torch.randn((2, 16, 4, 4, 4), generator=generator)
    noise = with_views(once, 3, generator).view(3, 2, 16, 4, 4, 4)
    assert torch.equal(noise[0], once) and torch.equal(noise[2, :, :8], once[:, :8])
    assert not torch.allclose(noise[1, :, 8:], noise[2, :, 8:])
    times = time_sequence(3, networks.settings.structure_sampler.rescale_t)
    guided = 1 + cfg_strength * (times[:-1] >= 0.5)  # the null condition's velocity is zero
    way = float((-np.diff(times) * guided).sum())
    assert torch.allclose(occupancy, once[:, :8] - 3.0 * way, atol=1e-5)
    for view, start, value in zip(views, noise, values, strict=True):
        assert torch.allclose(view, start[:, 8:] - value * way, atol=1e-5)


def test_only_the_first_photos_camera_is_held() -> None:
    conditions = [Condition(torch.full((1, 3, 2), value)) for value in (1.0, 3.0)]
    known = torch.full((1, 8, 4, 4, 4), 0.25)
    networks = token_model()
    occupancy, views = sample_structure(networks, conditions, seeded(), None, Hooks(), known)
    assert torch.allclose(views[0], known.expand(2, -1, -1, -1, -1), atol=1e-6)
    assert float(views[1].std()) > 0.5 and float(occupancy.std()) > 0.5  # as random as their noise


def test_latents_of_several_photos_are_decoded_photo_by_photo() -> None:
    latents = torch.randn(6, 16, 4, 4, 4, generator=seeded())
    occupancy, views = decode_latents(token_model(), latents, photos=3)
    assert torch.equal(occupancy, latents[:2, :8]) and torch.equal(views[2, 1], latents[5, 8:])


def test_the_hypothesis_that_is_right_in_every_photo_goes_on() -> None:
    occupied = chair()
    alphas = [photo_alpha(occupied), silhouette(voxels(occupied), SIDE, RESOLUTION).astype(np.float32)]
    backwards = Camera(camera().intrinsics, look_at(np.array([1.2, 1.5, 0.7]), np.zeros(3)), 0.0)
    first = hypothesis(camera(), occupied)
    found = [replace(first, more=(SolvedCamera(view, view.intrinsics, 1.0, ""),)) for view in (backwards, SIDE, SIDE)]
    found.append(replace(first, more=(SolvedCamera(None, None, None, "no camera"),)))
    assert ranking(found, alphas)[0] in (1, 2)
    assert ranking([found[3], found[0]], alphas)[0] in (0, 1)


def voxels(occupied: np.ndarray) -> np.ndarray:
    return (np.argwhere(occupied) + 0.5) / len(occupied) - 0.5


def test_a_second_photo_takes_away_what_the_first_cannot_see() -> None:
    true = chair()
    alphas = [photo_alpha(true), silhouette(voxels(true), SIDE, RESOLUTION).astype(np.float32)]
    guess = np.where(true, 3.0, -6.0)
    lump = behind_the_back(true)
    guess[lump] = 1.0  # hidden from the first photo
    one = fit_silhouette(guess, camera(), alphas[0])
    two = fit_silhouettes(guess, [camera(), SIDE], alphas)
    assert len(two) == 2 and np.array_equal(two[0].occupied, two[1].occupied)
    assert (two[0].occupied & lump).sum() < 0.5 * (one.occupied & lump).sum()
    assert two[1].iou_reshaped > 0.85 and two[0].iou_solved == one.iou_solved
    assert all(fit.agrees for fit in two)


def behind_the_back(occupied: np.ndarray) -> np.ndarray:
    """Voxels [R,R,R] that the first camera sees only behind the chair, and that its outline therefore allows."""
    wide = np.zeros_like(occupied)
    wide[0:6, 10:22, 16:26] = True
    shown = silhouette(voxels(occupied), camera(), RESOLUTION)
    uv = np.array([view_pixel(point) for point in voxels(wide)])
    inside = shown[uv[:, 1], uv[:, 0]]
    result = np.zeros_like(occupied)
    result[tuple(np.argwhere(wide)[inside].T)] = True
    assert result.sum() > 50
    return result


def view_pixel(point: np.ndarray) -> np.ndarray:
    seen = camera().intrinsics @ (camera().world_to_camera[:3, :3] @ point + camera().world_to_camera[:3, 3])
    return (seen[:2] / seen[2] * 96).astype(int).clip(0, 95)


def test_a_camera_that_cannot_be_believed_takes_nothing_away() -> None:
    true = chair()
    elsewhere = Camera(camera().intrinsics, look_at(np.array([0.0, 0.0, 3.0]), np.array([0.0, 9.0, 3.0])), 0.0)
    logits = np.where(true, 3.0, -6.0)
    alpha = photo_alpha(true)
    one = fit_silhouette(logits, turned(4.0), alpha)
    two = fit_silhouettes(logits, [turned(4.0), elsewhere], [alpha, alpha])
    assert np.array_equal(one.occupied, two[0].occupied) and one.iou_reshaped == two[0].iou_reshaped
    assert two[1].iou_moved == 0.0


@pytest.mark.parametrize("stage_2", [False, True])
def test_three_photos_give_one_object_and_three_cameras(stage_2: bool) -> None:
    inputs = {"image": photo(), "image_1": photo((50, 50)), "image_2": photo((40, 60)), "mask_2": photo((40, 60))}
    hooks = Recorder()
    result = system_with(tiny_model(stage_2)).run(pipeline.TASK, inputs, {}, hooks)
    data = {artifact.name: artifact.data for artifact in result.artifacts}
    sizes = [json.loads(data[name])["image_size"] for name in ("camera.json", "camera_1.json", "camera_2.json")]
    assert sizes == [[60, 40], [50, 50], [40, 60]]
    assert [entry["mask"] for entry in result.report["photos"]] == ["alpha", "alpha", "mask"]
    assert all({"residual_px", "trusted", "message"} <= set(entry) for entry in result.report["photos"])
    assert result.report["residual_px"] == result.report["photos"][0]["residual_px"]
    assert len(mesh_from_bytes(data["asset.mesh"]).faces) > 0 and hooks.steps == (4 if stage_2 else 2)


def test_photos_are_numbered_without_gaps_and_named_in_errors() -> None:
    networks = tiny_model()
    for inputs in ({"image": photo(), "image_2": photo()}, {"image_1": photo()}, {"image": photo(), "mask_1": photo()}):
        with pytest.raises(MaquetteError, match="numbered from 1"):
            prepare_photos(inputs, networks)
    crowd = {"image": photo()} | {f"image_{number}": photo() for number in range(1, MOST_PHOTOS + 1)}
    with pytest.raises(MaquetteError, match="takes 8 photos"):
        prepare_photos(crowd, networks)
    with pytest.raises(MaquetteError, match=r"^Photo 2: "):
        prepare_photos({"image": photo(), "image_1": b"no picture"}, networks)
    assert len(prepare_photos({"image": photo(), "image_1": photo()}, networks)) == 2


def test_a_lens_is_the_same_in_landscape_and_portrait() -> None:
    wide, high = (replace(whole_picture(), picture=replace(whole_picture().picture, original_size=size))
                  for size in ((300, 200), (200, 300)))  # fmt: skip
    assert same_lens(1.2, wide, wide) == 1.2 and same_lens(None, wide, high) is None
    assert same_lens(1.2, wide, high) == pytest.approx(1.8)  # 360 pixels of 200


def test_masks_of_the_command_belong_to_photos_in_order(tmp_path) -> None:
    mask = tmp_path / "mask.png"
    mask.write_bytes(photo())
    inputs = photo_inputs([b"a", b"b", b"c"], ["none", str(mask)])
    assert inputs == {"image": b"a", "image_1": b"b", "image_2": b"c", "mask_1": photo()}
    with pytest.raises(MaquetteError, match="more masks"):
        photo_inputs([b"a"], [str(mask), str(mask)])
    assert photo_inputs([b"a", b"b"], [], [str(mask)]) == {"image": b"a", "image_1": b"b", "occluder": photo()}
    with pytest.raises(MaquetteError, match="more occluders"):
        photo_inputs([b"a"], [], [str(mask), str(mask)])


def test_a_view_that_contradicts_the_first_takes_nothing_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silhouette_fit, "BELIEVED_IOU", 0.0)
    true = chair()
    logits, alpha = np.where(true, 3.0, -6.0), photo_alpha(true)
    logits[behind_the_back(true)] = 1.0
    upright = np.zeros_like(alpha)
    upright[10:86, 40:56] = 1.0  # a pole cannot be what the first photo shows from another side
    one = fit_silhouette(logits, camera(), alpha)
    two = fit_silhouettes(logits, [camera(), SIDE], [alpha, upright])
    assert np.array_equal(one.occupied, two[0].occupied)
    assert one.agrees and two[0].agrees and not two[1].agrees
    assert not SolvedCamera(SIDE, SIDE.intrinsics, 1.0, "", two[1].iou_moved, two[1].agrees).trusted


def test_every_variant_has_a_camera_for_each_photo() -> None:
    networks = tiny_model()
    first, *more = prepare_photos({"image": photo(), "image_1": photo((50, 50))}, networks)
    with torch.inference_mode():
        made = make_object(networks, first, Request(), seeded(), Hooks(), more)
    files, scores = gallery([made, made], first, more)
    data = {artifact.name: artifact.data for artifact in files}
    assert len(scores) == 2
    for name in ("hypothesis_0", "hypothesis_1"):
        assert json.loads(data[f"{name}_camera_1.json"])["image_size"] == [50, 50]
        assert json.loads(data[f"{name}.json"])["camera"]["image_size"] == [60, 40]


def test_stage_2_moves_with_the_mean_of_its_conditions() -> None:
    networks = tiny_model(stage_2=True)
    nn.init.normal_(networks["slat_flow"].out_layer.weight, std=0.5)  # a fresh one answers zero
    first, other = prepare_photos({"image": photo(), "image_1": photo((40, 60))}, networks)
    coords = torch.from_numpy(np.pad(np.argwhere(np.ones((4, 4, 4))) + 2, ((0, 0), (1, 0)))).int()
    structure = Structure(coords, coords, torch.full((len(coords), 2), 0.5))
    view, unsolved = SolvedCamera(camera(), camera().intrinsics, 1.0, ""), SolvedCamera(None, None, None, "")
    with torch.inference_mode():
        shown, seen = encode_photo(networks, first), Condition(encode_photo(networks, other).tokens + 3.0)

        def latent(more) -> Tensor:
            made = sample_latent(networks, structure, shown, first, view, seeded(), 2, Hooks(), more)
            return made.feats

        alone = latent([])
        assert torch.allclose(latent([(shown, first, view)]), alone, atol=1e-5)
        assert torch.equal(latent([(seen, other, unsolved)]), alone)  # without a camera it cannot take part
        assert not torch.allclose(latent([(seen, other, view)]), alone, atol=1e-3)
