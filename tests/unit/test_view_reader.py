"""The view reader: what it says of a direction, and how that orders hypotheses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.contract.frames import look_at
from backend.geometry.pose import Camera
from backend.systems.base import Hooks
from backend.systems.cupid import structure_stage
from backend.systems.cupid.model import CupidModel, load_model
from backend.systems.cupid.request import parse_request
from backend.systems.cupid.structure_stage import SolvedCamera, find_structure, ranking, read_views
from backend.systems.cupid.view_reader import ViewReader, camera_directions, even_directions

from .test_silhouette_fit import camera, chair, hypothesis, photo_alpha, whole_picture

DIRECTIONS = 128


def reader(toward: np.ndarray | None = None) -> ViewReader:
    """A small reader that knows nothing, or whatever it is shown expects the camera `toward` [3]."""
    network = ViewReader(24, 12, 32, 1, 2, directions=DIRECTIONS).eval()
    last = network.head[2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        if toward is not None:
            last.bias[int((even_directions(DIRECTIONS) @ toward).argmax())] = 10.0
    return network


def expecting(view: Camera) -> CupidModel:
    """Mini with a reader that expects the camera where `view` stands."""
    mini = load_model()
    networks = {role: mini[role] for role in mini.networks} | {
        "view_reader": reader(camera_directions([view.world_to_camera])[0])
    }
    return replace(mini, networks=networks)


def test_directions_are_where_cameras_stand() -> None:
    eye = np.array([1.0, -2.0, 0.5])
    found = camera_directions([look_at(eye, np.zeros(3)), look_at(-eye, np.zeros(3))])
    assert np.allclose(found, np.stack([eye, -eye]) / np.linalg.norm(eye))
    sphere = even_directions(512)
    assert np.allclose(np.linalg.norm(sphere, axis=1), 1) and np.abs(sphere.mean(0)).max() < 0.01


def test_a_reader_that_knows_nothing_prefers_no_direction() -> None:
    eyes = even_directions(50)
    assert reader().likelihoods(torch.rand(1, 3, 24, 24), eyes) == pytest.approx(np.ones(50))


def test_the_expected_direction_is_the_likeliest() -> None:
    toward = even_directions(DIRECTIONS)[40]
    eyes = np.stack([toward, -toward, np.roll(toward, 1)])
    found = reader(toward).likelihoods(torch.rand(1, 3, 24, 24), eyes)
    assert found[0] > 20 and (found[1:] < 0.1).all()


def test_the_mirror_image_is_read_too() -> None:
    """A reader that is not swayed by the picture expects both sides of the mirror plane alike."""
    toward = even_directions(DIRECTIONS)[40]
    other = toward * np.array([-1.0, 1.0, 1.0])
    found = reader(toward).likelihoods(torch.rand(1, 3, 24, 24), np.stack([toward, other]))
    assert found[1] == pytest.approx(found[0])


def test_the_expected_view_goes_on_among_equal_ones() -> None:
    occupied = chair()
    alpha = photo_alpha(occupied)
    views = [hypothesis(camera(), occupied), hypothesis(camera(), occupied)]
    assert ranking(views, [alpha], np.array([0.5, 2.0])) == [1, 0]
    assert ranking(views, [alpha], np.array([2.0, 0.5])) == [0, 1]
    lost = replace(views[0], camera=SolvedCamera(None, None, None, "no camera"))
    assert ranking([lost, *views], [alpha], np.array([9.0, 0.5, 2.0])) == [2, 1, 0]


def test_of_several_photos_the_views_are_read_together() -> None:
    photo = replace(whole_picture(), encoder_input=torch.rand(1, 3, 24, 24))
    behind = Camera(camera().intrinsics, look_at(np.array([-1.2, 1.5, 0.7]), np.zeros(3)), 0.0)
    networks = expecting(camera())
    right, wrong = hypothesis(camera(), chair()), hypothesis(behind, chair())
    one = read_views(networks, [right, wrong], [photo])
    assert one is not None and one[0] > 1 > one[1] > 0
    both = [replace(each, more=(right.camera,)) for each in (right, wrong)]
    two = read_views(networks, both, [photo, photo])
    assert two is not None and two[0] == pytest.approx(one[0]) and two[1] == pytest.approx(np.sqrt(one[0] * one[1]))
    lost = SolvedCamera(None, None, None, "no camera")
    half = read_views(networks, [replace(right, more=(lost,)), replace(right, camera=lost)], [photo, photo][:1])
    assert half is not None and half[0] == pytest.approx(one[0]) and half[1] == 1.0


def test_without_a_reader_nothing_is_read() -> None:
    mini = load_model()
    networks = replace(mini, networks={role: mini[role] for role in mini.networks if role != "view_reader"})
    assert read_views(networks, [hypothesis(camera(), chair())], [whole_picture()]) is None


def test_the_stage_takes_the_view_that_the_reader_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    occupied = chair()
    behind = Camera(camera().intrinsics, look_at(np.array([-1.2, 1.5, 0.7]), np.zeros(3)), 0.0)
    found = [hypothesis(behind, occupied), hypothesis(camera(), occupied)]
    logits = [np.where(occupied, 4.0, -6.0)] * 2
    monkeypatch.setattr(structure_stage, "sample_hypotheses", lambda *_: (found, logits))
    alpha = np.rint(255 * photo_alpha(occupied)).astype(np.uint8)
    whole = whole_picture()
    crop = replace(whole.crop, image=np.dstack([np.zeros((*alpha.shape, 3), np.uint8), alpha]))
    photo = replace(whole, crop=crop, encoder_input=torch.rand(1, 3, 24, 24))
    request = parse_request({})

    def chosen(networks: CupidModel) -> Camera | None:
        plain = replace(networks, settings=replace(networks.settings, fit_silhouette=False))
        return find_structure(plain, [], [photo], torch.Generator(), request, Hooks()).camera.crop

    mini = load_model()
    without = replace(mini, networks={role: mini[role] for role in mini.networks if role != "view_reader"})
    assert chosen(without) == found[1].camera.crop, "the outline decides"
    assert chosen(expecting(behind)) == found[0].camera.crop, "the reader is sure of another view"
    assert chosen(expecting(camera())) == found[1].camera.crop
