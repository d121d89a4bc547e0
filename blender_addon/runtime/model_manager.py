"""What can be installed and how an install goes: the backend's `models` command as a child, one at a time.

The child ends when its standard input is closed: so an install is cancelled, and so it ends with Blender. What arrived
is kept, and the next install goes on there. A thread reads the child's lines and touches no bpy.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ...backend.contract.errors import Failure, MaquetteError
from ...backend.contract.messages import MessageError, from_json
from ...backend.contract.models import ModelInfo
from .backend_process import clean_environment

logger = logging.getLogger(__name__)

PUBLISHED = "cupid"  # the entry whose weights the panels offer as "Published"
BROKEN = Failure("internal", "The models cannot be looked at. Open the log to see why.", next_step="open_log")
END_SECONDS = 5.0
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ModelPlace:
    """Who does the work and where: the backend's interpreter, its code, the models folder, another source or ""."""

    python: str
    code_folder: Path
    root: Path
    source: str = ""


class ModelManager:
    """Main thread only. `models` is the last listing, `target` the model that `action` is about."""

    module = "backend"

    def __init__(self) -> None:
        self.models: tuple[ModelInfo, ...] = ()
        self.action = ""
        self.target = ""
        self.fraction = 0.0
        self.message = ""
        self.failure: Failure | None = None
        self.log = ""
        self._child: _Child | None = None
        self._cancelled = False

    @property
    def running(self) -> bool:
        """Whether something is being done."""
        return bool(self.action)

    def find(self, model_id: str) -> ModelInfo | None:
        """The entry `model_id` of the last listing."""
        return next((model for model in self.models if model.id == model_id), None)

    def installed(self, model_id: str) -> bool:
        """Whether `model_id` was there when last looked at."""
        model = self.find(model_id)
        return model is not None and model.state == "installed"

    def with_needs(self, model: ModelInfo) -> list[ModelInfo]:
        """The model and what it needs, as far as they are not installed yet."""
        parts = [part for part in map(self.find, (model.id, *model.needs)) if part is not None]
        return [part for part in parts if part.bytes]

    def refresh(self, place: ModelPlace) -> None:
        """Look again at what is there, unless something is under way."""
        if not self.running:
            self._start(place, "list")

    def install(self, place: ModelPlace, model_id: str, licences: tuple[str, ...]) -> None:
        """Begin to download. Errors: `MaquetteError` while something else is under way."""
        self._require_idle()
        accepted = [word for licence in licences for word in ("--accept-licence", licence)]
        self._start(place, "install", model_id, *accepted)

    def import_from(self, place: ModelPlace, model_id: str, folder: Path, licences: tuple[str, ...]) -> None:
        """Begin to take the files from `folder`. Errors: as `install`."""
        self._require_idle()
        accepted = [word for licence in licences for word in ("--accept-licence", licence)]
        self._start(place, "import", model_id, "--from", str(folder), *accepted)

    def remove(self, place: ModelPlace, model_id: str) -> None:
        """Begin to delete a model's files. Errors: as `install`."""
        self._require_idle()
        self._start(place, "remove", model_id)

    def cancel(self) -> None:
        """Ask what is under way to stop."""
        self._cancelled = True
        self.message = "Cancelling"
        if self._child is not None:
            self._child.stop()

    def poll(self) -> bool:
        """Take in what the child said. Returns whether anything changed."""
        changed = False
        while self.running:
            try:
                line = self._child.lines.get_nowait()
            except queue.Empty:
                break
            changed = True
            if line is None:
                self._ended()
            else:
                self._take(line)
        return changed

    def close(self) -> None:
        """End the child before returning: Blender is closing or the extension is being removed."""
        if self._child is None:
            return
        self._child.stop()
        self._child.join(END_SECONDS)
        self._child, self.action = None, ""

    def _require_idle(self) -> None:
        if self.action == "list":  # soon done, and nobody waits for it any more
            self._child.stop()
            self._child, self.action = None, ""
        elif self.running:
            raise MaquetteError("bad_input", "Another model is being installed. Wait for it, or cancel it first.")

    def _start(self, place: ModelPlace, action: str, *words: str) -> None:
        environment = clean_environment(dict(os.environ), place.root.parent / "data")
        if place.source:
            environment["MAQUETTE_MODEL_SOURCE"] = place.source
        command = [place.python, "-m", self.module, "--log-level", "WARNING", "models", action, *words]
        command += ["--json", "--stop-with-input", "--folder", str(place.root)]
        self._child, self._cancelled = _Child(command, place.code_folder, environment), False
        self._child.start()
        self.action, self.target = action, words[0] if words else ""
        self.fraction, self.message = 0.0, "Starting"
        if action != "list":
            self.failure = None

    def _take(self, line: dict[str, Any]) -> None:
        try:
            if "progress" in line:
                if not self._cancelled:
                    self.fraction = float(line["progress"]["fraction"])
                    self.message = str(line["progress"]["message"])
            elif "models" in line:
                self.models = tuple(from_json(ModelInfo, item) for item in line["models"])
            elif "error" in line:
                failure = from_json(Failure, line["error"])
                self.failure = None if failure.code == "cancelled" else failure
            else:
                self.log = str(line["log"])
        except (MessageError, KeyError, TypeError, ValueError) as error:
            logger.warning("The models command said %r (%s)", line, error)

    def _ended(self) -> None:
        if self._child.code and self.failure is None and not self._cancelled:
            self.failure = Failure("internal", BROKEN.message, self.log, BROKEN.next_step)
            logger.error("The models command ended with %s: %s", self._child.code, self.log)
        self._child, self.action, self.message = None, "", ""


class _Child(threading.Thread):
    """Runs one command and puts its lines into `lines`, at last what it said besides and None. Touches no bpy."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        super().__init__(name="maquette-models", daemon=True)
        self.lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.code = 0
        self._command, self._folder, self._environment = command, folder, environment
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Have the command end, now or as soon as it has begun."""
        self._stopping.set()

    def run(self) -> None:
        try:
            process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )  # fmt: skip
        except OSError as error:
            self.code = -1
            self.lines.put({"log": repr(error)})
            self.lines.put(None)
            return
        said: list[bytes] = []
        readers = [
            threading.Thread(target=lambda: said.append(process.stderr.read()), daemon=True),
            threading.Thread(target=self._read, args=(process.stdout,), daemon=True),
        ]
        for reader in readers:
            reader.start()
        while process.poll() is None and not self._stopping.wait(POLL_SECONDS):
            pass
        process.stdin.close()  # its sign to stop, where it has not ended
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for reader in readers:
            reader.join()
        self.code = process.returncode
        self.lines.put({"log": b"".join(said)[-4000:].decode("utf-8", "replace")})
        self.lines.put(None)

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            try:
                value = json.loads(line)
            except ValueError:
                logger.warning("The models command said %r", line[:200])
                continue
            if isinstance(value, dict):
                self.lines.put(value)
