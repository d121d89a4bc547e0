"""A real Blender, with timers, panels and a window, from Debian's packages in a folder of its own.

The module form of Blender runs no timers and draws no panels, so some tests need the program. A Debian suite goes into
a folder with debootstrap (about 2 GB, one to three minutes, root needed), and Blender runs in there with the folders
that a test names. Mounts and processes live in namespaces of their own: when the command ends, both are gone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import build

# Debian 13 carries Blender 4.3; Debian's development suite carries the newest, 5.2 at the time of writing.
SUITES = {"4.3": "trixie", "5.2": "sid"}
# A Blender from blender.org carries these (its extension system needs them); in Debian they are only recommended.
LIBRARIES = ["python3-numpy", "python3-requests", "python3-cattr"]
PACKAGES = ["blender", *LIBRARIES, "xvfb", "libgl1-mesa-dri", "libegl1", "imagemagick"]

# $1 the root, $2 the number of folders to show inside, then the folders, then the command.
_ENTER = """
set -e
root=$1; count=$2; shift 2
mount -t proc proc "$root/proc"
mkdir -p "$root/dev/shm"; mount -t tmpfs tmpfs "$root/dev/shm"
while [ "$count" -gt 0 ]; do
  mkdir -p "$root$1"; mount --bind "$1" "$root$1"
  shift; count=$((count - 1))
done
exec chroot "$root" "$@"
"""

# $1 the size of the screen, then Blender's own arguments. The X server tells its free display number through a pipe.
_WINDOW = """
set -e
size=$1; shift
pipe=$(mktemp -u /tmp/display.XXXXXX); mkfifo "$pipe"; exec 3<>"$pipe"; rm "$pipe"
Xvfb -displayfd 3 -screen 0 "${size}x24" +extension GLX +render -noreset >/tmp/xvfb.log 2>&1 &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
read -r number <&3
export DISPLAY=:$number
blender --window-geometry 0 0 "${size%x*}" "${size#*x}" "$@"
"""


class NoRealBlender(RuntimeError):
    """This machine cannot have a real Blender; the text says why."""


def root_folder(version: str) -> Path:
    """Where the suite with this Blender is or will be. MAQUETTE_BLENDER_ROOTS names another parent folder."""
    parent = os.environ.get("MAQUETTE_BLENDER_ROOTS")
    return (Path(parent) if parent else build.BUILD / "real_blender") / SUITES[version]


def install(version: str) -> Path:
    """Install the suite with Blender `version` unless it is there; return its root folder."""
    root = root_folder(version)
    if (root / "maquette-complete").exists():
        return root
    if os.name != "posix" or os.geteuid() != 0:
        raise NoRealBlender("A real Blender is installed with debootstrap, which needs root; run this tier as root.")
    if shutil.which("debootstrap") is None:
        _must(["apt-get", "update", "-q"])
        _must(["apt-get", "install", "-y", "-q", "debootstrap"])
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    _must(["debootstrap", "--variant=minbase", SUITES[version], str(root), _debian_mirror()])
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    # A mirror that is a frozen copy carries an index past its date; its signature is checked all the same.
    _must(["chroot", str(root), "apt-get", "-o", "Acquire::Check-Valid-Until=false", "update", "-q"], quiet)
    _must(["chroot", str(root), "apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES], quiet)
    (root / "maquette-complete").write_text(SUITES[version])
    return root


def _must(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise NoRealBlender(f"{' '.join(command[:4])} failed: {(done.stdout + done.stderr)[-1500:]}")


def _debian_mirror() -> str:
    """The mirror that this machine's own package sources name."""
    asked = ["apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages"]
    for attempt in range(2):
        printed = subprocess.run(asked, capture_output=True, text=True).stdout
        sites = sorted(site for site in set(printed.split()) if "security" not in site)
        if sites:
            return sites[0]
        if attempt == 0:
            _must(["apt-get", "update", "-q"])
    raise NoRealBlender("This machine's apt sources name no Debian mirror; add one, then run this again.")


def run(
    version: str, arguments: Sequence[str], shown: Sequence[Path], user: Path, *, window: str = "", timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run Blender `version` with `arguments`; the folders in `shown` are at the same path inside.

    user: an empty folder for Blender's own user files, so that no earlier run is met.
    window: size of the screen ("1400x900") for a window under a private X server; empty for Blender's background mode.
    """
    root = install(version)
    inner = ["bash", "-c", _WINDOW, "window", window] if window else ["blender", "--background"]
    folders = [str(path) for path in (*shown, user)]
    # --kill-child: the backend, the X server and whatever else is inside ends with the command, also after a timeout.
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", _ENTER, "enter", str(root)]
    command += [str(len(folders)), *folders, *inner, "--factory-startup", *arguments]
    environment = {**os.environ, "HOME": "/root", "XDG_RUNTIME_DIR": "/tmp", "LIBGL_ALWAYS_SOFTWARE": "1"}
    environment["BLENDER_USER_RESOURCES"] = str(user)
    environment = {key: value for key, value in environment.items() if not key.startswith("PYTHON")}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment, stdin=subprocess.DEVNULL
    )
