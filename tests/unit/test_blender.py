"""backend.data.blender against a fake Blender: order, crashes, retries and a program that never starts."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from backend.data import blender

# Renders every object to a tiny file; object "crash" always kills the process, "once" only the first time.
FAKE = """
    import json, os, sys
    from pathlib import Path
    import numpy as np
    job = json.loads(Path(sys.argv[-1]).read_text())
    def say(event, item, message=""):
        print("MAQUETTE " + json.dumps({"event": event, "id": item["id"], "message": message}), flush=True)
    print("some chatter")
    for item in job["objects"]:
        say("start", item)
        marker = Path(item["path"])
        if item["id"] == "crash" or (item["id"] == "once" and not marker.exists()):
            marker.write_text("seen")
            os._exit(11)
        if item["id"] == "bad":
            say("failed", item, "ValueError: no surface")
            continue
        np.savez(Path(job["out"]) / item["file"], seed=np.array(item["seed"]))
        say("done", item)
"""


def use_fake(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> None:
    script = folder / "fake.py"
    script.write_text(textwrap.dedent(source))
    monkeypatch.setattr(blender, "find_blender", lambda *_: [sys.executable, str(script)])


def assets(folder: Path, *names: str) -> list[blender.Asset]:
    return [blender.Asset(name, folder / name, seed) for seed, name in enumerate(names)]


def test_crashes_and_bad_files_do_not_stop_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_fake(monkeypatch, tmp_path, FAKE)
    names = ("a", "once", "b", "crash", "bad", "c")
    results = list(blender.render_assets(assets(tmp_path, *names)))
    assert [result.asset.id for result in results] == list(names)
    assert [result.asset.id for result in results if result.error] == ["crash", "bad"]
    assert "no surface" in results[4].error
    assert [int(result.arrays["seed"]) for result in results if not result.error] == [0, 1, 2, 5]


def test_a_blender_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_fake(monkeypatch, tmp_path, "import sys\nsys.exit('library is missing')")
    with pytest.raises(RuntimeError, match="did not start rendering.*library is missing"):
        list(blender.render_assets(assets(tmp_path, "a")))


def test_a_hanging_blender_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hanging = FAKE.replace("os._exit(11)", "import time; time.sleep(60)")
    use_fake(monkeypatch, tmp_path, hanging)
    monkeypatch.setattr(blender, "_OBJECT_TIMEOUT_S", 2.0)
    results = list(blender.render_assets(assets(tmp_path, "a", "once", "b")))
    assert [bool(result.error) for result in results] == [False, False, False]


def test_an_executable_named_blender_runs_in_the_background(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "blender"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv(blender.BLENDER_VARIABLE, str(program))
    assert blender.find_blender()[:2] == [str(program), "--background"]
