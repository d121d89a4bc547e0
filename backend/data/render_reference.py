"""The script that Blender's Python runs: pictures of objects in scenes of many kinds, each with its point map.

Usage like ``render_objects.py``; job keys are those of ``backend.data.blender.SceneOptions``. One ``.npz`` an
object with S scenes, whose layout is told by ``backend.data.reference_scenes.read_scenes``.
"""

from __future__ import annotations

import json
import math
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_ROOT = Path(__file__).resolve().parents[2]
if str(_ROOT) not in sys.path:
    sys.path.insert(0, str(_ROOT))

import bpy  # noqa: E402
from mathutils import Matrix  # noqa: E402

from backend.contract import reference_views  # noqa: E402
from backend.data import reference_layout, reference_materials, reference_words, render_objects, render_scenes  # noqa: E402

LEAST_OVERLAP = 0.8  # of what is visible and the whole object: the published filter (spec section 10)
LEAST_PIXELS = 0.02  # of the picture that the object covers
LEAST_OF_OTHERS = 0.01  # of the picture that neighbours cover, where there are any: the caption speaks of them
TRIES = 4  # layouts of a scene that are tried until the object is seen well
SAME_DEPTH = 2e-3  # of the depth: surfaces this close are the same
BACKGROUND_DEPTH = 1e8
GROUND_SIDE, WALL_SIZE = 120.0, (24.0, 6.0)
MIST_DEPTH = 14.0  # beyond it nothing is seen in fog
FOG = (0.35, 0.75)  # density behind the object's middle, per metre
FOG_BEFORE = 0.2  # how much of it is before the object
BRIGHTNESS = {"day": 0.3, "dusk": 0.17, "night": 0.075, "studio": 0.27}  # mean linear light that pictures tend to
EXPOSURES = (0.35, 3.0)


