"""The state machine of the child process, against the real backend and against scripts that misbehave."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .conftest import ROOT, STAGE, module

BACKEND_PYTHON = os.environ["MAQUETTE_BACKEND_PYTHON"]


class Clock:
    """Seconds that pass as the test says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(folder: Path, clock=time.monotonic, code: Path = STAGE):
    return module("runtime.backend_process").BackendProcess(code, folder, clock)


def poll_until(process, *states: str, seconds: float = 25.0) -> None:
    end = time.monotonic() + seconds
    while process.state.value not in states:
        process.poll()
        assert time.monotonic() < end, (process.state, process.message, process.log_tail())
        time.sleep(0.02)


@pytest.fixture
def script(tmp_path):
    """A folder whose `backend` package does what the test says."""

    def write(text: str) -> Path:
        package = tmp_path / "code" / "backend"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__main__.py").write_text(text)
        return package.parent

    return write


def test_start_answer_stop(addon_enabled, tmp_path):
    process = make(tmp_path)
    assert process.state.value == "stopped"
    process.start(BACKEND_PYTHON)
    assert process.state.value == "starting"
    poll_until(process, "ready")
    assert process.port > 0 and len(process.token) == 64
    process.set_busy(True)
    assert process.state.value == "busy" and process.answering
    pid = process.pid
    process.stop()
    assert process.state.value == "stopping"
    poll_until(process, "stopped", seconds=9)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_comes_back_after_1_5_and_30_seconds_and_then_stays_down(addon_enabled, tmp_path, script):
    clock = Clock()
    process = make(tmp_path, clock, script("import sys\nprint('no luck', file=sys.stderr)\nsys.exit(4)\n"))
    process.start(sys.executable)
    for delay in (1.0, 5.0, 30.0):
        poll_until(process, "crashed")
        assert f"{delay:.0f} s" in process.message and "exit status 4" in process.message
        clock.now += delay - 0.01
        process.poll()
        assert process.state.value == "crashed"
        clock.now += 0.02
        process.poll()
        assert process.state.value == "starting"
    poll_until(process, "crashed")
    clock.now += 1000
    assert not process.poll()
    assert "Open the log" in process.message and "no luck" in process.log_tail()


def test_a_child_that_says_nothing_is_given_up(addon_enabled, tmp_path, script):
    clock = Clock()
    process = make(tmp_path, clock, script("import time\ntime.sleep(60)\n"))
    process.start(sys.executable)
    clock.now = 21.0
    process.poll()
    assert process.state.value == "crashed" and "20 seconds" in process.message
    process.stop_now()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("hello", "cannot be understood"),
        ('{"port": 1, "pid": 2, "protocol": 99, "build": "x"}', "another version"),
        ('{"port": 1, "pid": 2, "protocol": 1, "build": "x", "extra": 1}', "cannot be understood"),
        ('{"error": {"code": "disk_full", "message": "The disk is full."}}', "The disk is full."),
        ('{"error": {"code": "no such code", "message": "x"}}', "cannot be understood"),
    ],
)
def test_a_wrong_handshake_is_refused(addon_enabled, tmp_path, script, line, sentence):
    process = make(tmp_path, code=script(f"import time\nprint({line!r}, flush=True)\ntime.sleep(60)\n"))
    process.start(sys.executable)
    poll_until(process, "crashed")
    assert sentence in process.message
    process.stop_now()


def test_a_child_that_ignores_the_end_of_its_input_is_ended(addon_enabled, tmp_path, script):
    text = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    text += 'print(\'{"port": 1, "pid": 2, "protocol": 1, "build": "x"}\', flush=True)\ntime.sleep(60)\n'
    clock = Clock()
    process = make(tmp_path, clock, script(text))
    process.start(sys.executable)
    poll_until(process, "ready")
    process.stop()
    for clock.now in (1.0, 6.0, 9.5):
        process.poll()
    poll_until(process, "stopped", seconds=5)


BLENDER_THAT_CRASHES = """
import os, pathlib, sys, time
sys.path.insert(0, sys.argv[1])
from maquette.blender_addon.runtime.backend_process import BackendProcess
process = BackendProcess(pathlib.Path(sys.argv[1]) / "maquette", pathlib.Path(sys.argv[2]))
process.start(sys.argv[3])
while not process.answering:
    process.poll()
    time.sleep(0.02)
print(process.pid, flush=True)
os._exit(9)
"""


def test_nothing_is_left_after_blender_crashed(addon_enabled, tmp_path):
    command = [sys.executable, "-c", BLENDER_THAT_CRASHES, str(STAGE.parent), str(tmp_path), BACKEND_PYTHON]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 9, ended.stderr
    pid = int(ended.stdout)
    end = time.monotonic() + 5.0
    while alive(pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether the process runs; one that ended and was not collected by its new parent does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_python_that_is_not_there_is_told(addon_enabled, tmp_path):
    process = make(tmp_path)
    process.start(str(tmp_path / "no-python"))
    assert process.state.value == "crashed" and "does not start" in process.message
    process.stop()
    assert process.state.value == "stopped"


def test_the_environment_is_clean(addon_enabled):
    clean = module("runtime.backend_process").clean_environment
    kept = clean({"PYTHONPATH": "x", "PYTHONHOME": "y", "PATH": "p", "VIRTUAL_ENV": "v"}, ROOT)
    assert kept["PATH"] == "p" and not {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"} & set(kept)
    assert kept["PYTHONNOUSERSITE"] == "1" and kept["TORCH_HOME"].startswith(str(ROOT))
