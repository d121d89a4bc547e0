"""`python -m backend generate`: one picture to asset.glb, camera.json, overlay.png and report.json, without Blender;
or a mesh and a sentence to pictures (`picture_command`)."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData, mesh_from_bytes
from backend.formats import glb
from backend.formats.images import decode_image, encode_png
from backend.rendering.views import render_mesh
from backend.systems import picture_command, registry, scene_command
from backend.systems.base import Hooks, RunResult

logger = logging.getLogger(__name__)

GHOST = 0.3
OVERLAY_SIDE = 768  # pixels of the longer side of each half
KEPT = ("asset.glb", "bundle.png", "splats.ply", "thumbnail.png", "report.json")
NO_MASK = "none"  # for a photo among several that needs none


def overlay(image: bytes, mesh: MeshData, camera: dict) -> bytes:
    """PNG, side by side: the picture, and the object through the solved camera over a faint grey ghost of the picture.

    The ghost shows a miss as a miss: the picture itself behind the object would hide an object that is not there.
    """
    picture = Image.fromarray(decode_image(image).rgba)
    picture.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, np.float32) / 255.0
    shown = pixels[..., :3] * pixels[..., 3:] + (1.0 - pixels[..., 3:])
    ghost = 1.0 - GHOST * (1.0 - shown.mean(axis=-1, keepdims=True)) * np.ones(3, np.float32)
    drawn = ghost
    if camera["world_to_camera"] is not None:
        world_to_camera, intrinsics = np.array(camera["world_to_camera"]), np.array(camera["intrinsics"])
        view = render_mesh(mesh, world_to_camera, intrinsics, picture.size, background=(0.0, 0.0, 0.0))
        drawn = view.color + ghost * (1.0 - view.alpha[..., None])
    return encode_png(np.concatenate([shown, drawn], axis=1))


def write_result(result: RunResult, images: Sequence[bytes], out: Path) -> None:
    """Write the artifacts, and camera and overlay of each photo, into `out`; of further hypotheses GLB and picture.

    Errors: `MaquetteError` disk_full when it cannot be written.
    """
    data = {artifact.name: artifact.data for artifact in result.artifacts}
    mesh = mesh_from_bytes(data["asset.mesh"])
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            if name in data:
                (out / name).write_bytes(data[name])
        for name in (name for name in data if name.startswith("hypothesis_")):
            stem, ending = name.split(".")
            if ending == "mesh":
                (out / f"{stem}.glb").write_bytes(glb.mesh_to_glb(mesh_from_bytes(data[name]), "Maquette object"))
            else:
                (out / name).write_bytes(data[name])
        for number, image in enumerate(images):
            ending = f"_{number}" if number else ""
            if f"camera{ending}.json" not in data:
                continue  # not every system solves a camera
            camera = data[f"camera{ending}.json"]
            (out / f"camera{ending}.json").write_bytes(camera)
            (out / f"overlay{ending}.png").write_bytes(overlay(image, mesh, json.loads(camera)))
    except OSError as error:
        raise MaquetteError(
            "disk_full", f"The result could not be written to {out}; choose another folder or free space.",
            detail=str(error), next_step="free_disk",
        ) from error  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """The command. Errors: `MaquetteError`."""
    parser = argparse.ArgumentParser(prog="python -m backend generate", description=__doc__)
    parser.add_argument("--system", help="default: cupid for pictures, kiss3dgen for text, refany3d for meshes")
    parser.add_argument(
        "--image", type=Path, default=[], action="append", help="picture of one object; again for further photos"
    )
    parser.add_argument("--text", help="what to make, in words (kiss3dgen); what a picture of --mesh shows (refany3d)")
    parser.add_argument("--negative", help="what a picture of --mesh should not show, in words")
    parser.add_argument("--mesh", type=Path, help="GLB file of a mesh to paint pictures of (refany3d)")
    parser.add_argument("--views", type=int, choices=(4, 6, 8), default=8, help="of the mesh; default: 8")
    parser.add_argument("--even-views", action="store_true", help="views at equal angles instead of as published")
    parser.add_argument(
        "--elevation", type=float, default=0.0, help="of the views in degrees; default: 0, as published"
    )
    parser.add_argument("--variants", type=int, help="how many pictures, 1 to 8; default: 1")
    parser.add_argument("--guidance", type=float, help="how much a picture obeys the words; default: the weights' own")
    parser.add_argument(
        "--image-guidance", type=float, help="how much a picture obeys the mesh, 1 for no more than by itself"
    )
    parser.add_argument("--base", help="of published weights: dev, schnell or openflux; default: dev")
    parser.add_argument(
        "--mask", action="append", default=[],
        help=f"picture that is white where the object is; one a photo in the photos' order, {NO_MASK} to leave one out",
    )  # fmt: skip
    parser.add_argument(
        "--occluder", action="append", default=[],
        help=f"picture that is white where something hides the object; one a photo, {NO_MASK} to leave one out",
    )  # fmt: skip
    parser.add_argument("--hypotheses", type=int, help="how many different answers to write, 1 to 8; default: 1")
    parser.add_argument("--task", help=f"default: the system's first; others: {', '.join(scene_command.TASKS)}")
    parser.add_argument("--depth", type=Path, help="of a scene: depth image (.npy, 16-bit PNG or EXR)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--steps", type=int,
        help="sampler steps a stage; default, or 0: what the weights were made for (CUPID: mini 12, published 25)",
    )  # fmt: skip
    parser.add_argument("--name", action="append", help="of a scene: what an object is called, one a mask")
    parser.add_argument("--weights", default="mini", help="mini, published, random or a folder; default: mini")
    parser.add_argument("--config", default="mini", help="mini or full; default: mini")
    parser.add_argument(
        "--profile", help="how the networks are kept in memory: full, half or offload; default: what fits"
    )
    parser.add_argument("--focal", type=float, help="known focal length in picture widths")
    parser.add_argument(
        "--camera", type=Path,
        help="known camera of the picture in the object's unit cube: JSON with world_to_camera [4,4] and intrinsics "
        "[3,3], a camera.json for example",
    )  # fmt: skip
    parser.add_argument("--triangles", type=int, help="budget of the mesh; default: as many as there are")
    parser.add_argument("--texture-size", type=int, help="pixels a side of the texture; default: 1024")
    parser.add_argument("--normal-map", action="store_true", help="with --triangles: what they cannot show")
    parser.add_argument("--splats", action="store_true", help="write splats.ply, Gaussian splats of the object")
    parser.add_argument("--pivot", help="origin of the GLB: cube, base or centre; default: cube, the object's own")
    options = parser.parse_args(arguments)
    if options.mesh is not None:
        return paint_mesh(options, parser)
    if not options.image and options.text is None:
        parser.error("give --image with a picture, or --text with what to make")
    images = [_read(path) for path in options.image]
    if options.task in scene_command.TASKS:
        masks = [_read(Path(mask)) for mask in options.mask]
        inputs = scene_command.scene_inputs(images, masks, _read(options.depth) if options.depth else None)
    else:
        inputs = photo_inputs(images, options.mask, options.occluder)
    names = ("seed", "steps", "weights", "config", "focal", "profile", "hypotheses")
    parameters = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.text is not None:
        parameters["prompt"] = options.text
    if options.name:
        parameters["names"] = options.name
    finish = {name: getattr(options, name) for name in ("triangles", "texture_size", "normal_map", "splats", "pivot")}
    parameters |= {name: value for name, value in finish.items() if value}
    if options.camera:
        parameters["camera"] = read_camera(options.camera)
    system = registry.get_system(options.system or ("cupid" if images else "kiss3dgen"))
    result = system.run(options.task or ("image_to_3d" if images else "text_to_3d"), inputs, parameters, Hooks())
    if options.task in scene_command.TASKS:
        scene_command.write_scene(result, images[0], options.out)
    else:
        write_result(result, images, options.out)
    logger.info("written to %s", options.out)
    return 0


def paint_mesh(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Pictures of the mesh --mesh. Errors: `MaquetteError`."""
    if options.text is None or options.image:
        parser.error("give --mesh with --text, which says what the picture shows, and no --image")
    meshes = picture_command.read_mesh(options.mesh)
    drawn = picture_command.draw_views(meshes, options.views, options.even_views, options.elevation)
    inputs = picture_command.picture_inputs(drawn)
    names = ("seed", "steps", "weights", "config", "base", "profile", "focal", "variants", "guidance", "image_guidance",
             "negative")  # fmt: skip
    parameters = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    parameters |= {"prompt": options.text, **picture_command.bounds_parameters(drawn)}
    system = registry.get_system(options.system or "refany3d")
    result = system.run(options.task or picture_command.TASK, inputs, parameters, Hooks())
    picture_command.write_pictures(result, inputs, meshes, options.out)
    logger.info("written to %s", options.out)
    return 0