class Stage:
    """The one scene that everything is rendered in, with the objects that it was shown so far."""

    def __init__(self, capture: types.ModuleType, job: dict) -> None:
        self.capture, self.job = capture, job
        self.scene = bpy.context.scene
        self.parts: dict[str, tuple[list[bpy.types.Object], np.ndarray, list[Matrix]]] = {}
        self._configure()
        lens = bpy.data.cameras.new("camera")
        self.camera = bpy.data.objects.new("camera", lens)
        self.made: list[bpy.types.ID] = []
        self.solid = bpy.data.materials.new("solid")

    def _configure(self) -> None:
        scene = self.scene
        self.capture._configure(scene, 1, self.job["threads"])
        scene.render.use_persistent_data = False
        cycles = scene.cycles
        cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 3, 2, 2
        cycles.use_light_tree = False
        cycles.sample_clamp_indirect = 4.0
        layer = scene.view_layers[0]
        layer.use_pass_mist = True
        layer.use_pass_normal = layer.use_pass_diffuse_color = False

    def object(self, path: str) -> tuple[list[bpy.types.Object], np.ndarray, list[Matrix]]:
        """Meshes of a GLB, the vertices [N,3] in its unit cube, and the meshes' matrices there; imported once."""
        if path not in self.parts:
            meshes, vertices = render_scenes.import_apart(path)
            self.parts[path] = (meshes, vertices, [item.matrix_world.copy() for item in meshes])
        return self.parts[path]

    def put(self, path: str, matrix: np.ndarray) -> list[bpy.types.Object]:
        """Show the object of `path` where `matrix` [4,4] takes its unit cube."""
        meshes, _, homes = self.object(path)
        for item, home in zip(meshes, homes, strict=True):
            item.matrix_world = Matrix(matrix.tolist()) @ home
            self.scene.collection.objects.link(item)
        return meshes

    def plane(self, size: tuple[float, float], matrix: Matrix, kind: str, rng: np.random.Generator) -> None:
        """A rectangle of a ground's or wall's material."""
        mesh = bpy.data.meshes.new(kind)
        across, along = size[0] / 2.0, size[1] / 2.0
        corners = [(-across, -along, 0.0), (across, -along, 0.0), (across, along, 0.0), (-across, along, 0.0)]
        mesh.from_pydata(corners, [], [(0, 1, 2, 3)])
        mesh.materials.append(reference_materials.material(kind, rng))
        holder = bpy.data.objects.new(kind, mesh)
        holder.matrix_world = matrix
        self.scene.collection.objects.link(holder)
        self.made += [holder, mesh, mesh.materials[0]]

    def lamp(self, kind: str, energy: float, color: Sequence[float], matrix: Matrix, size: float) -> None:
        """A light: SUN (size is its angle), POINT or AREA (size in metres)."""
        light = bpy.data.lights.new(kind, kind)
        light.energy, light.color = energy, color
        if kind == "SUN":
            light.angle = size
        elif kind == "AREA":
            light.size = size
        else:
            light.shadow_soft_size = size
        holder = bpy.data.objects.new(kind, light)
        holder.matrix_world = matrix
        self.scene.collection.objects.link(holder)
        self.made += [holder, light]

    def sky(self, *settings: object, **more: object) -> None:
        """A new world, see `reference_materials.sky`."""
        world = bpy.data.worlds.new("sky")
        reference_materials.sky(world, *settings, **more)  # type: ignore[arg-type]
        self.scene.world = world
        self.made.append(world)

    def clear(self) -> None:
        """Take everything off the scene; imported objects stay in memory."""
        for item in list(self.scene.collection.objects):
            self.scene.collection.objects.unlink(item)
        self.scene.world = None
        bpy.data.batch_remove(self.made)
        self.made = []

    def passes(self, samples: int, film: bool) -> dict[str, np.ndarray]:
        """Render; channels of the file. film False: one ray through each pixel's middle, nothing blended, glass solid.

        Point maps take no alpha (spec section 3), and those of the object's views do not either.
        """
        scene, cycles = self.scene, self.scene.cycles
        cycles.samples = samples
        cycles.use_denoising = film
        cycles.pixel_filter_type = "BLACKMAN_HARRIS" if film else "GAUSSIAN"
        cycles.filter_width = 1.5 if film else 0.01
        cycles.max_bounces = 3 if film else 0
        scene.render.film_transparent = not film
        scene.view_layers[0].material_override = None if film else self.solid
        path = Path(self.job["out"]) / "passes.exr"
        scene.render.filepath = str(path)
        bpy.ops.render.render(write_still=True, scene=scene.name)
        return self.capture.read_exr(path)  # type: ignore[no-any-return]

    def array(self, channels: dict[str, np.ndarray], kind: str, components: str) -> np.ndarray:
        """One pass [H,W,len(components)]."""
        return self.capture.pass_array(channels, self.scene.view_layers[0].name, kind, components)  # type: ignore[no-any-return]

    def mist(self, channels: dict[str, np.ndarray]) -> np.ndarray:
        """The mist pass [H,W,1]: the distance as a share of MIST_DEPTH, blended at edges as colours are."""
        start = f"{self.scene.view_layers[0].name}.Mist."
        return next(values for name, values in channels.items() if name.startswith(start))[..., None]


