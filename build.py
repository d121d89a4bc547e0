"""The one door to this project: set up, demo, test, package, develop. Needs nothing but a Python 3.11.

    python build.py setup [--bpy 4.5|4.2|5.0]     make .venv, or .venv-bpy-X.Y (Blender as a Python module)
    python build.py demo                          three pictures become objects in Blender: build/demo/
    python build.py test [--tier NAME ...]        run the test tiers and print a table
    python build.py package                       build the extension zips and the static repository
    python build.py develop [--blender PATH]      link this folder into a Blender, live
    python build.py bench                         measure the networks, transfer, import and the timer

Every step is quick when nothing has changed: each environment keeps a stamp with the hash of what it was made from.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from platform import machine

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build"
REQUIREMENTS = ROOT / "backend" / "requirements"
MODEL_FILES = REQUIREMENTS / "model-files.txt"
MANIFEST = ROOT / "blender_manifest.toml"

# The newest release of each Blender line that exists as a Python module and runs on Python 3.11.
BPY_VERSIONS = {"4.2": "4.2.23", "4.5": "4.5.15", "5.0": "5.0.1"}

log = logging.getLogger("build")


class BuildError(Exception):
    """A step failed; the text is one sentence for the person at the keyboard."""


def run(command: Sequence[str | Path], *, cwd: Path = ROOT, env: dict[str, str] | None = None) -> int:
    """Run a command with our own standard streams and return its exit status."""
    sys.stdout.flush()
    return subprocess.run([str(part) for part in command], cwd=cwd, env=env, check=False).returncode


def must_run(command: Sequence[str | Path], purpose: str, **options) -> None:
    """Run a command; raise BuildError with `purpose` when it fails."""
    status = run(command, **options)
    if status != 0:
        raise BuildError(f"{purpose} failed with exit status {status}; the lines above say why.")


# --------------------------------------------------------------------------------------------------- environments


def venv_python(folder: Path) -> Path:
    """The interpreter inside a virtual environment, on every system."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def base_python() -> str:
    """A Python 3.11: this one, or one found on the path. Blender 4.2 to 5.0 all carry 3.11."""
    if sys.version_info[:2] == (3, 11):
        return sys.executable
    found = shutil.which("python3.11")
    if found is None:
        raise BuildError("Python 3.11 is needed; install it so that `python3.11` is on the path, then run this again.")
    return found


def ensure_venv(folder: Path, requirement_files: Sequence[Path], packages: Sequence[str] = ()) -> Path:
    """Make or adopt a virtual environment and return its interpreter.

    The stamp inside holds the hash of everything that was installed, so an unchanged environment costs nothing. An
    environment without a stamp is kept if its interpreter starts; pip then only adds what is missing.
    """
    python = venv_python(folder)
    digest = hashlib.sha256("\n".join(packages).encode())
    for path in sorted(REQUIREMENTS.glob("*.txt")):
        if path in requirement_files or path.name in ("cpu.txt", MODEL_FILES.name):
            digest.update(path.read_bytes())
    stamp = folder / "maquette-stamp"
    if stamp.exists() and stamp.read_text() == digest.hexdigest() and python.exists():
        return python

    works = python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    if not works:
        shutil.rmtree(folder, ignore_errors=True)
        log.info("Making %s", folder.name)
        must_run([base_python(), "-m", "venv", folder], f"Making {folder.name}")
    command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    for path in requirement_files:
        command += ["-r", path]
    log.info("Installing the packages of %s", folder.name)
    must_run(command, f"Installing the packages of {folder.name}")
    if not packages:
        must_run([*command[:5], "--no-deps", "-r", MODEL_FILES], f"Installing the model files of {folder.name}")
    stamp.write_text(digest.hexdigest())
    return python


def backend_python() -> Path:
    """The backend's own Python: torch and the test tools, no bpy."""
    return ensure_venv(ROOT / ".venv", [REQUIREMENTS / "dev.txt"])


def bpy_python(version: str) -> Path:
    """A Python with Blender `version` as a module, and without torch."""
    return ensure_venv(
        ROOT / f".venv-bpy-{version}", [REQUIREMENTS / "bpy.txt"], packages=[f"bpy=={BPY_VERSIONS[version]}"]
    )


