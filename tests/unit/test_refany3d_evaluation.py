"""The evaluation of painted pictures: what is asked, who judges, the whole command with tiny networks, its sheet."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
)

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData
from backend.data import prepare, reference_scenes
from backend.data.reference_words import GROUNDS, LIGHTS, SceneWords, draw_words
from backend.data.shards import write_index
from backend.evaluation import cupid, refany3d
from backend.evaluation import refany3d_backbones as backbones
from backend.evaluation import refany3d_cases as cases
from backend.evaluation import refany3d_judge as judges
from backend.evaluation.refany3d_sheet import Shown, caption, picture_sheet
from backend.formats.glb import mesh_to_glb
from backend.systems.refany3d.condition_views import azimuths, draw_conditions
from backend.systems.refany3d.pipeline import RefAny3DSystem
from backend.systems.refany3d.point_maps import foreground, from_bytes
from tests.fakes.tiny_refany3d import SIZE, write_tiny_config
from tests.unit.test_refany3d_points import BOX_FACES, CORNERS

torch.set_num_threads(1)
COLORS = np.uint8([[20, 40, 60, 255], [230, 40, 40, 255], [40, 200, 60, 255], [60, 80, 220, 255]] * 2)
FAMILIES = ("stone", "bottle", "pillar")


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three boxes of different shapes as GLB files, one of them for training."""
    folder = tmp_path_factory.mktemp("assets")
    lines = ["id,path,split,caption"]
    for number, name in enumerate(FAMILIES):
        corners = (CORNERS * [1.0, 0.7 + 0.3 * number, 0.5 + number]).astype(np.float32)
        mesh = MeshData(corners, BOX_FACES.astype(np.int32), colors=COLORS)
        (folder / f"{name}.glb").write_bytes(mesh_to_glb(mesh))
        lines.append(f"{name},{name}.glb,{'train' if number == 2 else 'val'},a {name}")
    (folder / "objects.csv").write_text("\n".join(lines) + "\n")
    return folder


