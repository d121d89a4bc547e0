"""A known camera: what is refused, what is held while sampling, and what comes back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.contract import frames
from backend.contract.errors import MaquetteError
from backend.systems.command import read_camera
from backend.systems.cupid import known_camera
from backend.systems.cupid.flow_sampler import (
    FlowSettings,
    Inpainting,
    denormalise,
    noisy_sample,
    normalise,
    sample_flow,
)
from backend.systems.cupid.request import parse_request
from backend.systems.cupid.structure_sampler import hold
from backend.systems.cupid.structure_vae import SparseStructureEncoder
from tests.unit.test_pipeline import run, tiny_model

torch.set_num_threads(1)

CAMERA = {
    "world_to_camera": frames.look_at(np.array([0.3, -2.2, 0.8]), np.zeros(3)).tolist(),
    "intrinsics": [[1.6, 0.0, 0.45], [0.0, 1.7, 0.55], [0.0, 0.0, 1.0]],
}


def changed(name: str, row: int, column: int, value: float) -> dict:
    """The camera with one number of the matrix `name` replaced."""
    camera = json.loads(json.dumps(CAMERA))
    camera[name][row][column] = value
    return camera


def test_a_camera_is_read_as_it_is_written() -> None:
    camera = parse_request({"camera": json.loads(json.dumps(CAMERA))}).camera
    assert camera is not None
    np.testing.assert_array_equal(camera.world_to_camera, CAMERA["world_to_camera"])
    point = np.array([[0.1, 0.2, -0.3]])
    whole = frames.project(point, camera.world_to_camera, camera.intrinsics)[0]
    part = frames.project(point, camera.world_to_camera, camera.of_crop((0.2, -0.1, 0.6, 0.5)))[0]
    np.testing.assert_allclose((whole - [0.2, -0.1]) / [0.4, 0.6], part)


@pytest.mark.parametrize(
    ("camera", "words"),
    [
        ([1, 2], "nothing else"),
        ({**CAMERA, "fov": 3}, "nothing else"),
        ({**CAMERA, "intrinsics": [[1, 0], [0, 1]]}, "3 by 3"),
        ({**CAMERA, "intrinsics": "wide"}, "made of numbers"),
        (changed("world_to_camera", 0, 0, float("nan")), "finite"),
        (changed("world_to_camera", 0, 0, 1.9), "scale or mirror"),
        (changed("world_to_camera", 3, 0, 1.0), "scale or mirror"),
        (changed("intrinsics", 0, 0, -1.0), "focal"),
        ({**CAMERA, "world_to_camera": np.eye(4).tolist()}, "inside the object"),
        ({**CAMERA, "world_to_camera": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -2], [0, 0, 0, 1]]}, "behind it"),
    ],
)
def test_cameras_that_cannot_be_are_refused(camera: object, words: str) -> None:
    with pytest.raises(MaquetteError, match=words) as caught:
        parse_request({"camera": camera})
    assert caught.value.code == "bad_input"


def test_a_camera_and_a_focal_length_are_one_too_many() -> None:
    with pytest.raises(MaquetteError, match="leave focal out"):
        parse_request({"camera": CAMERA, "focal": 1.0})


def test_held_channels_follow_the_path_to_what_is_known() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 5, 2, 2, 2, generator=generator)
    known = torch.randn(1, 2, 2, 2, 2, generator=generator)
    settings = FlowSettings(steps=6, cfg_strength=0.0)
    seen: list[tuple[float, torch.Tensor]] = []

    def velocity(x: torch.Tensor, t: torch.Tensor, _: object) -> torch.Tensor:
        seen.append((float(t[0]) / 1000, x.clone()))
        return torch.ones_like(x)

    free = sample_flow(velocity, noise, None, settings=settings).samples
    seen.clear()
    once = Inpainting(hold(known, noise, 2, 1e-5), lambda: torch.zeros_like(noise), rounds=1)
    held = sample_flow(velocity, noise, None, settings=settings, inpainting=once).samples
    assert len(seen) == 6
    for t, x in seen:
        expected = noisy_sample(known.expand(3, -1, -1, -1, -1), noise[:, 2:4], torch.tensor(t))
        torch.testing.assert_close(x[:, 2:4], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(held[:, 2:4], known.expand(3, -1, -1, -1, -1), atol=0, rtol=0)
    torch.testing.assert_close(held[:, [0, 1, 4]], free[:, [0, 1, 4]], atol=0, rtol=0)


def test_noisy_steps_are_tried_again_with_fresh_noise() -> None:
    noise = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0))
    target = torch.full_like(noise, 2.0)
    times: list[float] = []
    drawn: list[torch.Tensor] = []

    def fresh_noise() -> torch.Tensor:
        drawn.append(torch.randn(noise.shape, generator=torch.Generator().manual_seed(len(drawn) + 1)))
        return drawn[-1]

    def velocity(x: torch.Tensor, t: torch.Tensor, _: object) -> torch.Tensor:
        time = float(t[0]) / 1000
        times.append(time)
        if drawn and times.count(times[-1]) > 1:  # a further round: the prediction with the noise just drawn
            torch.testing.assert_close(x[:, :2], noisy_sample(target, drawn[-1], torch.tensor(time))[:, :2])
        return (x - target) / time

    tried = Inpainting(hold(target[:, :1], noise, 2, 1e-5), fresh_noise, rounds=3)
    settings = FlowSettings(steps=4, cfg_strength=0.0, rescale_t=1.0)
    samples = sample_flow(velocity, noise, None, settings=settings, inpainting=tried).samples
    assert [times.count(time) for time in (1.0, 0.75, 0.5, 0.25)] == [1, 3, 3, 1] and len(drawn) == 4
    torch.testing.assert_close(samples, target, atol=1e-4, rtol=0)


def test_a_part_of_the_channels_is_normalised_with_its_own_numbers() -> None:
    normalization = {"mean": [1.0, 2.0, 3.0, 4.0], "std": [0.5, 1.0, 2.0, 4.0]}
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(normalise(denormalise(x, normalization), normalization), x)
    torch.testing.assert_close(normalise(denormalise(x, normalization)[:, 2:], normalization, 2), x[:, 2:])


def test_weights_without_the_encoder_say_so() -> None:
    from backend.systems.cupid.model import CupidModel, CupidSettings

    settings = CupidSettings(24, 24, FlowSettings(), FlowSettings())
    with pytest.raises(MaquetteError, match="encoder of UV cubes") as caught:
        known_camera.uv_latent(
            CupidModel({}, settings, torch.device("cpu")), known_camera.parse_camera(CAMERA), (0, 0, 1, 1)
        )
    assert caught.value.code == "model_missing"


@pytest.mark.parametrize("fit_silhouette", [False, True])
def test_the_known_camera_is_the_one_that_comes_back(fit_silhouette: bool) -> None:
    networks = tiny_model()
    encoder = SparseStructureEncoder(
        in_channels=3, latent_channels=8, num_res_blocks=1, num_res_blocks_middle=1, channels=[8, 16]
    ).eval()
    settings = replace(networks.settings, hypotheses=2, fit_silhouette=fit_silhouette)
    networks = replace(networks, networks={**networks.networks, "uv_enc": encoder}, settings=settings)
    aside = changed("intrinsics", 0, 2, 0.0)  # shows the cube mostly to the left of the photo's object
    artifacts, report = run(networks, camera=aside)
    camera = json.loads(artifacts["camera.json"])
    np.testing.assert_allclose(camera["world_to_camera"], aside["world_to_camera"])
    np.testing.assert_allclose(camera["intrinsics"], aside["intrinsics"])
    assert camera["residual_px"] > 0 and 0 <= camera["inlier_share"] <= 1
    assert not camera["trusted"] and "known camera" in camera["message"]
    assert report["camera_message"] == camera["message"]
    assert (report["silhouette"] is not None) == fit_silhouette


def test_the_command_reads_a_camera_from_a_result(tmp_path) -> None:
    path = tmp_path / "camera.json"
    path.write_text(json.dumps({**CAMERA, "message": "", "trusted": True}))
    assert read_camera(path) == CAMERA
    path.write_text("[]")
    with pytest.raises(MaquetteError, match="holds no camera"):
        read_camera(path)
