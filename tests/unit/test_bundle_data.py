"""Bundle pictures from Blender's passes: order of the tiles, white ground, the mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backend.contract import bundle_views
from backend.data import blender, bundles, crops, shards


def rendered_half() -> blender.RenderedObject:
    """Four views of 8 px whose left half is covered, red, and faces the viewer."""
    cameras = np.stack(bundle_views.bundle_cameras())
    mask = np.zeros((4, 8, 8), dtype=bool)
    mask[:, :, :4] = True
    albedo = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    albedo[mask] = (255, 0, 0)
    normals = np.zeros((4, 8, 8, 3), dtype=np.int8)
    for index, camera in enumerate(cameras):
        normals[index][mask[index]] = np.rint(-camera[2, :3] * 127)
    arrays = {"mask": mask, "albedo": albedo, "normals": normals, "world_to_camera": cameras}
    return blender.RenderedObject(blender.Asset("half", Path("half.glb"), 0), arrays)


def test_a_bundle_has_colours_above_normals_below_and_white_around() -> None:
    picture = bundles.bundle_picture(rendered_half())
    assert picture.shape == (8, 16, 4) and picture.dtype == np.uint8
    for tile in range(4):
        left = 4 * tile
        assert (picture[:4, left : left + 2] == (255, 0, 0, 255)).all()
        assert np.abs(picture[4:, left : left + 2].astype(int) - (128, 128, 255, 255)).max() <= 1
        assert (picture[:, left + 2 : left + 4] == (255, 255, 255, 0)).all()


def test_shards_give_the_pictures_back_on_white(tmp_path: Path) -> None:
    picture = bundles.bundle_picture(rendered_half())
    data = crops.encode_image(picture)
    tensors = {
        "bundles": np.frombuffer(data + data, dtype=np.uint8),
        "bundle_offsets": np.array([0, len(data), 2 * len(data)]),
    }
    entry = {"split": "val", "views": 4, "seed": 0, "size": 4, "ids": ["a", "b"], "captions": ["a cup", "a tree"]}
    shards.write_shard(tmp_path / "val-00000.safetensors", tensors, entry)
    shards.write_index(tmp_path)
    dataset = bundles.BundleDataset(tmp_path, "val")
    assert dataset.captions == ["a cup", "a tree"] and dataset.size == 4
    assert (dataset.pictures() == picture).all()
