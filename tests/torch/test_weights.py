"""GGUF and safetensors become the same weights, and a damaged file is refused quickly and cheaply."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file

from sgl_lab.contracts.errors import ModelDamaged, ModelError, ModelMissing
from sgl_lab.engine.compute.models.convert import config_from_gguf, convert
from sgl_lab.engine.compute.models.families import spec_from_config
from sgl_lab.engine.compute.models.load import LoadedModel, load_model
from sgl_lab.engine.compute.models.rotation import inverse_frequencies
from sgl_lab.engine.files.gguf_file import GgufFile
from sgl_lab.engine.files.weights import Checkpoint

from .gguf_files import write_gguf
from .tiny import CONFIG, Sequences, load_tiny, scores, tokens, write_tiny


def frequencies(config: dict[str, Any]) -> torch.Tensor:
    rotary = spec_from_config(config).only.attention.rotary
    assert rotary is not None
    return inverse_frequencies(rotary)


def unseen(done: int, total: int, text: str) -> None: ...


def load(path: Path, cache: Path) -> LoadedModel:
    return load_model(path, name="toy", device="cpu", dtype="float32", cache_dir=cache)


def logprobs(loaded: LoadedModel) -> torch.Tensor:
    rows = Sequences(loaded, 1)
    return scores(rows.run(rows.row(1, tokens(20), n_targets=20))[0])


# ---------------------------------------------------------------- the same weights


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}], ids=str)
def test_a_gguf_gives_back_the_weights_it_was_made_of(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = write_tiny(tmp_path / "hf", **changes)
    converted = convert(write_gguf(tmp_path / "toy.gguf", folder), "toy", tmp_path, unseen)
    before, after = load_file(folder / "model.safetensors"), load_file(converted / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logprobs(load(converted, tmp_path)), logprobs(load(folder, tmp_path)))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1", "Q5_0"])
def test_every_storage_type_is_read_as_ggml_reads_it(tmp_path: Path, kind: str) -> None:
    folder = write_tiny(tmp_path / "hf")
    path = write_gguf(tmp_path / "toy.gguf", folder, kind)
    ours = load_file(convert(path, "toy", tmp_path, unseen) / "model.safetensors")
    theirs = {tensor.name: torch.tensor(dequantize(tensor.data, tensor.tensor_type)) for tensor in GGUFReader(path).tensors}
    assert torch.equal(ours["model.embed_tokens.weight"].float(), theirs["token_embd.weight"])
    assert torch.equal(ours["model.layers.1.mlp.down_proj.weight"].float(), theirs["blk.1.ffn_down.weight"])
    exact = load_file(folder / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    error = (ours["model.layers.0.self_attn.q_proj.weight"].float() - exact).abs().max()
    assert error < {"F32": 1e-9, "F16": 1e-3, "BF16": 6e-3, "Q8_0": 6e-3}.get(kind, 0.1)


def test_a_gguf_is_the_model_that_transformers_makes_of_it(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    path = write_gguf(tmp_path / "toy.gguf", write_tiny(tmp_path / "hf"), "Q8_0")
    ours = load_file(convert(path, "toy", tmp_path, unseen) / "model.safetensors")
    config = LlamaConfig(**CONFIG)
    theirs = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=LlamaForCausalLM(config))["tensors"]  # type: ignore[no-untyped-call]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_gguf_is_unpacked_once_and_says_how_far_it_is(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "toy.gguf", write_tiny(tmp_path / "hf"), "Q8_0")
    reports: list[tuple[int, int, str]] = []
    first = convert(path, "a/toy model", tmp_path / "cache", lambda done, total, text: reports.append((done, total, text)))
    assert reports == sorted(reports)
    assert reports[-1][0] == reports[-1][1] == (first / "model.safetensors").stat().st_size
    n_streamed, written = len(reports), (first / "model.safetensors").stat().st_mtime_ns
    second = convert(path, "a/toy model", tmp_path / "cache", lambda done, total, text: reports.append((done, total, text)))
    assert (second, len(reports), (second / "model.safetensors").stat().st_mtime_ns) == (first, n_streamed, written)


def test_what_fails_on_the_way_leaves_no_folder(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "toy.gguf", write_tiny(tmp_path / "hf"))

    def interrupted(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(path, "toy", tmp_path / "cache", interrupted)
    assert [entry.suffix for entry in (tmp_path / "cache" / "converted").iterdir()] == [".lock"]
    assert convert(path, "toy", tmp_path / "cache", unseen).is_dir()


def test_a_gguf_loads_where_nothing_can_be_kept_and_is_kept_on_request(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "toy.GGUF", write_tiny(tmp_path / "hf"), "Q8_0")
    (tmp_path / "cache").write_text("a file")
    assert torch.equal(logprobs(load(path, tmp_path / "cache")), logprobs(load(convert(path, "toy", tmp_path / "kept", unseen), tmp_path)))
    with pytest.raises(ModelError, match=r"cannot write .*cache.*set SGL_LAB_CACHE") as caught:
        convert(path, "toy", tmp_path / "cache", unseen)
    assert "\n" not in str(caught.value)


def test_a_file_that_was_written_again_is_converted_again(tmp_path: Path) -> None:
    """However alike the two are."""
    folder = write_tiny(tmp_path / "hf")
    path = write_gguf(tmp_path / "toy.gguf", folder)
    first = convert(path, "toy", tmp_path, unseen)
    os.utime(path, ns=(1, 1))
    assert convert(path, "toy", tmp_path, unseen) != first


def test_a_tensor_that_is_read_is_its_readers_own(tmp_path: Path, tiny_folder: Path) -> None:
    names = [f"model.layers.0.self_attn.{x}_proj.weight" for x in "qkv"]
    stored = load_file(tiny_folder / "model.safetensors")
    with Checkpoint(tiny_folder) as checkpoint:
        for dtype in (None, torch.float32, torch.bfloat16):
            parts = [checkpoint.read(name, dtype=dtype) for name in names]
            joined = checkpoint.read(*names, dtype=dtype)
            checkpoint.read("model.embed_tokens.weight", dtype=dtype)
            assert all(torch.equal(part, stored[name].to(part.dtype)) for part, name in zip(parts, names, strict=True))
            assert torch.equal(joined, torch.cat(parts))
            assert len({tensor.data_ptr() for tensor in (*parts, joined)}) == 4


def test_shards_and_mixed_types_are_one_model(tmp_path: Path, tiny_folder: Path) -> None:
    tensors = load_file(tiny_folder / "model.safetensors")
    half = {name: tensor.half().float() for name, tensor in tensors.items()}
    shutil.copytree(tiny_folder, tmp_path / "whole")
    save_file(half, tmp_path / "whole" / "model.safetensors")
    shutil.copytree(tiny_folder, tmp_path / "shards")
    (tmp_path / "shards" / "model.safetensors").unlink()
    parts: dict[str, dict[str, torch.Tensor]] = {"a.safetensors": {}, "b.safetensors": {}}
    for i, (name, tensor) in enumerate(half.items()):
        parts["ab"[i % 2] + ".safetensors"][name] = tensor.half() if i % 3 else tensor
    for file, part in parts.items():
        save_file(part, tmp_path / "shards" / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(logprobs(load(tmp_path / "shards", tmp_path)), logprobs(load(tmp_path / "whole", tmp_path)))


def test_llama3_scaling_is_found_in_a_gguf(tmp_path: Path) -> None:

    scaled = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    folder = write_tiny(tmp_path / "hf", rope_theta=500_000.0, max_position_embeddings=131_072)
    config = json.loads((folder / "config.json").read_text())
    plain, wanted = (frequencies(config | more) for more in ({}, {"rope_scaling": scaled}))
    path = write_gguf(tmp_path / "toy.gguf", folder, extra={"rope_freqs.weight": (plain / wanted).numpy().astype(np.float32)})
    torch.testing.assert_close(frequencies(config_from_gguf(GgufFile(path))), wanted)


@pytest.mark.parametrize("origin", [4096, 8192, 65_536])
def test_divisors_of_any_origin_are_those_of_the_file(tmp_path: Path, origin: int) -> None:
    folder = write_tiny(tmp_path / "hf", rope_theta=500_000.0, max_position_embeddings=131_072)
    config = json.loads((folder / "config.json").read_text())
    scaled = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.5, "high_freq_factor": 7.0}
    scaled["original_max_position_embeddings"] = origin
    plain, wanted = (frequencies(config | more) for more in ({}, {"rope_scaling": scaled}))
    path = write_gguf(tmp_path / "toy.gguf", folder, extra={"rope_freqs.weight": (plain / wanted).numpy().astype(np.float32)})
    assert not torch.equal(plain, wanted)
    torch.testing.assert_close(frequencies(config_from_gguf(GgufFile(path))), wanted)


@pytest.mark.parametrize(
    ("entries", "factor"),
    [
        ({"llama__rope__scale_linear": 4.0}, 4),
        ({"llama__rope__scaling__factor": 4.0}, 4),
        ({"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0, "llama__rope__scale_linear": 2.0}, 4),
        ({"llama__rope__scaling__type": "none", "llama__rope__scaling__factor": 4.0}, 1),
        ({"llama__rope__scaling__type": "linear"}, 1),
    ],
    ids=str,
)
def test_a_linear_factor_is_read_as_llama_cpp_reads_it(tmp_path: Path, tiny_folder: Path, entries: dict[str, Any], factor: float) -> None:
    plain, scaled = (
        frequencies(config_from_gguf(GgufFile(write_gguf(tmp_path / "toy.gguf", tiny_folder, **more)))) for more in ({}, entries)
    )
    torch.testing.assert_close(scaled, plain / factor)


@pytest.mark.parametrize("case", ["another head", "the same head", "the head alone"])
def test_a_tied_head_that_is_stored_is_what_transformers_makes_of_it(tmp_path: Path, case: str) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_tiny(tmp_path / "m", tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embedding.flip(0).contiguous() if case == "another head" else embedding.clone()
    if case == "the head alone":
        del tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    prompt = tokens(20)
    with torch.inference_mode():
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(torch.tensor([prompt])).logits[0].log_softmax(-1)
    loaded = load(folder, tmp_path)
    assert loaded.spec.tied == (case != "another head")
    torch.testing.assert_close(logprobs(loaded), theirs, rtol=0, atol=1e-4)


# ---------------------------------------------------------------- what cannot be read

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
    "no architecture": ({"architectures": None}, "None"),
    "another activation": ({"hidden_act": "mish"}, "mish"),
    "an unknown scaling": ({"rope_scaling": {"rope_type": "spiral", "factor": 2.0}}, "spiral"),
    "quantised weights": ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers"),
    "a wild number of layers": ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
    "heads that do not divide": ({"num_key_value_heads": 3}, "multiple"),
    "a string for a number": ({"hidden_size": "64"}, "hidden_size"),
    "a wrong shape": ({"intermediate_size": 97}, "shape"),
    "a missing tensor": ({"num_hidden_layers": 3}, "layers.2"),
    "a wild vocabulary": ({"vocab_size": 2_000_000}, "shape"),
    "another model's type": ({"model_type": "gpt2"}, "gpt2"),
    "biases it does not have": ({"mlp_bias": True}, "gate_proj.bias is missing"),
    "one scaling in each spelling": ({"rope_parameters": {}, "rope_scaling": {"rope_type": "spiral", "factor": 2.0}}, "spiral"),
    "a scaling a layer": ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "full_attention"),
    "rotary positions on a part": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    "rotary positions on a part, in their own table": (
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        "partial_rotary_factor 0.5",
    ),
    "interleaved rotary positions": ({"rope_interleaved": True}, "rope_interleaved"),
    "scaled logits": ({"logits_scaling": 8.0}, "logits_scaling 8.0"),
    "capped logits": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "experts": ({"num_local_experts": 8}, "num_local_experts 8"),
    "layers that slide": ({"layer_types": ["sliding_attention", "full_attention"]}, "layer_types"),
    "quantised by mlx": ({"quantization": {"bits": 4}}, "quantised"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_configuration_that_does_not_fit_is_named(tmp_path: Path, tiny_folder: Path, changes: dict[str, Any], message: str) -> None:
    shutil.copytree(tiny_folder, tmp_path / "m")
    config = json.loads((tiny_folder / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "m", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": "mamba"}, "mamba"),
        ({"tokenizer__ggml__pre": "viking"}, "viking"),
        ({"tokenizer__ggml__model": "t5"}, "t5"),
        ({"tokenizer__ggml__merges": ["h"]}, "merge"),
        ({"tokenizer__ggml__tokens": ["a", "a"]}, "twice"),
        ({"llama__rope__scaling__type": "spiral"}, "spiral"),
        ({"llama__rope__scaling__attn_factor": 1.2}, "llama.rope.scaling.attn_factor 1.2"),
        ({"llama__attention__value_length": 8, "llama__attention__key_length": 16}, "values of 8 dimensions"),
        ({"llama__rope__dimension_count": 8, "llama__attention__key_length": 16}, "rotary positions on 8 of 16"),
        ({"llama__attention__causal": False}, "causal"),
        ({"llama__logit_scale": 0.5}, "llama.logit_scale 0.5"),
        ({"llama__attention__clamp_kqv": 8.0}, "llama.attention.clamp_kqv 8.0"),
        ({"llama__use_parallel_residual": True}, "use_parallel_residual"),
        ({"llama__attention__head_count_kv": [2, 1]}, "num_key_value_heads"),
        ({"split__count": 2}, "split"),
        ({"general__type": "adapter"}, "adapter"),
        ({"general__quantization_version": 1}, "older version"),
        ({"llama__expert_count": 8}, "reads no such tensor"),
        ({"llama__block_count": None}, "num_hidden_layers"),
        ({"llama__block_count": 3}, "layers.2"),
    ],
    ids=str,
)
def test_a_gguf_that_is_not_supported_says_why(tmp_path: Path, tiny_folder: Path, changes: dict[str, Any], message: str) -> None:
    path = write_gguf(tmp_path / "toy.gguf", tiny_folder, **changes)
    with pytest.raises(ModelError, match=message):
        load(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "name",
    ["model.layers.0.self_attn.q_proj.bias", "model.layers.1.self_attn.q_norm.weight", "model.layers.2.mlp.up_proj.weight", "score.weight"],
)
def test_a_tensor_that_no_such_model_reads_is_named(tmp_path: Path, tiny_folder: Path, name: str) -> None:
    """The biases of a Qwen2 checkpoint under the name of Llama are the first of them."""
    shutil.copytree(tiny_folder, tmp_path / "m")
    tensors = load_file(tiny_folder / "model.safetensors")
    save_file(tensors | {name: torch.zeros(64)}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(ModelError, match=f"tensor {name} is stored"):
        load(tmp_path / "m", tmp_path)
    rows = np.zeros(64, np.float32)
    stored = {"blk.1.attn_q_norm.weight": rows} if "norm" in name else {"blk.0.attn_k.bias": rows}
    with pytest.raises(ModelError, match=f"tensor '{next(iter(stored))}' is stored"):
        load(write_gguf(tmp_path / "toy.gguf", tiny_folder, extra=stored), tmp_path)


def test_what_the_configuration_says_anyway_may_be_stored(tmp_path: Path, tiny_folder: Path) -> None:
    """Old conversions have the rotary frequencies beside the weights, which transformers does not read either."""
    shutil.copytree(tiny_folder, tmp_path / "m")
    tensors = load_file(tiny_folder / "model.safetensors")
    frequencies = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in range(2)}
    save_file(tensors | frequencies, tmp_path / "m" / "model.safetensors")
    assert torch.equal(logprobs(load(tmp_path / "m", tmp_path)), logprobs(load(tiny_folder, tmp_path)))


def test_a_tensor_in_two_shards_or_in_another_than_the_index_says_is_named(tmp_path: Path, tiny_folder: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_folder, folder)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    save_file({"lm_head.weight": torch.zeros(97, 64)}, folder / "b.safetensors")
    with pytest.raises(ModelDamaged, match=r"lm_head\.weight is in a\.safetensors and in b\.safetensors"):
        load(folder, tmp_path)
    (folder / "b.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.bias": "a.safetensors"}}))
    with pytest.raises(ModelDamaged, match=r"model\.norm\.bias is not in a\.safetensors"):
        load(folder, tmp_path)


@pytest.mark.parametrize("damage", ["overlap", "hole", "tail"])
def test_a_file_whose_tensors_do_not_lie_side_by_side_is_damaged(tmp_path: Path, tiny_folder: Path, damage: str) -> None:
    shutil.copytree(tiny_folder, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    data = file.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n])
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    shift = {"overlap": -64, "hole": 64, "tail": 0}[damage]
    header[last]["data_offsets"] = [place + shift for place in header[last]["data_offsets"]]
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + n :] + (b"" if damage == "overlap" else bytes(64)))
    with pytest.raises(ModelDamaged, match=r"begin where|belong to no tensor"):
        load(tmp_path / "m", tmp_path)


def test_what_is_not_there_is_missing(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(ModelMissing):
        load(tmp_path / "nowhere.gguf", tmp_path)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        shutil.copytree(tiny_folder, tmp_path / name)
        (tmp_path / name / name).unlink()
        with pytest.raises(ModelMissing):
            load(tmp_path / name, tmp_path)


def test_pickled_weights_are_never_read(tmp_path: Path, tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(ModelMissing, match="never pickled"):
        load(tmp_path / "m", tmp_path)


def test_an_adapter_is_not_left_out_silently(tmp_path: Path, tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapter"):
        load(tmp_path / "m", tmp_path)


def test_a_shard_outside_the_folder_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    with pytest.raises(ModelDamaged, match="weight_map"):
        load(tmp_path / "m", tmp_path)


def test_an_unknown_device_or_type_is_one_clear_error(tmp_path: Path, tiny_folder: Path) -> None:
    for device, dtype, message in (("cuda:99", None, "cuda:99"), ("tpu", None, "tpu"), ("mps", None, "mps"), ("cpu", "float64", "float64")):
        with pytest.raises(ModelError, match=message):
            load_model(tiny_folder, name="tiny", device=device, dtype=dtype, cache_dir=tmp_path)


# ---------------------------------------------------------------- mutated files


def mutated(data: bytes, rng: random.Random, header: int) -> bytes:
    """`data` after one to four small accidents, most of them in its first `header` bytes."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(min(len(out), header) if rng.random() < 0.8 else len(out)) if out else 0
        match rng.randrange(8):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                out[at : at + 8] = rng.choice([0, 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]).to_bytes(8, "little")
            case 2:
                out[at : at + 4] = rng.choice([0, 255, 2**31 - 1, 2**32 - 1]).to_bytes(4, "little")
            case 3:
                del out[at : at + rng.choice([1, 2, 8, 100])]
            case 4:
                out[at:at] = rng.randbytes(rng.choice([1, 4, 8, 64]))
            case 5:
                del out[at:]
            case 6:
                out[at:at] = rng.choice([b"[" * 5000, b'{"a":' * 2000, b"9" * 5000, b"-1", b"null", b'""', b"1e999", b"\xff\xfe"])
            case _:
                end = rng.randrange(at, min(len(out), at + 200) + 1)
                out[at:at] = out[at:end]
    return bytes(out)


