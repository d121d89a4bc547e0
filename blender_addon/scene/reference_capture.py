"""The views that a painted picture has to stay true to: a selection from 4 to 8 sides, base colours and point maps.

`begin_capture` copies the selection at once and refuses a bad one; every `step` renders one view and leaves no trace,
so that undo, save and other files never meet a scratch scene. What is seen is the selection as it was at the start:

    capture = reference_capture.begin_capture(context, context.selected_objects, ReferenceOptions(views=8))
    while not capture.step():       # one view; a timer calls it once a tick
        show(capture.fraction, capture.colors)
    job_inputs = capture.result.color_png(), capture.result.points_png()

Recipe: unlit base colour on white, no anti-aliasing, one sample in the middle of each pixel, bytes cut off, places per
axis between 0 and 1 of the selection's box in glTF's axes (`contract/reference_views`).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import bpy
import numpy as np
from mathutils import Color

from ...backend.contract import reference_views
from ...backend.contract.errors import MaquetteError
from . import capture, compat, evaluated_meshes, guard
from .exr import read_exr
from .mesh_export import SHAPES
from .png import png_bytes
from .unlit_materials import STORED_INDEX, UnlitMaterials

SIZE = 512  # pixels a side, as published
MOST_TRIANGLES = 2_000_000  # every view builds them anew; more show nothing in pictures of 512 pixels
LEAST_AREA = 1e-6  # of the surface, where the longest side is 1
STEEPEST = math.radians(85.0)  # straight from above there is no up
TURNED = "maquette turned place"  # attribute with the colours of a turned point map
ROUNDING = 0.001 / 255.0  # float32 may fall short of a byte's value, and bytes are cut off
_KINDS = {"CAMERA": "a camera", "LIGHT": "a light", "EMPTY": "an empty", "ARMATURE": "an armature"}


@dataclass(frozen=True)
class ReferenceOptions:
    """How to look. views: 4, 6 or 8. evenly_spaced: all gaps equal instead of as published (8 views: 42 degrees, the
    last gap 66; 4 and 6 are even either way). elevation: radians, positive looks down. turn: radians by which the
    coordinates of the point maps are turned, not the views. distance: of the camera, where the longest side is 2.
    size: pixels a side. threads: 0 lets Blender choose."""

    views: int = 8
    evenly_spaced: bool = False
    elevation: float = 0.0
    turn: float = 0.0
    distance: float = reference_views.DISTANCE
    size: int = SIZE
    threads: int = 0


@dataclass(frozen=True)
class ReferenceViews:
    """What a job needs: colors and points [N,S,S,3] uint8, rows from the top, white where nothing is; the selection's
    box `bounds_min`, `bounds_max` in the world's axes (z up); azimuths in radians."""

    colors: np.ndarray
    points: np.ndarray
    bounds_min: tuple[float, float, float]
    bounds_max: tuple[float, float, float]
    azimuths: tuple[float, ...]

    def color_strip(self) -> np.ndarray:
        """Colour views side by side, [S, N*S, 3] uint8."""
        return np.concatenate(list(self.colors), axis=1)

    def point_strip(self) -> np.ndarray:
        """Point maps side by side, [S, N*S, 3] uint8."""
        return np.concatenate(list(self.points), axis=1)

    def color_png(self) -> bytes:
        """The job's input `views`."""
        return png_bytes(self.color_strip())

    def points_png(self) -> bytes:
        """The job's input `points`."""
        return png_bytes(self.point_strip())


