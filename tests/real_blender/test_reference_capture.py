"""RefAny3D's recorded frames, rendered by the Blender program: its Cycles is built otherwise than the module's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import build
from tests.real_blender import debian_blender


@pytest.mark.parametrize("version", sorted(debian_blender.SUITES))
def test_published_frames(version: str, tmp_path: Path) -> None:
    script = build.ROOT / "tests" / "real_blender" / "capture_in_blender.py"
    shown = [build.ROOT / name for name in ("backend", "blender_addon", "tests")]
    arguments = ["--python-exit-code", "3", "--python", str(script), "--", str(build.ROOT)]
    done = debian_blender.run(version, arguments, shown, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    seen = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"version"')))
    assert seen["version"].startswith(version)
    for case, parts in seen["found"].items():
        for part, (overlap, levels) in parts.items():
            assert overlap >= 0.999 and levels <= 2, f"{case} {part}: {overlap}, {levels} levels"
    assert {case: sorted(parts) for case, parts in seen["found"].items()} == {
        "tex": ["colors", "points"], "vcol": ["colors", "points"], "texrot": ["points"]
    }  # fmt: skip
