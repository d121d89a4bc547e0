"""What a job is made from: every input reaches the backend, is kept, survives the loss of the original and a retry."""

from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from .conftest import contract, module, pump_until
from .test_keeping import JOB, open_store, record


def test_a_job_list_without_further_inputs_is_read(addon_enabled, tmp_path):
    store = open_store(tmp_path)
    store.put(record())
    path = tmp_path / JOB / "job.json"
    data = json.loads(path.read_text())
    del data["more_inputs"]  # as an earlier release wrote it
    path.write_text(json.dumps(data))
    assert open_store(tmp_path).get(JOB).more_inputs == {}
    store.put(record(more_inputs={"occluder": "/nowhere/hand.png"}))
    assert open_store(tmp_path).get(JOB).more_inputs == {"occluder": "/nowhere/hand.png"}


def test_a_lost_input_is_named_in_the_artists_words(addon_enabled, tmp_path):
    inputs, store = module("runtime.inputs"), open_store(tmp_path)
    picture = tmp_path / "mug.png"
    picture.write_bytes(b"x")
    item = store.put(record(image_path=str(picture), more_inputs={"occluder_1": "/nowhere/hand.png"}))
    with pytest.raises(contract("errors").MaquetteError, match='The occluder mask "hand.png" was not found'):
        inputs.input_files(store, item)
    kept = inputs.new_input_path(store, JOB, "occluder_1", ".PNG")
    kept.write_bytes(b"y")
    assert inputs.input_files(store, item) == {"image": picture, "occluder_1": kept}


def test_further_inputs_are_sent_kept_and_sent_again(blender, generate, picture, tmp_path):
    current = blender.session.get()
    generate(wait=True)
    occluder = tmp_path / "hand.png"
    Image.new("L", (64, 48)).save(occluder)
    first = current.store.all()[0]
    second = dataclasses.replace(
        first, job_id="c" * 32, state="sending", applied=0, downloaded=False, artifacts=(), report={}, created=9e9,
        more_inputs={"occluder": str(occluder), "image_1": str(picture)},
    )  # fmt: skip
    current.submit(second)
    pump_until(lambda: current.store.get(second.job_id).downloaded)
    assert current.store.get(second.job_id).report["inputs"] == ["image", "image_1", "occluder"]
    content = occluder.read_bytes()
    occluder.unlink()
    assert (current.store.folder(second.job_id) / "input_occluder.png").read_bytes() == content
    requesting = module("operators.requesting")
    again = requesting.retry_job(second.job_id)
    pump_until(lambda: current.store.get(again.job_id).downloaded)
    assert current.store.get(again.job_id).report["inputs"] == ["image", "image_1", "occluder"]
    assert requesting.provenance_of(again)["more_inputs"].keys() == {"occluder", "image_1"}
