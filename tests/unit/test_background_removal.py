"""The optional removal of backgrounds: used where the plain cut-out is unsure and everything is installed, else not."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.formats.images import decode_image
from backend.systems.cutout import background_removal
from backend.systems.cutout.masking import find_object

FAKES = Path(__file__).resolve().parents[1] / "fakes" / "rembg_package"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nobody's own U2-Net is found; returns where the catalogue would put it."""
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "nothing"))
    background_removal._session.cache_clear()
    yield tmp_path / "models" / "u2net"
    sys.modules.pop("rembg", None)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FAKES))


@pytest.fixture
def weights(folders: Path) -> Path:
    folders.mkdir(parents=True)
    (folders / "u2net.onnx").write_bytes(b"weights")
    return folders


def picture(busy: bool, red: bool = True, width: int = 1600, height: int = 1200) -> bytes:
    """A red square before a calm or a busy background."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, (24, 32, 3)) if busy else np.full((24, 32, 3), 90)
    coarse[..., 0] = np.minimum(coarse[..., 0], coarse[..., 1:].min(-1))  # nothing red but the object
    pixels = np.array(Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST))
    if red:
        pixels[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = (250, 20, 20)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_busy_picture_is_cut_out_by_the_network(package: None, weights: Path) -> None:
    shown = decode_image(picture(busy=True))
    cutout = find_object(shown)
    assert cutout.source == "cut_out" and "U2-Net" in cutout.message
    height, width = shown.rgba.shape[:2]
    assert cutout.alpha.shape == (height, width) and cutout.alpha.dtype == np.uint8
    assert abs(float((cutout.alpha > 127).mean()) - 1 / 9) < 0.01
    tool = sys.modules["rembg"]
    assert max(tool.SIZES[-1]) == background_removal.LONGEST_SIDE and tool.SESSIONS == [str(weights / "u2net.onnx")]
    find_object(shown)
    assert len(tool.SESSIONS) == 1, "the network is read once"


def test_a_plain_background_needs_no_network(package: None, weights: Path) -> None:
    assert "U2-Net" not in find_object(decode_image(picture(busy=False))).message
    assert "rembg" not in sys.modules


def test_without_the_tool_the_sentence_says_what_helps(folders: Path) -> None:
    assert not background_removal.available()
    with pytest.raises(MaquetteError, match="give a mask") as caught:
        find_object(decode_image(picture(busy=True, red=False)))
    assert caught.value.failure.next_step == "give_mask" and "U2-Net" not in str(caught.value)


def test_with_the_package_alone_the_weights_are_named(package: None) -> None:
    assert background_removal.package_there() and not background_removal.available()
    with pytest.raises(MaquetteError, match="install U2-Net under Models"):
        find_object(decode_image(picture(busy=True, red=False)))


def test_a_tool_that_fails_asks_for_a_mask(package: None, weights: Path) -> None:
    with pytest.raises(MaquetteError, match="U2-Net could not.*mask") as caught:
        find_object(decode_image(picture(busy=True, red=False)))
    assert caught.value.failure.next_step == "give_mask" and "nothing red" in caught.value.failure.detail
