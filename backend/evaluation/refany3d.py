"""`python -m backend evaluate refany3d --assets DIR --out report.json`: pictures of unseen meshes, by their point maps.

Each object is painted with `--prompts` sentences. The camera is solved from the picture's own point map, the mesh drawn
again under it (`refany3d_measures.py` says what is compared exactly). Of the summary:

* pointmap_error: mean distance of the places that point map and mesh have in the same pixel, longest side 1;
* silhouette_iou: of the point map's foreground and the mesh;
* masked_psnr, masked_ssim: of the painted object, cut out by its point map, and the unlit mesh in the picture's light,
  over all that either covers; inside_psnr: over the mesh's silhouette alone, whatever the picture shows there;
* matches: local features that picture and mesh share under that camera; matches_views: that the picture shares with the
  condition view that it shares most with, which needs no camera;
* camera_solved: share of cameras that are trusted; camera_found: share with any. One without has the worst score;
* viewpoint_spread_deg: mean angle between the viewpoints of several seeds; adherence: how often the scene classifier
  reads from the picture what the sentence says.

`random_pose` is the same for the same pictures with the mesh turned at random but as large and in the same place as the
painted object; `true_scenes` for rendered scenes with their true point maps: what could be reached at best.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backend.contract.errors import MaquetteError
from backend.data.prepare import object_seed
from backend.data.reference_layout import ELEVATION_DEGREES
from backend.data.reference_scenes import SceneDataset
from backend.evaluation import refany3d_backbones as backbones
from backend.evaluation import refany3d_measures as measures
from backend.evaluation.refany3d_cases import Case, Painter, Picture, choose_cases, mean_angle, viewpoints
from backend.evaluation.refany3d_judge import SceneJudge, agreement, train_judge
from backend.evaluation.refany3d_matches import Features, count_matches, find_features
from backend.evaluation.refany3d_measures import Subject
from backend.evaluation.refany3d_sheet import Shown, picture_sheet
from backend.evaluation.reports import save_report, save_sheet
from backend.nn.devices import peak_mib
from backend.systems.refany3d.camera_from_points import solve_picture
from backend.systems.refany3d.condition_views import ConditionViews
from backend.systems.refany3d.pipeline import RefAny3DSystem
from backend.systems.refany3d.point_maps import foreground, from_bytes

logger = logging.getLogger(__name__)

MEANS = ("pointmap_error", "silhouette_iou", "masked_psnr", "masked_ssim", "inside_psnr", "matches")
EXTRA = ("matches_views", "camera_solved", "camera_found", *backbones.COLUMNS)
"""Further means, of what the entries have."""
ABLATIONS = ("without_points", "without_positions", "one_lora", "views_4", "views_6")
"""Names that `--ablation` usually has; others work too."""
NO_JUDGE = "Adherence is missing: the classifier learns from training scenes and none were named (--scenes)."


@dataclass
class Run:
    """What one set of weights painted: entries of the report and the first results for the sheet."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[np.ndarray] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    spreads: list[float] = field(default_factory=list)


def compare(
    picture: np.ndarray, points: np.ndarray, subject: Subject, features: Features, camera: np.ndarray, lens: np.ndarray
) -> tuple[dict[str, float], measures.Drawing]:
    """All measures of a picture under one camera, and the mesh drawn under it."""
    drawing = measures.draw(subject, camera, lens, len(picture))
    found = measures.score(picture, points, drawing, subject.bounds)
    found["matches"] = count_matches(features, find_features(drawing.color, drawing.mask))
    return found, drawing


def measure(painted: Picture, subject: Subject, drawn: ConditionViews, seed: int) -> tuple[dict[str, Any], Any]:
    """The report's entry of a picture, and the mesh put into it [S,S,3] or None."""
    picture, points, camera = painted.picture, painted.points, painted.camera
    shown = foreground(points) if points is not None else np.ones(picture.shape[:2], bool)
    features = find_features(picture, shown)
    views = [
        find_features(from_bytes(view), foreground(from_bytes(places)))
        for view, places in zip(drawn.views, drawn.points, strict=True)
    ]
    entry: dict[str, Any] = {
        "seconds": painted.seconds, "processor_seconds": painted.processor_seconds,
        "camera_solved": camera.trusted, "reason": camera.reason,
        "camera_found": camera.world_to_camera is not None,
        "matches_views": max(count_matches(features, view) for view in views),
        **measures.WORST, "matches": 0,
    }  # fmt: skip
    composed, focal = None, measures.FOCAL
    if points is not None and camera.world_to_camera is not None and camera.intrinsics is not None:
        found, drawing = compare(picture, points, subject, features, camera.world_to_camera, camera.intrinsics)
        entry |= found
        composed = measures.composite(picture, drawing.color, drawing.mask)
        focal = float(camera.intrinsics[0, 0])
    if points is not None:
        matrix = measures.random_camera(subject, points, focal, np.random.default_rng(seed))
        lens = np.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])
        entry["random_pose"] = compare(picture, points, subject, features, matrix, lens)[0]
    return entry, composed


