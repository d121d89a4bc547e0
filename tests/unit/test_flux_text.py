"""What the transformer is told: MiniLM, CLIP and T5, the trigger sentence, rewriting, and the table of flows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BartTokenizerFast,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from backend.catalog.catalog import FOLDER_VARIABLE
from backend.contract.errors import MaquetteError
from backend.systems.kiss3dgen import flows
from backend.systems.kiss3dgen.flux import prompts, text
from backend.systems.kiss3dgen.flux.config import build
from backend.systems.kiss3dgen.flux.text import TRIGGER, ByteTokenizer, CachedText, ClipAndT5, MiniLM
from tests.fakes.tiny_flux import TINY


def test_minilm_reads_sentences_without_its_package_running() -> None:
    encoder = MiniLM(32)
    assert text.MINILM_PACKAGE not in sys.modules, "its folder is found, the package itself is not imported"
    features = encoder.encode(["a red sports car", "a scarlet racing car", "old wooden barrel", ""])
    assert features.tokens.shape == (4, 32, 384) and features.pooled.shape == (4, 384)
    assert features.tokens[0, 6:].eq(0).all() and features.tokens[0, :6].abs().sum(1).gt(0).all()
    near, far = (torch.cosine_similarity(features.pooled[0], features.pooled[i], dim=0) for i in (1, 2))
    assert near > far + 0.2
    assert torch.allclose(encoder.encode(["a red sports car"]).tokens[0], features.tokens[0], atol=1e-5)
    assert encoder.encode(["word " * 99]).tokens.shape == (1, 32, 384)


def test_a_missing_minilm_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MINILM_PACKAGE", "no_such_package_at_all")
    with pytest.raises(MaquetteError, match="MiniLM is not in the backend") as caught:
        text.find_minilm()
    assert caught.value.failure.next_step == "set_up"


class Heard(ByteTokenizer):
    """Keeps what it was given."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.lengths: list[int] = []

    def __call__(self, texts: list[str], max_length: int, **more: Any) -> Any:
        self.texts += texts
        self.lengths.append(max_length)
        return super().__call__(texts, max_length, **more)


def test_clip_hears_the_trigger_alone_and_t5_all() -> None:
    torch.manual_seed(0)
    clip, t5 = (build(TINY["networks"][role]).eval() for role in ("clip", "t5"))
    to_clip, to_t5 = Heard(), Heard()
    features = ClipAndT5(clip, to_clip, t5, to_t5, 12).encode(["a chair", ""])
    assert to_clip.texts == [TRIGGER] and to_clip.lengths == [77]
    assert to_t5.texts == [f"{TRIGGER} a chair", TRIGGER] and to_t5.lengths == [12]
    assert features.tokens.shape == (2, 12, 32) and features.pooled.shape == (2, 24)
    assert torch.equal(features.pooled[0], features.pooled[1])


def test_the_text_encoder_is_only_made_for_new_sentences() -> None:
    made = []

    class Counting:
        def encode(self, texts: list[str]) -> text.TextFeatures:
            made.append(list(texts))
            numbers = torch.tensor([[float(len(each))] for each in texts])
            return text.TextFeatures(numbers[:, None], numbers)

    cached = CachedText(Counting)
    assert cached.encode(["ab", "c", "ab"]).pooled.flatten().tolist() == [2, 1, 2]
    assert cached.encode(["c", "def"]).pooled.flatten().tolist() == [1, 3]
    assert made == [["ab", "c"], ["def"]]
    many = [str(number) for number in range(3 * CachedText.KEPT)]
    assert len(cached.encode(many).pooled) == len(many) and len(cached.known) == CachedText.KEPT


def test_prompts_pass_through_or_are_rewritten() -> None:
    class Shouting:
        def rewrite(self, given: str, seed: int) -> str:
            return f"{given.upper()}\n {seed}"

        def caption(self, photo: np.ndarray) -> str:
            return f"a photo\nof {photo.shape[0]} rows"

    plain = prompts.prepare_prompt("  a  wooden\nchair ")
    assert plain.text == "a wooden chair" and "no language model" in plain.note
    spelled = prompts.prepare_prompt("a chair", 7, Shouting())
    assert spelled.text == "A CHAIR 7" and spelled.given == "a chair" and not spelled.note
    assert prompts.prepare_prompt("", 7, Shouting()).text == ""
    photo = np.zeros((4, 5, 3))
    assert "no captioner" in prompts.describe_photo(photo).note
    assert prompts.describe_photo(photo, 7, Shouting()).text == "a photo of 4 rows"
    assert prompts.describe_photo(photo, 7, Shouting(), Shouting()).text == "A PHOTO OF 4 ROWS 7"


