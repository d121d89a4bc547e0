"""Objects from sentences: what is sent, where the results stand, the list, the pictures from four sides, and back."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import pytest

from .conftest import make_undo_steps, module, pump_until


@pytest.fixture
def settings(blender):
    """The Create panel, set to text and to the fake engine."""
    module("properties").set_engines([("cube", "Cube", "")])
    create = bpy.context.scene.maquette_create
    create.source, create.text_engine, create.steps = "TEXT", "cube", 2
    return create


def jobs() -> list:
    return module("runtime.session").get().store.all()


def press(prompt: str, wait: bool = True) -> str:
    bpy.context.scene.maquette_create.prompt = prompt
    assert bpy.ops.maquette.generate() == {"FINISHED"}
    job_id = jobs()[0].job_id
    if wait:
        wait_for(job_id)
    return job_id


def wait_for(*job_ids: str) -> None:
    store = module("runtime.session").get().store
    pump_until(lambda: all(store.get(job).applied or store.get(job).failure for job in job_ids))
    assert all(store.get(job).applied for job in job_ids), [store.get(job).failure for job in job_ids]


def made() -> list[bpy.types.Object]:
    return sorted((item for item in bpy.context.scene.objects if "maquette" in item), key=lambda item: item.location.x)


def test_an_untouched_menu_names_the_built_in_engine(blender):
    module("properties").set_engines([])
    create = bpy.context.scene.maquette_create
    assert (create.source, create.engine, create.text_engine) == ("PHOTO", "cupid", "kiss3dgen")
    assert (bpy.context.scene.maquette_match.engine, bpy.context.scene.maquette_compose.engine) == ("cupid", "cupid")
    assert bpy.context.scene.maquette_refine.engine == "kiss3dgen"
    create.engine = "kiss3dgen"  # takes photos too
    with pytest.raises(TypeError):
        bpy.context.scene.maquette_match.engine = "kiss3dgen"  # but knows no cameras


def test_engines_are_offered_for_what_they_can_do(blender):
    engines = module("engines")
    engines.set_engines([("other", "Other", "")], {"other": ["text_to_3d"]})
    offered = {task: [item[0] for item in engines.engines_for(task)] for task in engines.BUILT_IN}
    assert offered[engines.TEXT] == ["kiss3dgen", "other"] and offered[engines.PHOTO] == ["cupid", "kiss3dgen"]
    assert all(len({item[3] for item in engines.engines_for(task)}) == len(names) for task, names in offered.items())
    engines.set_engines([])


def test_a_sentence_becomes_an_object(settings):
    make_undo_steps()
    camera = bpy.context.scene.camera.matrix_world.copy()
    settings.seed, settings.size, settings.triangles, settings.pivot = 7, 2.0, 500, "base"
    settings.splats, settings.variants = True, 3  # of photos
    bpy.context.scene.cursor.location = (1.0, 2.0, 0.5)
    record = module("runtime.session").get().store.get(press("  an old\twooden barrel.  "))
    assert (record.task, record.system, record.title) == ("text_to_3d", "cube", "an old wooden barrel")
    assert record.parameters == {
        "prompt": "an old wooden barrel.", "seed": 7, "steps": 2, "weights": "mini", "triangles": 500, "pivot": "base",
    }  # fmt: skip
    assert record.image_path == "" and record.more_inputs == {} and record.report["inputs"] == []
    (item,) = made()
    assert item.name == "an old wooden barrel" and max(item.dimensions) == pytest.approx(2.0, abs=1e-5)
    assert tuple(item.location) == pytest.approx((1.0, 2.0, 0.5), abs=1e-5)
    assert bpy.context.scene.camera.matrix_world == camera
    bpy.ops.ed.undo()
    assert made() == []


def test_its_four_sides_are_shown_and_kept(settings):
    current = module("runtime.session").get()
    settings.seed, settings.steps = 99, 60
    running = press("a slow box", wait=False)
    pump_until(lambda: len(current.thumbnails.halves(running, "preview.png")) == 2)
    assert current.store.get(running).state == "running"
    current.cancel(running)
    settings.seed, settings.steps = 1, 2
    job_id = press("a box")
    folder = current.store.folder(job_id)
    assert len(current.thumbnails.halves(job_id, "bundle.png")) == 2 and (folder / "bundle.png").is_file()
    left, right = (pixels(folder / f"bundle_{side}.png") for side in ("left", "right"))
    assert left.shape == right.shape == (32, 32, 4)
    assert np.allclose(left[..., :3], (1, 0, 1)) and np.allclose(right[..., :3], (0, 1, 1))
    assert bpy.ops.maquette.show_sides(job_id=job_id) == {"FINISHED"} and current.unfolded == {job_id}
    assert bpy.ops.maquette.show_sides(job_id=job_id) == {"FINISHED"} and current.unfolded == set()


def pixels(path: Path) -> np.ndarray:
    image = bpy.data.images.load(str(path))
    image.colorspace_settings.name = "Non-Color"
    values = np.array(image.pixels[:]).reshape(image.size[1], image.size[0], 4)
    bpy.data.images.remove(image)
    return values


def test_square_pictures_are_not_split(tmp_path, picture):
    assert module("runtime.wide_pictures").write_halves(picture) is False
    assert list(tmp_path.iterdir()) == [picture]


@pytest.mark.parametrize("kind", ["datablock", "file"])
def test_every_line_of_a_list_becomes_an_object_in_a_row(settings, tmp_path, kind):
    make_undo_steps()
    lines = "a red chair\n\n   \n a blue chair \r\na green chair\n"
    if kind == "datablock":
        settings.sentences = bpy.data.texts.new("Chairs")
        settings.sentences.write(lines)
    else:
        settings.sentence_file = str(tmp_path / "chairs.txt")
        Path(settings.sentence_file).write_bytes(b"\xef\xbb\xbf" + lines.encode())
    settings.size, settings.placement = 0.5, "GROUND"
    bpy.context.scene.cursor.location = (1.0, -1.0, 3.0)
    assert bpy.ops.maquette.generate_all() == {"FINISHED"}
    records = sorted(jobs(), key=lambda record: record.created)
    assert [record.parameters["prompt"] for record in records] == ["a red chair", "a blue chair", "a green chair"]
    wait_for(*(record.job_id for record in records))
    row = made()
    assert [item.name for item in row] == ["a red chair", "a blue chair", "a green chair"]
    assert [item.location.x for item in row] == pytest.approx([1.0, 1.7, 2.4], abs=1e-5)
    low = [min((item.matrix_world @ vertex.co).z for vertex in item.data.vertices) for item in row]
    assert low == pytest.approx([0.0] * 3, abs=1e-5) and len({round(item.location.y, 5) for item in row}) == 1
    for left in (2, 1, 0):  # one undo step each
        bpy.ops.ed.undo()
        assert len(made()) == left


def test_a_list_can_be_cancelled_as_a_whole(settings):
    settings.sentences = bpy.data.texts.new("Chairs")
    settings.sentences.write("a chair\nanother chair\na third chair\n")
    settings.seed, settings.steps = 99, 60
    assert bpy.ops.maquette.generate_all() == {"FINISHED"}
    pump_until(lambda: any(record.state == "running" for record in jobs()))
    shown = module("panels.jobs").in_order(jobs())
    assert [record.title for record in shown] == ["a chair", "a third chair", "another chair"]  # at work, newest, older
    assert bpy.ops.maquette.cancel_all() == {"FINISHED"}
    pump_until(lambda: not any(record.active for record in jobs()))
    assert [record.state for record in jobs()] == ["cancelled"] * 3 and made() == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "There is no list"),
        ("missing", "was not found"),
        (b"\n  \n", "has no sentences"),
        (b"\xff\xfe\x00\x9f", "cannot be read as text"),
        (b"chair\n" * 201, "200 can be made at once"),
        (b"chair\n" + b"very " * 300 + b"long", "Sentence 2"),
    ],
)
def test_a_wrong_list_is_told_at_once(settings, tmp_path, content, sentence):
    if content is not None:
        settings.sentence_file = str(tmp_path / "list.txt")
    if isinstance(content, bytes):
        Path(settings.sentence_file).write_bytes(content)
    with pytest.raises(RuntimeError, match=sentence):
        bpy.ops.maquette.generate_all()
    assert jobs() == []


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
def test_no_text_is_told_at_once(settings, prompt):
    settings.prompt = prompt
    with pytest.raises(RuntimeError, match="There is no text"):
        bpy.ops.maquette.generate()
    assert jobs() == []


@pytest.mark.parametrize(
    ("prompt", "title"),
    [
        ("a wooden chair.", "a wooden chair"),
        ("...", "..."),
        ("a very large castle with seven towers and a moat around it", "a very large castle with seven towers"),
        ("x" * 90, "x" * 40),
        ("ein Stuhl für Zwölf", "ein Stuhl für Zwölf"),
    ],
)
def test_a_job_has_a_short_name(blender, prompt, title):
    assert module("operators.text").title_of(prompt) == title


def test_a_sentence_can_be_restored_and_sent_again(settings):
    job_id = press("a box")
    settings.source, settings.prompt, settings.seed, settings.image = "PHOTO", "", 5, "photo.png"
    bpy.context.view_layer.objects.active = made()[0]
    assert bpy.ops.maquette.restore_inputs() == {"FINISHED"}
    assert (settings.source, settings.prompt, settings.seed) == ("TEXT", "a box", 0)
    assert settings.image == "photo.png"  # of the other source
    assert bpy.ops.maquette.retry_job(job_id=job_id) == {"FINISHED"}
    wait_for(jobs()[0].job_id)
    assert jobs()[0].parameters == jobs()[1].parameters and len(made()) == 2


def test_a_photo_may_go_by_way_of_four_sides(settings, picture, monkeypatch):
    requesting = module("operators.requesting")
    sent = []
    monkeypatch.setattr(requesting, "submit_record", lambda record: sent.append(record) or record)
    settings.source, settings.engine, settings.image, settings.mask = "PHOTO", "kiss3dgen", str(picture), str(picture)
    settings.splats, settings.variants, settings.steps, settings.seed = True, 3, 9, 4
    requesting.create_job(bpy.context.scene)
    (record,) = sent
    assert (record.system, record.task, record.mask_path) == ("kiss3dgen", "image_to_3d", str(picture))
    assert record.parameters == {"seed": 4, "steps": 9, "weights": "mini"} and record.origin["move"] == "NONE"
    contract_error = module("operators.common").MaquetteError
    settings.photos.add().image = str(picture)
    with pytest.raises(contract_error, match="takes one photo"):
        requesting.create_job(bpy.context.scene)
    settings.photos.clear()
    settings.occluder = str(picture)
    with pytest.raises(contract_error, match="nothing hides"):
        requesting.create_job(bpy.context.scene)


def test_a_dropped_picture_is_a_photo(settings, picture):
    settings.engine = "cube"
    assert bpy.ops.maquette.drop_picture(filepath=str(picture)) == {"FINISHED"}
    assert settings.source == "PHOTO" and jobs()[0].task == "image_to_3d"
    wait_for(jobs()[0].job_id)
