"""Splats of an object: the Gaussian decoder's where its weights are (spec 4.7), else those of the textured surface."""

from __future__ import annotations

from backend.contract.meshes import MeshData
from backend.contract.splats import Splats
from backend.geometry.surface_splats import surface_splats
from backend.nn.sparse_tensor import SparseTensor
from backend.systems.cupid.model import CupidModel
from backend.systems.cupid.slat_vae import Gaussians

DECODER = "slat_dec_gs"
FROM_SURFACE = "no decoder of splats: they were made from the textured surface"


def make_splats(networks: CupidModel, latent: SparseTensor | None, mesh: MeshData) -> tuple[Splats, str]:
    """The splats of a structured latent, or of its mesh, and a note for the report (empty for the decoder's)."""
    if latent is not None and DECODER in networks.networks:
        return gaussian_splats(networks[DECODER](latent)[0]), ""
    return surface_splats(mesh), FROM_SURFACE


def gaussian_splats(gaussians: Gaussians) -> Splats:
    """A network's splats as arrays."""
    values = (gaussians.positions, gaussians.scales, gaussians.rotations, gaussians.colors, gaussians.opacities[:, 0])
    return Splats(*(value.detach().float().cpu().numpy() for value in values))