@dataclass
class ReferenceCapture:
    """A selection that is being looked at; `begin_capture` makes it. title: what to call it."""

    title: str
    options: ReferenceOptions
    copies: evaluated_meshes.Copies | None
    bounds_min: tuple[float, float, float]
    bounds_max: tuple[float, float, float]
    colors: list[np.ndarray] = field(default_factory=list)
    """Colour views [S,S,3] uint8 so far."""
    points: list[np.ndarray] = field(default_factory=list)
    """Point maps [S,S,3] uint8 so far."""
    cancelled: bool = False

    @property
    def progress(self) -> tuple[int, int]:
        """How many views are done, and of how many."""
        return len(self.colors), self.options.views

    @property
    def fraction(self) -> float:
        """Between 0 and 1."""
        return len(self.colors) / self.options.views

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do: all views are there, or it was cancelled."""
        return self.cancelled or len(self.colors) == self.options.views

    @property
    def result(self) -> ReferenceViews | None:
        """All views; None before the last one and after `cancel`."""
        if self.cancelled or not self.finished:
            return None
        azimuths = reference_views.view_azimuths(self.options.views, self.options.evenly_spaced)
        return ReferenceViews(
            np.stack(self.colors), np.stack(self.points), self.bounds_min, self.bounds_max, tuple(azimuths.tolist())
        )

    def cancel(self) -> None:
        """Stop, at any moment between two steps; what was seen is dropped."""
        if not self.finished:
            self.cancelled = True
            self.colors.clear()
            self.points.clear()
        self.copies = None

    def step(self) -> bool:
        """Render the next view; does nothing while Blender renders something else. Returns `finished`.

        Holds Blender for one render. Errors: `MaquetteError`, after which it is cancelled.
        """
        if self.finished or guard.is_rendering():
            return self.finished
        try:
            with compat.window_context():
                color, points = render_view(self.copies, len(self.colors), self.options)
            self.colors.append(color)
            self.points.append(points)
            if self.finished and all((points == 255).all() for points in self.points):
                text = f'"{self.title}" is too thin to be seen. Give it some thickness and try again.'
                raise MaquetteError("bad_input", text)
        except Exception:
            self.cancelled = True
            self.copies = None
            raise
        if self.finished:
            self.copies = None
        return self.finished


def begin_capture(
    context: bpy.types.Context, objects: Sequence[bpy.types.Object], options: ReferenceOptions | None = None
) -> ReferenceCapture:
    """Copy `objects` as they are now (modifiers, instances, unsaved edits) for `step` to look at.

    All of them together are the selection: one box, one set of views. What is hidden is left out. Nothing is rendered
    yet; 100,000 triangles take some 30 ms. Errors: `MaquetteError` with one sentence for a bad selection.
    """
    options = options or ReferenceOptions()
    if options.views not in reference_views.VIEW_COUNTS:
        raise MaquetteError("bad_input", f"{options.views} views are not possible. Choose 4, 6 or 8.")
    if abs(options.elevation) > STEEPEST:
        raise MaquetteError("bad_input", "The views look too steeply. Choose an elevation within 85 degrees.")
    shown = _shown(list(objects))
    for item in shown:
        if item.mode != "OBJECT":
            item.update_from_editmode()
    copies = evaluated_meshes.copy_objects(shown, context.evaluated_depsgraph_get(), MOST_TRIANGLES)
    title = _title(context, shown)
    if not copies.placed:
        raise MaquetteError("bad_input", f'"{title}" has no faces. Select a mesh and try again.')
    if not evaluated_meshes.has_surface(copies, LEAST_AREA):
        raise MaquetteError("bad_input", f'"{title}" has no surface to look at. Select another mesh.')
    return ReferenceCapture(title, options, copies, tuple(copies.low.tolist()), tuple(copies.high.tolist()))


def render_view(
    copies: evaluated_meshes.Copies, index: int, options: ReferenceOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Colour view and point map [S,S,3] uint8 of view `index`. Errors: `MaquetteError` when a material is gone,
    RuntimeError when Blender refuses to render."""
    azimuth = reference_views.view_azimuths(options.views, options.evenly_spaced)[index]
    camera = capture.CaptureCamera(
        reference_views.view_camera(azimuth, options.elevation, options.distance),
        reference_views.view_intrinsics(), (options.size, options.size),
        clip=(reference_views.NEAR, reference_views.FAR),
    )  # fmt: skip
    to_centred = reference_views.to_centred(copies.low, copies.high)
    box = [(to_centred @ np.append(corner, 1.0))[:3] for corner in (copies.low, copies.high)]
    with (
        _scratch_objects(copies, to_centred, box, options.turn) as (objects, turned),
        tempfile.TemporaryDirectory(prefix="maquette-capture-") as folder,
        capture.scratch_scene(objects, 1, options.threads) as (scene, holder, _),
    ):
        _configure(scene)
        capture.place_camera(holder, scene.render, camera)
        layer = scene.view_layers[0].name
        channels = _render(scene, Path(folder) / "view.exr")
        if turned is not None:  # the published renderer clamps turned coordinates at the vertices, not at the pixels
            scene.view_layers[0].material_override = turned
            turned_channels = _render(scene, Path(folder) / "turned.exr")
            points = capture.pass_array(turned_channels, layer, "color", "RGB")
        else:
            points = reference_views.encode_points(capture.pass_array(channels, layer, "points", "XYZ"), *box)
    combined = capture.pass_array(channels, layer, "color", "RGBA")
    stored = np.rint(capture.pass_array(channels, layer, "material", "X")) == STORED_INDEX
    color = np.where(stored, combined[..., :3], capture.linear_to_srgb(combined[..., :3] @ _working_to_rec709()))
    mask = combined[..., 3:] > 0.5
    return tuple(reference_views.to_bytes(np.where(mask, values + ROUNDING, 1.0)) for values in (color, points))


