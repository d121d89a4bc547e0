"""ISOMER: an ellipsoid comes out of its own normals; targets, schedules and cleanup."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from backend.contract.errors import Cancelled
from backend.evaluation.metrics import surface_points
from backend.geometry.loop_subdivision import subdivide
from backend.geometry.mesh_repair import is_closed
from backend.systems.base import Hooks
from backend.systems.kiss3dgen import cameras
from backend.systems.kiss3dgen.bundle import RADIUS, Bundle, encode_normals, world_to_local
from backend.systems.kiss3dgen.flows import read_flows
from backend.systems.kiss3dgen.isomer import cleanup, settings, targets
from backend.systems.kiss3dgen.isomer.refine import refine
from backend.systems.kiss3dgen.isomer.views import make_renderer
from tests.unit.test_remeshing import ball, euler

torch.set_num_threads(1)
RADII = torch.tensor([0.8, 0.55, 0.65])
QUICK = replace(settings.settings_for(32, 40, 12), smoothing=1)


def ellipsoid_bundle(size: int) -> Bundle:
    """True normals of an ellipsoid, drawn at twice the size and averaged."""
    vertices, faces = ball(5)
    normals = torch.nn.functional.normalize(vertices / RADII, dim=1)
    drawn = make_renderer(*cameras.isomer_cameras(), 2 * size)(vertices * RADII, faces, normals)
    drawn = torch.nn.functional.avg_pool2d(drawn.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    mask = drawn[..., 3].numpy()
    world = 2 * drawn[..., :3].numpy() / np.maximum(mask, 1e-3)[..., None] - 1
    world /= np.maximum(np.linalg.norm(world, axis=-1, keepdims=True), 1e-6)
    return Bundle(np.ones((4, size, size, 3), np.float32), encode_normals(world_to_local(world), mask), mask)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return ellipsoid_bundle(32)


class Counting(Hooks):
    """Keeps the steps told and may ask to stop after some."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []
        self.stop_after = stop_after

    def on_step(self, stage: str, index: int, count: int) -> None:
        self.seen.append((index, count))

    def cancelled(self) -> bool:
        return self.stop_after is not None and len(self.seen) >= self.stop_after


def chamfer(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """The larger of both mean distances between surfaces; samples are dense enough for 0.003."""
    one, two = (surface_points(mesh[0].numpy(), mesh[1].numpy(), 80000) for mesh in (first, second))
    return max(float(cKDTree(one).query(two[::40])[0].mean()), float(cKDTree(two).query(one[::40])[0].mean()))


def test_an_ellipsoid_comes_out_of_its_normals(bundle: Bundle) -> None:
    torch.manual_seed(0)
    hooks = Counting()
    vertices, faces = ball(3)
    vertices, faces = refine(0.6 * vertices, faces, bundle, QUICK, hooks)
    truth = ball(5)
    assert chamfer((vertices, faces), (truth[0] * RADII, truth[1])) < 0.01 * 2 * float(RADII.norm())
    assert is_closed(faces.numpy())
    assert euler(faces) == 2
    assert hooks.seen == [(step, 52) for step in range(1, 53)]


def test_refining_stops_when_asked(bundle: Bundle) -> None:
    hooks = Counting(stop_after=3)
    with pytest.raises(Cancelled):
        refine(*ball(2), bundle, QUICK, hooks)
    assert len(hooks.seen) == 3


def test_an_empty_start_mesh_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="has no faces"):
        refine(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64), bundle, QUICK, Hooks())


def test_targets_are_world_normals_without_the_white_they_lay_on(bundle: Bundle) -> None:
    pictures = targets.normal_pictures(bundle)
    inside = bundle.mask[0] > 0.99
    front = 2 * pictures[0][torch.from_numpy(inside)][:, :3] - 1
    assert torch.allclose(front.norm(dim=1), torch.ones(len(front)), atol=1e-4)
    assert float(front[:, 2].mean()) > 0.5  # the front looks along +z
    rim = torch.from_numpy((bundle.mask[0] > 0.3) & (bundle.mask[0] < 0.7))
    toward = 2 * pictures[0][rim][:, :3] - 1
    assert float(toward[:, 2].abs().max()) < 0.6  # at the rim the surface looks aside, not at the white
    target = targets.normal_targets(pictures)
    assert float(target[0, 0, 0].abs().max()) == 0
    white = torch.cat([pictures[..., :3] * pictures[..., 3:] + 1 - pictures[..., 3:], pictures[..., 3:]], dim=-1)
    assert torch.allclose(targets.on_black(white), target, atol=1e-6)


