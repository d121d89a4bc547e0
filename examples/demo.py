"""Pictures become objects with their cameras in Blender, with the packaged extension: what `build.py demo` runs.

Starts a Blender (a Python with bpy, or a Blender program) with user folders of its own, lets `demo_in_blender.py` work
in it, and writes pictures, files and measures into the folder `--out`. Run with the backend's Python. Ends with 1 and
one sentence when something fails.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples import demo_pictures  # noqa: E402  (found once the project is on the path)

SCRIPT = Path(__file__).with_name("demo_in_blender.py")
PICTURES = Path(__file__).with_name("pictures")
MARK = "MAQUETTE "
WARM_TARGET = 20.0  # seconds from picture to object on two processor cores, once the backend is warm
END_SECONDS = 10.0  # Blender ends with its input; a render in progress may need a moment
SAMPLES = 32  # of Cycles a pixel: plain white light has hardly any noise
TURNTABLE_SIDE = 256

log = logging.getLogger("demo")


class DemoError(Exception):
    """Something failed; the text is one sentence for the person at the keyboard."""


@dataclass(frozen=True)
class DemoPicture:
    """One input: its name in the output, the picture and, where its background cannot be cut away, the mask."""

    name: str
    image: Path
    mask: Path | None = None
    seed: int = 0


# Two renders of objects that no network was trained on, and a photo; see pictures/SOURCES.md.
SHOWN = (
    DemoPicture("space_truck", PICTURES / "space_truck.png"),
    DemoPicture("barrel", PICTURES / "barrel.png"),
    DemoPicture("coffee", PICTURES / "coffee.jpg", PICTURES / "coffee_mask.png"),
)


def blender_command(blender: str, job: Path) -> list[str]:
    """The command line that runs our script in `blender`: a Blender program, or a Python with bpy."""
    if Path(blender).name.lower().startswith("blender"):
        return [blender, "--background", "--factory-startup", "--python-exit-code", "1", "--python", str(SCRIPT),
                "--", str(job)]  # fmt: skip
    return [blender, str(SCRIPT), str(job)]


def blender_job(archive: Path, out: Path, work: Path, pictures: Sequence[DemoPicture]) -> dict[str, Any]:
    """What the script inside Blender has to know, as JSON values."""
    return {
        "zip": str(archive.resolve()),
        "python": sys.executable,
        "data": str(work / "data"),
        "work": str(work),
        "blend": str(out / "demo.blend"),
        "samples": SAMPLES,
        "turntable_side": TURNTABLE_SIDE,
        "pictures": [
            {"name": p.name, "image": str(p.image), "mask": str(p.mask) if p.mask else "", "seed": p.seed}
            for p in pictures
        ],
    }


def run_blender(blender: str, job: dict[str, Any], work: Path) -> tuple[str, list[dict[str, Any]]]:
    """Run the script to its end; returns Blender's version and what it told of each object. Errors: DemoError."""
    path = work / "job.json"
    path.write_text(json.dumps(job, indent=1), encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    # Every folder that Blender writes to, its temporary one among them, lies in the work folder.
    folders = {"BLENDER_USER_RESOURCES": str(work / "user"), "TMPDIR": str(work), "TEMP": str(work)}
    environment = {**kept, **folders, "PYTHONUNBUFFERED": "1"}
    try:
        process = subprocess.Popen(
            blender_command(blender, path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env=environment,
        )  # fmt: skip
    except OSError as error:
        raise DemoError(f"{blender} does not start ({error}); set MAQUETTE_BLENDER to a Blender program.") from error
    version, objects, failure = "", [], ""
    assert process.stdin is not None and process.stdout is not None
    try:
        with (work / "blender.log").open("w", encoding="utf-8") as kept_lines:
            for line in process.stdout:
                kept_lines.write(line)
                if not line.startswith(MARK):
                    continue
                news = json.loads(line[len(MARK) :])
                if news["event"] == "say":
                    log.info("%s", news["text"])
                elif news["event"] == "object":
                    objects.append(news)
                elif news["event"] == "failed":
                    failure = news["text"]
                elif news["event"] == "done":
                    version = news["blender"]
        status = process.wait()
    finally:
        process.stdin.close()  # Blender ends itself at the end of its input, and the backend with it
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if failure:
        raise DemoError(failure)
    if status != 0 or not version:
        raise DemoError(f"Blender ended with status {status} before it was done; {work / 'blender.log'} says why.")
    return version, objects


def write_object(picture: DemoPicture, told: dict[str, Any], cold: bool, work: Path, out: Path) -> dict[str, Any]:
    """Write the files of one object; returns its part of the report."""
    name, report = picture.name, told["report"]
    shutil.copyfile(Path(told["folder"]) / "asset.glb", out / f"{name}.glb")
    mask = Image.open(picture.mask) if picture.mask else None
    photo = Image.open(picture.image)
    render_path = work / f"{name}_render.png"
    render = Image.open(render_path) if told["camera"] else None
    measures = {"mask_iou": 0.0, "psnr": 0.0}
    if render is not None:
        measures = demo_pictures.measure(demo_pictures.with_mask(photo, mask), render)
    fit = f"mask IoU {measures['mask_iou']:.2f} \u00b7 PSNR {measures['psnr']:.1f} dB"
    captions = (("Picture", ""), ("Blender, through the solved camera", fit))
    demo_pictures.side_by_side(photo, render, captions).save(out / f"{name}_overlay.png", optimize=True)
    strip = demo_pictures.turntable_strip(np.load(work / f"{name}_turntable.npy"))
    strip.save(out / f"{name}_turntable.png", optimize=True)
    stages = {stage: round(seconds, 2) for stage, seconds in report.get("seconds", {}).items()}
    return {
        "name": name,
        "backend": "cold" if cold else "warm",
        "total_seconds": told["total_seconds"],
        "seconds": {**stages, "start_and_transfer": round(told["total_seconds"] - sum(stages.values()), 2)},
        **measures,
        "backend_says": {key: round(report[key], 4) for key in measures if key in report},
        "camera": bool(told["camera"]),
        "camera_trusted": report.get("camera_trusted", False),
        "camera_message": report.get("camera_message", ""),
        "triangles": report.get("triangles", 0),
        "seed": picture.seed,
        "peak_mib": told["peak_mib"],
        "files": [f"{name}.glb", f"{name}_overlay.png", f"{name}_turntable.png"],
    }


def summary(version: str, objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report: the slowest warm object (None without one) against the target; the greatest memory of all objects."""
    warm = [entry["total_seconds"] for entry in objects if entry["backend"] == "warm"]
    processes = objects[0]["peak_mib"]
    peaks = {name: [entry["peak_mib"][name] for entry in objects if entry["peak_mib"][name]] for name in processes}
    return {
        "blender": version,
        "cold_seconds": next(entry["total_seconds"] for entry in objects if entry["backend"] == "cold"),
        "warm_seconds": max(warm) if warm else None,
        "warm_seconds_target": WARM_TARGET,
        "within_target": max(warm) <= WARM_TARGET if warm else None,
        "peak_mib": {name: max(values) if values else None for name, values in peaks.items()},
        "objects": list(objects),
    }


def demo(blender: str, archive: Path, out: Path, work: Path, pictures: Sequence[DemoPicture] = SHOWN) -> dict[str, Any]:
    """Run the demo; returns the report, which is also written. Errors: DemoError."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    out.mkdir(parents=True, exist_ok=True)
    version, told = run_blender(blender, blender_job(archive, out, work, pictures), work)
    objects = [
        write_object(picture, news, index == 0, work, out)
        for index, (picture, news) in enumerate(zip(pictures, told, strict=True))
    ]
    report = summary(version, objects)
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    unsolved = [entry["name"] for entry in objects if not entry["camera"]]
    if unsolved:
        names = ", ".join(unsolved)
        raise DemoError(f"No camera was found for {names}; the overlay is empty. Change the seed in demo.py.")
    shutil.rmtree(work, ignore_errors=True)
    return report


def log_report(report: dict[str, Any], out: Path) -> None:
    """A table for the person at the keyboard, and how the times compare with the target."""
    log.info("\n%-14s%9s%10s%9s  %s", "object", "seconds", "mask IoU", "PSNR", "backend")
    for entry in report["objects"]:
        log.info(
            "%-14s%9.1f%10.2f%9.1f  %s",
            entry["name"], entry["total_seconds"], entry["mask_iou"], entry["psnr"], entry["backend"],
        )  # fmt: skip
    peaks = ", ".join(f"{name} {value:.0f} MiB" for name, value in report["peak_mib"].items() if value)
    log.info("\nPeak memory: %s.", peaks or "this system does not tell")
    if report["within_target"] is False:
        log.warning(
            "With a warm backend the slowest object took %.1f seconds; the target on two idle cores is %.0f.",
            report["warm_seconds"], WARM_TARGET,
        )  # fmt: skip
    log.info("Open %s in Blender; everything else is beside it.", out / "demo.blend")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. 1 after a failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zip", type=Path, required=True, help="the packaged extension of this system")
    parser.add_argument("--blender", required=True, help="a Blender program, or a Python with bpy")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--only", action="append", choices=[picture.name for picture in SHOWN],
                        help="only this picture (may be repeated)")  # fmt: skip
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    out = options.out.resolve()
    pictures = [picture for picture in SHOWN if not options.only or picture.name in options.only]
    work = out.with_name(out.name + "_work")
    try:
        log_report(demo(options.blender, options.zip, out, work, pictures), out)
    except DemoError as error:
        log.error("%s", error)
        log.error("What the processes said is in %s.", work)
        return 1
    except KeyboardInterrupt:
        log.error("Stopped; Blender and the backend have ended.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