def _working_to_rec709() -> np.ndarray:
    """The matrix [3,3], for rows of colours, from the file's working space to Rec. 709; a file may use another one."""
    return np.array([Color(row).from_scene_linear_to_rec709_linear()[:] for row in np.eye(3).tolist()])


def _render(scene: bpy.types.Scene, path: Path) -> dict[str, np.ndarray]:
    """The passes of the scene as its camera sees it."""
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True, scene=scene.name)
    return read_exr(path)


@contextmanager
def _scratch_objects(
    copies: evaluated_meshes.Copies, to_centred: np.ndarray, box: list[np.ndarray], turn: float
) -> Iterator[tuple[list[bpy.types.Object], bpy.types.Material | None]]:
    """The copies as Blender objects in their unlit materials, brought to the middle where they fill `box`; with a
    `turn` also a material that shows the turned coordinates. Gone when the block ends."""
    created: list[bpy.types.ID] = []
    try:
        unlit = UnlitMaterials(created, to_centred)
        anchor = bpy.data.objects.new("maquette capture", None)
        created.append(anchor)
        meshes: dict[tuple[int, tuple[int, ...]], bpy.types.Mesh] = {}
        objects = []
        for part in copies.placed:
            matrix = to_centred @ part.matrix
            key = (id(part if turn else part.mesh), part.materials)
            if key not in meshes:
                meshes[key] = evaluated_meshes.build_mesh(part.mesh)
                created.append(meshes[key])
                for uid in part.materials or (0,):
                    meshes[key].materials.append(unlit.of(uid, bool(part.mesh.color)))
            if turn:
                places = part.mesh.positions.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
                values = reference_views.encode_points(places, *box, turn).astype(np.float32)
                meshes[key].attributes.new(TURNED, "FLOAT_VECTOR", "POINT").data.foreach_set("vector", values.ravel())
            item = evaluated_meshes.build_object(meshes[key], matrix, anchor)
            item.color = part.color
            created.append(item)
            objects.append(item)
        yield objects, unlit.showing(TURNED) if turn else None
    finally:
        bpy.data.batch_remove(created)


def _configure(scene: bpy.types.Scene) -> None:
    """One sample in the middle of each pixel, no light: `capture` has set everything else."""
    cycles, layer = scene.cycles, scene.view_layers[0]
    cycles.pixel_filter_type, cycles.filter_width = "GAUSSIAN", 0.01
    cycles.max_bounces = 0
    layer.use_pass_normal = layer.use_pass_diffuse_color = False
    layer.use_pass_material_index = True


def _shown(objects: list[bpy.types.Object]) -> list[bpy.types.Object]:
    """The objects that show a surface, hidden ones left out. Errors: `MaquetteError` when there is none."""
    if not objects:
        raise MaquetteError("bad_input", "Nothing is selected. Select a mesh, or several.")
    shapes = [item for item in objects if item.type in SHAPES or item.is_instancer]
    if not shapes:
        kind = _KINDS.get(objects[0].type, "no mesh")
        text = f'"{objects[0].name}" is {kind}.' if len(objects) == 1 else "None of the selected objects is a mesh."
        raise MaquetteError("bad_input", f"{text} Select a mesh and try again.")
    shown = [item for item in shapes if not item.hide_render and item.visible_get()]
    if not shown:
        text = f'"{shapes[0].name}" is hidden.' if len(shapes) == 1 else "All selected objects are hidden."
        raise MaquetteError("bad_input", f"{text} Show it in the viewport and in renders, and try again.")
    return shown


def _title(context: bpy.types.Context, shown: list[bpy.types.Object]) -> str:
    """The active object's name if it is one of them, else the first one's."""
    active = context.view_layer.objects.active
    return active.name if active in shown else shown[0].name
