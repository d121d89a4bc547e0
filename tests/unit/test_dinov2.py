"""The published image encoder: its tokens, its names, its loading. Small widths of the same class, random weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from backend.contract.errors import MaquetteError
from backend.systems.cupid import dinov2
from backend.systems.cupid.dinov2 import DinoV2, load_dinov2, published_names

torch.set_num_threads(1)
SMALL = "dinov2_vits14_reg"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def encoder() -> DinoV2:
    torch.manual_seed(0)
    network = DinoV2(SMALL).eval()
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if name.endswith("lambda1") else 0.0, 0.05)
    return network.requires_grad_(False)


def authors_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors under the names of the authors' file: the way back, written by hand."""
    out = {
        "cls_token": tensors["embeddings.cls_token"],
        "mask_token": tensors["embeddings.mask_token"],
        "register_tokens": tensors["embeddings.register_tokens"],
        "pos_embed": tensors["embeddings.position_embeddings"],
        "patch_embed.proj.weight": tensors["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": tensors["layernorm.weight"],
        "norm.bias": tensors["layernorm.bias"],
    }
    for index in range(12):
        layer, block = f"encoder.layer.{index}", f"blocks.{index}"
        for kind in ("weight", "bias"):
            parts = [tensors[f"{layer}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            out[f"{block}.attn.qkv.{kind}"] = torch.cat(parts)
            out[f"{block}.attn.proj.{kind}"] = tensors[f"{layer}.attention.output.dense.{kind}"]
            for same in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                out[f"{block}.{same}.{kind}"] = tensors[f"{layer}.{same}.{kind}"]
        out[f"{block}.ls1.gamma"] = tensors[f"{layer}.layer_scale1.lambda1"]
        out[f"{block}.ls2.gamma"] = tensors[f"{layer}.layer_scale2.lambda1"]
    return out


def plain_forward(image: Tensor, w: dict[str, Tensor], heads: int) -> Tensor:
    """The architecture spelled out from its description (pre-norm blocks, layer scale, erf GELU), final norm left out.

    w: tensors under the authors' names.
    """
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    patches = F.conv2d(normal, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=14)
    x = torch.cat([w["cls_token"].expand(len(image), -1, -1), patches.flatten(2).transpose(1, 2)], 1) + w["pos_embed"]
    x = torch.cat([x[:, :1], w["register_tokens"].expand(len(image), -1, -1), x[:, 1:]], 1)
    width = x.shape[-1]
    for index in range(12):
        b = {name.removeprefix(f"blocks.{index}."): t for name, t in w.items() if name.startswith(f"blocks.{index}.")}
        h = F.layer_norm(x, (width,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        qkv = F.linear(h, b["attn.qkv.weight"], b["attn.qkv.bias"]).unflatten(-1, (3, heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5).softmax(-1) @ v
        x = x + b["ls1.gamma"] * F.linear(mixed.transpose(1, 2).flatten(2), b["attn.proj.weight"], b["attn.proj.bias"])
        h = F.layer_norm(x, (width,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        h = F.gelu(F.linear(h, b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
        x = x + b["ls2.gamma"] * F.linear(h, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
    return F.layer_norm(x, (width,), eps=1e-5)


def test_tokens_are_those_of_the_spelled_out_network(encoder: DinoV2) -> None:
    image = torch.rand(1, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    tokens = encoder(image)
    assert tokens.shape == (1, 1 + 4 + 37 * 37, 384) and tokens.dtype == torch.float32
    wanted = plain_forward(image, authors_names(encoder.state_dict()), heads=6)
    assert float((tokens - wanted).abs().max()) < 2e-3  # float32, another order of summation
    assert float(tokens.mean(-1).abs().max()) < 1e-4  # normalised, and not by the final norm's weights
    assert torch.allclose(tokens.var(-1, correction=0), torch.ones(()), atol=1e-2)


def test_loads_the_published_names_from_a_folder(encoder: DinoV2, tmp_path: Path) -> None:
    save_file(encoder.state_dict(), tmp_path / "model.safetensors")
    loaded = load_dinov2(tmp_path, SMALL)
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))
    image = torch.rand(1, 3, 28, 28)
    assert torch.equal(loaded.eval()(image), encoder(image))


def test_loads_the_authors_file(encoder: DinoV2, tmp_path: Path) -> None:
    torch.save(authors_names(encoder.state_dict()), tmp_path / dinov2.AUTHORS_FILE)
    loaded = load_dinov2(tmp_path, SMALL)
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_name_nobody_knows_is_named() -> None:
    assert list(published_names({"blocks.3.attn.extra": torch.zeros(1)})) == ["encoder.layer.3.attn.extra"]


def test_what_does_not_fit_is_named(encoder: DinoV2, tmp_path: Path) -> None:
    tensors = dict(encoder.state_dict())
    tensors["embeddings.register_tokens"] = torch.zeros(1, 5, 384)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(MaquetteError, match="embeddings.register_tokens.*DINOv2.*1, 5, 384"):
        load_dinov2(tmp_path, SMALL)
    with pytest.raises(MaquetteError, match="install DINOv2"):
        load_dinov2(tmp_path / "elsewhere")


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown"):
        DinoV2("dinov2_vitx14")
    with pytest.raises(ValueError, match="384 channels, not 1024"):
        DinoV2(SMALL, channels=1024)


def test_the_published_size_has_the_published_tensors() -> None:
    with torch.device("meta"):
        network = DinoV2("dinov2_vitl14_reg", channels=1024)
    assert len(network.state_dict()) == 440
    assert sum(tensor.numel() for tensor in network.state_dict().values()) == 304_372_736


def test_mini_does_without_transformers() -> None:
    code = (
        "import sys; from backend.systems.cupid import model, pipeline, dinov2; model.load_model('mini', 'mini');"
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
