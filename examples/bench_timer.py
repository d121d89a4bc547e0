"""How long our timer holds Blender's main thread while CUPID mini makes an object, from the click to the scene.

Run by `build.py bench` with a Python that has bpy, where no real Blender can be had: timers never fire in the module,
so this calls the timer's function at the intervals that it asks for. The last line of standard output is JSON, times
in milliseconds. MAQUETTE_BACKEND_PYTHON names the backend's interpreter.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "tests" / "real_blender" / "bedside_table.png"
MODULE = "bl_ext.user_default.maquette"
JOB_SECONDS = 180.0
ROOT_INIT = "from .blender_addon import register, unregister\n"


def enable_addon(user: Path) -> None:
    """Link the sources as an extension below `user`, Blender's own folder for user files, and enable it."""
    stage = user / "extensions" / "user_default" / "maquette"
    stage.mkdir(parents=True)
    (stage / "__init__.py").write_text(ROOT_INIT)
    for name in ("blender_addon", "backend", "blender_manifest.toml"):
        (stage / name).symlink_to(ROOT / name)
    os.environ["BLENDER_USER_RESOURCES"] = str(user)  # read when bpy is imported
    import bpy

    importlib.import_module("addon_utils").enable(MODULE, default_set=True)
    bpy.context.preferences.addons[MODULE].preferences.data_folder = str(user / "data")


def measure() -> dict:
    """Press Generate 3D in the factory scene and tick until the object is there."""
    import bpy

    pump = importlib.import_module(f"{MODULE}.blender_addon.runtime.pump")
    session = importlib.import_module(f"{MODULE}.blender_addon.runtime.session").get()
    settings = bpy.context.scene.maquette_create
    settings.image = str(PHOTO)
    pump.tick_seconds.clear()
    started = time.monotonic()
    bpy.ops.maquette.generate()
    store = session.open_folder()
    job_id = store.all()[0].job_id
    while not store.get(job_id).applied and time.monotonic() - started < JOB_SECONDS:
        if store.get(job_id).failure is not None:
            raise SystemExit(f"The job failed: {store.get(job_id).failure}")
        time.sleep(pump.tick())
    held = sorted(pump.tick_seconds)
    return {
        "blender": f"{bpy.app.version_string} as a module",
        "seconds": round(time.monotonic() - started, 2),
        "ticks": len(held),
        "timer_p99_ms": round(1000 * held[int(0.99 * (len(held) - 1))], 2),
        "timer_max_ms": round(1000 * held[-1], 2),
    }


def main() -> None:
    """Measure one job and write the result."""
    with tempfile.TemporaryDirectory() as folder:
        enable_addon(Path(folder))
        addon_utils = importlib.import_module("addon_utils")
        try:
            result = measure()
        finally:
            addon_utils.disable(MODULE)  # ends the backend
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
