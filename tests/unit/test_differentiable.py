"""The differentiable rasteriser against the numpy one, closed forms and finite differences."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from backend.rendering import differentiable_bench, rasterizer
from backend.rendering.differentiable import antialias, interpolate, rasterize

SCALE = 1 / math.tan(math.radians(15))  # a lens of 30 degrees
NEAR, FAR = 0.1, 1000.0


def projection() -> Tensor:
    """Camera coordinates (z forward, rows down the picture along y) to clip [4,4] float64."""
    depth = [0, 0, (FAR + NEAR) / (FAR - NEAR), -2 * FAR * NEAR / (FAR - NEAR)]
    return torch.tensor([[SCALE, 0, 0, 0], [0, SCALE, 0, 0], depth, [0, 0, 1, 0]], dtype=torch.float64)


def cameras(count: int, distance: float = 4.2) -> Tensor:
    """World to camera [V,4,4] float64, around the z axis and a little above it."""
    matrices = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    for matrix, angle in zip(matrices, torch.arange(count) * (2 * math.pi / count) + 0.3, strict=True):
        forward = -torch.tensor([math.cos(angle), math.sin(angle), 0.2], dtype=torch.float64)
        forward = forward / forward.norm()
        right = torch.tensor([-math.sin(angle), math.cos(angle), 0.0], dtype=torch.float64)
        matrix[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
        matrix[2, 3] = distance
    return matrices


def to_clip(vertices: Tensor, world_to_camera: Tensor) -> Tensor:
    """Vertices [N,3] seen by cameras [V,4,4]: clip [V,N,4] in the vertices' precision."""
    points = torch.cat([vertices, torch.ones_like(vertices[:, :1])], 1)
    return points @ (projection() @ world_to_camera).to(vertices).transpose(1, 2)


def ball(steps: int, bumps: float = 0.0) -> tuple[Tensor, Tensor]:
    """A closed surface of 12 steps^2 triangles, about 0.9 in radius: a cube blown up."""
    axis = torch.linspace(-1, 1, steps + 1, dtype=torch.float64)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    sides = [torch.stack([torch.ones_like(u), u, v], -1), torch.stack([-torch.ones_like(u), v, u], -1)]
    grid = torch.arange((steps + 1) ** 2).view(steps + 1, steps + 1)
    a, b, c, d = (part.flatten() for part in (grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]))
    patch = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    points = torch.cat([side.reshape(-1, 3).roll(turn, 1) for turn in range(3) for side in sides])
    faces = torch.cat([patch + part * (steps + 1) ** 2 for part in range(6)])
    welded, index = torch.unique((points * steps).round().long(), dim=0, return_inverse=True)
    directions = torch.nn.functional.normalize(welded.double(), dim=1)
    radius = 1 + bumps * (5 * directions[:, 0]).sin() * (4 * directions[:, 1] + 1).cos() * (6 * directions[:, 2]).sin()
    return 0.9 * directions * radius[:, None], index[faces]


def soup(count: int, side: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Triangles anywhere, of about one size."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.rand(count, 1, 3, generator=generator, dtype=torch.float64) - 0.5
    corners = middle + side * torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)
    return corners.view(-1, 3), torch.arange(3 * count).view(-1, 3)


INTRINSICS = np.array([[SCALE / 2, 0, 0.5], [0, SCALE / 2, 0.5], [0, 0, 1]])


@pytest.mark.parametrize(
    ("mesh", "distance"), [(ball(12, 0.1), 4.2), (soup(60, 0.3), 4.2), (soup(3000, 0.02), 2.0), (soup(80, 0.3), 0.1)]
)
def test_agrees_with_the_numpy_rasteriser(
    mesh: tuple[Tensor, Tensor], distance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rasterizer, "NEAR", NEAR)
    vertices, faces = mesh
    matrices = cameras(2, distance)  # from 0.1 many triangles lie behind the camera or pass through its plane
    found = rasterize(to_clip(vertices, matrices), faces, (60, 60))
    for view, matrix in enumerate(matrices.numpy()):
        expected = rasterizer.rasterize(vertices.numpy(), faces.numpy(), matrix, INTRINSICS, (60, 60))
        assert expected.mask.mean() > 0.2
        same = found.face[view].numpy() == expected.face
        assert same.mean() > 0.999  # centres on an edge go either way
        ours = found.barycentric[view].numpy()
        assert np.abs(ours - expected.barycentric)[same].max() < 1e-5
        depth = projection()[2, 2].item() + projection()[2, 3].item() / expected.depth[same & expected.mask]
        assert np.abs(found.depth[view].numpy()[same & expected.mask] - depth).max() < 1e-4