def test_schedules_at_the_published_size_are_the_published_ones() -> None:
    flow = read_flows().isomer_of("text_demo")
    published = settings.settings_for(512, flow.stage1_steps, flow.stage2_steps, flow.radius)
    assert published.stage1 == replace(settings.STAGE1, steps=10)
    assert published.stage2 == settings.STAGE2
    assert published.weights == flow.geometry_weights
    assert published.radius == RADIUS
    small = settings.settings_for(64, 10, 50)
    pixel = 1.8 / 48
    assert 0.5 * pixel <= small.stage2.end_length < pixel
    assert small.stage2.decay**50 == pytest.approx(0.05)
    assert small.fitted(0.1).stage2 == replace(small.stage2, most_faces=small.most_faces)
    large = small.fitted(40.0).stage2
    assert 40.0 / (large.end_length**2 * 3**0.5 / 4) == pytest.approx(small.most_faces)
    assert large.start_length >= large.end_length
    ordinary = settings.IsomerSettings().fitted(4.0)  # of the bundle frame's 1.8 a side, a body's surface
    assert ordinary.stage2 == replace(settings.STAGE2, most_faces=settings.MOST_FACES)
    crumpled = settings.IsomerSettings().fitted(1e3).stage2
    assert 1e3 / (crumpled.end_length**2 * 3**0.5 / 4) == pytest.approx(settings.MOST_FACES)
    assert small.stage1.start_length > small.stage1.end_length >= small.stage2.end_length


def test_noise_makes_no_more_faces_than_are_allowed() -> None:
    random = np.random.default_rng(0)
    noise = Bundle(
        *(random.uniform(0, 1, (4, 32, 32, 3)).astype(np.float32) for _ in range(2)),
        random.uniform(0, 1, (4, 32, 32)).astype(np.float32),
    )
    start = (ball(2)[0] * 0.7, ball(2)[1])
    for subdivisions in (0, 2):
        short = replace(settings.settings_for(32, 6, 6), subdivisions=subdivisions)
        grown = refine(*start, noise, replace(short, most_faces=5000), Counting())[1]
        kept = refine(*start, noise, replace(short, most_faces=600), Counting())[1]
        assert len(grown) > 2000 and 500 < len(kept) <= 600


def test_loop_subdivision_rounds_an_octahedron_and_keeps_borders() -> None:
    vertices, faces = ball(0)
    finer, more = subdivide(vertices, faces, 0.1)
    assert len(more) == 4 * len(faces)
    assert euler(more) == 2
    # an old vertex of degree 4: 5/8 - (3/8 + 0)^2 of the way to the mean of its neighbours, which is the centre
    assert torch.allclose(finer[:6].norm(dim=1), torch.full((6,), 1 - (5 / 8 - 9 / 64)), atol=1e-6)
    assert torch.allclose(finer[6:].norm(dim=1), torch.full((12,), (0.75**2 / 2) ** 0.5), atol=1e-6)
    assert subdivide(vertices, faces, 2.0)[1].equal(faces)
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    finer, more = subdivide(square, torch.tensor([[0, 1, 2], [0, 2, 3]]), 0.1)
    assert len(more) == 8
    assert finer[:4].equal(square)


def test_cleanup_separates_fans_and_drops_faces_of_crowded_edges() -> None:
    vertices, faces = ball(1)
    count = len(vertices)
    two = np.concatenate([vertices.numpy(), vertices.numpy() + [2, 0, 0]]).astype(np.float64)
    both = np.concatenate([faces.numpy(), faces.numpy() + count])
    touching = np.where(both == count + 3, 0, both)  # the second ball's -x tip is the first one's +x tip
    points, separated = cleanup.separate_fans(two, touching)
    assert len(points) == 2 * count
    assert np.allclose(points[separated], two[touching])
    again, same = cleanup.separate_fans(vertices.numpy(), faces.numpy())
    assert np.array_equal(again, vertices.numpy())
    assert np.array_equal(same, faces.numpy())
    fin = np.concatenate([faces.numpy(), [[int(faces[0, 0]), int(faces[0, 1]), int(faces[0, 0] + 1) % count]]])
    kept = cleanup.without_crowded_edges(vertices.numpy(), fin)
    sides = np.sort(kept[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert np.unique(sides, axis=0, return_counts=True)[1].max() == 2
    closed = cleanup.clean(vertices, torch.from_numpy(faces.numpy()[1:]), replace(QUICK, smoothing=0))
    assert is_closed(closed[1].numpy())
