"""Idefics 3 and SmolVLM on our engine compute what transformers' own classes compute: tiles, marks and the whole picture."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

import sgl_lab as sgl
from sgl_lab.contracts.errors import ModelDamaged, ModelError
from sgl_lab.contracts.spans import Block
from sgl_lab.engine.compute.models.load import LoadedModel

from .tiny import ALL, Sequences, load_tiny, scores
from .tiny_idefics import FIRST, IDEFICS, PROCESSOR, SMOL, VISION, WORDS, N, write_idefics
from .tiny_llava import png

Image = pytest.importorskip("PIL.Image")

LIMIT = 2e-5
"""largest difference of log-probabilities, float32; 8e-6 was measured"""
BEFORE, AFTER = "look:", "what?"


@pytest.fixture(scope="module", params=[{}, SMOL], ids=["idefics3", "smolvlm"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LoadedModel]:
    """transformers' model and ours."""
    folder = tmp_path_factory.mktemp("idefics")
    return write_idefics(folder, **request.param), load_tiny(folder)


def see(ours: LoadedModel, data: bytes) -> Block:
    assert ours.sight is not None
    return ours.sight.see(data)


def expected(theirs: Any, *pictures: bytes, **changes: Any) -> torch.Tensor:
    """Log-probabilities at each position of BEFORE, the pictures, AFTER: by transformers' model, image
    processor and prompt, and by the tokenizers library.
    """
    import transformers
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    given = {key: value for key, value in (PROCESSOR | changes).items() if not key.startswith(("image_processor", "processor"))}
    is_smol = type(theirs).__name__.startswith("SmolVLM")
    processor = (transformers.SmolVLMImageProcessorPil if is_smol else transformers.Idefics3ImageProcessorPil)(**given)
    found = processor([Image.open(io.BytesIO(data)) for data in pictures], return_tensors="pt", return_row_col_info=True)
    tiles = zip(found["rows"][0], found["cols"][0], strict=True)
    marks = [get_image_prompt_string(*each, N, "<fake_token_around_image>", "<image>", "<global-img>") for each in tiles]
    words = tokenizers.Tokenizer.from_str(json.dumps(WORDS))
    ids = torch.tensor([words.encode(BEFORE + "".join(marks) + AFTER).ids])
    with torch.no_grad():
        given = {"pixel_values": found["pixel_values"], "pixel_attention_mask": found.get("pixel_attention_mask")}
        return theirs(input_ids=ids, **given).logits[0].float().log_softmax(-1)[:, : len(ALL)]


def prompt_of(ours: LoadedModel, *blocks: Block) -> tuple[int, ...]:
    encode = ours.tokenizer.encode
    return (*encode(BEFORE), *(token for block in blocks for token in block.ids), *encode(AFTER))


@pytest.mark.parametrize("size", [(40, 30), (32, 32), (90, 20), (20, 95), (200, 190), (7, 5)])
def test_logits_are_those_of_transformers_whatever_the_size(both: tuple[Any, LoadedModel], size: tuple[int, int]) -> None:
    theirs, ours = both
    wanted = expected(theirs, data := png(*size))
    block = see(ours, data)
    prompt, stand = prompt_of(ours, block), Sequences(ours, 1)
    assert len(wanted) == len(prompt)
    found = scores(stand.run(replace(stand.row(1, prompt, n_targets=len(prompt)), blocks=(block,)))[0])
    torch.testing.assert_close(found, wanted, rtol=0, atol=LIMIT)