def photo_inputs(images: Sequence[bytes], masks: Sequence[str], occluders: Sequence[str] = ()) -> dict[str, bytes]:
    """The inputs image, image_1, ..., mask, mask_1, ... of photos of one object; `masks` and `occluders` are files in
    their order.

    Errors: `MaquetteError` when there are more masks than photos, or one cannot be read.
    """
    endings = ["" if number == 0 else f"_{number}" for number in range(len(images))]
    inputs = {f"image{ending}": image for ending, image in zip(endings, images, strict=True)}
    for name, files in (("mask", masks), ("occluder", occluders)):
        if len(files) > len(images):
            raise MaquetteError("bad_input", f"There are more {name}s than photos; give one --{name} a photo at most.")
        given = zip(endings, files, strict=False)  # the last photos may have none
        inputs |= {f"{name}{ending}": _read(Path(file)) for ending, file in given if file != NO_MASK}
    return inputs


def read_camera(path: Path) -> dict:
    """The parameter `camera` from a JSON file, whatever else that holds. Errors: `MaquetteError` bad_input."""
    try:
        data = json.loads(_read(path))
        return {name: data[name] for name in ("world_to_camera", "intrinsics")}
    except (ValueError, KeyError, TypeError) as error:
        raise MaquetteError(
            "bad_input", f"The file {path} holds no camera; give a JSON with world_to_camera and intrinsics.",
            detail=repr(error),
        ) from error  # fmt: skip


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MaquetteError(
            "bad_input", f"The file {path} cannot be read; choose another one.", detail=str(error)
        ) from error
