"""Replays of Kiss3DGen's remeshing, mesh optimiser, cameras and ISOMER loops.

Arrays are named in_* and out_*. Rows of dummies hold numbers that are none; they are compared as zeros.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from backend.geometry import mesh_topology, remeshing
from backend.geometry.mesh_optimizer import LENGTH, MOMENT, SPEED, SQUARE, MeshOptimizer, OptimizerSettings
from backend.systems.kiss3dgen import bundle, cameras
from backend.systems.kiss3dgen.isomer import stage1, stage2, targets
from backend.systems.kiss3dgen.isomer.settings import StageSettings
from backend.systems.kiss3dgen.isomer.views import Renderer
from tests.golden.replay import Arrays, Comparison, Manifest, Replay


def tensor(arrays: Arrays, name: str) -> Tensor:
    """One stored input as a tensor."""
    return torch.from_numpy(np.array(arrays["in_" + name]))


def picks(faces: int) -> Tensor:
    """The edge picks that the recorded runs take in the place of random ones."""
    return (7 * torch.arange(faces) + 3) % 10


def compare(arrays: Arrays, **outputs: Tensor) -> list[Comparison]:
    """Outputs beside the recorded ones; what is not a number must not be one on both sides."""
    found: list[Comparison] = []
    for name, value in outputs.items():
        got, expected = np.asarray(value), np.asarray(arrays["out_" + name])
        if got.shape == expected.shape and np.isnan(expected).any():
            found.append((name + " (unknown)", np.isnan(got), np.isnan(expected)))
            got, expected = np.nan_to_num(got), np.nan_to_num(expected)
        found.append((name, got, expected))
    return found


def remesh_topology(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Edges, lengths and normals of a mesh with dummies."""
    vertices, faces = mesh_topology.with_dummies(tensor(arrays, "vertices"), tensor(arrays, "faces"))
    edges, of_faces = mesh_topology.find_edges(faces, len(vertices))
    normals = mesh_topology.face_normals(vertices, faces)
    at_vertices = mesh_topology.vertex_normals(vertices, faces, normals)
    return compare(
        arrays,
        edges=edges,
        face_to_edge=of_faces,
        edge_to_face=mesh_topology.edge_sides(faces, of_faces, len(edges)),
        edge_length=mesh_topology.edge_lengths(vertices, edges),
        face_normals=normals,
        face_normals_unit=torch.nn.functional.normalize(normals, dim=1),
        vertex_normals=at_vertices,
        face_ref_normals=mesh_topology.reference_normals(faces, at_vertices),
    )


