"""Task propose_masks: what comes back, that it needs no networks, and which parts of a picture count as objects."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.formats.images import decode_image, encode_png
from backend.systems import command, registry
from backend.systems.base import Hooks
from backend.systems.cupid import mask_proposals, model, scene_masks
from backend.systems.cupid.pipeline import CupidSystem
from tests.unit.test_scene_depth import three_things

GREEN = (120, 180, 150)


def ground(width: int = 160, height: int = 120) -> np.ndarray:
    """A plain green ground [H,W,3]."""
    return np.full((height, width, 3), GREEN, np.uint8)


def run(inputs: dict[str, bytes], **parameters) -> tuple[dict[str, bytes], dict]:
    result = CupidSystem("cpu").run(mask_proposals.TASK, inputs, parameters, Hooks())
    return {artifact.name: artifact.data for artifact in result.artifacts}, result.report


def middles(masks: list[np.ndarray]) -> list[float]:
    return [float(np.nonzero(mask > 200)[1].mean()) for mask in masks]


def test_masks_picture_and_report_come_without_loading_a_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("networks were loaded")

    monkeypatch.setattr(model, "load_model", refuse)
    files, report = run({"image": three_things(False)}, seed=3, steps=0, weights="published")
    assert list(files) == ["mask_0.png", "mask_1.png", "mask_2.png", "thumbnail.png", "report.json"]
    masks = [np.asarray(Image.open(io.BytesIO(files[f"mask_{index}.png"]))) for index in range(3)]
    assert all(mask.shape == (96, 128) and set(np.unique(mask)) == {0, 255} for mask in masks)
    assert np.allclose(middles(masks), [21.5, 61.5, 101.5], atol=2)
    assert report == json.loads(files["report.json"]) and report["source"] == "background"
    for index, item in enumerate(report["masks"]):
        assert item["box"][0] == pytest.approx((10, 50, 90)[index] / 128, abs=0.02)
        assert item["share"] == pytest.approx(40 * 24 / (96 * 128), rel=0.15)


def test_every_mask_is_coloured_and_numbered_on_the_thumbnail():
    picture = decode_image(three_things(True))
    masks = scene_masks.propose_masks(picture)
    shown, plain = mask_proposals.numbered_picture(picture, masks), scene_masks.masks_picture(picture, masks)
    for middle in (21, 61, 101):  # a digit in white with a dark edge
        digit = shown[30:70, middle - 11 : middle + 12].reshape(-1, 3)
        assert digit.min(axis=1).max() > 200 and digit.max(axis=1).min() < 60
    away = np.ones((96, 128), bool)
    away[20:80, 5:120] = False
    assert np.array_equal(shown[away], plain[away])


def test_a_shadow_neither_belongs_to_an_object_nor_joins_two():
    pixels = ground()
    pixels[60:80, 30:130] = np.array(GREEN) * 7 // 10  # one long shadow over both feet
    pixels[20:75, 40:60], pixels[20:75, 100:120] = (180, 60, 40), (40, 60, 170)
    masks = scene_masks.propose_masks(decode_image(encode_png(pixels)))
    assert len(masks) == 2 and np.allclose(middles(masks), [49.5, 109.5], atol=1.5)
    assert all((mask > 200).sum() == pytest.approx(55 * 20, rel=0.1) for mask in masks)


def test_a_grey_thing_before_grey_is_no_shadow():
    pixels = np.full((120, 160, 3), 220, np.uint8)
    pixels[30:90, 40:100] = 140
    (mask,) = scene_masks.propose_masks(decode_image(encode_png(pixels)))
    assert (mask > 200).sum() == pytest.approx(60 * 60, rel=0.1)


def test_a_corner_that_the_frame_cuts_off_is_left_out():
    pixels = ground()
    pixels[0:8, 0:30] = (180, 60, 40)
    pixels[40:80, 60:100] = (40, 60, 170)
    masks = scene_masks.propose_masks(decode_image(encode_png(pixels)))
    assert np.allclose(middles(masks), [79.5], atol=1)
    pixels[40:80, 60:100] = GREEN
    assert len(scene_masks.propose_masks(decode_image(encode_png(pixels)))) == 1, "better than nothing"


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "choose an image"),
        ({"image": three_things(True), "mask": b""}, "choose an image"),
        ({"image": encode_png(np.full((96, 128, 3), 200, np.uint8))}, "Nothing stands out"),
    ],
)
def test_what_cannot_be_done_is_told(inputs, words):
    with pytest.raises(MaquetteError, match=words) as caught:
        run(inputs)
    assert caught.value.code == "bad_input"


def test_the_command_writes_the_masks(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "get_system", lambda name: CupidSystem("cpu"))
    (tmp_path / "photo.png").write_bytes(three_things(True))
    arguments = ["--task", "propose_masks", "--image", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")]
    assert command.main(arguments) == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["mask_0.png", "mask_1.png", "mask_2.png", "report.json", "thumbnail.png"]