def command_setup(arguments: argparse.Namespace) -> int:
    """Make the environments that were asked for."""
    python = bpy_python(arguments.bpy) if arguments.bpy else backend_python()
    log.info("Ready: %s", python.relative_to(ROOT))
    return 0


# ---------------------------------------------------------------------------------------------------------- tests


@dataclass(frozen=True)
class TierResult:
    """What one tier did: counts of tests (or of checks, where the tool has no tests) and the time it took."""

    name: str
    passed: int
    failed: int
    seconds: float
    note: str = ""


def run_pytest(name: str, python: Path, *paths: str, env: dict[str, str] | None = None) -> TierResult:
    """Run pytest over `paths` and count from its own XML report. No test, or a skipped test, is a failure."""
    report = BUILD / "test" / f"{name}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    started = time.monotonic()
    status = run([python, "-m", "pytest", "-q", f"--junitxml={report}", *paths], env=environment)
    seconds = time.monotonic() - started
    if not report.exists():
        return TierResult(name, 0, 1, seconds, f"pytest ended with status {status} and left no report")
    totals = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        for key in totals:
            totals[key] += int(suite.get(key, 0))
    failed = totals["failures"] + totals["errors"] + totals["skipped"]
    passed = totals["tests"] - failed
    if totals["tests"] == 0:
        return TierResult(name, 0, 1, seconds, "collected no test")
    if status != 0 and failed == 0:
        return TierResult(name, passed, 1, seconds, f"pytest ended with status {status}")
    return TierResult(name, passed, failed, seconds, f"{totals['skipped']} skipped" if totals["skipped"] else "")


def run_check(name: str, command: Sequence[str | Path]) -> TierResult:
    """Run a checker that has no tests of its own; it counts as one."""
    started = time.monotonic()
    passed = run(command) == 0
    return TierResult(name, int(passed), int(not passed), time.monotonic() - started)


def backend_tests(name: str, *paths: str) -> TierResult:
    """Run a tier with the backend's own Python."""
    # One thread: the tests are small, and two busy pools on two cores are slower than none.
    return run_pytest(name, backend_python(), *paths, env={"OMP_NUM_THREADS": "1"})


def blender_tests(name: str, version: str, *paths: str) -> TierResult:
    """Run a tier with Blender as a module, its user folders in a scratch place so that nothing of the user's is met."""
    resources = BUILD / "test" / f"{name}-user"
    shutil.rmtree(resources, ignore_errors=True)
    resources.mkdir(parents=True)
    backend_python()  # the add-on's tests start the real backend process with it
    return run_pytest(name, bpy_python(version), *paths, env={"BLENDER_USER_RESOURCES": str(resources)})


DISK_GIB = 10  # that all tiers take of an empty disk: environments, Blenders, models and pictures
WINDOW_TESTS = ("window", "moments", "backgrounds", "models", "occluder", "three_photos", "match_mesh", "masks",
                "scene", "text", "refine", "render", "render_mini")  # fmt: skip

TIERS: dict[str, Callable[[], TierResult]] = {
    "lint": lambda: run_check("lint", [backend_python(), "-m", "ruff", "check", "."]),
    "types": lambda: run_check("types", [backend_python(), "-m", "mypy", "backend/contract", "backend/jobs"]),
    "unit": lambda: backend_tests("unit", "tests/unit"),
    "golden": lambda: backend_tests("golden", "tests/golden"),
    "backend": lambda: backend_tests("backend", "tests/backend"),
    "addon-4.5": lambda: blender_tests("addon-4.5", "4.5", "tests/addon"),
    "addon-4.2": lambda: blender_tests("addon-4.2", "4.2", "tests/addon"),
    "addon-5.0": lambda: blender_tests("addon-5.0", "5.0", "tests/addon"),
    "packaging": lambda: backend_tests("packaging", "tests/packaging"),
    "real-blender": lambda: backend_tests(
        "real-blender", "tests/real_blender/test_install.py", "tests/real_blender/test_reference_capture.py"
    ),
    "window": lambda: backend_tests("window", *(f"tests/real_blender/test_{name}.py" for name in WINDOW_TESTS)),
}


def free_gib() -> float:
    """What is free on the disk that the project lies on."""
    return shutil.disk_usage(ROOT).free / 2**30


