"""Replays of RefAny3D's two ends: conditions drawn and encoded, whole sampling runs, pictures decoded."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from backend.contract import reference_views
from backend.contract.meshes import MeshData
from backend.systems.kiss3dgen.flux.text import TextFeatures
from backend.systems.refany3d import condition_views, encoding, point_maps
from backend.systems.refany3d.sampler import SampleSettings, guided
from backend.systems.refany3d.schedule import Pair, euler_sigmas, integrate, shift_of
from tests.golden.refany3d_networks import load_network
from tests.golden.replay import Arrays, Comparison, Manifest, Replay, shared_arrays

LEAST_IOU, MOST_LEVELS = 0.999, 2
"""Of silhouettes, and of grey levels on the pixels that both rasterisers cover (spec section 3)."""
NOISE_KNOWN_TO = 2e-4
"""The recorded noise was drawn apart from the run's: (tokens - mean) / spread misses it by up to 1.4e-4."""
RENDER_CASES = {"tex": (4.0, 0.0, 0.0), "vcol": (3.5, 20.0, 0.0), "texrot": (4.0, -10.0, 35.0)}
"""Radius, pitch and y rotation, which the manifest states in words only."""


def load_vae(manifest: Manifest) -> AutoencoderKL:
    """The golden autoencoder."""
    vae = AutoencoderKL(**manifest["config"]["vae"])
    weights = shared_arrays(manifest, "weights_vae.npz")
    vae.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return vae.eval()