def remesh_split(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Splitting the given edges."""
    state, faces = mesh_topology.with_dummies(tensor(arrays, "vertices_etc"), tensor(arrays, "faces"))
    parts = (tensor(arrays, name) for name in ("edges", "face_to_edge", "splits"))
    state, faces = mesh_topology.without_dummies(*mesh_topology.packed(*remeshing.split(state, faces, *parts)))
    return compare(arrays, vertices_etc=state, faces=faces)


def remesh_collapse(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Collapsing by given priorities."""
    state, faces = mesh_topology.with_dummies(tensor(arrays, "vertices_etc"), tensor(arrays, "faces"))
    parts = (tensor(arrays, name) for name in ("edges", "priorities"))
    state, faces = mesh_topology.without_dummies(*mesh_topology.packed(*remeshing.collapse(state, faces, *parts)))
    return compare(arrays, vertices_etc=state, faces=faces)


def remesh_flip(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Flipping edges."""
    vertices, faces = mesh_topology.with_dummies(tensor(arrays, "vertices"), tensor(arrays, "faces"))
    return compare(arrays, faces=remeshing.flip(vertices, faces)[1:] - 1)


def remesh_full_step(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """A whole step of remeshing."""
    parts = (tensor(arrays, name) for name in ("vertices_etc", "faces", "min_edgelen", "max_edgelen"))
    state, faces = remeshing.remesh(*parts, pick=picks)
    return compare(arrays, vertices_etc=state, faces=faces)


def optimizer(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Steps along given gradients, without remeshing."""
    use = manifest["parameters"]
    settings = OptimizerSettings(
        lr=use["lr"],
        lengths=tuple(use["edge_len_lims"]),
        gain=use["gain"],
        ramp=use["ramp"],
        laplacian=use["laplacian_weight"],
        betas=tuple(use["betas"][:2]),
        reference_speed=use["nu_ref"],
        tolerance=use["edge_len_tol"],
        gradient_limit=use["grad_lim"],
        local_lengths=use["local_edgelen"],
    )
    mesh = MeshOptimizer(tensor(arrays, "vertices"), tensor(arrays, "faces"), settings)
    seen: dict[str, list[Tensor]] = {"vertices": [], "m1": [], "m2": [], "nu": [], "ref_len": []}
    for gradient in tensor(arrays, "grads"):
        mesh.lr *= use["lr_decay_before_each_step"]
        mesh.vertices.grad = gradient.clone()
        mesh.step()
        seen["vertices"].append(mesh.vertices.detach().clone())
        seen["m1"].append(mesh.state(MOMENT).clone())
        for name, channel in (("m2", SQUARE), ("nu", SPEED), ("ref_len", LENGTH)):
            seen[name].append(mesh.state(channel)[:, 0].clone())
    return compare(arrays, **{name: torch.stack(values) for name, values in seen.items()})


def camera_cases(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Cameras of the LRM, its preview, ISOMER and projection."""
    use, azimuths, points = manifest["parameters"], arrays["in_azimuths"].tolist(), tensor(arrays, "points")
    elevation = float(arrays["in_elevations"][0])
    views, projection = cameras.isomer_cameras(use["isomer_radius"], azimuths)
    preview = cameras.bundle_view_matrices(use["lrm_render_radius"], azimuths, elevation)
    # The reference's first preview camera is given 90 degrees from the pole where radians are asked for.
    stray = cameras.bundle_view_matrices(use["lrm_render_radius"], [0.0], 90.0 - math.degrees(90.0))[0]
    flip = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))
    return compare(
        arrays,
        lrm_c2w=cameras.lrm_camera_to_world(use["lrm_radius"], azimuths, elevation),
        lrm_render_mv=preview,
        lrm_render_mvp=projection @ preview,
        lrm_render_campos=torch.linalg.inv(preview)[:, :3, 3],
        identity_mv=stray,
        isomer_mv=views,
        isomer_proj=projection,
        p3d_R=(flip @ views[:, :3, :3]).transpose(1, 2),
        p3d_T=views[:, :3, 3] @ flip,
        p3d_ndc=cameras.to_ndc(points, use["isomer_radius"], azimuths),
        isomer_clip=cameras.to_clip(points, views, projection),
        rot_lrm_to_isomer=torch.tensor(cameras.LRM_TO_BUNDLE),
        lrm_input_cameras=cameras.lrm_input_cameras(use["lrm_radius"], azimuths),
    )


def normal_local_to_global(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Encoded local normals turned to the bundle frame and encoded again."""
    local = 2 * arrays["in_local_normal_image"] - 1
    world = bundle.local_to_world(local, tuple(arrays["in_azimuths"].tolist()))
    return compare(arrays, global_normal_image_nchw=torch.from_numpy((world + 1) / 2).permute(0, 3, 1, 2))


def init_target(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """A target laid on black."""
    return compare(arrays, target=targets.on_black(tensor(arrays, "rgba_u8") / 255.0))


def splat(views: Tensor, projection: Tensor, size: int) -> Renderer:
    """The renderer of the recorded loops: each vertex a Gaussian spot."""
    places = (torch.arange(size) + 0.5) / size * 2 - 1
    pixels = torch.stack(torch.meshgrid(places, places, indexing="xy"), dim=-1).reshape(-1, 2)

    def render(vertices: Tensor, faces: Tensor, normals: Tensor) -> Tensor:
        clip = cameras.to_clip(vertices, views, projection)
        apart = pixels[None, :, None] - (clip[..., :2] / clip[..., 3:])[:, None]
        weights = torch.exp(-apart.square().sum(dim=-1) / (2 * 0.08**2))
        total = weights.sum(dim=-1, keepdim=True)
        alpha = 1 - torch.exp(-total)
        colors = alpha * (weights @ ((normals + 1) / 2)) / (total + 1e-6)
        return torch.cat([colors, alpha], dim=-1).reshape(len(views), size, size, 4)

    return render


def loop_parts(arrays: Arrays) -> tuple[Tensor, Tensor, Tensor, Renderer]:
    """Vertices, faces, target and renderer of a recorded loop."""
    target = targets.on_black(tensor(arrays, "target_rgba_u8") / 255.0)
    render = splat(tensor(arrays, "mv"), tensor(arrays, "proj"), target.shape[1])
    return tensor(arrays, "vertices"), tensor(arrays, "faces"), target, render


def stage1_loop(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Stage 1. Where nothing is remeshed the reference lets gradients add up."""
    use = manifest["parameters"]
    settings = StageSettings(
        steps=use["steps"],
        decay=use["decay"],
        gain=use["gain"],
        start_length=use["start_edge_len"],
        end_length=use["end_edge_len"],
        ramp=1.0,
        expansion=use["loss_expansion_weight"],
        remesh=use["use_remesh"],
    )
    losses: list[float] = []
    vertices, faces, target, render = loop_parts(arrays)
    vertices, faces = stage1.run(
        vertices, faces, target, render, settings, losses.append, picks, clear_gradients=use["use_remesh"]
    )
    return compare(arrays, vertices=vertices, faces=faces, losses=np.array(losses))


def stage2_loop(manifest: Manifest, arrays: Arrays) -> list[Comparison]:
    """Stage 2 with given normals of its vertices."""
    use = manifest["parameters"]
    settings = StageSettings(
        steps=use["steps"],
        decay=use["decay"],
        gain=use["gain"],
        start_length=use["start_edge_len"],
        end_length=use["end_edge_len"],
        ramp=use["ramp"],
        expansion=0.0,
        remesh=False,
        project_first=use["update_warmup"],
        project_every=use["update_normal_interval"],
    )
    losses: list[float] = []
    vertices, faces, target, render = loop_parts(arrays)
    normals = tensor(arrays, "target_vertex_normals")
    vertices, _ = stage2.run(vertices, faces, target, render, lambda *_: normals, settings, losses.append)
    return compare(arrays, vertices=vertices, losses=np.array(losses))


REPLAYS: dict[str, Replay] = {
    "remesh_topology": remesh_topology,
    "remesh_split": remesh_split,
    "remesh_collapse": remesh_collapse,
    "remesh_flip": remesh_flip,
    "remesh_full_step": remesh_full_step,
    "optimizer": optimizer,
    "cameras": camera_cases,
    "normal_local_to_global": normal_local_to_global,
    "init_target": init_target,
    "stage1_loop": stage1_loop,
    "stage2_loop": stage2_loop,
}
