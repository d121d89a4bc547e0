"""RefAny3D's training scenes: what they are made of, what is said of them, where things stand, how they are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.contract import frames
from backend.data import prepare, reference_layout, reference_scenes, reference_words, shards
from backend.data.reference_words import SceneWords

CUBE = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])


@pytest.mark.parametrize(
    ("words", "neighbours", "said"),
    [
        (SceneWords("wet cobblestones", "night", "clear", "open", 0), [], "a barrel on wet cobblestones at night"),
        (SceneWords("grass", "day", "overcast", "brick wall", 1), ["a chair"],
         "a barrel beside a chair on grass in daylight under a grey sky by a brick wall"),
        (SceneWords("sand", "dusk", "fog", "open", 2), ["a", "b"],
         "a barrel among other things on sand at dusk in fog"),
        (SceneWords("tiles", "studio", "clear", "open", 1), ["a long wooden bench"],
         "a barrel among other things on tiles in a studio"),
    ],
)  # fmt: skip
def test_captions_say_what_is_shown(words: SceneWords, neighbours: list[str], said: str) -> None:
    assert reference_words.caption("a barrel", words, neighbours) == said


def test_every_word_is_drawn_and_a_studio_has_no_weather() -> None:
    drawn = [reference_words.draw_words(np.random.default_rng([5, seed])) for seed in range(600)]
    for name, known in (
        ("ground", reference_words.GROUNDS), ("light", reference_words.LIGHTS), ("weather", reference_words.WEATHERS),
        ("background", reference_words.BACKGROUNDS), ("neighbours", (0, 1, 2, 3)),
    ):  # fmt: skip
        assert {getattr(words, name) for words in drawn} == set(known)
    assert {(words.weather, words.background) for words in drawn if words.light == "studio"} == {("clear", "open")}
    assert {words.background for words in drawn if words.weather == "fog"} == {"open"}
    assert all(SceneWords.of_numbers(words.numbers()) == words for words in drawn)


@pytest.mark.parametrize("seed", range(12))
def test_the_object_is_in_the_picture_and_neighbours_stand_apart(seed: int) -> None:
    rng = np.random.default_rng(seed)
    item = CUBE * rng.uniform([0.2, 0.2, 1.0], [1.0, 1.0, 1.0])
    plan = reference_layout.plan(item, [CUBE, CUBE * (1, 0.3, 0.4)], rng, wall=bool(seed % 2))
    standing = item + plan.object_to_world[:3, 3]
    assert standing[:, 2].min() == pytest.approx(0)
    uv, depth = frames.project(standing, plan.camera.world_to_camera, plan.camera.intrinsics)
    assert (uv > 0).all() and (uv < 1).all() and (depth > 0).all()
    longer = (uv.max(axis=0) - uv.min(axis=0)).max()
    assert reference_layout.SHARE[0] - 0.12 < longer < reference_layout.SHARE[1] + 0.12
    eye = np.linalg.inv(plan.camera.world_to_camera)[:3, 3]
    assert eye[2] >= reference_layout.LOWEST_EYE - 1e-9 and (-eye[:2]) @ plan.away > 0, "it looks along `away`"
    spots = [(np.zeros(2), np.linalg.norm(item[:, :2], axis=1).max())]
    for shape, matrix in zip((CUBE, CUBE * (1, 0.3, 0.4)), plan.neighbours, strict=True):
        if matrix is None:
            continue
        assert (shape @ matrix[:3, :3].T + matrix[:3, 3])[:, 2].min() == pytest.approx(0)
        reach = np.cbrt(np.linalg.det(matrix[:3, :3])) * np.linalg.norm(shape[:, :2], axis=1).max()
        assert all(np.linalg.norm(matrix[:2, 3] - place) > reach + radius for place, radius in spots)
        spots.append((matrix[:2, 3], reach))


def two_scenes(seed: int = 0) -> dict[str, np.ndarray]:
    """What Blender's program writes of one object, random pictures of 16 pixels."""
    rng = np.random.default_rng(seed)
    whole = np.zeros((2, 16, 16), dtype=bool)
    whole[:, 4:12, 4:12] = True
    visible = whole.copy()
    visible[1, 4:6] = False
    points = np.where(whole[..., None], rng.integers(0, 256, (2, 16, 16, 3)), 255).astype(np.uint8)
    words = [SceneWords("snow", "dusk", "clear", "open", 0), SceneWords("sand", "day", "clear", "plaster wall", 1)]
    return {
        "color": rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8), "points": points, "whole": whole,
        "visible": visible, "words": np.stack([each.numbers() for each in words]),
        "neighbours": np.array([[-1, -1, -1], [1, -1, -1]], dtype=np.int16),
        "world_to_camera": np.tile(np.eye(4, dtype=np.float32), (2, 1, 1)),
        "intrinsics": np.tile(np.eye(3, dtype=np.float32), (2, 1, 1)),
    }  # fmt: skip


def test_shards_give_scenes_back(tmp_path: Path) -> None:
    row = prepare.AssetRow("things/barrel", Path("barrel.glb"), "train", "a barrel")
    arrays = two_scenes()
    made = reference_scenes.read_scenes(row, arrays, ["a barrel", "a chair"])
    reference_scenes.write_scenes(made, tmp_path, "train", "train-00000")
    reference_scenes.write_scenes(made[:1], tmp_path, "train", "train-00001")
    shards.write_index(tmp_path)
    dataset = reference_scenes.SceneDataset(tmp_path, "train")
    assert len(dataset) == 3 and dataset.size == 16 and set(dataset.ids) == {"things/barrel"}
    said = ["a barrel on snow at dusk", "a barrel beside a chair on sand in daylight by a plaster wall"]
    assert dataset.captions == [*said, said[0]]
    order = [0, 1, 0]
    assert (dataset.pictures == arrays["color"][order]).all()
    assert (dataset.points == arrays["points"][order]).all()
    assert (dataset.whole == arrays["whole"][order]).all() and (dataset.visible == arrays["visible"][order]).all()
    assert [words.ground for words in dataset.words] == ["snow", "sand", "snow"]
    assert dataset.world_to_camera.shape == (3, 4, 4) and dataset.intrinsics.shape == (3, 3, 3)


def test_a_folder_without_scenes_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="backend.data.reference_scenes"):
        reference_scenes.SceneDataset(tmp_path, "val")
