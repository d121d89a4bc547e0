"""Views of Blender objects as arrays: colour, alpha, point map, normal, depth and albedo, rendered by Cycles.

Everything happens on a scratch scene that is removed afterwards; the user's scenes, selection, mode and render settings
stay as they are. Works in the Blender window, in ``blender --background`` and in the ``bpy`` module, 4.2 or newer.
Conventions: z up, OpenCV cameras (x right, y down, z forward), ``world_to_camera`` [4, 4], intrinsics [3, 3]
normalised to the picture (u, v in [0, 1], pixel centres at (p + 0.5) / size).
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

from .exr import read_exr

try:
    from ...backend.contract import frames  # inside the installed extension, whose root package holds both parts
except ImportError:
    from backend.contract import frames  # in a checkout, with the repository root on the path

_BACKGROUND_DEPTH = 1e8  # Cycles writes 1e10 where a ray hit nothing
_NAME = "maquette capture"  # of everything on the scratch scene
# Blender 5.0 spelled the pass names out.
_PASS_NAMES = {
    "color": ("Combined",),
    "points": ("Position",),
    "normals": ("Normal",),
    "depth": ("Depth",),
    "albedo": ("DiffCol", "Diffuse Color"),
    "material": ("IndexMA", "Material Index"),
}


@dataclass(frozen=True)
class CaptureCamera:
    """One view: world_to_camera [4, 4] (rigid), intrinsics [3, 3] (normalised), size (width, height) in pixels.

    clip: the least and the greatest distance that is seen.
    """

    world_to_camera: np.ndarray
    intrinsics: np.ndarray
    size: tuple[int, int]
    clip: tuple[float, float] = (1e-3, 1e5)


@dataclass(frozen=True)
class Lighting:
    """A soft environment and up to two suns. ``seed`` None: plain white ambient light."""

    seed: int | None = None


@dataclass(frozen=True)
class CapturedView:
    """Arrays of one view, float32, rows from the top. Points, normals, depth and albedo are zero where mask is False.

    color [H, W, 3] sRGB, straight alpha; alpha [H, W]; points [H, W, 3] world; normals [H, W, 3] world, unit;
    depth [H, W] along the camera's z; albedo [H, W, 3] sRGB; mask [H, W] bool: the pixel's first sample hit a surface.
    """

    color: np.ndarray
    alpha: np.ndarray
    points: np.ndarray
    normals: np.ndarray
    depth: np.ndarray
    albedo: np.ndarray
    mask: np.ndarray


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light to sRGB display values, clipped to [0, 1]; any shape."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.power(np.maximum(linear, 1e-8), 1 / 2.4) - 0.055)


def place_camera(camera: bpy.types.Object, render: bpy.types.RenderSettings, view: CaptureCamera) -> None:
    """Give a Blender camera object and the render's resolution the pose and lens of an OpenCV view.

    Raises ValueError when the view has skew, which a Blender camera cannot show.
    """
    width, height = view.size
    if abs(view.intrinsics[0, 1]) > 1e-4:
        raise ValueError("The camera has skew, which Blender cannot show; set entry [0, 1] of the intrinsics to 0.")
    lens = frames.blender_lens(view.intrinsics, width, height)
    camera.matrix_world = Matrix(frames.blender_camera_matrix(view.world_to_camera).tolist())
    data = camera.data
    data.type = "PERSP"
    # Lens and shifts refer to the longer side in pixels; told from the width they also hold for non-square pixels.
    scale = max(width, height) / width
    data.sensor_fit = "HORIZONTAL"
    data.sensor_width = lens.sensor_mm
    data.lens = lens.lens_mm * scale
    data.shift_x, data.shift_y = lens.shift_x * scale, lens.shift_y * scale / lens.pixel_aspect
    data.clip_start, data.clip_end = view.clip
    render.resolution_x, render.resolution_y = width, height
    # Blender's pixel aspects are at least 1; fy / fx in pixels is the width of a pixel over its height.
    render.pixel_aspect_x, render.pixel_aspect_y = max(lens.pixel_aspect, 1.0), max(1.0 / lens.pixel_aspect, 1.0)


def _configure(scene: bpy.types.Scene, samples: int, threads: int) -> None:
    render = scene.render
    render.engine = "CYCLES"
    render.resolution_percentage = 100
    render.film_transparent = True
    render.use_compositing = render.use_sequencer = False
    render.use_persistent_data = True  # the scene is synchronised once, not once a view
    render.use_file_extension = False
    render.dither_intensity = 0.0
    if threads > 0:
        render.threads_mode = "FIXED"
        render.threads = threads
    image = render.image_settings
    if hasattr(image, "media_type"):  # Blender 5.0
        image.media_type = "MULTI_LAYER_IMAGE"
    image.file_format = "OPEN_EXR_MULTILAYER"
    image.color_depth = "32"
    image.exr_codec = "NONE"
    if hasattr(image, "use_exr_interleave"):
        image.use_exr_interleave = True
    cycles = scene.cycles
    cycles.device = "CPU"
    cycles.samples = samples
    cycles.use_adaptive_sampling = False
    cycles.use_denoising = False
    cycles.pixel_filter_type = "BOX"
    cycles.filter_width = 1.0
    cycles.max_bounces = 2
    cycles.diffuse_bounces = cycles.glossy_bounces = 1
    cycles.transmission_bounces = cycles.volume_bounces = 0
    cycles.transparent_max_bounces = 8
    cycles.caustics_reflective = cycles.caustics_refractive = False
    cycles.seed = 0
    layer = scene.view_layers[0]
    layer.use_pass_combined = layer.use_pass_z = layer.use_pass_position = True
    layer.use_pass_normal = layer.use_pass_diffuse_color = True


class _LightRig:
    """A uniform sky and two suns on the scratch scene; ``created`` collects what has to be removed afterwards."""

    def __init__(self, scene: bpy.types.Scene, created: list[bpy.types.ID]) -> None:
        world = bpy.data.worlds.new(_NAME)
        created.append(world)
        scene.world = world
        if not world.node_tree:
            world.use_nodes = True
        nodes = world.node_tree.nodes
        nodes.clear()
        self.sky = nodes.new("ShaderNodeBackground")
        world.node_tree.links.new(self.sky.outputs[0], nodes.new("ShaderNodeOutputWorld").inputs[0])
        world.cycles.sampling_method = "NONE"  # a uniform sky needs no importance map
        self.suns = []
        for _ in range(2):
            sun = bpy.data.lights.new(_NAME, "SUN")
            holder = bpy.data.objects.new(_NAME, sun)
            created += [sun, holder]
            scene.collection.objects.link(holder)
            self.suns.append(holder)

    def set(self, lighting: Lighting) -> None:
        """Plain white sky without suns for seed None, else a random soft sky with one or two suns."""
        if lighting.seed is None:
            self._set_sky((1.0, 1.0, 1.0), 1.0)
            for holder in self.suns:
                holder.data.energy = 0.0
            return
        rng = np.random.default_rng(lighting.seed)
        self._set_sky((1.0 + rng.uniform(-0.08, 0.08, 3)).tolist(), float(rng.uniform(0.35, 0.7)))
        count = int(rng.integers(1, 3))
        for index, holder in enumerate(self.suns):
            # Suns shine along their -z; tilt them up to 75 degrees from straight down, at any azimuth.
            holder.rotation_euler = (float(rng.uniform(0.1, math.radians(75))), 0.0, float(rng.uniform(0, 2 * math.pi)))
            holder.data.energy = float(rng.uniform(0.6, 2.0)) / (index + 1) if index < count else 0.0
            holder.data.angle = float(rng.uniform(0.05, 0.6))
            holder.data.color = (1.0 + rng.uniform(-0.1, 0.1, 3)).tolist()

    def _set_sky(self, color: Sequence[float], strength: float) -> None:
        self.sky.inputs["Color"].default_value = (*color, 1.0)
        self.sky.inputs["Strength"].default_value = strength


@contextlib.contextmanager
def scratch_scene(
    objects: Sequence[bpy.types.Object], samples: int, threads: int
) -> Iterator[tuple[bpy.types.Scene, bpy.types.Object, _LightRig]]:
    """A scene that shows only ``objects`` with a camera and lights; all that it made is gone when the block ends."""
    # "Render Result" is made by the first render of a session; one that the user has already stays.
    images_before = {image.name for image in bpy.data.images}
    created: list[bpy.types.ID] = []
    scene = bpy.data.scenes.new(_NAME)
    try:
        # An animated object is rendered as it is now, not as on the first frame.
        scene.frame_current = bpy.context.scene.frame_current
        scene.frame_subframe = bpy.context.scene.frame_subframe
        _configure(scene, samples, threads)
        rig = _LightRig(scene, created)
        lens = bpy.data.cameras.new(_NAME)
        camera = bpy.data.objects.new(_NAME, lens)
        created += [lens, camera]
        scene.collection.objects.link(camera)
        scene.camera = camera
        for item in objects:
            if item.mode == "EDIT":
                item.update_from_editmode()
            scene.collection.objects.link(item)
        yield scene, camera, rig
    finally:
        # Frees what Cycles kept. Left alone, Blender crashes now and then when a later scratch scene lands at the same
        # address and it takes the kept state, full of pointers to removed data, for that scene's own.
        scene.render.use_persistent_data = False
        bpy.data.scenes.remove(scene)
        bpy.data.batch_remove(created)
        leftover = [i for i in bpy.data.images if i.type == "RENDER_RESULT" and i.name not in images_before]
        if leftover:
            bpy.data.batch_remove(leftover)


def pass_array(channels: dict[str, np.ndarray], layer: str, kind: str, components: str) -> np.ndarray:
    """One pass [H, W, len(components)] out of the channels of a multilayer file; KeyError when Blender left it out."""
    for name in _PASS_NAMES[kind]:
        keys = [f"{layer}.{name}.{component}" for component in components]
        if all(key in channels for key in keys):
            return np.stack([channels[key] for key in keys], axis=-1)
    raise KeyError(f"Blender wrote no {kind} pass; it wrote {sorted(channels)}.")


def view_from_channels(channels: dict[str, np.ndarray], layer: str, world_to_camera: np.ndarray) -> CapturedView:
    """Turn the passes of one render into a CapturedView."""
    combined = pass_array(channels, layer, "color", "RGBA")  # linear, premultiplied
    alpha = np.clip(combined[..., 3], 0.0, 1.0)
    straight = np.where(alpha[..., None] > 1e-4, combined[..., :3] / np.maximum(alpha[..., None], 1e-4), 0.0)
    mask = pass_array(channels, layer, "depth", "Z")[..., 0] < _BACKGROUND_DEPTH
    points = np.where(mask[..., None], pass_array(channels, layer, "points", "XYZ"), 0.0)
    normals = pass_array(channels, layer, "normals", "XYZ")
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    normals = np.where(mask[..., None], normals / np.maximum(length, 1e-8), 0.0)
    albedo = pass_array(channels, layer, "albedo", "RGB")
    coverage = np.maximum(alpha[..., None], 1e-4)  # the pass averages over samples that missed
    albedo = np.where(mask[..., None], linear_to_srgb(albedo / coverage), 0.0)
    rows = np.asarray(world_to_camera, dtype=np.float64)
    depth = np.where(mask, points @ rows[2, :3] + rows[2, 3], 0.0)
    return CapturedView(
        color=linear_to_srgb(straight).astype(np.float32),
        alpha=alpha.astype(np.float32),
        points=points.astype(np.float32),
        normals=normals.astype(np.float32),
        depth=depth.astype(np.float32),
        albedo=albedo.astype(np.float32),
        mask=mask,
    )


def capture(
    objects: Sequence[bpy.types.Object],
    cameras: Sequence[CaptureCamera],
    *,
    lighting: Lighting | Sequence[Lighting] = Lighting(),
    samples: int = 16,
    threads: int = 0,
) -> list[CapturedView]:
    """Render ``objects`` as seen by each of ``cameras``.

    lighting: one for all views or one a view. samples: Cycles samples a pixel. threads: 0 lets Blender choose.
    Raises ValueError for a camera that Blender cannot show and RuntimeError when Blender refuses to render.
    """
    lights = [lighting] * len(cameras) if isinstance(lighting, Lighting) else list(lighting)
    if len(lights) != len(cameras):
        raise ValueError(f"{len(cameras)} cameras came with {len(lights)} lights; give one lighting or one a camera.")
    views = []
    with tempfile.TemporaryDirectory(prefix="maquette-capture-") as folder:
        with scratch_scene(objects, samples, threads) as (scene, camera, rig):
            for index, (view, light) in enumerate(zip(cameras, lights, strict=True)):
                place_camera(camera, scene.render, view)
                rig.set(light)
                path = Path(folder) / f"{index}.exr"
                scene.render.filepath = str(path)
                bpy.ops.render.render(write_still=True, scene=scene.name)
                views.append(view_from_channels(read_exr(path), scene.view_layers[0].name, view.world_to_camera))
                path.unlink()
    return views
