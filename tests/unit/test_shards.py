"""backend.data: crops, surface voxels, carving, shards and the plan of a preparation, without Blender."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.contract import frames
from backend.data import blender, crops, prepare, shards, surface, views

SIZE = 64
RADIUS = 0.4


def sphere_view(camera: views.ViewCamera) -> dict[str, np.ndarray]:
    """A sphere of RADIUS at the origin, ray traced: colour, point map, normals and mask of one view."""
    pixel = (np.arange(SIZE) + 0.5) / SIZE
    u, v = np.meshgrid(pixel, pixel)
    k = camera.intrinsics
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], axis=-1)
    camera_to_world = np.linalg.inv(camera.world_to_camera)
    rays = rays @ camera_to_world[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    origin = camera_to_world[:3, 3]
    along = rays @ origin
    under = along**2 - (origin @ origin - RADIUS**2)
    mask = under > 0
    points = origin + (-along - np.sqrt(np.maximum(under, 0)))[..., None] * rays
    points = np.where(mask[..., None], points, 0.0).astype(np.float32)
    normals = np.where(mask[..., None], points / RADIUS, 0.0)
    color = np.zeros((SIZE, SIZE, 4), dtype=np.uint8)
    color[mask] = (200, 100, 50, 255)
    return {"color": color, "albedo": color[..., :3].copy(), "normals": np.rint(normals * 127).astype(np.int8),
            "points": points, "mask": mask}  # fmt: skip


@pytest.fixture(scope="module")
def rendered() -> blender.RenderedObject:
    cameras = views.random_cameras(8, 3)
    shots = [sphere_view(camera) for camera in cameras]
    arrays = {name: np.stack([shot[name] for shot in shots]) for name in shots[0]}
    arrays["world_to_camera"] = np.stack([camera.world_to_camera for camera in cameras]).astype(np.float32)
    arrays["intrinsics"] = np.stack([camera.intrinsics for camera in cameras]).astype(np.float32)
    return blender.RenderedObject(blender.Asset("sphere", Path("sphere.glb"), 5), arrays)


def test_crop_is_centred_padded_and_keeps_the_projection() -> None:
    picture = np.zeros((40, 60, 4), dtype=np.uint8)
    picture[0:20, 30:40] = (10, 250, 30, 255)
    intrinsics = np.array([[1.0, 0, 0.5], [0, 1.5, 0.5], [0, 0, 1.0]])
    left, top, right, bottom = crops.crop_box(picture[..., 3])
    assert right - left == bottom - top == 22 and top < 0
    crop, cropped = crops.crop_view(picture, intrinsics, 44)
    assert crop.shape == (44, 44, 4)
    # The block's corner (30, 0) in pixels must fall at the same place of the crop, twice as large.
    ray = np.linalg.inv(intrinsics) @ [30 / 60, 0 / 40, 1.0]
    u, v, _ = cropped @ ray
    assert np.allclose([u * 44, v * 44], [2 * (30 - left), 2 * (0 - top)], atol=1e-4)
    # No dark fringe: premultiplied resizing keeps the colour where something is visible (Lanczos rings a little).
    seen = crop[..., 3] > 128
    assert np.abs(crop[seen][:, :3].astype(int) - (10, 250, 30)).max() <= 10


def test_crop_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no object"):
        crops.crop_box(np.zeros((8, 8), dtype=np.uint8))


def test_picture_encoding_is_lossless() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 4), dtype=np.uint8)
    picture[..., 3] |= 1
    assert np.array_equal(crops.decode_image(crops.encode_image(picture)), picture)


@pytest.mark.parametrize("resolution", [32, 64, 65])
def test_cubes_survive_packing(resolution: int) -> None:
    cube = np.random.default_rng(resolution).random((resolution,) * 3) > 0.7
    assert np.array_equal(shards.unpack_cubes(shards.pack_cube(cube)[None], resolution)[0], cube)


def test_face_on_a_voxel_border_fills_one_layer() -> None:
    rng = np.random.default_rng(0)
    points = np.column_stack([np.full(4000, 0.25) + rng.normal(0, 1e-6, 4000), *rng.uniform(-0.2, 0.2, (2, 4000))])
    occupied = surface.surface_occupancy(points, np.tile([1.0, 0, 0], (4000, 1)), 32)
    assert set(np.nonzero(occupied)[0]) == {23}  # 0.25 is the border between layers 23 and 24; the inside is below


def test_stray_points_make_no_voxel() -> None:
    points = np.array([[0.01, 0.01, 0.01], [0.012, 0.01, 0.01], [0.4, 0.4, 0.4]])
    occupied = surface.surface_occupancy(points, np.zeros_like(points), 32)
    assert occupied.sum() == 1 and occupied[16, 16, 16]


def test_sampling_is_even_and_fills_up() -> None:
    rng = np.random.default_rng(0)
    crowded, sparse = rng.uniform(-0.5, -0.4, (10000, 3)), rng.uniform(0.3, 0.4, (300, 3))
    points = np.concatenate([crowded, sparse])
    chosen = surface.stratified_choice(points, 200, rng)
    assert len(set(chosen)) == 200 and (chosen >= 10000).mean() > 0.3
    assert len(surface.stratified_choice(points[:10], 4096, rng)) == 4096
    with pytest.raises(ValueError, match="no surface points"):
        surface.stratified_choice(points[:0], 10, rng)


def test_digest_of_a_sphere(rendered: blender.RenderedObject) -> None:
    item = prepare.digest(rendered)
    solid = shards.unpack_cubes(item["solid"][None], 65)[0]
    axis = np.arange(65) / 64 - 0.5
    radius = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1), axis=-1)
    assert solid[radius < RADIUS - 0.02].all()
    # Eight views carve a polyhedron around the sphere: everything well outside goes, a little stays.
    assert not solid[radius > RADIUS + 0.2].any() and solid[radius > RADIUS + 0.05].mean() < 0.01
    occupied = shards.unpack_cubes(item["occupancy"][None], 32)[0]
    distance = np.linalg.norm(surface.voxel_centres(32)[occupied], axis=-1)
    assert np.abs(distance - RADIUS).max() < np.sqrt(3) / 2 / 32 + 0.003
    assert np.allclose(np.linalg.norm(item["points"].astype(np.float32), axis=-1), RADIUS, atol=1e-3)
    uv, _ = frames.project(surface.voxel_centres(32)[occupied], item["world_to_camera"][0], item["intrinsics"][0])
    picture = crops.decode_image(item["images"][0])
    column, row = np.floor(uv * 96).astype(int).clip(0, 95).T
    assert (picture[row, column, 3] > 0).mean() > 0.97


def test_dataset_reads_what_was_written(tmp_path: Path, rendered: blender.RenderedObject) -> None:
    item = prepare.digest(rendered)
    entry = {"split": "val", "views": 8, "seed": 0, "failed": {}}
    for number, ids in enumerate((["a", "b"], ["c"])):
        described = {**entry, "ids": ids, "captions": [f"a {name}" for name in ids]}
        shards.write_shard(tmp_path / f"val-{number:05d}.safetensors", prepare.join([item] * len(ids)), described)
    assert shards.write_index(tmp_path)["counts"] == {"val": 3}
    data = shards.ShardDataset(tmp_path, "val")
    assert data.ids == ["a", "b", "c"] and data.captions[2] == "a c" and len(data) == 3
    assert data.images.shape == (3, 8, 96, 96, 4) and np.array_equal(data.images[0], data.images[2])
    assert np.array_equal(data.images[1, 4], crops.decode_image(item["images"][4]))
    assert data.intrinsics.shape == (3, 8, 3, 3) and data.world_to_camera.shape == (3, 8, 4, 4)
    assert data.occupancy.shape == (3, 32, 32, 32) and data.occupancy64.shape == (3, 64, 64, 64)
    assert data.solid.shape == (3, 65, 65, 65) and data.points.shape == data.normals.shape == data.colors.shape
    assert len(shards.ShardDataset(tmp_path, "val", limit=1).images) == 1
    with pytest.raises(FileNotFoundError, match="train"):
        shards.ShardDataset(tmp_path, "train")


def test_plan_is_repeatable_and_limited(tmp_path: Path) -> None:
    rows = [prepare.AssetRow(f"o{i}", tmp_path, "val" if i % 10 == 0 else "train", "") for i in range(1000)]
    plan = prepare.plan_chunks(rows, "all", 3, None)
    assert plan == prepare.plan_chunks(rows, "all", 3, None)
    assert [chunk.split for chunk in plan[:11]] == ["train"] * 10 + ["val"]
    assert sum(len(chunk.rows) for chunk in plan) == 1000
    assert [len(chunk.rows) for chunk in prepare.plan_chunks(rows, "val", 3, 5)] == [5]


def test_assets_without_a_table_are_all_val(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "red_chair.glb").write_bytes(b"x")
    assert prepare.read_assets(tmp_path) == [
        prepare.AssetRow("sub/red_chair", tmp_path / "sub" / "red_chair.glb", "val", "red chair")
    ]
    with pytest.raises(FileNotFoundError, match="GLB"):
        prepare.read_assets(tmp_path / "nothing")


def test_missing_blender_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(blender.BLENDER_VARIABLE, "no-such-blender-anywhere")
    with pytest.raises(blender.BlenderNotFound, match="set it to a Blender executable"):
        blender.find_blender()
