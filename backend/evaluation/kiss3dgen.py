"""`python -m backend evaluate kiss3dgen --assets DIR --out report.json`: Kiss3DGen on objects it never saw.

Parts, chosen with `--parts`; each is one entry of the report's summary:

* reconstruct: a mesh from each object's true bundle (`evaluate kiss3dgen-reconstruct` is the same alone);
* text: a bundle from each object's caption; does a classifier that knows real bundles name the right category, how
  often does it for the objects themselves, and how much do bundles of other seeds differ;
* photo: a mesh from one unseen view, in the columns of `evaluate cupid` (`kiss3dgen_photo.py`);
* enhance: meshes made worse on purpose come back how much nearer to what they were (`kiss3dgen_enhance.py`);
* edit: meshes asked to be another colour: does the hue go there, does the outline stay.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backend.contract.errors import MaquetteError
from backend.data.blender import BlenderNotFound
from backend.data.bundles import BundleDataset
from backend.data.objects import read_object
from backend.data.prepare import read_assets
from backend.evaluation import bundle_classifier
from backend.evaluation import kiss3dgen_enhance as enhance
from backend.evaluation import kiss3dgen_reconstruct as reconstruct
from backend.evaluation.kiss3dgen_photo import measure_photo
from backend.evaluation.reports import save_report
from backend.rendering.bundle_views import draw_bundle
from backend.rendering.image_metrics import mask_iou
from backend.systems.base import Hooks
from backend.systems.kiss3dgen import bundle, colors
from backend.systems.kiss3dgen.pipeline import KissSystem, bundle_from_text
from backend.systems.kiss3dgen.reconstruct import ReconstructSettings
from backend.systems.kiss3dgen.request import Request

logger = logging.getLogger(__name__)

SEEDS = 3  # bundles a caption for the diversity
EDIT_COLORS = ("red", "green", "blue", "yellow")
PARTS = ("reconstruct", "text", "photo", "enhance", "edit")
RECONSTRUCTED = 40  # objects, without --limit; as many are enhanced and edited
EDIT_TILE = 128  # pixels of a view that an edit is measured in


def with_mask(picture: np.ndarray) -> np.ndarray:
    """A made bundle [2S,4S,3] in [0,1] as true ones are stored: uint8 [2S,4S,4], the mask as alpha."""
    views = bundle.split(picture)
    mask = np.concatenate(list(views.mask), axis=1)
    alpha = np.concatenate([mask, mask])[..., None]
    shown = np.concatenate([picture * alpha + 1.0 - alpha, alpha], -1)
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def measure_text(system: KissSystem, options: argparse.Namespace) -> dict[str, Any]:
    """The part text. Categories are those of the captions' objects."""
    dataset = BundleDataset(options.bundles, options.split)
    known = bundle_classifier.read_categories(options.assets)
    judge = bundle_classifier.train_judge(options.bundles, options.assets, seed=options.seed)
    count = min(options.limit or len(dataset), len(dataset))
    right: list[bool] = []
    spread: list[float] = []
    entries, seconds = [], []
    for name, caption in zip(dataset.ids[:count], dataset.captions[:count], strict=True):
        made = []
        for index in range(SEEDS if len(spread) < options.diversity else 1):
            request = Request(prompt=caption, seed=options.seed + index, weights=options.weights)
            started = time.perf_counter()
            made.append(with_mask(bundle_from_text(system.networks(request), request, Hooks())))
            seconds.append(time.perf_counter() - started)
        verdict = judge.verdicts(made[0][None])[0]
        right.append(verdict == known[name])
        if len(made) > 1:
            first, *others = (item.astype(np.float32) / 255.0 for item in made)
            spread.append(float(np.mean([np.abs(first - other).mean() for other in others])))
        entries.append({"id": name, "caption": caption, "category": known[name], "verdict": verdict})
        logger.info("%d %s: %s", len(entries), caption, verdict)
    truth = dataset.pictures()[:count].astype(np.float32) / 255.0
    apart = [float(np.abs(truth[i] - truth[i - 1]).mean()) for i in range(1, count)]
    summary = {
        "recognised": float(np.mean(right)),
        "classifier_accuracy": judge.accuracy,
        "chance_commonest": judge.chance,
        "chance_uniform": 1.0 / len(judge.categories),
        "diversity": float(np.mean(spread)) if spread else 0.0,
        "difference_of_other_objects": float(np.mean(apart)) if apart else 0.0,
        "seconds_bundle_median": float(np.median(seconds)),
        "count": count,
    }
    return {"objects": entries, "summary": summary}