def light_up(stage: Stage, words: reference_words.SceneWords, away: np.ndarray, rng: np.random.Generator) -> None:
    """Sky and lamps of a scene; `away` [2] points from the camera past the object."""

    def sun(energy: float, color: Sequence[float], elevation: tuple[float, float], angle: float) -> None:
        tilt = math.radians(90.0 - rng.uniform(*elevation))
        turn = rng.uniform(0.0, 2.0 * math.pi)
        matrix = Matrix.Rotation(turn, 4, "Z") @ Matrix.Rotation(tilt, 4, "X")
        stage.lamp("SUN", energy * float(rng.uniform(0.8, 1.25)), color, matrix, angle)

    grey = words.weather != "clear"
    if words.light == "day" and grey:
        shade = float(rng.uniform(0.7, 0.95))
        stage.sky((0.75, 0.78, 0.8), (0.6 * shade, 0.63 * shade, 0.68 * shade), 0.9)
        sun(0.7, (1.0, 0.98, 0.95), (40.0, 75.0), 0.8)
    elif words.light == "day":
        deep = float(rng.uniform(0.7, 1.2))
        clouds = float(rng.uniform(0.0, 0.9))
        stage.sky((0.62, 0.75, 0.88), (0.12 * deep, 0.28 * deep, 0.68 * deep), 0.75, clouds=clouds)
        sun(3.2, (1.0, 0.95, 0.87), (28.0, 68.0), 0.02)
    elif words.light == "dusk":
        low = ((0.95, 0.4, 0.14), (0.8, 0.32, 0.28), (0.9, 0.52, 0.22))[rng.integers(3)]
        stage.sky(low, (0.1, 0.11, 0.28), 0.55)
        sun(2.0, (1.0, 0.5, 0.22), (5.0, 16.0), 0.04)
    elif words.light == "night":
        stage.sky((0.03, 0.045, 0.09), (0.004, 0.006, 0.02), 0.8)
        sun(0.14, (0.55, 0.68, 1.0), (30.0, 70.0), 0.02)
        side = rng.uniform(-1.9, 1.9)
        turned = np.array([math.cos(side) * -away[0] - math.sin(side) * -away[1],
                           math.sin(side) * -away[0] + math.cos(side) * -away[1]])  # fmt: skip
        place = (*(turned * rng.uniform(1.0, 1.8)).tolist(), float(rng.uniform(1.1, 1.9)))
        stage.lamp("POINT", float(rng.uniform(14.0, 32.0)), (1.0, 0.66, 0.34), Matrix.Translation(place), 0.12)
    else:
        tint = 1.0 + rng.uniform(-0.06, 0.06, 3)
        shade = float(rng.uniform(0.45, 0.8))
        back = (shade * tint).tolist()
        stage.sky(back, [min(1.0, value * 1.1) for value in back], 0.75)
        for energy, height, side in ((70.0, 2.2, rng.uniform(0.4, 1.3)), (25.0, 1.2, -rng.uniform(0.6, 1.5))):
            toward = np.array([math.cos(side) * -away[0] - math.sin(side) * -away[1],
                               math.sin(side) * -away[0] + math.cos(side) * -away[1]])  # fmt: skip
            place = Matrix.Translation((*(2.0 * toward).tolist(), height))
            facing = (-place.translation).to_track_quat("-Z", "Y").to_matrix().to_4x4()
            stage.lamp("AREA", energy, (1.0, 0.98, 0.95), place @ facing, 1.2)


def develop(linear: np.ndarray, light: str) -> np.ndarray:
    """Linear light [H,W,3] exposed as a camera would: towards the brightness of its hour, highlights rolled off."""
    mean = max(float(linear.mean()), 1e-4)
    exposed = linear * np.clip((BRIGHTNESS[light] / mean) ** 0.75, *EXPOSURES)
    knee = 0.75
    over = np.maximum(exposed - knee, 0.0)
    return np.asarray(np.where(exposed > knee, knee + (1.0 - knee) * (1.0 - np.exp(-over / (1.0 - knee))), exposed))


def fog_color(light: str, rng: np.random.Generator) -> np.ndarray:
    """The linear light of fog at an hour [3]."""
    colors = {"day": (0.62, 0.65, 0.68), "dusk": (0.5, 0.33, 0.25), "night": (0.03, 0.035, 0.05)}
    return np.array(colors[light]) * rng.uniform(0.85, 1.15)