def check_mutations(target: Path, n: int, header: int, act: Callable[[], Any]) -> int:
    """Mutate `target` n times; whatever happens is no error at all or a ModelError, within two seconds of this thread's time. Returns
    how many errors there were."""
    original = target.read_bytes()
    messages: list[str] = []
    for seed in range(n):
        target.write_bytes(mutated(original, random.Random(f"{target.name} {seed}"), header))
        started = time.thread_time()
        try:
            act()
        except ModelError as error:
            messages.append(str(error))
        assert time.thread_time() - started < 2, f"{target.name}, mutation {seed}"
    target.write_bytes(original)
    assert max(map(len, messages)) < 2000
    return len(messages)


@pytest.fixture
def memory() -> Iterator[None]:
    """Fails the test if the process' peak grew by more than the limit on what a damaged file may take.

    A key that is missing is looked up in transformers, whose import takes seconds once, and is not the file's.
    """
    from transformers import CONFIG_MAPPING

    assert CONFIG_MAPPING["llama"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


@pytest.mark.usefixtures("memory")
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_a_mutated_gguf_is_a_typed_error_quickly(tmp_path: Path, tiny_folder: Path) -> None:
    path = write_gguf(tmp_path / "toy.gguf", tiny_folder, "Q8_0")

    def act() -> None:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        load(path, tmp_path / "cache")

    assert check_mutations(path, 700, 3500, act) > 300


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(
    ("file", "n", "header", "least"),
    [("model.safetensors", 400, 2500, 250), ("config.json", 400, 10**6, 200), ("tokenizer.json", 500, 10**6, 200)],
)
def test_a_mutated_folder_is_a_typed_error_quickly(tmp_path: Path, tiny_folder: Path, file: str, n: int, header: int, least: int) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_folder, folder)
    assert check_mutations(folder / file, n, header, lambda: load_tiny(folder)) > least


LIES = {
    "a string of 2^63 bytes": (24, (2**63).to_bytes(8, "little")),
    "2^63 metadata entries": (16, (2**63).to_bytes(8, "little")),
    "10,000 metadata entries": (16, (10_000).to_bytes(8, "little")),
    "2^40 tensors": (8, (2**40).to_bytes(8, "little")),
    "another version": (4, (99).to_bytes(4, "little")),
    "big-endian": (4, (3).to_bytes(4, "big")),
    "another magic": (0, b"GGML"),
}


@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize(("at", "lie"), LIES.values(), ids=LIES.keys())
def test_a_gguf_header_that_lies_is_found_out(tmp_path: Path, tiny_folder: Path, at: int, lie: bytes) -> None:
    path = write_gguf(tmp_path / "toy.gguf", tiny_folder)
    data = bytearray(path.read_bytes())
    data[at : at + len(lie)] = lie
    path.write_bytes(data)
    with pytest.raises(ModelError):
        load(path, tmp_path / "cache")
