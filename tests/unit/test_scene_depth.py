"""Depth images in every form an artist may have, and masks of several objects."""

import io
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.formats.images import decode_image, encode_png
from backend.systems.cupid import scene_depth, scene_masks
from backend.systems.cupid.scene_depth import DepthMap, read_depth

SIZE = (64, 48)


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def test_npy_and_16_bit_png_agree_and_the_unknown_is_zero():
    depth = np.linspace(1.0, 2.0, 48 * 64, dtype=np.float32).reshape(48, 64)
    depth[0, :4] = [np.nan, np.inf, -1.0, 1e10]
    stream = io.BytesIO()
    Image.fromarray(np.where(np.isfinite(depth) & (depth > 0) & (depth < 10), depth * 1000, 0).astype(np.uint16)).save(
        stream, "PNG"
    )
    read, millimetres = read_depth(npy(depth), SIZE), read_depth(stream.getvalue(), SIZE)
    assert (read.depth[0, :4] == 0).all() and read.intrinsics is None and read.source == "image"
    assert np.abs(read.depth - millimetres.depth).max() < 1.1e-3
    assert read_depth(npy(depth[..., None].astype(np.float64)), SIZE).depth.shape == (48, 64)
    assert read.resized((32, 24)).shape == (24, 32)


def test_an_even_grid_keeps_slopes_and_is_small_enough():
    ramp = DepthMap(np.arange(1.0, 131.0, dtype=np.float32) + np.zeros((98, 1), np.float32), None, "image")
    even = ramp.even(32)
    assert even.shape == (24, 32) and np.ptp(np.diff(even[0])) == 0.0
    assert abs(even[0, 0] - 0.5 - 2.0) <= 0.5 and np.array_equal(ramp.even(200), ramp.depth)
    assert np.ptp(np.diff(ramp.resized((96, 72))[0])) == 1.0, "the nearest measurements are uneven"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(np.ones((48, 48), np.float32)), "another shape"),
        (npy(np.zeros((48, 64), np.float32)), "holds no depth"),
        (npy(np.ones((48, 64, 3), np.float32)), "one plane"),
        (encode_png(np.zeros((48, 64), np.uint8)), "too few depth steps"),
        (b"\x93NUMPY broken", "cannot be read"),
        (b"\x76\x2f\x31\x01 broken", "cannot be used"),
        (b"", "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_said(data, words):
    with pytest.raises(MaquetteError, match=words) as caught:
        read_depth(data, SIZE)
    assert caught.value.code == "bad_input"


def test_pickles_are_not_opened():
    stream = io.BytesIO()
    np.save(stream, np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(MaquetteError, match="cannot be read"):
        read_depth(stream.getvalue(), SIZE)


def test_moge_is_asked_only_where_it_is_and_its_camera_is_kept(monkeypatch):
    assert not scene_depth.moge_available()
    lens = np.array([[1.2, 0, 0.5], [0, 1.6, 0.5], [0, 0, 1]], np.float32)

    class MoGeModel(torch.nn.Module):  # the border: the package's own class, with the interface that its README shows
        @classmethod
        def from_pretrained(cls, path):
            if path != "weights.pt":
                raise OSError(path)
            return cls()

        def infer(self, image):
            assert image.shape == (3, 48, 64) and float(image.max()) <= 1.0
            depth = torch.full((48, 64), 2.0)
            depth[0] = torch.inf
            return {"depth": depth, "mask": depth < 10, "intrinsics": torch.from_numpy(lens)}

    package, version = types.ModuleType("moge"), types.ModuleType("moge.model.v1")
    version.MoGeModel = MoGeModel
    package.__spec__ = types.SimpleNamespace(name="moge")
    monkeypatch.setitem(sys.modules, "moge", package)
    monkeypatch.setitem(sys.modules, "moge.model", types.ModuleType("moge.model"))
    monkeypatch.setitem(sys.modules, "moge.model.v1", version)
    monkeypatch.setenv(scene_depth.MOGE_VARIABLE, "weights.pt")
    assert scene_depth.moge_available()
    answer = scene_depth.estimate_depth(np.zeros((48, 64, 3), np.uint8), torch.device("cpu"))
    assert answer.source == "moge" and (answer.depth[0] == 0).all() and (answer.depth[1:] == 2).all()
    assert np.allclose(answer.intrinsics, lens)
    monkeypatch.setenv(scene_depth.MOGE_VARIABLE, "elsewhere.pt")
    with pytest.raises(MaquetteError, match="MoGe cannot be loaded"):
        scene_depth.estimate_depth(np.zeros((48, 64, 3), np.uint8), torch.device("cpu"))


def three_things(alpha: bool) -> bytes:
    pixels = np.full((96, 128, 4), (190, 190, 200, 0 if alpha else 255), np.uint8)
    for left, color in ((90, (200, 40, 40)), (10, (40, 120, 40)), (50, (30, 50, 160))):
        pixels[30:70, left : left + 24] = (*color, 255)
    return encode_png(pixels if alpha else pixels[..., :3])


@pytest.mark.parametrize("alpha", [True, False])
def test_things_that_stand_apart_are_proposed_from_left_to_right(alpha):
    masks, proposed = scene_masks.scene_masks({}, decode_image(three_things(alpha)))
    assert proposed and len(masks) == 3
    middles = [np.nonzero(mask > 200)[1].mean() for mask in masks]
    assert np.allclose(middles, [21.5, 61.5, 101.5], atol=2)
    assert all(abs((mask > 200).sum() / (40 * 24) - 1) < 0.15 for mask in masks)
    shown = scene_masks.masks_picture(decode_image(three_things(alpha)), masks)
    assert shown.shape == (96, 128, 3) and not np.array_equal(shown[50, 20], shown[50, 60])


def test_masks_are_taken_in_the_order_of_their_numbers_and_faults_name_them():
    picture = decode_image(three_things(False))
    given = {f"mask_{number}": encode_png(np.eye(96, 128, number, dtype=np.uint8) * 255) for number in (10, 2, 0)}
    masks, proposed = scene_masks.scene_masks(given, picture)
    assert not proposed and [int(np.argmax(mask[0])) for mask in masks] == [0, 2, 10]
    with pytest.raises(MaquetteError, match="^Mask 2: "):
        scene_masks.scene_masks({"mask_0": given["mask_0"], "mask_1": encode_png(np.zeros((9, 9), np.uint8))}, picture)
    noise = encode_png(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8))
    with pytest.raises(MaquetteError, match="too busy"):
        scene_masks.scene_masks({}, decode_image(noise))
    with pytest.raises(MaquetteError, match="Nothing stands out"):
        scene_masks.scene_masks({}, decode_image(encode_png(np.full((96, 128, 3), 200, np.uint8))))


def test_only_what_touches_and_is_nearer_hides_an_object():
    masks = [np.zeros((48, 64), np.uint8) for _ in range(3)]
    masks[0][10:30, 10:30], masks[1][15:40, 30:45], masks[2][10:30, 55:60] = 255, 255, 255
    depth = np.full((48, 64), 3.0, np.float32)
    depth[masks[1] > 0] = 2.0
    known = DepthMap(depth, None, "image")
    hidden = scene_masks.occluder_of(0, masks, known)
    near = np.zeros((48, 64), bool)
    near[6:34, 6:34] = True  # a fifth of the object's side around it
    assert hidden is not None and np.array_equal(hidden, (masks[1] > 0) & near)
    assert scene_masks.occluder_of(1, masks, known) is None, "what is behind hides nothing"
    assert scene_masks.occluder_of(0, masks, None) is None, "without depth nobody knows"
    assert scene_masks.occluder_of(2, masks, known) is None, "it touches nothing"
