"""The routes of the catalogue in a real backend process, downloading from a real local server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backend.backend_process import BackendProcess
from tests.fakes.model_server import Behaviour, model_server
from tests.fakes.small_catalog import FILES, VARIABLE, write_catalog

BOTH = {"licences": ["MIT", "Apache-2.0"]}


@pytest.fixture
def behaviour() -> Behaviour:
    return Behaviour(FILES)


@pytest.fixture
def process(tmp_path: Path, behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackendProcess]:
    monkeypatch.setenv(VARIABLE, str(write_catalog(tmp_path / "small.toml")))
    monkeypatch.setenv("MAQUETTE_MODELS", str(tmp_path / "models"))
    with model_server(behaviour) as url:
        monkeypatch.setenv("MAQUETTE_MODEL_SOURCE", url)
        started = BackendProcess(tmp_path / "data", "tests.fakes.small_catalog")
        yield started
        started.close()


def events(process: BackendProcess, model: str) -> list[dict[str, Any]]:
    """The stream of a model's states, to its end."""
    response = process.call("GET", f"/models/{model}/events", stream=True)
    lines = response.iter_lines(chunk_size=1)
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]


def test_installs_after_the_licences_were_accepted(process: BackendProcess, tmp_path: Path) -> None:
    listing = {info["id"]: info for info in process.call("GET", "/models").json()["models"]}
    assert listing["thing"]["state"] == "absent" and listing["thing"]["licence"] == "MIT"
    assert listing["thing"]["needs"] == ["encoder"] and listing["thing"]["bytes"] > 300_000
    for accepted in ({}, {"licences": ["MIT"]}):
        refused = process.call("POST", "/models/thing/install", json=accepted)
        assert refused.status_code == 409 and refused.json()["error"]["code"] == "licence_required"
    assert not (tmp_path / "models").exists()
    started = process.call("POST", "/models/thing/install", json=BOTH)
    assert started.status_code == 202
    told = events(process, "thing")
    assert told[-1]["state"] == "installed" and told[-1]["bytes"] == 0
    fractions = [info["fraction"] for info in told]
    assert fractions == sorted(fractions)
    assert (tmp_path / "models" / "encoder" / "model.bin").is_file()
    assert process.call("DELETE", "/models/thing").json()["state"] == "absent"


def test_cancel_keeps_what_arrived_and_the_next_install_goes_on(
    process: BackendProcess, behaviour: Behaviour, tmp_path: Path
) -> None:
    behaviour.slow = 0.1
    process.call("POST", "/models/thing/install", json=BOTH).raise_for_status()
    part = tmp_path / "models" / "encoder" / "model.bin.part"
    while not part.exists() or not part.stat().st_size:
        assert process.call("GET", "/models/thing").json()["state"] == "installing"
    assert process.call("DELETE", "/models/thing/install").status_code == 200
    assert events(process, "thing")[-1]["state"] == "absent" and part.exists()
    behaviour.slow = 0.0
    process.call("POST", "/models/thing/install", json=BOTH).raise_for_status()
    assert events(process, "thing")[-1]["state"] == "installed"
    assert any(wanted for _, wanted in behaviour.requests), "it went on where it stopped"


def test_a_damaged_file_is_a_failure_with_a_sentence(process: BackendProcess, behaviour: Behaviour) -> None:
    place = "people/encoder/resolve/r2/model.bin"
    behaviour.files = {**FILES, place: bytes(len(FILES[place]))}
    process.call("POST", "/models/thing/install", json=BOTH).raise_for_status()
    info = events(process, "thing")[-1]
    assert info["state"] == "failed" and info["failure"]["code"] == "bad_input"
    assert "damaged" in info["failure"]["message"]


def test_unknown_models_and_forms_are_refused(process: BackendProcess) -> None:
    assert process.call("POST", "/models/nothing/install", json=BOTH).status_code == 404
    assert process.call("GET", "/models/nothing/events").status_code == 404
    for body in ({"licences": "MIT"}, {"folder": "/etc"}, [1]):
        assert process.call("POST", "/models/thing/install", json=body).status_code == 422
    assert process.call("POST", "/models/by_hand/install", json={"licences": ["MIT"]}).status_code == 202
    assert events(process, "by_hand")[-1]["state"] == "by_hand"


def test_ends_while_it_installs(process: BackendProcess, behaviour: Behaviour) -> None:
    behaviour.slow = 0.2
    process.call("POST", "/models/thing/install", json=BOTH).raise_for_status()
    process.call("POST", "/shutdown").raise_for_status()
    process.process.wait(8)
    assert os.name == "nt" or process.process.returncode == 0
