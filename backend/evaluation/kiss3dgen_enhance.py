"""The part enhance of `evaluate kiss3dgen`: meshes made worse on purpose, and how near enhancing brings them back.

Each object (`data/objects.py`) is smoothed, decimated and its colours blurred (`data/degradation.py`), its bundle is
drawn as the add-on would send it, and the task refine_mesh makes it good again, without a sentence. The degraded and
the enhanced mesh are compared with the object in the same cube (`mesh_scores.compare_meshes`): the bundle's four views
and two from above.

`--stand-in true` takes the object's own bundle, at the weights' tile, for what Stage I makes: the most that any weights
of that tile can bring back. `--stand-in same` takes the degraded one: what is lost by drawing a mesh anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData, mesh_from_bytes, mesh_to_bytes
from backend.data.degradation import STRONG, Degree, degraded
from backend.data.objects import read_object
from backend.data.prepare import read_assets
from backend.evaluation.mesh_scores import compare_meshes
from backend.formats.images import encode_png
from backend.rendering.bundle_views import draw_bundle
from backend.systems.base import Hooks
from backend.systems.finishing import FinishOptions
from backend.systems.kiss3dgen import enhance
from backend.systems.kiss3dgen.pipeline import MESH, KissSystem

logger = logging.getLogger(__name__)

STAND_INS = ("", "true", "same")
TEXTURE_SIZE = 512  # of the degraded mesh, and of the enhanced one
SENT_TILE = 256  # pixels of the bundle's tiles that are sent
MEASURES = ("normal_consistency", "psnr", "ssim", "mask_iou", "fscore_05", "chamfer")
SMALLER_IS_BETTER = ("chamfer",)


def enhanced(system: KissSystem, mesh: MeshData, parameters: dict[str, Any]) -> MeshData:
    """What the task makes of a mesh. Errors: `MaquetteError`."""
    sent = draw_bundle(mesh, SENT_TILE)[..., :3]
    inputs = {"bundle": encode_png(sent), "mesh": mesh_to_bytes(mesh)}
    result = system.run(MESH, inputs, parameters, Hooks())
    return mesh_from_bytes({item.name: item.data for item in result.artifacts}["asset.mesh"])


def stood_in(mesh: MeshData, shown: MeshData, tile: int) -> MeshData:
    """The mesh that comes of the bundle of `shown` in place of a made one. Errors: `MaquetteError`."""
    sent = draw_bundle(mesh, SENT_TILE)[..., :3]
    seen = enhance.resized_picture(sent, tile)
    made = enhance.resized_picture(draw_bundle(shown, SENT_TILE)[..., :3], tile)
    return enhance.changed_mesh(
        mesh, sent, enhance.change_between(seen, made), FinishOptions(texture_size=TEXTURE_SIZE)
    )


def measure_enhance(
    system: KissSystem, assets: Path, split: str, limit: int, seed: int, parameters: dict[str, Any],
    stand_in: str = "", degree: Degree = STRONG, tile: int = 64,
) -> dict[str, Any]:  # fmt: skip
    """Entries of up to `limit` objects and their summary. Errors: FileNotFoundError."""
    rows = [row for row in read_assets(assets) if row.split == split]
    np.random.default_rng(seed).shuffle(rows)  # type: ignore[arg-type]
    entries: list[dict[str, Any]] = []
    for row in rows[:limit]:
        try:
            original = read_object(row.path)
            worse = degraded(original, degree, TEXTURE_SIZE)
        except ValueError as error:
            logger.warning("%s is left out: %s", row.id, error)
            continue
        before = compare_meshes(worse, original)
        entry: dict[str, Any] = {"id": row.id, "error": "", "degraded": before}
        started = time.perf_counter()
        try:
            if stand_in:
                better = stood_in(worse, original if stand_in == "true" else worse, tile)
            else:
                better = enhanced(system, worse, parameters)
            entry |= {"seconds": time.perf_counter() - started, "enhanced": compare_meshes(better, original)}
        except MaquetteError as error:  # nothing comes back, so the artist keeps what there was
            entry |= {"seconds": time.perf_counter() - started, "enhanced": before, "error": str(error)}
        entries.append(entry)
        logger.info("%d %s: %s", len(entries), row.id, {key: round(v, 3) for key, v in gains(entry).items()})
    return {"objects": entries, "degree": asdict(degree), "summary": summarise(entries)}


def gains(entry: dict[str, Any]) -> dict[str, float]:
    """How much better than the degraded mesh the enhanced one is, by each measure."""
    change = {name: float(entry["enhanced"][name] - entry["degraded"][name]) for name in MEASURES}
    return {name: -value if name in SMALLER_IS_BETTER else value for name, value in change.items()}


def summarise(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The table: of each measure the mean before and after, mean and median gain, and the share of objects that
    gained."""
    if not entries:
        return {"count": 0}
    table: dict[str, Any] = {}
    for name in MEASURES:
        gained = np.array([gains(entry)[name] for entry in entries])
        table[name] = {
            "degraded": float(np.mean([entry["degraded"][name] for entry in entries])),
            "enhanced": float(np.mean([entry["enhanced"][name] for entry in entries])),
            "gain_mean": float(gained.mean()),
            "gain_median": float(np.median(gained)),
            "improved": float((gained > 0).mean()),
        }
    seconds = float(np.median([entry["seconds"] for entry in entries]))
    failed = sum(bool(entry["error"]) for entry in entries)
    return {**table, "seconds_median": seconds, "count": len(entries), "failed": failed}
