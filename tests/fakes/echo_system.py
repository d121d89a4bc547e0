"""A system without networks for tests of the queue, the worker and the server. It does what its parameters say."""

from __future__ import annotations

import errno
import os
import signal
import time
from typing import Any

from backend.contract.errors import MaquetteError
from backend.contract.messages import SystemInfo
from backend.systems.base import ArtifactData, Hooks, RunResult


class EchoSystem:
    """Stages listen and speak; parameters steps, seconds (a step), fail (see `run`), preview."""

    name = "echo"
    title = "Echo"
    tasks = ("echo",)
    stages = ("listen", "speak")

    def info(self) -> SystemInfo:
        """What the panel shows."""
        return SystemInfo(self.name, self.title, self.tasks, self.stages, True)

    def run(self, task: str, inputs: dict[str, bytes], parameters: dict[str, Any], hooks: Hooks) -> RunResult:
        """Return the inputs as artifacts after `steps` steps; fail in the middle as `fail` says."""
        steps = int(parameters.get("steps", 2))
        hooks.stage("listen")
        print("noise on standard output must not break the protocol")
        for index in range(steps):
            if index == steps // 2:
                self._fail(str(parameters.get("fail", "")))
                if parameters.get("preview"):
                    hooks.preview(b"\x89PNG preview")
            time.sleep(float(parameters.get("seconds", 0.0)))
            hooks.step(index + 1, steps)
        hooks.stage("speak")
        hooks.message("Echoed.")
        artifacts = [ArtifactData(f"{name}.bin", data, "application/octet-stream") for name, data in inputs.items()]
        return RunResult(tuple(artifacts), {"steps": steps, "pid": os.getpid()})

    def _fail(self, kind: str) -> None:
        if kind == "explained":
            raise MaquetteError("bad_input", "The picture is empty.", next_step="choose_image")
        if kind == "defect":
            raise ValueError("a defect")
        if kind == "memory":
            raise MemoryError
        if kind == "disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        if kind == "crash":
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        if kind == "hang":
            time.sleep(60)