def try_scene(stage: Stage, item: dict, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
    """One scene, or None when the object is not seen well enough in it."""
    job, words = stage.job, reference_words.draw_words(rng)
    stage.clear()  # an import takes whatever stands on the scene for its own
    others = [index for index, path in enumerate(job["neighbours"]) if path != item["path"]]
    chosen = rng.choice(others, min(words.neighbours, len(others)), replace=False).tolist()
    _, vertices, _ = stage.object(item["path"])
    around = [stage.object(job["neighbours"][index])[1] for index in chosen]
    wall = words.background != "open"
    layout = reference_layout.plan(vertices, around, rng, wall)
    stage.scene.collection.objects.link(stage.camera)
    stage.scene.camera = stage.camera
    size = (job["size"], job["size"])
    view = stage.capture.CaptureCamera(layout.camera.world_to_camera, layout.camera.intrinsics, size)
    stage.capture.place_camera(stage.camera, stage.scene.render, view)
    stage.put(item["path"], layout.object_to_world)
    stage.sky((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 1.0)
    alone = stage.passes(1, film=False)
    depth = stage.array(alone, "depth", "Z")[..., 0]
    whole = depth < BACKGROUND_DEPTH
    if whole.mean() < LEAST_PIXELS:
        return None
    kept = [
        (index, matrix)
        for index, matrix, shape in zip(chosen, layout.neighbours, around, strict=True)
        if matrix is not None and reference_layout.is_seen(shape, matrix, layout.camera)
    ]
    visible = whole
    if kept:
        for index, matrix in kept:
            stage.put(job["neighbours"][index], matrix)
        together = stage.array(stage.passes(1, film=False), "depth", "Z")[..., 0]
        visible = whole & (together > depth * (1.0 - SAME_DEPTH))
        others_seen = (together < BACKGROUND_DEPTH) & ~visible
        if visible.sum() <= LEAST_OVERLAP * whole.sum() or others_seen.mean() < LEAST_OF_OTHERS:
            return None
    stage.plane((GROUND_SIDE, GROUND_SIDE), Matrix.Rotation(rng.uniform(0, 2 * math.pi), 4, "Z"), words.ground, rng)
    if wall:
        behind = max([0.6, *(float(matrix[:2, 3] @ layout.away) + 0.7 for _, matrix in kept)]) + rng.uniform(0.1, 1.0)
        turn = math.atan2(layout.away[1], layout.away[0]) - math.pi / 2 + rng.uniform(-0.35, 0.35)
        place = Matrix.Translation((*(behind * layout.away).tolist(), WALL_SIZE[1] / 2.0))
        matrix = place @ Matrix.Rotation(turn, 4, "Z") @ Matrix.Rotation(math.pi / 2, 4, "X")
        stage.plane(WALL_SIZE, matrix, words.background, rng)
    light_up(stage, words, layout.away, rng)
    mist = stage.scene.world.mist_settings
    mist.start, mist.depth, mist.falloff = 0.0, MIST_DEPTH, "LINEAR"
    shot = stage.passes(job["samples"], film=True)
    linear = np.maximum(stage.array(shot, "color", "RGB"), 0.0)
    if words.weather == "fog":
        far = stage.mist(shot) * MIST_DEPTH
        clear = np.exp(-rng.uniform(*FOG) * np.maximum(far - layout.distance, 0.0) - FOG_BEFORE)
        linear = linear * clear + fog_color(words.light, rng) * (1.0 - clear)
    color = stage.capture.linear_to_srgb(develop(linear, words.light))
    points = stage.array(alone, "points", "XYZ") - layout.object_to_world[:3, 3]
    codes = reference_views.encode_points(points, vertices.min(axis=0), vertices.max(axis=0))
    numbers = np.full(reference_words.MOST_NEIGHBOURS, -1, dtype=np.int16)
    numbers[: len(kept)] = [index for index, _ in kept]
    return {
        "color": np.rint(color * 255).astype(np.uint8),
        "points": reference_views.to_bytes(np.where(whole[..., None], codes + 1e-5, 1.0)),
        "whole": whole,
        "visible": visible,
        "words": words.numbers(),
        "neighbours": numbers,
        "world_to_camera": (layout.camera.world_to_camera @ layout.object_to_world).astype(np.float32),
        "intrinsics": layout.camera.intrinsics.astype(np.float32),
    }


def render(stage: Stage, item: dict) -> dict[str, np.ndarray]:
    """All scenes of one object. Raises ValueError when none shows it well."""
    found = []
    for number in range(stage.job["scenes"]):
        for attempt in range(TRIES):
            scene = try_scene(stage, item, np.random.default_rng([item["seed"], number, attempt]))
            if scene is not None:
                found.append(scene)
                break
    if not found:
        raise ValueError("No scene shows it well.")
    return {name: np.stack([scene[name] for scene in found]) for name in found[0]}


def main(arguments: list[str]) -> int:
    """Render every object of the job file; 0 even when some failed."""
    job = json.loads(Path(arguments[-1]).read_text(encoding="utf-8"))
    capture = render_objects.load_capture()
    bpy.ops.wm.read_factory_settings(use_empty=True)
    stage = Stage(capture, job)
    for item in job["objects"]:
        render_objects.report("start", item["id"])
        try:
            arrays = render(stage, item)
        except Exception as error:  # the border: one bad file must not stop the others
            render_objects.report("failed", item["id"], f"{type(error).__name__}: {error}")
            continue
        target = Path(job["out"]) / item["file"]
        partial = target.with_suffix(".part.npz")
        np.savez(partial, **arrays)  # type: ignore[arg-type]
        partial.rename(target)
        render_objects.report("done", item["id"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