def paint_all(
    painter: Painter, cases: Sequence[Case], seeds: int, spread_cases: int, sheet: int, networks: Sequence[Any] = ()
) -> Run:
    """Paint and measure all cases; the first `spread_cases` with `seeds` seeds, the first `sheet` kept for a sheet."""
    run = Run()
    for number, case in enumerate(cases):
        try:
            subject, drawn = painter.object(case.row)
        except MaquetteError as error:
            logger.warning("%s is left out: %s", case.row.id, error)
            continue
        pictures = painter.paint(case, seeds if number < spread_cases else 1)
        painted = pictures[0]
        entry, composed = measure(painted, subject, drawn, case.seed)
        for network in networks:
            entry |= backbones.score(network, painted.picture, painted.points, drawn.views, drawn.points, case.prompt)
        spread = mean_angle(viewpoints(pictures, subject))
        run.spreads += [] if spread is None else [spread]
        run.entries.append({"id": case.row.id, "prompt": case.prompt, "seed": case.seed, **entry})
        run.pictures.append(painted.picture)
        if len(run.shown) < sheet:
            run.shown.append(Shown(drawn.views, painted.picture, painted.points, composed))
        told = (entry["pointmap_error"], entry["silhouette_iou"], entry["masked_psnr"], entry["seconds"])
        logger.info("%d of %d %s: %.3f, IoU %.2f, %.1f dB, %.1f s", number + 1, len(cases), case.prompt, *told)
    if not run.entries:
        raise MaquetteError("bad_input", "No object could be painted; look at the warnings above.")
    return run


def summarise(run: Run, cases: Sequence[Case], judge: SceneJudge | None) -> dict[str, Any]:
    """The summary of those results of a run that are of `cases`."""
    asked = {(case.row.id, case.prompt): case.words for case in cases}
    kept = [number for number, entry in enumerate(run.entries) if (entry["id"], entry["prompt"]) in asked]
    entries, pictures = [run.entries[number] for number in kept], [run.pictures[number] for number in kept]
    summary: dict[str, Any] = means(entries)
    summary |= {f"{name}_median": float(np.median([entry[name] for entry in entries])) for name in MEANS[:3]}
    summary |= {name: float(np.mean([entry[name] for entry in entries])) for name in EXTRA if name in entries[0]}
    for name in ("seconds", "processor_seconds"):
        summary[f"{name}_median"] = float(np.median([entry[name] for entry in entries]))
    summary["peak_mib"] = peak_mib()
    summary["count"] = len(entries)
    posed = [entry["random_pose"] for entry in entries if "random_pose" in entry]
    if posed:
        summary["random_pose"] = means(posed)
    if run.spreads:
        summary["viewpoint_spread_deg"] = float(np.mean(run.spreads))
    if judge is not None:
        wanted = [asked[entry["id"], entry["prompt"]] for entry in entries]
        summary["adherence"] = agreement(judge.verdicts(pictures), wanted)
    return summary


