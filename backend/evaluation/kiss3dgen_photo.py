"""The part photo of `evaluate kiss3dgen`: a mesh from one unseen view, in the columns of `evaluate cupid`.

With `--shards` the views are those of `evaluate cupid --shards` with the same seed. Kiss3DGen tells no camera; where a
column needs one, it is the one that the mesh is found under in the photo (CUPID's task match_mesh), so it judges the
mesh, and the rotation says whether the mesh stands in its cube as the object does.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from typing import Any

import numpy as np

from backend.contract.errors import MaquetteError
from backend.contract.meshes import mesh_from_bytes
from backend.evaluation.cupid import NOTHING, score, summarise
from backend.evaluation.views import TestView, views_from_assets, views_from_shards
from backend.formats.images import encode_png
from backend.nn.devices import peak_mib
from backend.systems.base import Hooks
from backend.systems.cupid.match_mesh import TASK as MATCH
from backend.systems.cupid.pipeline import CupidSystem
from backend.systems.kiss3dgen.pipeline import IMAGE, KissSystem

logger = logging.getLogger(__name__)


def measure_photo(system: KissSystem, options: argparse.Namespace) -> dict[str, Any]:
    """Entries of one view each of up to `limit` objects, and the summary of `evaluate cupid`."""
    source, folder = (views_from_shards, options.shards) if options.shards else (views_from_assets, options.assets)
    finder = CupidSystem()
    entries = []
    for view in source(folder, options.split, 1, options.limit, options.seed):
        started = time.perf_counter()
        entry: dict[str, Any] = {"id": view.object_id, "view": view.view, "error": "", **NOTHING}
        try:
            mesh = made_of(system, view, {"seed": options.seed, "weights": options.weights})
            entry["seconds"] = time.perf_counter() - started
            camera, intrinsics = found_camera(finder, view, mesh)
            entry |= score(view, mesh_from_bytes(mesh), camera, intrinsics)
        except MaquetteError as error:
            entry |= {"seconds": time.perf_counter() - started, "error": str(error)}
        entry["peak_mib"] = peak_mib()
        entries.append(entry)
        logger.info("%d %s: Chamfer %.3f", len(entries), view.object_id, entry["chamfer_full"])
    return {"objects": entries, "summary": summarise(entries)}


def made_of(system: KissSystem, view: TestView, parameters: dict[str, Any]) -> bytes:
    """The contract mesh that Kiss3DGen makes of a view. Errors: `MaquetteError`."""
    result = system.run(IMAGE, {"image": encode_png(view.rgba)}, parameters, Hooks())
    return {item.name: item.data for item in result.artifacts}["asset.mesh"]


def found_camera(finder: CupidSystem, view: TestView, mesh: bytes) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(world_to_camera [4,4], intrinsics [3,3]) under which the mesh lies on the photo; None where it is not found."""
    try:
        result = finder.run(MATCH, {"image": encode_png(view.rgba), "mesh": mesh}, {}, Hooks())
    except MaquetteError as error:
        logger.info("%s: %s", view.object_id, error)
        return None, None
    match = json.loads({item.name: item.data for item in result.artifacts}["match.json"])
    return np.array(match["world_to_camera"]), np.array(match["intrinsics"])
