"""The system "kiss3dgen": a sentence, a photo or a mesh becomes a bundle of views, the bundle a mesh (spec section 1).

Stage I samples the bundle (`flux/`), Stage II makes the mesh (`reconstruct.py`). What the three tasks differ in is what
Stage I is told and where it starts; `flows.json` has the numbers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from backend.catalog.catalog import find_model, is_installed, models_folder
from backend.contract import meshes
from backend.contract.errors import MaquetteError
from backend.contract.meshes import MeshData
from backend.contract.messages import SystemInfo
from backend.formats import glb
from backend.formats.images import decode_image, encode_png, on_white
from backend.nn.devices import best_device, peak_mib
from backend.rendering.thumbnails import thumbnail
from backend.systems.base import ArtifactData, Hooks, RunResult
from backend.systems.cutout.crop import crop_to_content
from backend.systems.cutout.masking import find_object
from backend.systems.finishing import with_pivot
from backend.systems.kiss3dgen import bundle, enhance, reconstruct
from backend.systems.kiss3dgen.flows import StageOneFlow, read_flows
from backend.systems.kiss3dgen.flux import places
from backend.systems.kiss3dgen.flux.config import FluxSettings
from backend.systems.kiss3dgen.flux.networks import PUBLISHED, FluxNetworks, load_flux
from backend.systems.kiss3dgen.flux.prompts import (
    Prompt,
    describe_photo,
    find_captioner,
    find_rewriter,
    prepare_prompt,
)
from backend.systems.kiss3dgen.flux.sampler import generate_bundle
from backend.systems.kiss3dgen.isomer.settings import settings_for
from backend.systems.kiss3dgen.request import ENHANCE, Request, parse_request

TEXT, IMAGE, MESH = "text_to_3d", "image_to_3d", "refine_mesh"
STAGES = ("prepare", "sample_bundle", *reconstruct.STAGES)
ISOMER_FLOWS = {TEXT: "text", IMAGE: "image", MESH: "mesh"}
REFERENCE_MODELS = ("zero123plus", "kiss3dgen_flexgen", "kiss3dgen_lrm")
"""In the catalogue: what a photo's reference bundle takes; without them the photo speaks through Redux alone."""
NARROW = "The small weights know game props and furniture; expect less of anything else."
"""What an artist should know of mini whatever was asked."""
EMPTY = "The bundle shows no object, so there is no mesh; try another seed or say what it is in other words."

TaskFunction = Callable[[FluxNetworks, dict[str, bytes], Request, Hooks], RunResult]


class KissSystem:
    """The system "kiss3dgen" (see `backend.systems.base.System`)."""

    name = "kiss3dgen"
    title = "Kiss3DGen"
    tasks = (TEXT, IMAGE, MESH)
    stages = (STAGES[0], "views", "rough_mesh", *STAGES[1:])

    def __init__(self, device: str | None = None) -> None:
        self.device = device or os.environ.get("MAQUETTE_DEVICE") or str(best_device())
        self._loaded: tuple[tuple[Any, ...], FluxNetworks] | None = None

    def info(self) -> SystemInfo:
        """Ready when mini's weights are there."""
        try:
            found = places.folder_places(places.MINI_FOLDER)
        except MaquetteError:
            found = {}
        missing = [role for role in ("transformer", "vae") if role not in found]
        note = f"The weights of {missing[0]} are not installed." if missing else ""
        return SystemInfo(self.name, self.title, self.tasks, self.stages, not missing, note, "MIT")

    def run(self, task: str, inputs: dict[str, bytes], parameters: dict[str, Any], hooks: Hooks) -> RunResult:
        """Do the task; its function says which inputs it takes. Errors: `MaquetteError`."""
        if task not in TASKS:
            raise MaquetteError("bad_input", f"Kiss3DGen cannot do {task!r}; choose one of {', '.join(TASKS)}.")
        request = parse_request(parameters)
        hooks.stage("prepare")
        return TASKS[task](self.networks(request), inputs, request, hooks)

    def networks(self, request: Request) -> FluxNetworks:
        """Stage I's networks for a request; kept until other ones are asked for. Errors: `MaquetteError`."""
        seed = request.seed if request.weights == "random" else 0
        key = (request.weights, request.config, request.base, seed, request.profile)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # the memory is needed for the new ones
            loaded = load_flux(request.weights, request.config, request.base, self.device, seed, request.profile)
            self._loaded = (key, loaded)
        return self._loaded[1]