def test_interpolation_is_perspective_correct() -> None:
    vertices, faces = soup(40, 0.3)
    matrices = cameras(3)
    found = rasterize(to_clip(vertices, matrices), faces, (30, 50))
    places = interpolate(found, vertices, faces)
    back = to_clip(places[found.mask], matrices)  # [V,P,4]
    view, row, column = found.mask.nonzero(as_tuple=True)
    back = back[view, torch.arange(len(view))]
    assert len(view) > 1000
    assert torch.allclose(back[:, 0] / back[:, 3], (column.double() + 0.5) / 50 * 2 - 1, atol=1e-9)
    assert torch.allclose(back[:, 1] / back[:, 3], (row.double() + 0.5) / 30 * 2 - 1, atol=1e-9)
    assert (places[~found.mask] == 0).all() and torch.isinf(found.depth[~found.mask]).all()
    of_views = interpolate(found, vertices * torch.tensor([1.0, 2.0, 3.0])[:, None, None], faces)
    assert torch.allclose(of_views, places * torch.tensor([1.0, 2.0, 3.0])[:, None, None, None])


def test_gradients_of_positions_and_attributes_are_the_finite_differences() -> None:
    vertices, faces = soup(9, 0.4)
    clip = to_clip(vertices, cameras(2, 2.5)).requires_grad_()
    attributes = torch.rand(len(vertices), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def picture(clip: Tensor, attributes: Tensor) -> Tensor:
        return interpolate(rasterize(clip, faces, (9, 11)), attributes, faces)

    assert (picture(clip, attributes).abs().sum(-1) > 0).sum() > 40
    for values in (attributes, attributes.expand(2, -1, -1).clone()):
        assert torch.autograd.gradcheck(picture, (clip, values.requires_grad_()), eps=1e-7, atol=1e-5)


SIZE, FINER = 40, 16
"""Pixels of the picture under test, and how many rows and columns of samples its truth has in each of them."""


def truth(clip: Tensor, faces: Tensor, colors: Tensor) -> Tensor:
    """The picture [V,SIZE,SIZE,C] of faces in plain colours [F,C], averaged over samples."""
    fine = rasterize(clip, faces, (SIZE * FINER, SIZE * FINER))
    samples = torch.where(fine.mask[..., None], colors[fine.face.clamp_min(0)], 0)
    return samples.view(len(clip), SIZE, FINER, SIZE, FINER, -1).mean((2, 4))


def smooth(clip: Tensor, faces: Tensor, colors: Tensor) -> Tensor:
    """The same by one sample a pixel and `antialias`."""
    found = rasterize(clip, faces, (SIZE, SIZE))
    image = torch.where(found.mask[..., None], colors[found.face.clamp_min(0)], 0)
    return antialias(image, found, clip, faces)


def weights(views: int) -> Tensor:
    """Smooth patterns [V,SIZE,SIZE,1] that the pictures are multiplied with."""
    row, column = torch.meshgrid(torch.arange(SIZE) / SIZE, torch.arange(SIZE) / SIZE, indexing="ij")
    return torch.stack([((4 - view) * column + 2 * row + 1).sin() + 0.3 for view in range(views)]).double()[..., None]


def scenes() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Vertices, faces and colours of faces: flat triangles, triangles below a pixel, one thing before the other."""
    box, fine, far = ball(1), ball(14, 0.15), ball(5)
    pair = torch.cat([0.5 * fine[0] + torch.tensor([0.3, 0.3, 0.2]), 0.6 * far[0] - 0.2])
    faces = torch.cat([fine[1], far[1] + len(fine[0])])
    colors = torch.cat([torch.full((len(fine[1]), 1), 0.4), torch.ones(len(far[1]), 1)]).double()
    ones = torch.ones(len(fine[1]), 1, dtype=torch.float64)
    return {"box": (*box, ones[:12]), "fine": (*fine, ones), "pair": (pair, faces, colors)}


@pytest.mark.parametrize("name", ["box", "fine", "pair"])
def test_coverage_comes_close_to_many_samples(name: str) -> None:
    vertices, faces, colors = scenes()[name]
    clip = to_clip(vertices, cameras(2))
    expected, found = truth(clip, faces, colors), smooth(clip, faces, colors)
    hard = rasterize(clip, faces, (SIZE, SIZE))
    rough = torch.where(hard.mask[..., None], colors[hard.face.clamp_min(0)], 0)
    assert (found - expected).square().mean().sqrt() < 0.25 * (rough - expected).square().mean().sqrt()
    assert (found.sum() / expected.sum() - 1).abs() < 1e-3


@pytest.mark.parametrize("name", ["box", "fine", "pair"])
def test_the_silhouette_gradient_is_the_difference_of_many_samples(name: str) -> None:
    """Within 4 % of the steepest way, for whole movements and for bends; steps of a third of a pixel."""
    vertices, faces, colors = scenes()[name]
    matrices, pattern = cameras(2), weights(2)
    moved = vertices.clone().requires_grad_()
    (smooth(to_clip(moved, matrices), faces, colors) * pattern).sum().backward()
    bend = (3 * vertices.roll(1, 1) + 1).sin()
    ways = [*torch.eye(3, dtype=torch.float64)[:, None].expand(-1, len(vertices), -1), vertices, bend]
    step = 0.02
    expected, found = [], []
    for way in ways:
        ends = [to_clip(vertices + sign * step * way, matrices) for sign in (1, -1)]
        plus, minus = ((truth(end, faces, colors) * pattern).sum() for end in ends)
        expected.append((plus - minus) / (2 * step))
        found.append((moved.grad * way).sum())
    difference = torch.stack(found) - torch.stack(expected)
    assert difference.abs().max() < 0.04 * torch.stack(expected).abs().max(), (found, expected)


def test_each_corner_of_a_box_has_the_gradient_of_its_silhouette() -> None:
    """All 24 numbers together: within 5 % of the length of the finite differences."""
    vertices, faces, colors = scenes()["box"]
    matrices, pattern = cameras(1), weights(1)
    moved = vertices.clone().requires_grad_()
    (smooth(to_clip(moved, matrices), faces, colors) * pattern).sum().backward()
    expected = torch.zeros_like(vertices)
    step = 0.04
    for place in range(vertices.numel()):
        way = torch.zeros(vertices.numel(), dtype=torch.float64)
        way[place] = step
        ends = [to_clip(vertices + sign * way.view_as(vertices), matrices) for sign in (1, -1)]
        plus, minus = ((truth(end, faces, colors) * pattern).sum() for end in ends)
        expected.view(-1)[place] = (plus - minus) / (2 * step)
    assert (moved.grad - expected).norm() < 0.05 * expected.norm()
    assert expected.norm(dim=1).max() > 5


def test_the_blend_is_linear_in_the_image() -> None:
    vertices, faces, _ = scenes()["box"]
    clip = to_clip(vertices, cameras(1))
    found = rasterize(clip, faces, (7, 7))
    image = torch.rand(1, 7, 7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda image: antialias(image, found, clip, faces), (image,))


def slope(steps: int) -> tuple[Tensor, Tensor]:
    """A tilted square of 2 * steps^2 triangles."""
    axis = torch.linspace(-0.7, 0.7, steps + 1, dtype=torch.float64)
    u, v = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.arange((steps + 1) ** 2).view(steps + 1, steps + 1)
    a, b, c, d = (part.flatten() for part in (grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]))
    faces = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])
    return torch.stack([0.8 * u, u, v], -1).view(-1, 3), faces


def inner_edges() -> dict[str, tuple[Tensor, Tensor]]:
    """The same square with edges that must not show, each in another way."""
    vertices, faces = slope(6)
    seams = vertices[faces].view(-1, 3), torch.arange(faces.numel()).view(-1, 3)
    middle = (vertices[faces[0, 0]] + vertices[faces[0, 2]]) / 2  # of the long side that faces 0 and 36 share
    a, c, d = faces[36].tolist()
    halves = torch.tensor([[a, len(vertices), d], [len(vertices), c, d], [a, c, len(vertices)]])
    kept = torch.cat([faces[:36], faces[37:], halves])
    back = vertices[faces[40]].mean(0) + torch.tensor([-0.5, 0.5, 0.0])  # behind the square in the picture
    fin = torch.cat([faces, torch.tensor([[int(faces[40, 0]), int(faces[40, 1]), len(vertices)]])])
    return {
        "plain": (vertices, faces),
        "open seams": seams,
        "a side split by a face without area": (torch.cat([vertices, middle[None]]), kept),
        "three faces at an edge": (torch.cat([vertices, back[None]]), fin),
    }


@pytest.mark.parametrize("name", list(inner_edges()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inner_edges_are_not_blended(name: str, dtype: torch.dtype) -> None:
    vertices, faces = inner_edges()[name]
    clip = to_clip(vertices.to(dtype), cameras(1))
    found = rasterize(clip, faces, (64, 64))
    image = torch.rand(1, 64, 64, 3, dtype=dtype, generator=torch.Generator().manual_seed(3))
    changed = (antialias(image, found, clip, faces) != image).any(-1)[0]
    covered = found.mask[0]
    around = torch.nn.functional.max_pool2d((~covered)[None].float(), 3, 1, 1)[0] > 0
    inside = torch.nn.functional.max_pool2d(covered[None].float(), 3, 1, 1)[0] > 0
    assert covered.sum() > 300 and changed.sum() > 40
    assert not (changed & ~(around & inside)).any()


def test_faces_of_32_bits_and_single_precision_draw_the_same() -> None:
    vertices, faces = ball(9, 0.1)
    clip = to_clip(vertices, cameras(2))
    expected, found = rasterize(clip, faces, (48, 48)), rasterize(clip.float(), faces.int(), (48, 48))
    assert (found.face == expected.face).double().mean() > 0.999
    pictures = [
        antialias(interpolate(drawn, vertices.to(kind), index), drawn, clip.to(kind), index)
        for drawn, kind, index in ((expected, torch.float64, faces), (found, torch.float32, faces.int()))
    ]
    assert (pictures[0] - pictures[1]).abs().mean() < 1e-4


def test_slivers_keep_their_colours_in_single_precision() -> None:
    """Triangles far thinner than a pixel through pixel centres: colours stay in range, gradients finite."""
    generator = torch.Generator().manual_seed(5)
    places = ((torch.rand(4000, 3, generator=generator) * 2 - 1) / 3).sort(1).values  # on the line y = 3 x
    shift = 1e-6 * torch.randn(4000, 3, generator=generator)
    w = 1 + torch.rand(4000, 3, generator=generator)
    clip = torch.stack([places * w, (3 * places + shift) * w, 0 * w, w], -1).view(1, -1, 4).requires_grad_()
    faces = torch.arange(12000).view(-1, 3)
    found = rasterize(clip, faces, (64, 64))
    image = interpolate(found, torch.rand(12000, 2, generator=generator), faces)
    antialias(image, found, clip, faces).sum().backward()
    assert found.mask.sum() > 15 and found.barycentric.min() >= -0.01
    assert image.max() <= 1.01 and torch.isfinite(clip.grad).all()


def test_a_face_at_the_same_depth_does_not_replace_the_first() -> None:
    vertices, faces = soup(20, 0.3)
    found = rasterize(to_clip(vertices, cameras(2)), torch.cat([faces, faces]), (40, 40))
    assert found.mask.any() and int(found.face.max()) < 20


@pytest.mark.parametrize(
    ("corners", "spans"),
    [
        ([(1, 5), (6, 5), (1, 2)], [0, 0, 1, 2, 4, 6, 0, 0]),
        ([(1, 2), (6, 2), (1, 5)], [0, 0, 6, 4, 2, 1, 0, 0]),
    ],
)
def test_a_level_edge_through_pixel_centres_is_drawn(corners: list[tuple[int, int]], spans: list[int]) -> None:
    clip = torch.tensor([[((x + 0.5) / 4 - 1, (y + 0.5) / 4 - 1, 0.0, 1.0) for x, y in corners]])
    found = rasterize(clip, torch.tensor([[0, 1, 2]]), (8, 8))
    assert found.mask[0].sum(1).tolist() == spans


def test_faces_without_area_or_numbers_change_nothing() -> None:
    vertices, faces = ball(4)
    clip = to_clip(vertices, cameras(2))
    expected = rasterize(clip, faces, (32, 32))
    more = torch.cat(
        [vertices, vertices.new_tensor([[math.nan] * 3, [0.0, 0.0, 0.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0]])]
    )
    last = len(vertices)
    odd = torch.tensor([[last, 0, 1], [2, 2, 3], [last + 1, last + 2, last + 3], [4, 4, 4]])
    clip = to_clip(more, cameras(2)).requires_grad_()
    everything = torch.cat([faces, odd])
    found = rasterize(clip, everything, (32, 32))
    assert (found.face == expected.face).all()
    image = interpolate(found, torch.ones(len(more), 1, dtype=torch.float64), everything)
    antialias(image * found.barycentric, found, clip, everything).square().sum().backward()
    assert torch.isfinite(clip.grad).all() and clip.grad.abs().max() > 0


@pytest.mark.parametrize(("points", "count"), [(0, 0), (5, 0)])
def test_an_empty_mesh_is_an_empty_picture(points: int, count: int) -> None:
    clip = torch.ones(2, points, 4, requires_grad=True)
    faces = torch.zeros(count, 3, dtype=torch.int64)
    found = rasterize(clip, faces, (8, 6))
    assert found.face.shape == (2, 8, 6) and (found.face == -1).all() and (found.barycentric == 0).all()
    image = interpolate(found, torch.ones(points, 3, requires_grad=True), faces)
    blended = antialias(image, found, clip, faces)
    assert blended.shape == (2, 8, 6, 3) and (blended == 0).all()
    blended.sum().backward()
    assert clip.grad is None or (clip.grad == 0).all()


def test_a_floor_that_passes_below_the_camera() -> None:
    """Half of the picture is floor up to the horizon, from the near plane on, with finite gradients."""
    vertices = torch.tensor([[-50.0, 0.3, -50.0], [50.0, 0.3, -50.0], [50.0, 0.3, 50.0], [-50.0, 0.3, 50.0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    clip = to_clip(vertices, torch.eye(4, dtype=torch.float64)[None]).requires_grad_()
    found = rasterize(clip, faces, (64, 64))
    rows = found.mask[0].all(1).nonzero()[:, 0]
    assert rows[0] == 33 and rows[-1] == 63 and not found.mask[0, :32].any()
    places = interpolate(found, vertices, faces)
    expected = 0.3 * SCALE / ((torch.arange(33, 64) + 0.5) / 32 - 1)  # how far ahead a row sees the floor
    assert torch.allclose(places[0, 33:, 20, 2], expected, rtol=1e-3)
    antialias(places, found, clip, faces).mean().backward()
    assert torch.isfinite(clip.grad).all() and clip.grad.abs().max() > 0


def test_wrong_shapes_are_refused() -> None:
    clip, faces = torch.ones(1, 3, 4), torch.tensor([[0, 1, 2]])
    small = (4, 4)
    for wrong in (
        (clip[0], faces, small),
        (clip[:0], faces, small),
        (clip, faces[0], small),
        (clip, faces + 1, small),
        (clip, faces, (0, 4)),
    ):
        with pytest.raises(ValueError, match="must be|at least one pixel|not there"):
            rasterize(*wrong)
    found = rasterize(clip, faces, (4, 4))
    with pytest.raises(ValueError, match="Attributes"):
        interpolate(found, torch.ones(3), faces)
    with pytest.raises(ValueError, match="no picture"):
        antialias(torch.ones(1, 5, 4, 1), found, clip, faces)


def test_many_triangles_are_drawn_quickly() -> None:
    """The bench's case, 20,000 triangles in 4 views at 512 px: the half second of two cores, counted as their time."""
    result = differentiable_bench.measure(repeats=1, clock=time.process_time)
    assert result["triangles"] == 20_000 and result["covered_pixels"] > 300_000
    assert 0 < result["forward_seconds"] < 1.0 and result["backward_seconds"] > 0
