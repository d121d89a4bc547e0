"""Models in Blender: listing, installing with accepted licences, cancel, import, the choice of weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.addon.conftest import DATA, ROOT, contract, module, pump_until

SERVER = """
import sys
from tests.fakes.model_server import Behaviour, model_server
from tests.fakes.small_catalog import FILES, write_catalog
from pathlib import Path
write_catalog(Path(sys.argv[1]))
with model_server(Behaviour(FILES, slow=float(sys.argv[2]))) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@contextmanager
def server(catalog: Path, slow: float = 0.0) -> Iterator[str]:
    """A local source of the small catalogue's files, in a process of its own."""
    python = ROOT / ".venv" / "bin" / "python"
    child = subprocess.Popen(
        [python, "-c", SERVER, str(catalog), str(slow)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=sys.stderr,
    )  # fmt: skip
    try:
        yield child.stdout.readline().decode().strip()
    finally:
        child.stdin.close()
        child.wait(20)


@pytest.fixture
def models(blender: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The manager over the small catalogue, its list read; `folder` is where models go."""
    monkeypatch.setenv("SMALL_CATALOG", str(tmp_path / "small.toml"))
    manager = module("operators.models").manager()
    pump_until(lambda: not manager.running)
    monkeypatch.setattr(type(manager), "module", "tests.fakes.small_catalog")
    preferences = module("package").preferences()
    with server(tmp_path / "small.toml", slow=0.03) as url:
        preferences.model_source = url
        assert blender.bpy.ops.maquette.refresh_models() == {"FINISHED"}
        pump_until(lambda: manager.models and not manager.running)
        yield SimpleNamespace(manager=manager, folder=DATA / "models", bpy=blender.bpy, preferences=preferences)
    manager.cancel()
    pump_until(lambda: not manager.running)
    preferences.model_source = ""
    for name in ("thing", "encoder"):
        for path in sorted((DATA / "models" / name).rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    manager.models, manager.failure = (), None


def state(models: SimpleNamespace, name: str = "thing") -> str:
    return models.manager.find(name).state


def test_the_real_list_is_there_by_itself(blender: SimpleNamespace) -> None:
    blender.restart()
    manager = module("operators.models").manager()
    pump_until(lambda: manager.models)
    cupid = manager.find("cupid")
    assert cupid.state == "absent" and cupid.licence == "MIT" and 5e9 < cupid.bytes < 7e9
    assert [part.id for part in manager.with_needs(cupid)] == ["cupid", "dinov2_vitl14_reg"]
    assert not manager.installed("cupid") and manager.failure is None


def test_nothing_is_downloaded_without_the_licences(models: SimpleNamespace) -> None:
    with pytest.raises(RuntimeError, match="MIT|Apache"):
        models.bpy.ops.maquette.install_model(model_id="thing")
    assert not models.manager.running and state(models) == "absent"
    assert module("operators.models").licences_of(models.manager.find("thing")) == ("Apache-2.0", "MIT")


def test_nothing_is_downloaded_while_blender_stays_offline(models: SimpleNamespace) -> None:
    models.preferences.model_source = ""
    assert not models.bpy.app.online_access
    with pytest.raises(RuntimeError, match="online"):
        models.bpy.ops.maquette.install_model(model_id="thing", accept=True)


def test_installs_with_progress_and_removes(models: SimpleNamespace) -> None:
    seen: list[float] = []
    assert models.bpy.ops.maquette.install_model(model_id="thing", accept=True) == {"FINISHED"}
    assert models.manager.running and module("runtime.session").get().lively

    def done() -> bool:
        seen.append(models.manager.fraction)
        return not models.manager.running

    pump_until(done)
    assert state(models) == state(models, "encoder") == "installed" and models.manager.failure is None
    assert any(0 < value < 1 for value in seen) and models.manager.installed("thing")
    assert (models.folder / "thing" / "ckpts" / "flow.bin").is_file()
    assert models.bpy.ops.maquette.remove_model(model_id="thing") == {"FINISHED"}
    pump_until(lambda: not models.manager.running)
    assert state(models) == "absent" and not (models.folder / "thing").exists()


def test_a_cancel_keeps_what_arrived(models: SimpleNamespace) -> None:
    models.bpy.ops.maquette.install_model(model_id="thing", accept=True)
    pump_until(lambda: models.manager.fraction > 0)
    models.bpy.ops.maquette.cancel_model()
    pump_until(lambda: not models.manager.running)
    assert models.manager.failure is None and list(models.folder.rglob("*.part"))
    with pytest.raises(RuntimeError, match="not there yet"):
        models.bpy.ops.maquette.install_model(model_id="nothing", accept=True)
    models.bpy.ops.maquette.install_model(model_id="thing", accept=True)
    pump_until(lambda: not models.manager.running)
    assert models.manager.installed("thing")


def test_imports_from_a_folder_and_says_what_is_missing(models: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="does not exist"):
        models.bpy.ops.maquette.import_model(model_id="thing", directory=str(tmp_path / "no"), accept=True)
    models.bpy.ops.maquette.import_model(model_id="thing", directory=str(tmp_path), accept=True)
    pump_until(lambda: not models.manager.running)
    assert "pipeline.json" in models.manager.failure.message
    (tmp_path / "pipeline.json").write_bytes(b'{"name": "Thing", "args": {"models": {}}}')
    (tmp_path / "flow.bin").write_bytes(bytes(range(256)) * 1200)
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "model.bin").write_bytes(bytes(range(255, -1, -1)) * 300)
    models.bpy.ops.maquette.import_model(model_id="thing", directory=str(tmp_path), accept=True)
    pump_until(lambda: not models.manager.running)
    assert models.manager.failure is None and models.manager.installed("thing")


def test_a_job_uses_the_chosen_weights(blender: SimpleNamespace, picture: Path) -> None:
    requesting = module("operators.requesting")
    settings = blender.bpy.context.scene.maquette_create
    settings.image = str(picture)
    assert requesting.create_job(blender.bpy.context.scene).parameters["weights"] == "mini"
    settings.weights = "published"
    record = requesting.create_job(blender.bpy.context.scene)
    assert record.parameters["weights"] == "published"
    settings.weights = "mini"
    requesting.restore_inputs(blender.bpy.context.scene, requesting.provenance_of(record))
    assert settings.weights == "published"
    for item in blender.session.get().store.all():
        blender.session.get().cancel(item.job_id)


def test_a_failure_that_asks_for_weights_has_its_button() -> None:
    steps = contract("errors").NEXT_STEPS
    buttons = module("panels.widgets").NEXT_STEP_OPERATORS
    assert "install_model" in steps and buttons["install_model"][0] == "maquette.install_model"