def flow_of(settings: FluxSettings, name: str) -> StageOneFlow:
    """The row of `flows.json`; small weights have rows of their own, without what they do not carry."""
    flows = read_flows()
    own = f"{name}_mini"
    return flows.stage_one(own if is_small(settings) and own in flows.stage1 else name)


def mesh_flow(settings: FluxSettings, request: Request) -> StageOneFlow:
    """The row for a mesh: small weights have one for enhancing and one for edits, the published ones do both by one
    (spec section 10)."""
    return flow_of(settings, request.purpose if is_small(settings) else "mesh")


def is_small(settings: FluxSettings) -> bool:
    """Whether the weights are of mini's kind."""
    return settings.text == "minilm"


def spoken(networks: FluxNetworks, request: Request, photo: np.ndarray | None = None) -> Prompt:
    """What the text encoder is told: the prompt, spelled out where a language model is installed; of a photo [H,W,3]
    without a prompt its caption. Small weights were trained on short sentences and get the prompt as it is (spec 3).
    """
    if is_small(networks.settings):
        return Prompt(request.prompt, request.prompt)
    seed, device = request.seed % 2**31, str(networks.device)
    if request.prompt.strip() or photo is None:
        return prepare_prompt(request.prompt, seed, find_rewriter(device))
    return describe_photo(photo, seed, find_captioner(device), find_rewriter(device))


def bundle_from_text(networks: FluxNetworks, request: Request, hooks: Hooks) -> np.ndarray:
    """The bundle picture [2S,4S,3] of the request's prompt. Errors: `MaquetteError` bad_input without one."""
    if not request.prompt.strip():
        raise MaquetteError("bad_input", "There is no text; write what to make, for example: a wooden chair.")
    hooks.stage("sample_bundle")
    settings = flow_of(networks.settings, "text").settings(request.steps or networks.settings.steps)
    return generate_bundle(networks, request.prompt.strip(), settings, _generator(request), hooks)


def bundle_from_photo(networks: FluxNetworks, photo: np.ndarray, request: Request, hooks: Hooks) -> np.ndarray:
    """The bundle picture [2S,4S,3] of a photo [H,W,3] of the object on white, through the Redux image prior."""
    hooks.stage("sample_bundle")
    settings = flow_of(networks.settings, "image_redux").settings(request.steps or networks.settings.steps)
    prompt = request.prompt.strip()
    return generate_bundle(networks, prompt, settings, _generator(request), hooks, photo=photo)


def bundle_from_reference(
    networks: FluxNetworks, rgba: np.ndarray, photo: np.ndarray, request: Request, hooks: Hooks
) -> np.ndarray:
    """The bundle picture [2S,4S,3] of a cut-out photo [H,W,4] uint8 as published (spec 6.1): four views and a rough
    mesh give a reference bundle, which Stage I starts from and keeps to; the photo on white [H,W,3] is its image prior.

    Errors: `MaquetteError` model_missing for one of its models.
    """
    from backend.systems.kiss3dgen import reference_bundle as reference  # large models, imported where they are wanted
    from backend.systems.kiss3dgen.lrm.lrm import load_lrm
    from backend.systems.kiss3dgen.zero123_networks import load_published

    seed, device = request.seed % 2**31, str(networks.device)
    made = reference.reference_bundle(rgba, load_published(), load_lrm(device=device), seed, hooks=hooks)
    picture = bundle.join(made)
    hooks.preview(encode_png(picture))
    hooks.stage("sample_bundle")
    flow = flow_of(networks.settings, "image" if "controlnet" in networks else "image_no_control")
    settings = flow.settings(request.steps or networks.settings.steps)
    control = picture if flow.needs_control else None
    prompt = request.prompt.strip()
    return generate_bundle(
        networks, prompt, settings, _generator(request), hooks, init=picture, photo=photo, control=control
    )


def has_reference_models() -> bool:
    """Whether the models of a reference bundle are installed."""
    return all(is_installed(models_folder(), find_model(name)) for name in REFERENCE_MODELS)