def means(entries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The means of the measures that need a camera."""
    return {name: float(np.mean([entry[name] for entry in entries])) for name in MEANS}


def measure_true(scenes: Path, painter: Painter, cases: Sequence[Case]) -> dict[str, Any]:
    """The measures of true pictures with true point maps, one of each of the cases' objects that `scenes` has; empty
    for none."""
    data = SceneDataset(scenes, "val")
    rows = {case.row.id: case.row for case in cases}
    entries = []
    for name, row in rows.items():
        if name not in data.ids:
            continue
        number = data.ids.index(name)
        picture, points = from_bytes(data.pictures[number]), from_bytes(data.points[number])
        try:
            subject, drawn = painter.object(row)
        except MaquetteError:
            continue  # said already
        camera = solve_picture(points, subject.bounds)
        entry, _ = measure(Picture(picture, points, camera, 0.0, 0.0), subject, drawn, object_seed(name, 0))
        entries.append(entry)
    if not entries:
        return {}
    extra = {name: float(np.mean([entry[name] for entry in entries])) for name in ("matches_views", "camera_solved")}
    posed = means([entry["random_pose"] for entry in entries])
    return {**means(entries), **extra, "random_pose": posed, "count": len(entries)}


def spread_of_scenes(count: int = 400) -> float:
    """The mean angle in degrees between two viewpoints of the training scenes."""
    rng = np.random.default_rng(0)
    azimuth = rng.uniform(0.0, 2.0 * np.pi, count)
    elevation = np.radians(rng.uniform(*ELEVATION_DEGREES, count))
    flat = np.cos(elevation)
    directions = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=1)
    return mean_angle(directions) or 0.0


def evaluate(options: argparse.Namespace) -> tuple[dict[str, Any], Run]:
    """The whole report, and what the weights themselves painted. Errors: `MaquetteError`, FileNotFoundError."""
    cases = choose_cases(options.assets, options.split, options.limit, options.prompts, options.seed)
    judge = train_judge(options.scenes, seed=options.seed) if options.scenes else None
    networks = backbones.read_backbones(options.clip, options.dino) if options.clip or options.dino else []
    painter = Painter(RefAny3DSystem(), options.weights, options.config, options.steps)
    sheet = options.sheet_count if options.sheet else 0
    run = paint_all(painter, cases, options.seeds, options.spread, sheet, networks)
    summary = summarise(run, cases, judge)
    summary["viewpoint_spread_deg_of_scenes"] = spread_of_scenes()
    present = {network.kind for network in networks}
    notes = [sentence for kind, sentence in backbones.MISSING.items() if kind not in present]
    if judge is None:
        notes.append(NO_JUDGE)
    else:
        summary |= {"classifier_accuracy": judge.accuracy, "chance_commonest": judge.chance}
        summary["true_scenes"] = measure_true(options.scenes, painter, cases)
    some = len(cases) if options.ablation_limit is None else options.ablation_limit
    table = {}
    for name, folder in options.ablation:
        started = time.perf_counter()
        other = Painter(RefAny3DSystem(), folder, options.config, options.steps)
        table[name] = summarise(paint_all(other, cases[:some], 1, 0, 0, networks), cases[:some], judge)
        logger.info("ablation %s: %.0f s, %s", name, time.perf_counter() - started, json.dumps(table[name]))
    if table:
        table["complete"] = summarise(dataclasses.replace(run, spreads=[]), cases[:some], judge)  # the same cases
        summary["ablations"] = table
    report = {
        "weights": options.weights, "split": options.split, "seed": options.seed, "notes": notes,
        "backbones": {network.kind: network.name for network in networks}, "summary": summary, "objects": run.entries,
        "ablations": table,
    }  # fmt: skip
    return report, run


def _ablation(text: str) -> tuple[str, str]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=FOLDER")
    return name, folder


def main(arguments: Sequence[str]) -> int:
    """The command. Errors: `MaquetteError`."""
    parser = argparse.ArgumentParser(
        prog="python -m backend evaluate refany3d", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--assets", type=Path, required=True, help="folder of GLB files, with or without objects.csv")
    parser.add_argument("--scenes", type=Path, help="scenes (python -m backend.data.reference_scenes): the classifier "
                        "learns from the training ones; true pictures are measured too")  # fmt: skip
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, help="objects at most")
    parser.add_argument("--prompts", type=int, default=2, help="sentences an object; default: 2")
    parser.add_argument("--seed", type=int, default=0, help="of objects' order, sentences, noise and random poses")
    parser.add_argument("--steps", type=int, help="default: what the weights were made for")
    parser.add_argument("--seeds", type=int, default=3, help="seeds for the spread of viewpoints; default: 3")
    parser.add_argument("--spread", type=int, default=10, help="pictures that are painted with all seeds; default: 10")
    parser.add_argument("--weights", default="mini", help="mini, random, published or a folder; default: mini")
    parser.add_argument("--config", default="mini", help="of random weights; default: mini")
    parser.add_argument("--ablation", type=_ablation, action="append", default=[], metavar="NAME=FOLDER",
                        help=f"other weights for the table, again for more: {', '.join(ABLATIONS)}")  # fmt: skip
    parser.add_argument("--ablation-limit", type=int, help="pictures of each ablation; default: as many as all")
    parser.add_argument("--clip", type=Path, help="folder of a CLIP, for CLIP-I and CLIP-T")
    parser.add_argument("--dino", type=Path, help="folder of a DINOv2, for DINO")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, help="PNG of the first results: views, picture, point map, mesh put in")
    parser.add_argument("--sheet-count", type=int, default=24, help="results on the sheet; default: 24")
    options = parser.parse_args(arguments)
    try:
        report, run = evaluate(options)
    except FileNotFoundError as error:
        raise MaquetteError("bad_input", str(error)) from error
    save_report(options.out, report)
    if options.sheet:
        title = f"RefAny3D, weights {Path(options.weights).name}: the first {len(run.shown)} unseen objects, not chosen"
        title += ". Below: text, point-map error, silhouette IoU, masked PSNR"
        save_sheet(options.sheet, picture_sheet(run.shown, run.entries, title))
    return 0
