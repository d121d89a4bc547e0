"""`python -m backend evaluate cupid-finish --assets DIR --out report.json`: what baking is worth at equal triangles.

CUPID makes the shape of an unseen view and its camera, drawn to the photo's outline as in use. The shape is decimated
to each budget, fitted to the outline again, and coloured from the photo in two ways, by the same code: at its vertices
alone, and in a baked texture. Both are shown through the same camera and compared with the photo:

* `psnr`: the whole picture on white as `evaluate cupid` scores it; misses of the outline are the same in both ways,
* `psnr_inside`: where both show the object, so that only colours count.

`shading_flat`, `shading_mapped`: mean angle in degrees between the normals of the decimated mesh and those of the full
one, in that view, without and with the baked normal map.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData
from backend.data import blender, prepare
from backend.data.shards import ShardDataset
from backend.evaluation.reports import write_report
from backend.formats.images import encode_png, photo_on_white
from backend.geometry.mesh_repair import repair
from backend.rendering.image_metrics import psnr
from backend.rendering.rasterizer import rasterize
from backend.rendering.tangent_space import angle_normals, decode_normals, tangent_frames
from backend.rendering.views import interpolate, render_mesh, sample_bilinear
from backend.systems.base import Hooks
from backend.systems.cupid import model
from backend.systems.cupid.object_stage import encode_photos
from backend.systems.cupid.occupancy_mesh import mesh_from_occupancy
from backend.systems.cupid.outline_fit import draw_to_outlines, outline_keeper
from backend.systems.cupid.outline_snap import Outline
from backend.systems.cupid.photo import prepare_photos
from backend.systems.cupid.photo_texture import PhotoView, base_colors, blended_photos, is_symmetric, photo_painter
from backend.systems.cupid.photo_texture import seen_colors as colors_seen
from backend.systems.cupid.request import Request
from backend.systems.cupid.structure_stage import find_structure
from backend.systems.finishing import FinishOptions, finish

logger = logging.getLogger(__name__)

BUDGETS = (2_000, 5_000, 10_000)
PICTURE_SIZE = 512  # pixels of a rendered input: at 96 a few thousand vertices hold the whole picture
NORMALS_SIZE = 256
AIM = 2.0  # dB that baking is to be worth


@dataclass(frozen=True)
class Shape:
    """A surface [V,3], [F,3] in the object cube, the crop it was made from with its camera, and the whole photo's.

    `outlines` are what the surface was drawn to: the photo's, or none where the configuration leaves shapes alone.
    """

    vertices: np.ndarray
    faces: np.ndarray
    photo: PhotoView
    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    outlines: tuple[Outline, ...] = ()


def pictures(assets: Path | None, shards: Path | None, limit: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Names and pictures [H,W,4] uint8 of unseen views of the val split. Errors: FileNotFoundError."""
    if assets is None:
        data = ShardDataset(shards, "val", limit)
        for item, name in enumerate(data.ids):
            yield name, data.images[item, np.random.default_rng(seed + item).integers(data.views)]
        return
    rows = [row for row in prepare.read_assets(assets) if row.split == "val"]
    np.random.default_rng(seed).shuffle(rows)  # type: ignore[arg-type]
    chosen = [blender.Asset(row.id, row.path, prepare.object_seed(row.id, seed + 7919)) for row in rows[:limit]]
    for rendered in blender.render_assets(chosen, blender.RenderOptions(views=2, size=PICTURE_SIZE)):
        if not rendered.error:
            yield rendered.asset.id, rendered.arrays["color"][1]  # the first of the sequence looks from a pole


def find_shape(networks: model.CupidModel, rgba: np.ndarray, seed: int) -> Shape | None:
    """What stage 1 makes of a picture; None where no camera was found. Errors: `MaquetteError`."""
    hooks, request = Hooks(), Request(seed=seed)
    with torch.inference_mode():
        photos = prepare_photos({"image": encode_png(rgba)}, networks)
        conditions = encode_photos(networks, photos, hooks)
        generator = torch.Generator().manual_seed(seed)
        found = find_structure(networks, conditions, photos, generator, request, hooks)
    camera = found.camera
    if camera.crop is None or camera.world_to_camera is None or camera.intrinsics is None:
        return None
    occupancy = np.zeros((found.resolution,) * 3, bool)
    occupancy[tuple(found.structure.coords[:, 1:].long().cpu().numpy().T)] = True
    image = photos[0].crop.image
    outlines = () if found.fit is None else (Outline(camera.crop, image[..., 3] / 255.0),)
    vertices, faces = draw_to_outlines(*mesh_from_occupancy(occupancy), outlines)
    photo = (image, camera.crop.world_to_camera, camera.crop.intrinsics)
    return Shape(vertices, faces, photo, camera.world_to_camera, camera.intrinsics, outlines) if len(faces) else None


def vertex_colored(mesh: MeshData, shape: Shape) -> MeshData:
    """The mesh with what the painter of its texture says at its vertices, and no texture."""
    vertices, faces = mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)
    view = blended_photos(vertices, faces, [shape.photo])
    normals, mirror = angle_normals(vertices, faces), is_symmetric(shape.vertices)
    hidden = base_colors(vertices, faces, normals, view, None, mirror)
    shown, weight = colors_seen(vertices, normals, view, mirror)
    colors = np.full((len(vertices), 4), 255, np.uint8)
    colors[:, :3] = np.rint((hidden + weight[:, None] * (shown - hidden)).clip(0, 1) * 255)
    return MeshData(mesh.vertices, mesh.faces, colors=colors)


