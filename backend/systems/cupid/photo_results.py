"""What a run hands over and says about each of its photos: camera.json, camera_1.json, ..., and how well it fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backend.contract.meshes import MeshData
from backend.systems.base import ArtifactData
from backend.systems.cupid import results
from backend.systems.cupid.object_stage import fit_to_photo
from backend.systems.cupid.photo import Photo
from backend.systems.cupid.structure_stage import SolvedCamera


def camera_files(photos: Sequence[Photo], cameras: Sequence[SolvedCamera]) -> list[ArtifactData]:
    """The artifacts camera.json, camera_1.json, ...: one a photo, in their order."""
    files = []
    for number, (photo, camera) in enumerate(zip(photos, cameras, strict=True)):
        data = results.camera_json(
            camera.world_to_camera, camera.intrinsics, photo.picture.original_size, camera.residual_px, camera.trusted,
            camera.message, camera.inlier_share,
        )  # fmt: skip
        files.append(ArtifactData(f"camera_{number}.json" if number else "camera.json", data, "application/json"))
    return files


def photo_report(mesh: MeshData, photo: Photo, camera: SolvedCamera) -> dict[str, Any]:
    """The camera of one photo and how well the mesh fits the photo through it (nothing of that without a camera)."""
    return {
        "mask": photo.cutout.source,
        "residual_px": camera.residual_px,
        "inlier_share": camera.inlier_share,
        "trusted": camera.trusted,
        "message": camera.message,
        **fit_to_photo(mesh, photo, camera),
    }