def test_logits_are_those_of_transformers_cached_and_batched(both: tuple[Any, LoadedModel]) -> None:
    theirs, ours = both
    one, two = png(seed=1), png(90, 25, seed=2)
    blocks = (see(ours, one), see(ours, two))
    prompt, other = prompt_of(ours, *blocks), prompt_of(ours, blocks[1])
    wanted, of_other = expected(theirs, one, two), expected(theirs, two)
    stand = Sequences(ours, 4)
    stand.run(replace(stand.row(1, prompt), blocks=blocks))
    stand.adopt(2, 1)
    cut = len(prompt) // 8 * 4  # within the second picture
    stand._n_done[2] = cut
    stand._pages[2] = stand._pages[2][: cut // 4]
    rows = stand.run(
        replace(stand.row(2, prompt[cut:], n_targets=len(prompt) - cut), blocks=blocks),
        replace(stand.row(3, other, n_targets=len(other)), blocks=blocks[1:]),
    )
    torch.testing.assert_close(scores(rows[0]), wanted[cut:], rtol=0, atol=LIMIT)
    torch.testing.assert_close(scores(rows[1]), of_other, rtol=0, atol=LIMIT)


def test_a_picture_is_one_tile_where_the_processor_does_not_cut(tmp_path: Path) -> None:
    theirs = write_idefics(tmp_path, {"do_image_splitting": False})
    ours = load_tiny(tmp_path)
    block = see(ours, data := png(50, 24))
    assert ours.sight is not None
    assert ours.sight.n_positions == block.content.n == N + 3
    prompt, stand = prompt_of(ours, block), Sequences(ours, 1)
    found = scores(stand.run(replace(stand.row(1, prompt, n_targets=len(prompt)), blocks=(block,)))[0])
    torch.testing.assert_close(found, expected(theirs, data, do_image_splitting=False), rtol=0, atol=LIMIT)


def test_the_digest_has_the_pixels_the_settings_and_the_marks(tmp_path: Path) -> None:
    write_idefics(tmp_path)
    first = see(load_tiny(tmp_path), png(seed=7))
    assert see(load_tiny(tmp_path), png(seed=7, compress_level=0)).content == first.content
    digests = {first.content.digest, see(load_tiny(tmp_path), png(seed=8)).content.digest}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | {"image_std": [0.5, 0.5, 0.5]}))
    digests.add(see(load_tiny(tmp_path), png(seed=7)).content.digest)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    swapped = {99 + 3: 99 + 4, 99 + 4: 99 + 3}  # <row_1_col_1> and <row_1_col_2>
    added = [token | {"id": swapped.get(token["id"], token["id"])} for token in WORDS["added_tokens"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(WORDS | {"added_tokens": added}))
    digests.add(see(load_tiny(tmp_path), png(seed=7)).content.digest)
    assert len(digests) == 4


def test_a_program_looks_twice_and_the_second_look_is_cached(tmp_path: Path) -> None:
    write_idefics(tmp_path, **SMOL)

    @sgl.function
    def look(s: Any, question: str) -> None:
        s += sgl.image(png(seed=5)) + question + sgl.gen("a", max_tokens=3, temperature=0)

    with sgl.Lab(tmp_path, dtype="float32", cache_tokens=512) as lab:
        states = [look.run(question=question, backend=lab.backend) for question in ("what?", "which?")]
        assert (lab.stats()["images_encoded"], lab.stats()["image_hits"]) == (1, 1)
    first, second = (state.get_meta_info("a")["cached_tokens"] for state in states)
    assert first == 0
    assert second >= 12 * (N + 2)  # 4 by 3 tiles, and the whole


def test_a_chat_is_the_text_of_the_models_own_template(tmp_path: Path) -> None:
    from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

    write_idefics(tmp_path, **SMOL)
    template = (
        "{% for m in messages %}{{m['role'] | capitalize}}{% if m['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
        "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{part['text']}}{% else %}<image>{% endif %}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    )
    (tmp_path / "chat_template.jinja").write_text(template)
    with sgl.Lab(tmp_path, dtype="float32", cache_tokens=512) as lab:
        s = sgl.start(lab.backend)
        s += sgl.user(sgl.image(png(20, 95)) + "what?") + sgl.assistant(sgl.gen("a", max_tokens=2, ignore_eos=True, temperature=0))
        n_prompt = s.get_meta_info("a")["prompt_tokens"]
        assert s.text().startswith("User:\ufffcwhat?Assistant:")
    picture = get_image_prompt_string(4, 1, N, "<fake_token_around_image>", "<image>", "<global-img>")
    whole = tokenizers.Tokenizer.from_str(json.dumps(WORDS)).encode(f"User:{picture}what?Assistant:").ids
    assert n_prompt == len(whole)


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "tower": ({"vision_config": VISION | {"model_type": "clip_vision_model"}}, {}, "clip_vision_model"),
    "width": ({"vision_config": VISION | {"hidden_size": 10**9}}, {}, "hidden_size"),
    "heads": ({"vision_config": VISION | {"num_attention_heads": 5}}, {}, "num_attention_heads"),
    "act": ({"vision_config": VISION | {"hidden_act": "exec"}}, {}, "exec"),
    "shuffle": ({"scale_factor": 3}, {}, "scale_factor 3"),
    "none": ({"text_config": None}, {}, "text_config"),
    "text": ({"text_config": {"model_type": "opt"}}, {}, "opt"),
    "norms": ({"text_config": IDEFICS["text_config"] | {"qk_layer_norms": True}}, {}, "qk_layer_norms"),
    "resampler": ({"text_config": IDEFICS["text_config"] | {"use_resampler": True}}, {}, "use_resampler"),
    "ties": ({"tie_word_embeddings": "yes"}, {}, "tie_word_embeddings"),
    "processor": ({}, {"image_processor_type": "Evil"}, "Evil"),
    "tile": ({}, {"max_image_size": {"longest_edge": 40}}, "max_image_size"),
    "tiles": ({}, {"size": {"longest_edge": 4096}}, "tiles are the most"),
    "size": ({}, {"size": {"longest_edge": 10**7}}, "size must have whole numbers"),
    "resize": ({}, {"do_resize": False}, "do_resize"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_idefics(folder)
    return folder


def copied(whole: Path, folder: Path) -> None:
    for file in whole.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_supported_is_refused_by_name(whole: Path, tmp_path: Path, case: str) -> None:
    config, processor, words = BAD[case]
    copied(whole, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(IDEFICS | config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | processor))
    with pytest.raises(ModelError, match=words):
        load_tiny(tmp_path)


def test_files_that_do_not_fit_are_named(whole: Path, tmp_path: Path) -> None:
    copied(whole, tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_seq_len": N + 1}))
    with pytest.raises(ModelError, match="image_seq_len"):
        load_tiny(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    added = [token for token in WORDS["added_tokens"] if token["id"] != FIRST + 1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(WORDS | {"added_tokens": added}))
    with pytest.raises(ModelError, match="fake_token_around_image"):
        load_tiny(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(WORDS))
    state = load_file(tmp_path / "model.safetensors")
    state.pop("model.vision_model.encoder.layers.1.mlp.fc1.bias")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelDamaged, match=r"layers\.1\.mlp\.fc1\.bias is missing"):
        load_tiny(tmp_path)
