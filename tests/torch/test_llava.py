"""LLaVA on our engine computes what transformers' own class computes; an image's place in the cache is its content's."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sgl_lab as sgl
from sgl_lab.contracts.errors import ModelDamaged, ModelError
from sgl_lab.contracts.spans import Block
from sgl_lab.engine.compute.models.load import LoadedModel

from .tiny import Sequences, load_tiny, scores, tokens
from .tiny_llava import IMAGE_TOKEN, LLAVA, NEXT, PROCESSOR, VISION, N, png, write_llava

Image = pytest.importorskip("PIL.Image")

LIMIT = 2e-5
"""largest difference of log-probabilities, float32; 6e-6 was measured"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("llava")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return write_llava(folder)


@pytest.fixture(scope="module")
def ours(folder: Path, theirs: Any) -> LoadedModel:
    return load_tiny(folder)


def see(ours: LoadedModel, data: bytes) -> Block:
    assert ours.sight is not None
    return ours.sight.see(data)


def expected(theirs: Any, before: tuple[int, ...], pictures: list[bytes], after: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities at each position, by transformers' model and processor."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(**{key: value for key, value in PROCESSOR.items() if key != "image_processor_type"})
    pixels = processor([Image.open(io.BytesIO(data)) for data in pictures], return_tensors="pt")["pixel_values"]
    ids = torch.tensor([[*before, *[IMAGE_TOKEN] * N * len(pictures), *after]])
    with torch.no_grad():
        return theirs(input_ids=ids, pixel_values=pixels).logits[0].float().log_softmax(-1)


def test_logits_are_those_of_transformers_cold_cached_and_batched(ours: LoadedModel, theirs: Any) -> None:
    one, two = png(seed=1), png(90, 25, seed=2)
    before, after = tokens(5), tokens(7, seed=3)
    blocks = (see(ours, one), see(ours, two))
    prompt = (*before, *blocks[0].ids, *blocks[1].ids, *after)
    wanted = expected(theirs, before, [one, two], after)
    stand = Sequences(ours, 4)
    cold = scores(stand.run(replace(stand.row(1, prompt, n_targets=len(prompt)), blocks=blocks))[0])
    torch.testing.assert_close(cold, wanted, rtol=0, atol=LIMIT)
    stand.adopt(2, 1)  # all full pages; the rest is computed again
    left = prompt[len(prompt) // 4 * 4 :] or prompt[-4:]
    stand._n_done[2] = len(prompt) - len(left)
    other = expected(theirs, before, [two], after)
    rows = stand.run(
        replace(stand.row(2, left, n_targets=len(left)), blocks=blocks),
        replace(stand.row(3, (*before, *blocks[1].ids, *after), n_targets=len(other)), blocks=blocks[1:]),
    )
    torch.testing.assert_close(scores(rows[0]), wanted[-len(left) :], rtol=0, atol=LIMIT)
    torch.testing.assert_close(scores(rows[1]), other, rtol=0, atol=LIMIT)


@pytest.mark.parametrize(("layer", "strategy"), [(-1, "default"), (1, "full"), ([-2, 2], "default")])
def test_features_are_of_the_layers_that_the_configuration_names(tmp_path: Path, layer: Any, strategy: str) -> None:
    theirs = write_llava(tmp_path, vision_feature_layer=layer, vision_feature_select_strategy=strategy)
    block = see(load_tiny(tmp_path), data := png(50, 24))
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(**{key: value for key, value in PROCESSOR.items() if key != "image_processor_type"})
    pixels = processor(Image.open(io.BytesIO(data)), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        chosen = {"vision_feature_layer": layer, "vision_feature_select_strategy": strategy}
        wanted = theirs.model.get_image_features(pixels, **chosen).pooler_output[0]
    assert block.content.n == len(wanted) == N + (strategy == "full")
    torch.testing.assert_close(torch.from_numpy(np.asarray(block.embeddings)), wanted, rtol=0, atol=LIMIT)


@pytest.fixture(scope="module")
def following(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, LoadedModel]:
    """A LLaVA-NeXT: transformers' and ours."""
    folder = tmp_path_factory.mktemp("next")
    return write_llava(folder, **NEXT), load_tiny(folder)


@pytest.mark.parametrize("size", [(40, 30), (24, 24), (90, 20), (20, 95), (47, 50), (7, 5)])
def test_tiles_are_those_of_transformers_whatever_the_size(following: tuple[Any, LoadedModel], size: tuple[int, int]) -> None:
    from transformers import LlavaNextImageProcessorPil

    theirs, ours = following
    given = {key: value for key, value in PROCESSOR.items() if key != "image_processor_type"}
    processor = LlavaNextImageProcessorPil(**given, image_grid_pinpoints=NEXT["image_grid_pinpoints"])
    found = processor(Image.open(io.BytesIO(data := png(*size))), return_tensors="pt")
    block = see(ours, data)
    ids = torch.tensor([[*tokens(5), *[IMAGE_TOKEN] * block.content.n, *tokens(7, seed=3)]])
    with torch.no_grad():
        wanted = theirs(input_ids=ids, pixel_values=found["pixel_values"], image_sizes=found["image_sizes"]).logits[0].log_softmax(-1)
    stand, prompt = Sequences(ours, 1), (*tokens(5), *block.ids, *tokens(7, seed=3))
    got = scores(stand.run(replace(stand.row(1, prompt, n_targets=len(prompt)), blocks=(block,)))[0])
    torch.testing.assert_close(got, wanted, rtol=0, atol=LIMIT)


def test_weights_are_found_under_new_names_and_old_ones(folder: Path, ours: LoadedModel, tmp_path: Path) -> None:
    state = load_file(folder / "model.safetensors")
    assert "language_model.model.norm.weight" in state
    renamed = {
        name.replace("language_model.model.", "model.language_model.")
        .replace("language_model.lm_head", "lm_head")
        .replace("vision_tower.", "model.vision_tower.vision_model.")
        .replace("multi_modal", "model.multi_modal"): tensor
        for name, tensor in state.items()
    }
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    save_file(renamed, tmp_path / "model.safetensors")
    again = load_tiny(tmp_path)
    assert (see(again, png()).embeddings, again.spec) == (see(ours, png()).embeddings, ours.spec)
    assert see(again, png()).content != see(ours, png()).content, "another model's files, another digest"
    (tmp_path / "preprocessor_config.json").unlink()
    fast = PROCESSOR | {"image_processor_type": "CLIPImageProcessorFast"}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": fast}))
    assert see(load_tiny(tmp_path), png()).embeddings == see(ours, png()).embeddings


def test_the_same_picture_is_one_block_and_two_pictures_never_are(ours: LoadedModel) -> None:
    sight = ours.sight
    assert sight is not None
    before = sight.stats()
    first, again, compressed = see(ours, png(seed=7)), see(ours, png(seed=7)), see(ours, png(seed=7, compress_level=0))
    assert first is again is compressed, "the digest is of the pixels"
    flipped = io.BytesIO()
    Image.open(io.BytesIO(png(30, 40, seed=7))).save(flipped, "PNG")
    others = [see(ours, data) for data in (png(seed=8), png(41, 30, seed=7), flipped.getvalue())]
    assert len({block.ids for block in (first, *others)}) == 4
    stats = sight.stats()
    assert (stats["images_encoded"] - before["images_encoded"], stats["image_hits"] - before["image_hits"]) == (4, 2)
    assert stats["image_bytes"] == stats["images_kept"] * 4 * N * 64


def test_the_block_used_least_recently_is_dropped_first(ours: LoadedModel) -> None:
    from sgl_lab.engine.compute.vision.sight import Sight

    assert ours.sight is not None
    small = Sight(ours.sight._encoder, "m", most_bytes=2 * 4 * N * 64)
    for seed in (1, 2, 1, 3, 1, 2):
        small.see(png(seed=seed))
    assert small.stats() == {"images_encoded": 4, "image_hits": 2, "images_kept": 2, "image_bytes": 2 * 4 * N * 64}


@pytest.fixture(scope="module")
def lab(folder: Path, theirs: Any) -> Iterator[sgl.Lab]:
    with sgl.Lab(folder, dtype="float32", cache_tokens=512) as made:
        yield made


def test_a_program_shows_pictures_and_a_second_look_is_cached(lab: sgl.Lab) -> None:
    @sgl.function
    def look(s: Any, data: bytes, question: str) -> None:
        s += sgl.image(data) + question + sgl.gen("a", max_tokens=4, temperature=0)

    first = look.run(data=png(seed=5), question="what?", backend=lab.backend)
    same = look.run(data=png(seed=5), question="which?", backend=lab.backend)
    other = look.run(data=png(seed=6), question="what?", backend=lab.backend)
    cached = [state.get_meta_info("a")["cached_tokens"] for state in (first, same, other)]
    assert cached[0] == cached[2] == 0
    assert cached[1] >= N
    assert (lab.stats()["images_encoded"], lab.stats()["image_hits"]) == (2, 1)
    assert "\ufffc" in first.text()


def test_two_questions_over_one_picture_compute_it_once(lab: sgl.Lab) -> None:
    s = sgl.start(lab.backend)
    s += "look" + sgl.image(png(seed=9))
    forks = s.fork(2)
    for fork, question in zip(forks, ("what?", "how many?"), strict=True):
        fork += question + sgl.gen("a", max_tokens=2, temperature=0)
    assert all(fork.get_meta_info("a")["cached_tokens"] >= N + 4 for fork in forks)


BAD_FOLDERS = {
    "tower": ({"vision_config": VISION | {"model_type": "siglip_vision_model"}}, "siglip_vision_model"),
    "width": ({"vision_config": VISION | {"hidden_size": 10**9}}, "hidden_size"),
    "heads": ({"vision_config": VISION | {"num_attention_heads": 5}}, "num_attention_heads"),
    "layer": ({"vision_feature_layer": -9}, "vision_feature_layer"),
    "strategy": ({"vision_feature_select_strategy": "cls"}, "select_strategy"),
    "text": ({"text_config": {"model_type": "opt"}}, "opt"),
    "none": ({"text_config": None}, "text_config"),
    "act": ({"projector_hidden_act": "exec"}, "exec"),
    "tiles": (NEXT | {"image_grid_pinpoints": [[10**6, 24]]}, "image_grid_pinpoints"),
    "grid": (NEXT | {"image_grid_pinpoints": [[25, 24]]}, "image_grid_pinpoints"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_folder_that_is_not_supported_is_refused_by_name(folder: Path, theirs: Any, tmp_path: Path, case: str) -> None:
    changes, words = BAD_FOLDERS[case]
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(LLAVA | changes))
    with pytest.raises(ModelError, match=words):
        load_tiny(tmp_path)


def test_a_missing_tensor_or_processor_is_named(folder: Path, theirs: Any, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="processor_config"):
        load_tiny(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | {"size": {"shortest_edge": 10**7}}))
    with pytest.raises(ModelError, match="size must have whole numbers"):
        load_tiny(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | {"image_processor_type": "Evil"}))
    with pytest.raises(ModelError, match="Evil"):
        load_tiny(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    state = load_file(folder / "model.safetensors")
    state.pop("vision_tower.encoder.layers.1.mlp.fc1.bias")
    (tmp_path / "model.safetensors").unlink()
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelDamaged, match=r"layers\.1\.mlp\.fc1\.bias is missing"):
        load_tiny(tmp_path)