@torch.no_grad()
def vae_encode_decode(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """uint8 to tokens with the recorded posterior noise, and tokens to uint8."""
    vae = load_vae(manifest)
    pictures = encoding.to_tensor(arrays["images_uint8"])
    tokens = encoding.encode_pictures(vae, pictures, torch.from_numpy(arrays["posterior_noise"]))
    mean = encoding.encode_pictures(vae, pictures)
    scaled = (arrays["latent_mean"] - vae.config.shift_factor) * vae.config.scaling_factor
    height, width = pictures.shape[-2:]
    nothing, black_noise = torch.zeros(1, 3, height, width), torch.from_numpy(arrays["empty_posterior_noise"])
    black = encoding.encode_pictures(vae, nothing, black_noise)
    spread = vae.encode(2 * nothing - 1).latent_dist.std * vae.config.scaling_factor
    decoded = encoding.decode_tokens(vae, torch.from_numpy(arrays["tokens"][:2]), height, width)
    levels = np.rint(decoded.permute(0, 2, 3, 1).numpy() * 255.0)
    return [
        ("tokens", tokens, arrays["tokens"]),
        ("tokens_of_mean", encoding.unpack(mean, height, width), scaled),
        ("empty_tokens", black, arrays["empty_tokens"], NOISE_KNOWN_TO * encoding.pack(spread).numpy()),
        ("decoded", decoded, np.clip(arrays["decoded_float_first2"] / 2 + 0.5, 0.0, 1.0)),
        ("decoded_uint8", levels, arrays["decoded_uint8_first2"], manifest["uint8_tolerance"]),
    ]


def render_pointmap(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Frames of the two meshes by our rasteriser, the camera's clip positions, and the coding of points and bytes."""
    angles = condition_views.azimuths(8)
    found: list[Comparison] = [
        ("azimuth_degrees", np.array(angles), arrays["azimuth_degrees"]),
        ("encode_uint8", reference_views.to_bytes(arrays["encode_values"]), arrays["encode_uint8"]),
    ]
    for degrees in (0, 35, 90, 120, 270):
        name = f"y_rotation_matrix_{degrees}"
        found.append((name, reference_views.turn_matrix(np.deg2rad(degrees)), arrays[name]))
    for name, (radius, pitch, rotation) in RENDER_CASES.items():
        vertices = arrays[f"{name}_vertices_loaded"]
        world = point_maps.from_gltf(vertices)
        bounds = point_maps.bounds_of(world)
        codes = point_maps.encode_points(world, bounds)
        found.append((f"{name} codes", codes, arrays[f"{name}_pointmap_vertex_values_before_rotation"]))
        found.append((f"{name} clip", _clip(world, bounds, angles, pitch, radius), arrays[f"{name}_clip_positions"]))
        drawn = condition_views.draw_conditions(
            [_mesh(name, arrays)], manifest["resolution"], angles, pitch, radius, rotation
        )
        found += _frames(f"{name} point map", drawn.points, arrays[f"{name}_pointmap"])
        if f"{name}_rgb" in arrays:
            found += _frames(f"{name} colour", drawn.views, arrays[f"{name}_rgb"])
    return found


def _mesh(name: str, arrays: Arrays) -> MeshData:
    """The case's mesh on our terms: world axes, one uv a corner with v up, the texture as a PNG."""
    vertices = point_maps.from_gltf(arrays[f"{name}_vertices_loaded"]).astype(np.float32)
    faces = arrays[f"{name}_faces_loaded"].astype(np.int32)
    if name == "vcol":
        return MeshData(vertices, faces, colors=arrays["vcol_vertex_colors"])
    stream = io.BytesIO()
    Image.fromarray(arrays["texture_uint8"]).save(stream, "PNG")
    uvs = arrays["tex_uv_loaded"][arrays["tex_faces_loaded"].reshape(-1)]
    return MeshData(vertices, faces, uvs=uvs.astype(np.float32), texture=stream.getvalue())


def _clip(
    world: np.ndarray, bounds: point_maps.Bounds, angles: tuple[float, ...], pitch: float, radius: float
) -> np.ndarray:
    """OpenGL clip positions [8,V,4] of world points through our cameras, near 0.1 and far 100."""
    placed = point_maps.to_gltf(world - bounds.centre) * (2.0 / bounds.longest)
    near, far, scale = 0.1, 100.0, 2.0 * reference_views.view_intrinsics()[0, 0]
    found = []
    for angle in angles:
        matrix = condition_views.gltf_camera(angle, pitch, radius)
        x, y, z = (placed @ matrix[:3, :3].T + matrix[:3, 3]).T
        depth = (far + near) / (far - near) * z - 2 * far * near / (far - near)
        found.append(np.stack([scale * x, -scale * y, depth, z], axis=1))
    return np.stack(found)


def _frames(name: str, ours: np.ndarray, theirs: np.ndarray) -> list[Comparison]:
    """How much the silhouettes [N,S,S] miss the least IoU by, and the levels miss the most difference by: both zero."""
    mine, other = ((frames < 255).any(-1) for frames in (ours, theirs))
    iou = (mine & other).sum() / (mine | other).sum()
    both = mine & other
    levels = int(np.abs(ours[both].astype(int) - theirs[both].astype(int)).max())
    return [
        (f"{name}: IoU below {LEAST_IOU}", max(0.0, LEAST_IOU - float(iou)), 0.0),
        (f"{name}: levels beyond {MOST_LEVELS}", max(0, levels - MOST_LEVELS), 0),
    ]


@torch.no_grad()
def trajectory(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """A whole run from the recorded noise: levels, every step's inputs and predictions, and where it ends."""
    given = {name: torch.from_numpy(value) for name, value in arrays.items()}
    steps, tokens = given["rgb_latents_in"].shape[:2]
    networks = SimpleNamespace(transformer=load_network(manifest), device=torch.device("cpu"), dtype=torch.float32)
    text = TextFeatures(given["prompt_embeds"], given["pooled"])
    settings = SampleSettings(steps, float(given["guidance_main"]), float(given["image_guidance_scale"]))
    conditions = given["condition_tokens"][None]
    black = given.get("uncond_condition_tokens", given["condition_tokens"])[None]
    sigmas = euler_sigmas(steps, tokens)
    seen: list[tuple[torch.Tensor, ...]] = []
    velocity = guided(networks, text, conditions, black, settings)
    conditioned = guided(networks, text, conditions, black, replace(settings, image_guidance=1.0))

    def watched(rgb: torch.Tensor, coord: torch.Tensor | None, sigma: float) -> Pair:
        alone = conditioned(rgb, coord, sigma)
        seen.append((rgb, coord, *alone))
        return velocity(rgb, coord, sigma)

    ends = integrate(watched, given["rgb_latents_in"][:1], given["coord_latents_in"][:1], sigmas)
    names = ("rgb_latents_in", "coord_latents_in", "rgb_pred_cond", "coord_pred_cond")
    return [
        ("mu", shift_of(tokens), arrays["mu"]),
        ("sigmas", sigmas, arrays["scheduler_sigmas"]),
        *((name, torch.cat(parts), arrays[name]) for name, parts in zip(names, zip(*seen, strict=True), strict=True)),
        ("rgb_final", ends[0], arrays["rgb_final"]),
        ("coord_final", ends[1], arrays["coord_final"]),
    ]


REPLAYS: dict[str, Replay] = {
    "vae_encode_decode": vae_encode_decode,
    "render_pointmap": render_pointmap,
    "trajectory_guidance": trajectory,
}