def byte_tokenizer(*special: str) -> Tokenizer:
    """A tokenizer of one token a byte, without files."""
    letters = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_a_local_captioner_describes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(prompts, "CAPTION_TOKENS", 8)
    folder = tmp_path / prompts.CAPTIONER
    tokenizer = byte_tokenizer("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<image>")
    fast = BartTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens={"image_token": "<image>"})
    side = {"height": 32, "width": 32}
    pixels = CLIPImageProcessor(size=side, crop_size=side, image_seq_length=2)
    Florence2Processor(pixels, fast).save_pretrained(folder)
    text_part = {
        "model_type": "bart", "vocab_size": len(fast), "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
    }  # fmt: skip
    vision_part = {
        "depths": (1, 1, 1, 1), "embed_dim": (8, 8, 8, 16), "num_heads": (1, 1, 1, 1), "num_groups": (1, 1, 1, 1),
        "window_size": 2, "projection_dim": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    config = Florence2Config(text_config=text_part, vision_config=vision_part, image_token_id=fast.image_token_id)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    captioner = prompts.find_captioner()
    assert captioner is not None
    photo = np.random.default_rng(0).random((40, 30, 3))
    caption = captioner.caption(photo)
    assert caption and captioner.caption(photo) == caption and "<" not in caption, "beams draw no lots"


def test_a_local_language_model_rewrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert prompts.find_rewriter() is None and prompts.find_captioner() is None
    folder = tmp_path / prompts.REWRITER
    fast = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), eos_token="<|im_end|>", pad_token="<|end|>")
    fast.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}assistant: "
    fast.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(fast), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, eos_token_id=fast.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    monkeypatch.setattr(prompts, "MOST_TOKENS", 8)
    rewriter = prompts.find_rewriter()
    assert rewriter is not None
    state = torch.get_rng_state()
    first, again, other = (rewriter.rewrite("a chair", seed) for seed in (1, 1, 2))
    assert first == again != other and torch.equal(torch.get_rng_state(), state)


def test_the_flows_are_those_of_the_paper() -> None:
    table = flows.read_flows()
    image, mesh = table.stage_one("image"), table.stage_one("mesh")
    assert (image.strength, image.redux_strength, image.control_scale, image.control_end) == (0.95, 0.5, 0.6, 0.65)
    assert (mesh.strength, mesh.redux_strength, mesh.control_scale, mesh.control_end) == (0.95, None, 0.1, 0.2)
    assert table.stage_one("image_redux").redux_strength == 0.95 and not table.stage_one("text").needs_photo
    assert (image.seed, image.steps, image.lora, mesh.lora) == (42, 20, "image", "mesh")
    demo = table.stage_one("image_demo")
    assert (demo.control_scale, demo.control_end) == (0.3, 0.3) and table.stage_one("text_demo").steps == 30
    rows = {name: (row.radius, row.stage1_steps, row.stage2_steps) for name, row in table.isomer.items()}
    assert rows["text"] == (4.2, 0, 50) and rows["image"] == rows["mesh"] == (4.15, 0, 50)
    assert rows["image_demo"] == (4.5, 0, 20) and rows["text_demo"] == (4.5, 10, 50)
    assert table.isomer_of("image_no_control") == table.isomer["image"]
    assert table.isomer["text"].color_weights == (1.0, 0.5, 1.0, 0.5)
    settings = mesh.settings(steps=7, strength=0.4)
    assert (settings.steps, settings.strength, settings.control_scale, settings.lora) == (7, 0.4, 0.1, "mesh")
    with pytest.raises(MaquetteError, match="no flow 'dream'"):
        table.stage_one("dream")


@pytest.mark.parametrize(("table", "name", "change", "match"), [
    ("stage1", "mesh", {"strength": 1.5}, "strength of the flow mesh must be between 0.0 and 1.0"),
    ("stage1", "mesh", {"steps": 2.5}, "steps of the flow mesh"),
    ("stage1", "text", {"init": "dream"}, "init of the flow text must be one of none, template"),
    ("stage1", "text", {"lorra": "image"}, "unknown entry lorra"),
    ("stage1", "new", {"init": "none"}, "the flow new lacks an entry"),
    ("isomer", "text", {"geometry_weights": [1, 1]}, "four numbers"),
    ("isomer", "text", {"radius": "far"}, "radius of the flow text"),
])  # fmt: skip
def test_a_wrong_file_of_flows_is_refused(
    tmp_path: Path, table: str, name: str, change: dict[str, Any], match: str
) -> None:
    values = json.loads(flows.FLOWS_FILE.read_text())
    values[table].setdefault(name, {}).update(change)
    path = tmp_path / "flows.json"
    path.write_text(json.dumps(values))
    with pytest.raises(MaquetteError, match=match):
        flows.read_flows(path)
    path.write_text("{")
    with pytest.raises(MaquetteError, match="cannot be read"):
        flows.read_flows(path)
    path.write_text("{}")
    with pytest.raises(MaquetteError, match="common is missing"):
        flows.read_flows(path)