def bundle_from_bundle(networks: FluxNetworks, picture: np.ndarray, request: Request, hooks: Hooks) -> np.ndarray:
    """The bundle picture [2S,4S,3] of a rendered one [2S',4S',3], enhanced, or edited as the prompt says."""
    hooks.stage("sample_bundle")
    flow = mesh_flow(networks.settings, request)
    settings = flow.settings(request.steps, request.strength)
    control = picture if flow.needs_control and "controlnet" in networks else None
    if control is None:
        settings = replace(settings, control_scale=0.0)
    prompt = request.prompt.strip()
    return generate_bundle(networks, prompt, settings, _generator(request), hooks, init=picture, control=control)


def object_from_text(networks: FluxNetworks, inputs: dict[str, bytes], request: Request, hooks: Hooks) -> RunResult:
    """Task text_to_3d: no inputs, the prompt is a parameter."""
    _only(inputs, ())
    said = spoken(networks, request)
    picture = bundle_from_text(networks, replace(request, prompt=said.text), hooks)
    return _result(networks, picture, TEXT, request, hooks, said)


def object_from_photo(networks: FluxNetworks, inputs: dict[str, bytes], request: Request, hooks: Hooks) -> RunResult:
    """Task image_to_3d. inputs: image, and mask if there is one."""
    _only(inputs, ("image", "mask"))
    if "image" not in inputs:
        raise MaquetteError("bad_input", "Kiss3DGen needs a picture for this; choose an image.", "", "choose_image")
    cut, message = cut_out(inputs["image"], inputs.get("mask"))
    if message:
        hooks.message(message)
    photo = on_white(cut)
    hooks.preview(encode_png(photo))
    said = spoken(networks, request, photo)
    told = replace(request, prompt=said.text)
    if request.weights == PUBLISHED and has_reference_models():
        picture = bundle_from_reference(networks, cut, photo, told, hooks)
    else:
        picture = bundle_from_photo(networks, photo, told, hooks)
    return _result(networks, picture, IMAGE, request, hooks, said)


def refined_object(networks: FluxNetworks, inputs: dict[str, bytes], request: Request, hooks: Hooks) -> RunResult:
    """Task refine_mesh. inputs: bundle (the mesh's, a PNG of 2 x 4 tiles); mesh.

    Weights of smaller tiles than were sent change the mesh that is given (`enhance.py`); published ones, and where no
    mesh is given, make one of the bundle.
    """
    _only(inputs, ("bundle", "mesh"))
    if "bundle" not in inputs:
        raise MaquetteError("bad_input", "Kiss3DGen needs the bundle picture of the mesh; select a mesh.")
    shown = on_white(decode_image(inputs["bundle"]).rgba)
    given = given_mesh(inputs["mesh"]) if "mesh" in inputs and request.start is None else None
    hooks.preview(inputs["bundle"])
    made = bundle_from_bundle(networks, shown, request, hooks)
    if shown.shape[0] <= made.shape[0]:
        return _result(networks, made, MESH, request, hooks)
    seen = enhance.seen_by(networks, shown)
    picture = enhance.transferred(shown, seen, made)
    if given is None:
        return _result(networks, picture, MESH, request, hooks)
    hooks.preview(encode_png(picture))
    hooks.stage(reconstruct.STAGES[1])
    change = enhance.change_between(seen, made)
    hooks.check_cancelled()
    mesh = enhance.changed_mesh(given, shown, change, request.finish, sharpening(networks.settings, request))
    return _result(networks, picture, MESH, request, hooks, mesh=mesh)


def sharpening(settings: FluxSettings, request: Request) -> float:
    """How much of a mesh's shape is drawn sharper: all at the flow's own strength; nothing when it is edited."""
    usual = mesh_flow(settings, request).strength
    wanted = usual if request.strength is None else request.strength
    return min(1.0, wanted / usual) if request.purpose == ENHANCE else 0.0


TASKS: dict[str, TaskFunction] = {TEXT: object_from_text, IMAGE: object_from_photo, MESH: refined_object}


