"""The backend as a child process: one state machine, asked from the main thread, never waiting.

A thread reads the child's standard output and only puts its first line into a queue; it never touches bpy.
"""

from __future__ import annotations

import enum
import json
import logging
import os
import queue
import secrets
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ...backend.contract import PROTOCOL
from ...backend.contract.errors import Failure
from ...backend.contract.messages import Handshake, MessageError, from_json

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 20.0  # importing the server takes 1 to 3 s; a cold disk with a virus scanner was seen to take 15
SHUTDOWN_SECONDS = 5.0  # the child ends at the end of its standard input; a job in a worker may need one step
TERMINATE_SECONDS = 3.0
BACKOFF_SECONDS = (1.0, 5.0, 30.0)  # then stay crashed: a fourth try never helped anybody
STEADY_SECONDS = 60.0  # having run this long, a crash counts as the first again


class State(enum.Enum):
    """Where the backend is in its life. `READY` and `BUSY` are the states that answer requests."""

    ABSENT = "absent"
    INSTALLING = "installing"
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"
    CRASHED = "crashed"


class BackendProcess:
    """Starts, watches and ends the child. `clock` is monotonic seconds; tests pass their own.

    Each launch has a new `token` and, once it is ready, a `port`.
    """

    def __init__(self, code_folder: Path, data_folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.code_folder = code_folder
        self.data_folder = data_folder
        self.state = State.STOPPED
        self.message = ""
        self.port = 0
        self.pid = 0
        self.token = ""
        self._clock = clock
        self._child: subprocess.Popen[bytes] | None = None
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._command: list[str] = []
        self._since = 0.0
        self._terminated = False
        self._crashes = 0
        self._retry_at: float | None = None

    @property
    def log_path(self) -> Path:
        """The backend's log file."""
        return self.data_folder / "logs" / "backend.log"

    @property
    def answering(self) -> bool:
        """Whether requests can be sent."""
        return self.state in (State.READY, State.BUSY)

    def start(self, python: str, device: str = "auto") -> None:
        """Start the child unless it is alive already. Forgets earlier crashes."""
        if self._child is not None:
            return
        self._crashes = 0
        self._command = [python, "-m", "backend", "serve", "--data", str(self.data_folder)]
        if device != "auto":
            self._command += ["--device", device]
        self._launch()

    def stop(self) -> None:
        """Ask the child to end; `poll` sees it through."""
        self._retry_at = None
        if self._child is None:
            if self.state is not State.ABSENT:
                self._enter(State.STOPPED)
            return
        self._close_stdin()
        self._terminated = False
        self._enter(State.STOPPING)

    def stop_now(self, patience: float = 2.0) -> None:
        """End the child before returning: Blender is closing or the extension is being removed."""
        self.stop()
        child = self._child
        if child is None:
            return
        for action, wait in ((None, patience), (child.terminate, 1.0), (child.kill, 5.0)):
            if action is not None:
                action()
            try:
                child.wait(wait)
                break
            except subprocess.TimeoutExpired:
                continue
        self._child = None
        self._enter(State.STOPPED)

    def set_busy(self, busy: bool) -> None:
        """Tell ready from busy; no effect in other states."""
        if self.answering:
            self._enter(State.BUSY if busy else State.READY)

    def poll(self) -> bool:
        """Advance the state machine. Returns whether the state changed."""
        before = self.state
        now = self._clock()
        child = self._child
        if child is None:
            if self._retry_at is not None and now >= self._retry_at:
                self._retry_at = None
                self._launch()
            return self.state is not before
        code = child.poll()
        if self.state is State.STOPPING:
            self._poll_stopping(child, code, now)
        elif code is not None:
            self._child = None
            self._crashed(f"The backend stopped by itself (exit status {code}).", now)
        elif self.state is State.STARTING:
            self._poll_starting(now)
        return self.state is not before

    def log_tail(self, lines: int = 200) -> str:
        """The last lines of the backend's log and of what it said before it could log."""
        text = []
        for path in (self.data_folder / "logs" / "startup.log", self.log_path):
            if path.is_file():
                text += path.read_text("utf-8", "replace").splitlines()[-lines:]
        return "\n".join(text[-lines:])

    def _launch(self) -> None:
        self.token = secrets.token_hex(32)
        self.port = self.pid = 0
        self._lines = queue.SimpleQueue()
        self._since = self._clock()
        try:
            (self.data_folder / "logs").mkdir(parents=True, exist_ok=True)
            with (self.data_folder / "logs" / "startup.log").open("wb") as errors:
                self._child = subprocess.Popen(
                    self._command,
                    cwd=self.code_folder,
                    env=clean_environment(dict(os.environ), self.data_folder),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
            self._child.stdin.write(json.dumps({"token": self.token, "parent_pid": os.getpid()}).encode() + b"\n")
            self._child.stdin.flush()
        except OSError as error:
            logger.exception("The backend does not start")
            self._crashed(f"The backend does not start: {error}.", self._since)
            return
        threading.Thread(
            target=_read_lines, args=(self._child.stdout, self._lines), name="maquette-handshake", daemon=True
        ).start()
        self._enter(State.STARTING)

    def _poll_starting(self, now: float) -> None:
        try:
            line = self._lines.get_nowait()
        except queue.Empty:
            if now - self._since > HANDSHAKE_SECONDS:
                self._kill()
                self._crashed(f"The backend did not answer within {HANDSHAKE_SECONDS:.0f} seconds.", now)
            return
        try:
            answer = json.loads(line)
            if isinstance(answer, dict) and set(answer) == {"error"}:
                failure = from_json(Failure, answer["error"])
                logger.error("the backend cannot start: %s (%s)", failure.message, failure.detail)
                self._kill()
                self._crashed(failure.message, now)
                return
            handshake = from_json(Handshake, answer)
        except (ValueError, MessageError) as error:
            logger.error("The backend's first line cannot be understood: %r (%s)", line[:200], error)
            self._kill()
            self._crashed("The backend answered something that cannot be understood.", now)
            return
        if handshake.protocol != PROTOCOL:
            self._kill()
            self._crashed("The backend is of another version. Press Set Up again.", now)
            return
        self.port, self.pid = handshake.port, handshake.pid
        self._since = now
        self._enter(State.READY)

    def _poll_stopping(self, child: subprocess.Popen[bytes], code: int | None, now: float) -> None:
        if code is not None:
            self._child = None
            self._enter(State.STOPPED)
        elif not self._terminated and now - self._since > SHUTDOWN_SECONDS:
            self._terminated = True
            child.terminate()
        elif now - self._since > SHUTDOWN_SECONDS + TERMINATE_SECONDS:
            child.kill()

    def _crashed(self, message: str, now: float) -> None:
        if self.state in (State.READY, State.BUSY) and now - self._since > STEADY_SECONDS:
            self._crashes = 0
        if self._crashes < len(BACKOFF_SECONDS):
            delay = BACKOFF_SECONDS[self._crashes]
            self._retry_at = now + delay
            message += f" It starts again in {delay:.0f} s."
        else:
            self._retry_at = None
            message += " Open the log to see why, then start it again."
        self._crashes += 1
        self.port = 0
        self._child = None
        self._enter(State.CRASHED, message)

    def _enter(self, state: State, message: str = "") -> None:
        if state is not self.state:
            logger.info("backend: %s -> %s %s", self.state.value, state.value, message)
        if state is State.STOPPING:
            self._since = self._clock()
        self.state, self.message = state, message

    def _kill(self) -> None:
        if self._child is not None:
            self._close_stdin()
            self._child.kill()
            self._child.wait(5.0)

    def _close_stdin(self) -> None:
        try:
            self._child.stdin.close()
        except OSError:  # the child is gone already and took the pipe's other end with it
            logger.debug("the backend's input was closed already")


def clean_environment(environment: dict[str, str], data_folder: Path) -> dict[str, str]:
    """The child's environment: ours without anything that bends Python, with every cache below the data folder."""
    kept = {key: value for key, value in environment.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV", "CONDA"))}
    caches = data_folder / "cache"
    kept |= {
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # the extension's folder may be read-only
        "PYTHONUTF8": "1",
        "HF_HOME": str(caches / "huggingface"),
        "TORCH_HOME": str(caches / "torch"),
    }
    kept.setdefault("MAQUETTE_MODELS", str(data_folder.parent / "models"))  # one for all Blenders, they are large
    return kept


def _read_lines(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    # Runs on its own thread: no bpy here. Reads to the end so that a chatty child never blocks on a full pipe.
    for line in stream:
        lines.put(line)
    stream.close()
