"""A real Blender's window, driven from the installation of the zip to a result seen through its camera.

    python -m tests.real_blender.window [--scenario single] [--blender 4.3] [--pictures docs/pictures] [--brief]

prints what was seen as one JSON line. --pictures receives the scenario's screenshots, which README and docs show. Root
is needed (see `debian_blender`); MAQUETTE_BLENDER_ROOTS names a folder with Blenders installed before.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

import build
from tests.real_blender import debian_blender

# A render of "Bedside table" by Nhumrod, CC0, from the Debian package sweethome3d-furniture (BlendSwap-CC-0).
PHOTO = Path(__file__).parent / "bedside_table.png"
EXAMPLES = build.ROOT / "examples" / "pictures"
SCREEN = "1400x900"
TIMEOUT = 600.0  # seconds: the start of Blender, the jobs, and the patience that the driver has with each


@dataclass(frozen=True)
class Scenario:
    """One way through the window. `files` are copied into the folder; the driver finds their paths in its plan.

    `pictures` are the screenshots worth showing, by the names that the driver gives them. `settings` go into the plan
    as they are.
    """

    script: str
    pictures: tuple[str, ...]
    files: dict[str, Path] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


SCENARIOS = {
    "single": Scenario("drive_window.py", ("sidebar.png", "generate.png", "result.png"), {"photo": PHOTO}),
    "occluder": Scenario("drive_occluder.py", ("occluder_paint.png", "occluder.png"), {
        "photo": EXAMPLES / "truck_behind_barrel.png",
        "occluder": EXAMPLES / "truck_behind_barrel_occluder.png",
    }),
    "gallery": Scenario("drive_gallery.py", ("gallery.png",), {"photo": EXAMPLES / "space_truck.png"}),
    "match_mesh": Scenario("drive_match_mesh.py", ("match_mesh.png",), {
        "photo": EXAMPLES / "space_truck.png",
        "mesh": EXAMPLES.with_name("meshes") / "space_truck.glb",
    }),
    "scene": Scenario("drive_scene.py", ("scene.png",), {
        "photo": EXAMPLES / "scene" / "photo.png",
        "depth": EXAMPLES / "scene" / "depth.png",
        **{f"mask_{number}": EXAMPLES / "scene" / f"mask_{number}.png" for number in range(3)},
    }),
    "masks": Scenario("drive_masks.py", ("masks.png",), {"photo": EXAMPLES / "scene" / "photo.png"}),
    "text": Scenario("drive_text.py", ("text_running.png", "text.png")),
    "refine": Scenario("drive_refine.py", ("refine_looking.png", "refine.png"), {
        "mesh": EXAMPLES.with_name("meshes") / "treasure_chest.glb",
    }),
    "render": Scenario("drive_render.py", ("render_looking.png", "render.png", "render_into_picture.png"), {
        "mesh": EXAMPLES.with_name("meshes") / "space_truck.glb",
    }),
    "render_mini": Scenario("drive_render.py", ("render_looking.png", "render.png", "render_into_picture.png"), {
        "mesh": EXAMPLES.with_name("meshes") / "space_truck.glb",
    }, {"engine": "refany3d", "prompt": "a space truck on sand at dusk"}),
    "three_photos": Scenario("drive_three_photos.py", ("three_photos.png",), {
        "front": EXAMPLES / "space_truck.png",
        "back": EXAMPLES / "space_truck_back.png",
        "side": EXAMPLES / "space_truck_side.png",
    }),
}


def drive(version: str, folder: Path, archive: Path, scenario: str = "single") -> dict:
    """Drive Blender `version` through a scenario; the screenshots are in `folder` then, which is emptied before.

    archive: the extension's zip. Returns what the driver saw, with everything that was printed under `printed`.
    """
    clear(folder)
    Image.new("RGB", (320, 240), (200, 120, 60)).save(folder / "picture.png")
    chosen = SCENARIOS[scenario]
    plan = dict(chosen.settings)
    for name, path in chosen.files.items():
        plan[name] = str(shutil.copy(path, folder / path.name))
    return run_script(version, folder, archive, chosen.script, plan)


def clear(folder: Path) -> None:
    """Make `folder` anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def run_script(version: str, folder: Path, archive: Path, script: str, plan: dict) -> dict:
    """Run a script of this folder in the window of Blender `version`; returns its ``seen.json`` and what was printed.

    `plan`, the zip and the backend's interpreter go to the script in ``plan.json`` in `folder`.
    """
    (folder / "plan.json").write_text(json.dumps({"zip": str(archive), "python": sys.executable, **plan}))
    scripts = build.ROOT / "tests"
    arguments = ["--python", str(scripts / "real_blender" / script), "--", str(folder)]
    # The backend's Python and the one it was made from: Blender starts it from in there.
    shown = [scripts, archive.parent, folder, Path(sys.prefix), Path(sys.base_prefix)]
    before = os.environ.get("MAQUETTE_EXTRA_SYSTEMS")
    os.environ["MAQUETTE_EXTRA_SYSTEMS"] = "tests.fakes.cube_system:CubeSystem"
    try:
        with tempfile.TemporaryDirectory() as user:
            done = debian_blender.run(version, arguments, shown, Path(user), window=SCREEN, timeout=TIMEOUT)
    finally:
        del os.environ["MAQUETTE_EXTRA_SYSTEMS"]
        if before is not None:
            os.environ["MAQUETTE_EXTRA_SYSTEMS"] = before
    printed = done.stdout + done.stderr
    seen = folder / "seen.json"
    if not seen.exists():
        raise RuntimeError(f"Blender {version} ended with status {done.returncode} and left no report:\n{printed}")
    return {**json.loads(seen.read_text()), "printed": printed}


def linux_zip() -> Path:
    """The zip that a user on Linux installs."""
    (path,) = build.package().glob("*-linux_x64.zip")
    return path


def main() -> int:
    """Drive one window and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blender", choices=sorted(debian_blender.SUITES), default="4.3")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), default="single")
    parser.add_argument("--pictures", type=Path, help="a folder for the pictures of README and docs")
    parser.add_argument("--brief", action="store_true", help="print only the times of CUPID's job")
    options = parser.parse_args()
    folder = build.BUILD / "window" / f"{options.scenario}-{options.blender}"
    try:
        seen = drive(options.blender, folder, linux_zip(), options.scenario)
    except debian_blender.NoRealBlender as error:
        sys.stderr.write(f"{error}\n")
        return build.NO_REAL_BLENDER
    printed = seen.pop("printed")
    if "failure" in seen:
        sys.stderr.write(printed)
    if options.pictures is not None:
        for name in SCENARIOS[options.scenario].pictures:
            shutil.copy(folder / name, options.pictures / name)
    if options.brief and "cupid" in seen.get("jobs", {}):
        job = seen["jobs"]["cupid"]
        times = {name: job[name] for name in ("seconds", "ticks", "timer_p99_ms", "timer_max_ms")}
        seen = {"blender": f"{seen['version']} in a window", **times}
    sys.stdout.write(json.dumps(seen) + "\n")
    return 1 if "failure" in seen else 0


if __name__ == "__main__":
    sys.exit(main())
