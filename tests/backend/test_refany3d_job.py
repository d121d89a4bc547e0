"""A RefAny3D job through the real process: views go in as blobs, pictures come out as artifacts, cancel is quick."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from backend.contract.messages import JobRequest, to_json
from backend.formats.images import decode_image, encode_png
from tests.backend.backend_process import BackendProcess
from tests.fakes.tiny_refany3d import SIZE, write_tiny_config

PATIENCE = 240.0  # seconds: a loaded machine takes long to import the libraries


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    backend = BackendProcess(tmp_path_factory.mktemp("data"))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def parameters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    config = write_tiny_config(tmp_path_factory.mktemp("config") / "tiny.json")
    return {"weights": "random", "config": config, "prompt": "a ball on grass", "seed": 5, "focal": 0}


def strips() -> dict[str, bytes]:
    """Four views and point maps of a grey disc."""
    row, column = np.mgrid[:SIZE, :SIZE] / (SIZE - 1)
    disc = ((row - 0.5) ** 2 + (column - 0.5) ** 2 < 0.1)[..., None]
    point = np.where(disc, np.dstack([column, 1 - row, 0.5 * np.ones_like(row)]), 1.0)
    view = np.where(disc, 0.4, 1.0) * np.ones(3)
    return {"views": encode_png(np.tile(view, (1, 4, 1))), "points": encode_png(np.tile(point, (1, 4, 1)))}


def submit(process: BackendProcess, parameters: dict[str, Any], inputs: dict[str, bytes]) -> str:
    blobs = {name: process.put_blob(data) for name, data in inputs.items()}
    request = JobRequest(uuid.uuid4().hex, "refany3d", "render_picture", blobs, parameters, {"scene": "Scene"})
    response = process.call("POST", "/jobs", json=to_json(request))
    assert response.status_code == 201, response.text
    return request.job_id


def until(process: BackendProcess, job_id: str, *states: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while (summary := process.job(job_id)).state not in states:
        assert time.monotonic() < deadline, f"still {summary}"
        time.sleep(0.1)
    return summary


def test_pictures_previews_and_report(process: BackendProcess, parameters: dict[str, Any]) -> None:
    job_id = submit(process, {**parameters, "variants": 2}, strips())
    summary = until(process, job_id, "done", "failed")
    assert summary.state == "done", summary
    names = [artifact.name for artifact in summary.artifacts]
    assert names == [
        "picture-0.png", "points-0.png", "points-0.exr", "picture-1.png", "points-1.png", "points-1.exr",
        "thumbnail.png", "report.json",
    ]  # fmt: skip
    by_name = {artifact.name: artifact.sha256 for artifact in summary.artifacts}
    picture = decode_image(process.call("GET", f"/blobs/{by_name['picture-1.png']}").content)
    assert picture.size == (SIZE, SIZE)
    report = process.call("GET", f"/blobs/{by_name['report.json']}").json()
    assert [variant["seed"] for variant in report["variants"]] == [5, 6]
    events = process.events(f"/jobs/{job_id}/events")
    assert [event.stage for event in events if event.kind == "stage"] == [
        "prepare", "encode_conditions", "sample", "solve_camera", "finish",
    ]  # fmt: skip
    assert any(event.kind == "preview" for event in events)  # a quick machine skips what nobody could watch


def test_cancel_stops_the_sampler(process: BackendProcess, parameters: dict[str, Any]) -> None:
    job_id = submit(process, {**parameters, "steps": 200, "variants": 8}, strips())
    deadline = time.monotonic() + PATIENCE
    while process.job(job_id).stage != "sample":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.call("DELETE", f"/jobs/{job_id}").raise_for_status()
    assert until(process, job_id, "cancelled", "done", "failed").state == "cancelled"


def test_what_cannot_be_used_fails_with_a_sentence(process: BackendProcess, parameters: dict[str, Any]) -> None:
    job_id = submit(process, {**parameters, "prompt": ""}, strips())
    summary = until(process, job_id, "done", "failed")
    assert summary.state == "failed" and "no text" in str(summary.failure)