def command_test(arguments: argparse.Namespace) -> int:
    """Run the tiers, all of them even after a failure, and print how many tests each ran."""
    results = []
    free = free_gib()
    if free < DISK_GIB and not arguments.tier:
        print(f"Only {free:.1f} GiB are free on this disk and all tiers together take {DISK_GIB}; free some first.")
    for name in arguments.tier or TIERS:
        print(f"\n=== {name}", flush=True)
        started = time.monotonic()
        try:
            results.append(TIERS[name]())
        except BuildError as error:
            results.append(TierResult(name, 0, 1, time.monotonic() - started, str(error)))
    print(f"\n{'tier':<14}{'passed':>8}{'failed':>8}{'seconds':>9}")
    for result in results:
        print(f"{result.name:<14}{result.passed:>8}{result.failed:>8}{result.seconds:>9.1f}  {result.note}".rstrip())
    failed = sum(result.failed for result in results)
    print(f"\n{sum(result.passed for result in results)} passed, {failed} failed")
    print(f"Free on this disk: {free:.1f} GiB before, {free_gib():.1f} GiB after", flush=True)
    return 1 if failed else 0


# -------------------------------------------------------------------------------------------------------- package


@dataclass(frozen=True)
class Wheel:
    """One file of the package index that goes into the zip as it is."""

    pip_platform: str
    name: str
    sha256: str


