"""A list of sentences or photos becomes a folder each; what fails does not stop the rest, what is there stays."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from backend import __main__
from backend.contract.errors import MaquetteError
from backend.systems import batch_command, registry


@pytest.fixture(autouse=True)
def cube(monkeypatch):
    """A system without networks that takes sentences and photos."""
    monkeypatch.setenv(registry.EXTRA_VARIABLE, "tests.fakes.cube_system:CubeSystem")


def batch(*arguments: object) -> int:
    return __main__.main(["batch", *map(str, arguments), "--system", "cube", "--steps", "1"])


def test_every_line_gets_a_folder_in_the_lists_order(tmp_path: Path):
    listing, out = tmp_path / "list.txt", tmp_path / "out"
    listing.write_bytes("\ufeffA red chair!\n\n  an  old\tbarrel \r\nein Stuhl für Zwölf\n...\n".encode())
    assert batch("--text", listing, "--out", out, "--seed", 3) == 0
    folders = sorted(path.name for path in out.iterdir())
    assert folders == ["001_a_red_chair", "002_an_old_barrel", "003_ein_stuhl_für_zwölf", "004"]
    for folder in folders:
        assert Image.open(out / folder / "bundle.png").size == (64, 32)
        assert json.loads((out / folder / "report.json").read_text())["seed"] == 3


def test_a_batch_is_taken_up_again(tmp_path: Path):
    listing, out = tmp_path / "list.txt", tmp_path / "out"
    listing.write_text("a chair\n")
    assert batch("--text", listing, "--out", out, "--seed", 3) == 0
    listing.write_text("a chair\na table\n")
    assert batch("--text", listing, "--out", out, "--seed", 4) == 0
    seeds = [json.loads(path.read_text())["seed"] for path in sorted(out.glob("*/report.json"))]
    assert seeds == [3, 4]


def test_a_photo_that_cannot_be_read_does_not_stop_the_rest(tmp_path: Path):
    good, broken, gone = tmp_path / "mug.png", tmp_path / "broken.png", tmp_path / "gone.png"
    stream = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 60, 30)).save(stream, "PNG")
    good.write_bytes(stream.getvalue())
    broken.write_bytes(b"this is no picture")
    out = tmp_path / "out"
    assert batch("--image", broken, gone, good, "--out", out) == 1
    assert [path.name for path in out.iterdir()] == ["003_mug"]
    assert (out / "003_mug" / "overlay.png").is_file()


@pytest.mark.parametrize("content", [None, b"", b" \n\n", b"\xff\xfe\x00\x9f"])
def test_a_list_without_sentences_is_told(tmp_path: Path, content: bytes | None):
    listing = tmp_path / "list.txt"
    if content is not None:
        listing.write_bytes(content)
    with pytest.raises(MaquetteError, match="list.txt"):
        batch_command.sentence_items(listing)
    assert batch("--text", listing, "--out", tmp_path / "out") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["--text", "list.txt", "--image", "mug.png"]])
def test_either_text_or_photos(tmp_path: Path, arguments: list[str]):
    with pytest.raises(SystemExit):
        batch(*arguments, "--out", tmp_path)