def compare(shape: Shape, rgba: np.ndarray, budget: int) -> dict[str, float]:
    """Both colourings and both shadings of the shape at `budget` triangles."""
    painter = photo_painter([shape.photo])
    options = FinishOptions(budget, normal_map=True)
    baked = finish(shape.vertices, shape.faces, options, None, painter, outline_keeper(shape.outlines))
    size = rgba.shape[1], rgba.shape[0]
    truth, alpha = photo_on_white(rgba, size)
    entry: dict[str, float] = {"triangles": float(len(baked.faces))}
    for name, mesh in (("vertex", vertex_colored(baked, shape)), ("baked", baked)):
        view = render_mesh(mesh, shape.world_to_camera, shape.intrinsics, size)
        inside = (view.alpha > 0.99) & (alpha > 0.99)
        entry[f"psnr_{name}"] = psnr(view.color, truth)
        entry[f"psnr_inside_{name}"] = psnr(view.color[inside], truth[inside]) if inside.any() else 0.0
    return entry | shading_errors(shape, baked)


def shading_errors(shape: Shape, mesh: MeshData) -> dict[str, float]:
    """`shading_flat` and `shading_mapped` of a decimated mesh; the same where it has no normal map."""
    dense = repair(shape.vertices, shape.faces)
    camera, size = (shape.world_to_camera, shape.intrinsics), (NORMALS_SIZE, NORMALS_SIZE)
    full = rasterize(dense.vertices, dense.faces, *camera, size)
    low = rasterize(mesh.vertices, mesh.faces, *camera, size)
    both = full.mask & low.mask
    wanted = _unit(interpolate(full, dense.faces, angle_normals(dense.vertices, dense.faces))[both])
    vertices, faces = mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)
    flat = _unit(interpolate(low, faces, angle_normals(vertices, faces))[both])
    mapped = flat
    if mesh.normal_map and mesh.uvs is not None:
        face, barycentric = low.face[both], low.barycentric[both]
        uv = np.einsum("nk,nkc->nc", barycentric, mesh.uvs.reshape(-1, 3, 2)[face])
        image = np.asarray(Image.open(io.BytesIO(mesh.normal_map)).convert("RGB"), np.float32) / 255
        stored = sample_bilinear(image, np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1))
        mapped = decode_normals(tangent_frames(vertices, faces, mesh.uvs), face, barycentric, stored)
    return {"shading_flat": _mean_angle(flat, wanted), "shading_mapped": _mean_angle(mapped, wanted)}


def summarise(entries: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Means over the objects for each budget, and the gain of baking in dB. Only objects that had more triangles."""
    summary = {}
    for budget in BUDGETS:
        found = [entry["budgets"][str(budget)] for entry in entries if str(budget) in entry["budgets"]]
        if not found:
            continue
        means = {name: float(np.mean([item[name] for item in found])) for name in found[0]}
        means["gain"] = means["psnr_baked"] - means["psnr_vertex"]
        gains = np.array([item["psnr_baked"] - item["psnr_vertex"] for item in found])
        means["gain_median"], means["share_of_2_db"] = float(np.median(gains)), float((gains >= AIM).mean())
        means["gain_inside"] = means["psnr_inside_baked"] - means["psnr_inside_vertex"]
        summary[str(budget)] = {**means, "count": len(found)}
    return summary


def _unit(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-9))


def _mean_angle(first: np.ndarray, second: np.ndarray) -> float:
    cosine = np.einsum("ni,ni->n", first, second).clip(-1.0, 1.0)
    return float(np.degrees(np.arccos(cosine)).mean()) if len(cosine) else 0.0


def main(arguments: Sequence[str]) -> int:
    """The command. Errors: `MaquetteError`."""
    parser = argparse.ArgumentParser(prog="python -m backend evaluate cupid-finish", description=__doc__)
    parser.add_argument("--assets", type=Path, help=f"folder of GLB files: rendered at {PICTURE_SIZE} pixels")
    parser.add_argument("--shards", type=Path, help="prepared shards: pictures as small as they are")
    parser.add_argument("--limit", type=int, default=20, help="objects at most; default: 20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="mini")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if not options.shards and not options.assets:
        raise MaquetteError("bad_input", "There is nothing to evaluate on; give --assets or --shards.")
    networks = model.load_model(options.weights)
    entries: list[dict[str, Any]] = []
    try:
        for name, rgba in pictures(options.assets, options.shards, options.limit, options.seed):
            entry: dict[str, Any] = {"id": name, "budgets": {}}
            try:
                shape = find_shape(networks, rgba, options.seed)
            except MaquetteError as error:
                shape, entry["error"] = None, str(error)
            if shape is not None:
                entry["budgets"] = {str(budget): compare(shape, rgba, budget) for budget in BUDGETS}
            entries.append(entry)
            logger.info("%d %s: %s", len(entries), name, json.dumps(entry["budgets"]))
            report = {"objects": entries, "summary": summarise(entries)}
            write_report(options.out, report)
    except (FileNotFoundError, blender.BlenderNotFound) as error:
        raise MaquetteError("bad_input", str(error)) from error
    logger.info("summary: %s", json.dumps(summarise(entries)))
    return 0