def measure_edit(system: KissSystem, options: argparse.Namespace) -> dict[str, Any]:
    """The part edit: "a red chair" asked of a chair; measured on the mesh that comes back, drawn as a bundle.

    toward: how much nearer the object's mean colour came to the word's, as a share of the way; named: how often most of
    its pixels then have that name; silhouette_iou: of the four views.
    """
    rows = [row for row in read_assets(options.assets) if row.split == options.split]
    entries = []
    for row in rows[: options.limit or RECONSTRUCTED]:
        color = EDIT_COLORS[len(entries) % len(EDIT_COLORS)]
        prompt = colors.with_color(row.caption, color)
        parameters = {
            "prompt": prompt, "seed": options.seed, "weights": options.weights, "strength": options.strength,
            "steps": options.steps,
        }  # fmt: skip
        try:
            original = read_object(row.path)
            edited = enhance.enhanced(system, original, {k: v for k, v in parameters.items() if v is not None})
        except (MaquetteError, ValueError) as error:
            logger.warning("%s is left out: %s", row.id, error)
            continue
        before, after = (draw_bundle(mesh, EDIT_TILE) for mesh in (original, edited))
        shown, seen = (picture[:EDIT_TILE, :, 3] > 0.5 for picture in (before, after))
        wanted = np.array(colors.color_of(color))
        first, last = (np.linalg.norm(_mean_color(picture) - wanted) for picture in (before, after))
        named = colors.main_color(after[:EDIT_TILE, :, :3], seen)
        entries.append(
            {
                "id": row.id, "prompt": prompt, "toward": float((first - last) / max(first, 1e-3)),
                "named": named == color, "silhouette_iou": mask_iou(shown, seen),
            }
        )  # fmt: skip
        logger.info("%d %s: %s", len(entries), prompt, named)
    if not entries:
        raise MaquetteError("bad_input", "No object could be edited; look at the warnings above.")
    summary = {
        "toward_median": float(np.median([entry["toward"] for entry in entries])),
        "nearer": float(np.mean([entry["toward"] > 0 for entry in entries])),
        "named": float(np.mean([entry["named"] for entry in entries])),
        "silhouette_iou": float(np.mean([entry["silhouette_iou"] for entry in entries])),
        "silhouette_iou_least": float(np.min([entry["silhouette_iou"] for entry in entries])),
        "count": len(entries),
    }
    return {"objects": entries, "summary": summary}


def _mean_color(picture: np.ndarray) -> np.ndarray:
    """The mean colour [3] of the object in a bundle picture [2S,4S,4]."""
    colors_row = picture[: len(picture) // 2]
    weight = colors_row[..., 3:]
    return np.asarray((colors_row[..., :3] * weight).sum((0, 1)) / max(float(weight.sum()), 1e-6))


def measure_reconstruct(_: KissSystem, options: argparse.Namespace) -> dict[str, Any]:
    """The part reconstruct."""
    cases = reconstruct.true_cases(options.assets, options.size, options.limit or RECONSTRUCTED, options.seed)
    settings = ReconstructSettings()
    entries = [reconstruct.evaluate_case(case, settings)[0] for case in cases]
    return {"objects": entries, "summary": reconstruct.summarise(entries)}


def measure_enhance(system: KissSystem, options: argparse.Namespace) -> dict[str, Any]:
    """The part enhance."""
    parameters = {"seed": options.seed, "weights": options.weights, "steps": options.steps}
    parameters |= {"strength": options.strength, "texture_size": enhance.TEXTURE_SIZE}
    limit = options.limit or RECONSTRUCTED
    return enhance.measure_enhance(
        system, options.assets, options.split, limit, options.seed, parameters, options.stand_in
    )


MEASURES: dict[str, Callable[[KissSystem, argparse.Namespace], dict[str, Any]]] = {
    "reconstruct": measure_reconstruct, "text": measure_text, "photo": measure_photo, "enhance": measure_enhance,
    "edit": measure_edit,
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """The command. Errors: `MaquetteError`."""
    parser = argparse.ArgumentParser(prog="python -m backend evaluate kiss3dgen", description=__doc__)
    parser.add_argument("--assets", type=Path, required=True, help="folder of GLB files with an objects.csv")
    parser.add_argument("--bundles", type=Path, help="their true bundles (python -m backend.data.bundles); for text")
    parser.add_argument("--shards", type=Path, help="photo: views are taken from these prepared shards, not rendered")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, help="objects at most")
    parser.add_argument("--diversity", type=int, default=20, help="captions that are made with several seeds")
    parser.add_argument("--strength", type=float, help="of edits and enhancing; default: the flow's own")
    parser.add_argument("--steps", type=int, help="of edits and enhancing; default: the flow's own")
    parser.add_argument("--stand-in", choices=enhance.STAND_INS, default="", help="bounds of enhancing: true or same")
    parser.add_argument("--size", type=int, default=256, help="tile of the true bundles that are reconstructed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="mini")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.bundles is None and "text" in options.parts:
        raise MaquetteError("bad_input", "Text is measured on prepared bundles; give --bundles, or other --parts.")
    system = KissSystem()
    report: dict[str, Any] = {"summary": {}}
    try:
        for part in options.parts:
            report[part] = MEASURES[part](system, options)
            report["summary"][part] = report[part].pop("summary")
    except (FileNotFoundError, BlenderNotFound) as error:
        raise MaquetteError("bad_input", str(error)) from error
    save_report(options.out, report)
    return 0