def told_scene(name: str, rng: np.random.Generator) -> reference_scenes.Scene:
    """A flat scene whose colours tell ground and light plainly: what any classifier can learn."""
    words = dataclasses.replace(draw_words(rng), neighbours=0)
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[SIZE // 2 :, :, 0] = 30 * GROUNDS.index(words.ground) + 20
    picture[:, :, 1] = 60 * LIGHTS.index(words.light) + 20
    picture = (picture + rng.integers(0, 6, picture.shape)).clip(0, 255).astype(np.uint8)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[10:20, 8:24] = True
    points = np.where(mask[..., None], rng.integers(0, 200, picture.shape), 255).astype(np.uint8)
    lens = np.float32([[1.5, 0, 0.5], [0, 1.5, 0.5], [0, 0, 1]])
    return reference_scenes.Scene(
        name, "a thing", words, picture, points, mask, mask, np.eye(4, dtype=np.float32), lens
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    for split, names in (("train", ["pillar"] * 96), ("val", ["stone", "bottle"] * 16)):
        reference_scenes.write_scenes([told_scene(name, rng) for name in names], folder, split, f"{split}-00000")
    write_index(folder)
    return folder


def test_the_same_is_asked_of_all_weights(assets: Path) -> None:
    found = cases.choose_cases(assets, "val", None, 2, 0)
    assert [case.row.id for case in found[:2]] == [case.row.id for case in found[2:]]
    assert sorted(case.row.id for case in found[:2]) == ["bottle", "stone"]
    assert found == cases.choose_cases(assets, "val", None, 2, 0)
    assert len({(case.prompt, case.seed) for case in found}) == 4
    for case in found:
        assert case.words.neighbours == 0 and case.prompt.startswith(f"a {case.row.id} on {case.words.ground}")
    other = cases.choose_cases(assets, "val", None, 2, 5)
    assert {case.prompt for case in other} != {case.prompt for case in found}
    assert len(cases.choose_cases(assets, "val", 1, 2, 0)) == 2
    with pytest.raises(FileNotFoundError, match="split 'test'"):
        cases.choose_cases(assets, "test", None, 2, 0)


def test_the_judge_learns_what_can_be_seen_and_says_how_well(scenes: Path) -> None:
    judge = judges.train_judge(scenes, epochs=20)
    assert judge.accuracy["ground"] > judge.chance["ground"] + 0.3
    assert judge.accuracy["light"] > judge.chance["light"] + 0.2
    data = reference_scenes.SceneDataset(scenes, "val")
    verdicts = judge.verdicts([from_bytes(picture) for picture in data.pictures])
    assert judges.agreement(verdicts, data.words) == pytest.approx(judge.accuracy)  # bytes or not
    swapped = data.pictures[::-1]
    assert judges.agreement(judge.verdicts(swapped), data.words)["ground"] < judge.accuracy["ground"] - 0.3
    assert judge.verdicts([]) == []


def test_agreement_counts_each_part_and_all() -> None:
    first, second = SceneWords("grass", "day", "clear", "open", 0), SceneWords("grass", "night", "clear", "open", 0)
    assert judges.agreement([first, first], [first, second]) == {
        "ground": 1.0, "light": 0.5, "weather": 1.0, "background": 1.0, "all": 0.5,
    }  # fmt: skip


def test_the_spread_of_viewpoints() -> None:
    assert cases.mean_angle(np.eye(3)) == pytest.approx(90.0)
    assert cases.mean_angle(np.eye(3)[:1]) is None
    assert cases.mean_angle(np.tile([0.0, 1.0, 0.0], (4, 1))) == pytest.approx(0.0, abs=1e-4)
    assert 70.0 < refany3d.spread_of_scenes() < 95.0


def evaluate(tmp_path: Path, assets: Path, *more: str, **settings: Any) -> tuple[dict[str, Any], Path]:
    """The report of a run with random tiny networks, and the sheet's path."""
    config = write_tiny_config(tmp_path / "tiny.json", steps=2, **settings)
    out, sheet = tmp_path / "report.json", tmp_path / "sheet.png"
    given = ["refany3d", "--assets", str(assets), "--weights", "random", "--config", config, "--out", str(out),
             "--sheet", str(sheet), *more]  # fmt: skip
    assert cupid.main(given) == 0
    return json.loads(out.read_text()), sheet


def test_the_whole_command(tmp_path: Path, assets: Path, scenes: Path) -> None:
    report, sheet = evaluate(
        tmp_path, assets, "--scenes", str(scenes), "--spread", "1", "--seeds", "2", "--ablation", "one_lora=random",
        "--ablation-limit", "1",
    )  # fmt: skip
    summary = report["summary"]
    wanted = {"pointmap_error", "silhouette_iou", "masked_psnr", "masked_ssim", "inside_psnr", "matches",
              "matches_views", "camera_solved", "camera_found", "seconds_median", "random_pose", "true_scenes",
              "adherence", "classifier_accuracy", "chance_commonest",
              "viewpoint_spread_deg_of_scenes", "ablations"}  # fmt: skip
    assert wanted <= set(summary) and summary["processor_seconds_median"] > 0
    assert summary["count"] == 4 == len(report["objects"])
    assert set(summary["ablations"]) == {"one_lora", "complete"} and report["ablations"] == summary["ablations"]
    assert summary["ablations"]["complete"]["count"] == 1 == summary["ablations"]["one_lora"]["count"]
    same = ("pointmap_error", "masked_psnr")  # the same weights, sentences and seeds
    assert all(summary["ablations"]["one_lora"][name] == summary["ablations"]["complete"][name] for name in same)
    assert summary["pointmap_error"] > 0.05 and summary["random_pose"]["pointmap_error"] > 0.05  # noise is no point map
    assert summary["true_scenes"]["count"] == 2 and 0 <= summary["adherence"]["light"] <= 1
    assert all("missing" in note for note in report["notes"]) and len(report["notes"]) == 3
    assert Image.open(sheet).width > 4 * 128 * 3


def test_weights_without_point_maps_have_what_needs_no_camera(tmp_path: Path, assets: Path) -> None:
    report, sheet = evaluate(tmp_path, assets, "--limit", "1", "--prompts", "1", points=False)
    summary = report["summary"]
    assert summary["camera_found"] == 0 and summary["pointmap_error"] == 1.0 and summary["masked_psnr"] == 0.0
    assert "random_pose" not in summary and "viewpoint_spread_deg" not in summary and "adherence" not in summary
    assert summary["matches_views"] >= 0 and refany3d.NO_JUDGE in report["notes"]
    assert caption(report["objects"][0]).endswith("no camera") and Image.open(sheet).width > 4 * 128


def test_a_true_picture_is_measured_as_true(assets: Path, tmp_path: Path) -> None:
    """A painter that hands over one of the views, which are true pictures with true point maps."""
    system = RefAny3DSystem("cpu")
    painter = cases.Painter(system, "random", write_tiny_config(tmp_path / "tiny.json", size=128))
    (row,) = [row for row in prepare.read_assets(assets) if row.id == "bottle"]
    subject, drawn = painter.object(row)
    fine = draw_conditions(subject.parts, 128, azimuths(8), elevation=20.0)
    picture, points = (from_bytes(strip[1]) for strip in (fine.views, fine.points))
    camera = refany3d.solve_picture(points, subject.bounds)
    entry, composed = refany3d.measure(cases.Picture(picture, points, camera, 1.0, 1.0), subject, drawn, 3)
    assert entry["camera_solved"] and entry["pointmap_error"] < 0.01 and entry["silhouette_iou"] > 0.97
    assert entry["masked_psnr"] > 20 and entry["inside_psnr"] > 25
    posed = entry["random_pose"]
    assert posed["pointmap_error"] > 10 * entry["pointmap_error"] and posed["masked_psnr"] < entry["masked_psnr"] - 5
    np.testing.assert_allclose(composed[~foreground(points)], picture[~foreground(points)], atol=0.2)
    eye = cases.viewpoints([cases.Picture(picture, points, camera, 1.0, 1.0)], subject)[0]
    a, e = math.radians(azimuths(8)[1]), math.radians(20.0)
    np.testing.assert_allclose(eye, [math.cos(e) * math.cos(a), -math.cos(e) * math.sin(a), math.sin(e)], atol=0.03)


def test_published_columns_where_weights_are_named(tmp_path: Path, assets: Path) -> None:
    clip, dino = tmp_path / "clip", tmp_path / "dino"
    words = ["<s>", "</s>", "<unk>", *"a stone bottle on grass sand in at day".split()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>",
        model_max_length=16,
    ).save_pretrained(clip)  # fmt: skip
    part = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(
        text_config={**part, "vocab_size": len(words), "max_position_embeddings": 32, "eos_token_id": 1},
        vision_config={**part, "image_size": 32, "patch_size": 8}, projection_dim=8,
    )).save_pretrained(clip)  # fmt: skip
    side = {"shortest_edge": 32}
    CLIPImageProcessor(size=side, crop_size=32).save_pretrained(clip)
    Dinov2Model(Dinov2Config(**part, image_size=28, patch_size=14)).save_pretrained(dino)
    BitImageProcessor(size=side, crop_size=28).save_pretrained(dino)
    report, _ = evaluate(tmp_path, assets, "--limit", "1", "--prompts", "1", "--clip", str(clip), "--dino", str(dino))
    summary = report["summary"]
    assert set(backbones.COLUMNS) <= set(summary) and report["backbones"] == {"clip": "clip", "dino": "dino"}
    assert summary["clip_i_max"] >= summary["clip_i_avg"] and -1 <= summary["clip_t"] <= 1
    (network,) = backbones.read_backbones(None, dino)
    views = np.random.default_rng(0).integers(0, 200, (4, 32, 32, 3)).astype(np.uint8)
    found = backbones.score(network, from_bytes(views[2]), from_bytes(views[2]), views, views, "")
    assert found["dino_max"] == pytest.approx(1.0, abs=1e-5)  # one of the views itself
    with pytest.raises(MaquetteError, match="no DINO that can be read"):
        backbones.read_backbones(None, tmp_path / "nothing")


def test_the_sheet_shows_each_result_and_says_what_is_wrong() -> None:
    views = np.zeros((8, 16, 16, 3), np.uint8)
    views[2], views[6] = (255, 0, 0), (0, 0, 255)
    red, green = np.tile([1.0, 0, 0], (16, 16, 1)), np.tile([0, 1.0, 0], (16, 16, 1))
    entry = {"prompt": "a box " + "on sand " * 20, "camera_found": True, "camera_solved": False,
             "pointmap_error": 0.123, "silhouette_iou": 0.9, "masked_psnr": 17.6}  # fmt: skip
    sheet = np.asarray(picture_sheet([Shown(views, red, green, None)], [entry], "title"))
    for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255)):
        assert (sheet == color).all(axis=-1).sum() > 3000
    assert caption(entry).endswith("0.12 \u00b7 IoU 0.90 \u00b7 18 dB \u00b7 camera not trusted")
    assert "\u2026" in caption(entry)
    with pytest.raises(MaquetteError, match="no picture"):
        picture_sheet([], [], "title")


@pytest.mark.parametrize("text", ["folder", "=folder", "name="])
def test_an_ablation_needs_name_and_folder(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        refany3d.main(["--assets", "x", "--out", "y", "--ablation", text])
    assert "NAME=FOLDER" in capsys.readouterr().err