def cut_out(image: bytes, mask: bytes | None) -> tuple[np.ndarray, str]:
    """The object of a photo with its alpha, cropped as in training: [S,S,4] uint8; and what to say of it.

    Errors: `MaquetteError` bad_input.
    """
    picture = decode_image(image)
    cutout = find_object(picture, mask)
    try:
        crop = crop_to_content(np.dstack([picture.rgba[..., :3], cutout.alpha]))
    except ValueError as error:
        raise MaquetteError("bad_input", str(error), next_step="give_mask") from error
    return crop.image, cutout.message if cutout.source == "cut_out" else ""


def mesh_of(picture: np.ndarray, request: Request, hooks: Hooks, device: str = "cpu", flow: str = "text") -> MeshData:
    """The finished mesh of a bundle picture [2S,4S,3], in our cube, refined as `flow` is with published weights.

    Errors: `MaquetteError` without an object.
    """
    views = bundle.split(picture)
    if not views.mask.any():
        raise MaquetteError("bad_input", EMPTY)
    isomer = None
    if request.weights == PUBLISHED:
        row = read_flows().isomer_of(flow)
        isomer = settings_for(views.size, row.stage1_steps, row.stage2_steps, row.radius)
    settings = reconstruct.ReconstructSettings(
        start=request.start or "hull", finish=request.finish, isomer=isomer, device=device
    )
    return reconstruct.reconstruct(views, settings, hooks)


def given_mesh(data: bytes) -> MeshData:
    """A mesh sent with a job. Errors: `MaquetteError` bad_input."""
    try:
        mesh = meshes.mesh_from_bytes(data)
    except meshes.MeshError as error:
        raise MaquetteError("bad_input", "The mesh cannot be read; send it again from Blender.", str(error)) from error
    if not len(mesh.faces):
        raise MaquetteError("bad_input", "The mesh has no faces; select one with a surface.")
    return mesh


def _result(
    networks: FluxNetworks, picture: np.ndarray, task: str, request: Request, hooks: Hooks,
    said: Prompt | None = None, mesh: MeshData | None = None,
) -> RunResult:  # fmt: skip
    bundle_png = encode_png(picture)
    hooks.preview(bundle_png)
    if mesh is None:
        mesh = mesh_of(picture, request, hooks, str(networks.device), ISOMER_FLOWS[task])
    shown = thumbnail(mesh)
    notes = [NARROW] if request.weights == "mini" else []
    notes += [said.note] if said is not None and said.note else []
    for note in notes:
        hooks.message(note)
    glb_bytes = glb.mesh_to_glb(with_pivot(mesh, request.pivot), "Maquette object")
    hooks.finish()
    report: dict[str, Any] = {
        "system": KissSystem.name,
        "task": task,
        "prompt": request.prompt.strip(),
        "prompt_used": request.prompt.strip() if said is None else said.text,
        "seed": request.seed,
        "steps": request.steps or networks.settings.steps,
        "weights": request.weights,
        "config": request.config,
        "base": request.base if request.weights != "mini" else "",
        "tile": networks.settings.tile,
        "vertices": len(mesh.vertices),
        "triangles": len(mesh.faces),
        "normal_map": bool(mesh.normal_map),
        "bundle": bundle.checks(picture),
        "notes": notes,
        "peak_mib": peak_mib(),
        "seconds": {name: round(value, 4) for name, value in hooks.seconds.items()},
    }
    if task == MESH:
        steps = request.steps or mesh_flow(networks.settings, request).steps
        report |= {"purpose": request.purpose, "steps": steps}
    artifacts = (
        ArtifactData("asset.mesh", meshes.mesh_to_bytes(mesh), meshes.MEDIA_TYPE),
        ArtifactData("asset.glb", glb_bytes, glb.MEDIA_TYPE),
        ArtifactData("bundle.png", bundle_png, "image/png"),
        ArtifactData("thumbnail.png", shown, "image/png"),
        ArtifactData("report.json", json.dumps(report, indent=1).encode(), "application/json"),
    )
    return RunResult(artifacts, report)


def _generator(request: Request) -> torch.Generator:
    return torch.Generator().manual_seed(request.seed)


def _only(inputs: dict[str, bytes], known: tuple[str, ...]) -> None:
    unknown = sorted(set(inputs) - set(known))
    if unknown:
        raise MaquetteError("bad_input", f"This task takes no input {unknown[0]!r}; remove it.")