# The installer of the backend's own Python: one binary a platform, which Blender unpacks without a download.
UV_VERSION = "0.13.9"
UV_WHEELS = {
    "linux-x64": Wheel(
        "manylinux_2_17_x86_64",
        f"uv-{UV_VERSION}-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    ),
    "windows-x64": Wheel(
        "win_amd64",
        f"uv-{UV_VERSION}-py3-none-win_amd64.whl",
        "6a44b2ed8111d2f60d2b92627c5dccda3f7ed7570b18ce115e569cd68c28246b",
    ),
    "macos-arm64": Wheel(
        "macosx_11_0_arm64",
        f"uv-{UV_VERSION}-py3-none-macosx_11_0_arm64.whl",
        "66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63",
    ),
    "macos-x64": Wheel(
        "macosx_10_12_x86_64",
        f"uv-{UV_VERSION}-py3-none-macosx_10_12_x86_64.whl",
        "c16ed11e013557536b3e60065f1b912f6407bd6518e041b961e23ef9e6b4fbf5",
    ),
}

ROOT_INIT = '''"""Maquette: the root package that Blender loads. Written by build.py; see blender_addon/."""

from .blender_addon import register, unregister

__all__ = ["register", "unregister"]
'''


def fetch_wheels() -> list[Path]:
    """Fetch the pinned wheels that are missing, check every hash, and return the files in the manifest's order."""
    folder = ROOT / "wheels"
    folder.mkdir(exist_ok=True)
    for platform, wheel in UV_WHEELS.items():
        path = folder / wheel.name
        if not path.exists():
            log.info("Fetching uv %s for %s", UV_VERSION, platform)
            options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
            options += ["--platform", wheel.pip_platform, "--python-version", "311", "--implementation", "py"]
            command = [backend_python(), "-m", "pip", "download", *options, "-d", folder, f"uv=={UV_VERSION}"]
            must_run(command, f"Fetching {wheel.name}")
        if hashlib.sha256(path.read_bytes()).hexdigest() != wheel.sha256:
            raise BuildError(f"{path} has another content than the pinned one; delete it and run this again.")
    return [folder / wheel.name for wheel in UV_WHEELS.values()]


def staged_manifest(wheels: Sequence[Path]) -> str:
    """The manifest with its list of wheels, which must stand before the first table."""
    text = MANIFEST.read_text(encoding="utf-8")
    listing = "".join(f'  "./wheels/{path.name}",\n' for path in wheels)
    head, table, tail = text.partition("[permissions]")
    return f"{head}wheels = [\n{listing}]\n\n{table}{tail}"


def stage(folder: Path) -> None:
    """Lay out in `folder` exactly what the zip will hold."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wheels = fetch_wheels()
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
    for name in ("blender_addon", "backend"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    (folder / "wheels").mkdir()
    for path in wheels:
        shutil.copy2(path, folder / "wheels")
    shutil.copy2(ROOT / "LICENSE", folder)
    (folder / "blender_manifest.toml").write_text(staged_manifest(wheels), encoding="utf-8")
    (folder / "__init__.py").write_text(ROOT_INIT, encoding="utf-8")


def extension_tool() -> list[str | Path]:
    """The start of a command that runs Blender's own extension tool."""
    python = bpy_python("4.5")
    tools = sorted((ROOT / ".venv-bpy-4.5").rglob("bl_pkg/cli/blender_ext.py"))
    if not tools:
        raise BuildError("Blender's extension tool is missing; delete .venv-bpy-4.5 and run this again.")
    return [python, tools[0]]


def check_zip(path: Path) -> None:
    """What the tool does not check: it accepts a zip without the root __init__.py, which Blender then cannot enable."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    needed = {"__init__.py", "blender_manifest.toml", "blender_addon/__init__.py", "backend/__main__.py", "LICENSE"}
    if missing := needed - names:
        raise BuildError(f"{path.name} lacks {', '.join(sorted(missing))}; look at what `stage` copies.")
    if sum(name.endswith(".whl") for name in names) != 1:
        raise BuildError(f"{path.name} must hold exactly the one wheel of its platform.")


def package_digest() -> str:
    """A hash of everything that goes into the zips."""
    digest = hashlib.sha256((ROOT / "build.py").read_bytes() + MANIFEST.read_bytes())
    for folder in ("blender_addon", "backend"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def package() -> Path:
    """Build and validate one zip a platform and the static repository; return the repository's folder."""
    repository, stamp = BUILD / "repository", BUILD / "repository.stamp"
    digest = package_digest()
    if stamp.exists() and stamp.read_text() == digest and (repository / "index.json").exists():
        return repository
    stage(BUILD / "stage")
    shutil.rmtree(repository, ignore_errors=True)
    repository.mkdir(parents=True)
    tool = extension_tool()
    options = ["--split-platforms", "--source-dir", BUILD / "stage", "--output-dir", repository]
    must_run([*tool, "build", *options], "Building the zips")
    zips = sorted(repository.glob("*.zip"))
    if len(zips) != len(UV_WHEELS):
        raise BuildError(f"{len(zips)} zips were built for {len(UV_WHEELS)} platforms; see the tool's lines above.")
    for path in zips:
        must_run([*tool, "validate", path], f"Validating {path.name}")
        check_zip(path)
    must_run([*tool, "server-generate", "--repo-dir", repository], "Writing the repository index")
    stamp.write_text(digest)
    return repository


def command_package(arguments: argparse.Namespace) -> int:
    """Build the zips and say where they are."""
    for path in sorted(package().iterdir()):
        log.info("%8.1f MiB  %s", path.stat().st_size / 2**20, path.relative_to(ROOT))
    return 0


def own_zip(repository: Path) -> Path:
    """The zip for the system that this runs on."""
    system = {"win32": "windows_x64", "darwin": f"macos_{'arm64' if machine() == 'arm64' else 'x64'}"}
    (archive,) = repository.glob(f"*-{system.get(sys.platform, 'linux_x64')}.zip")
    return archive


def command_demo(arguments: argparse.Namespace) -> int:
    """Pictures become objects and cameras in a Blender that has the packaged extension; see examples/demo.py."""
    archive = own_zip(package())
    # A Blender program, or a Python with bpy; without a wish the bpy that the tests use.
    blender = os.environ.get("MAQUETTE_BLENDER") or bpy_python("4.5")
    demo = [backend_python(), ROOT / "examples" / "demo.py", "--zip", archive, "--out", BUILD / "demo"]
    return run([*demo, "--blender", blender])


def command_develop(arguments: argparse.Namespace) -> int:
    """Link the sources into the user's extension folder of a Blender; edits are live after a restart of Blender."""
    script = "import bpy; print('EXTENSIONS=' + bpy.utils.user_resource('EXTENSIONS', create=True))"
    command = [arguments.blender, "--background", "--factory-startup", "--python-expr", script]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise BuildError(f"{arguments.blender} did not start ({error}); pass another --blender PATH.") from error
    extensions = next(line.partition("=")[2] for line in printed.splitlines() if line.startswith("EXTENSIONS="))
    target = Path(extensions) / "user_default" / "maquette"
    if target.exists() and not (target / "blender_addon").is_symlink():
        raise BuildError(f"{target} holds an installed Maquette; remove the extension in Blender first.")
    stage(BUILD / "stage")
    target.mkdir(parents=True, exist_ok=True)
    for source in (BUILD / "stage").iterdir():
        origin = ROOT / source.name if source.name in ("blender_addon", "backend") else source
        link = target / source.name
        link.unlink(missing_ok=True)
        link.symlink_to(origin, target_is_directory=origin.is_dir())
    log.info("Linked into %s; enable Maquette once in Blender's preferences.", target)
    return 0


# ---------------------------------------------------------------------------------------------------------- bench


NO_REAL_BLENDER = 4  # exit status of tests.real_blender.window where no Blender with a window can be had


def command_bench(arguments: argparse.Namespace) -> int:
    """Measure what an artist would feel: transfer, a result entering the scene, how long the timer holds Blender, and
    how quick the networks of the published size are on this machine."""
    print("CUPID's flows at full size with random weights, against the matrix peak:", flush=True)
    quiet = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    must_run([backend_python(), "-m", "backend.systems.cupid.bench"], "Measuring CUPID's flows", env=quiet)
    for size, repeats in (("256", "2"), ("512", "1")):
        print(f"RefAny3D's forward, 8 views of {size} pixels, by blocks and with a dense mask:", flush=True)
        command = [backend_python(), "-m", "backend.systems.refany3d.bench", "--size", size, "--repeats", repeats]
        must_run(command, "Measuring RefAny3D's forward", env=quiet)
    print("The differentiable rasteriser on 2 threads, 20,000 triangles in 4 views of 512 x 512 pixels:", flush=True)
    command = [backend_python(), "-m", "backend.rendering.differentiable_bench", "--device", "cpu"]
    must_run(command, "Measuring the differentiable rasteriser", env=quiet)
    print("Blobs over the socket, MB/s:", flush=True)
    must_run([backend_python(), "-m", "backend.server.bench"], "Measuring the socket")
    print("A 50,000-triangle textured result entering Blender 4.5:", flush=True)
    must_run([bpy_python("4.5"), ROOT / "examples" / "bench_apply.py"], "Measuring the import")
    print(
        "8 colour views and 8 point maps of a 100,000-triangle textured mesh on 2 threads in Blender 4.5:", flush=True
    )
    must_run([bpy_python("4.5"), ROOT / "examples" / "bench_capture.py"], "Measuring the capture")
    print("Our timer on Blender's main thread, from the click to the object of CUPID mini:", flush=True)
    status = run([backend_python(), "-m", "tests.real_blender.window", "--brief"])
    if status == NO_REAL_BLENDER:
        environment = {**os.environ, "MAQUETTE_BACKEND_PYTHON": str(backend_python())}
        command = [bpy_python("4.5"), ROOT / "examples" / "bench_timer.py"]
        must_run(command, "Measuring the timer", env=environment)
    elif status != 0:
        raise BuildError("Driving the window failed; the lines above say why.")
    return 0


# ----------------------------------------------------------------------------------------------------------- door


def main() -> int:
    """Read the command line and run one command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("setup", help="make the Python environments")
    setup.add_argument("--bpy", choices=sorted(BPY_VERSIONS), help="Blender as a module, of this version")
    setup.set_defaults(run=command_setup)
    demo = commands.add_parser("demo", help="make objects from the example pictures, in Blender")
    demo.set_defaults(run=command_demo)
    test = commands.add_parser("test", help="run the test tiers")
    test.add_argument("--tier", action="append", choices=list(TIERS), help="only this tier (may be repeated)")
    test.set_defaults(run=command_test)
    pack = commands.add_parser("package", help="build the extension zips and the static repository")
    pack.set_defaults(run=command_package)
    develop = commands.add_parser("develop", help="link this folder into a Blender, live")
    develop.add_argument("--blender", default="blender", help="the Blender program (default: the one on the path)")
    develop.set_defaults(run=command_develop)
    bench = commands.add_parser("bench", help="measure the networks, transfer, import and the timer")
    bench.set_defaults(run=command_bench)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return arguments.run(arguments)
    except BuildError as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        log.error("Stopped.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
