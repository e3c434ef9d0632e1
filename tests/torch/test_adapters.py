"""LoRA: rows of one batch with different adapters, each equal to the model with the adapter merged into its weights."""

from __future__ import annotations

import ctypes
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sgl_lab as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument, ModelDamaged, ModelError, ModelMissing
from sgl_lab.contracts.events import PrefixMatched
from sgl_lab.engine.compute.kernels.native.pack import Kind
from sgl_lab.engine.compute.models.families import spec_from_config
from sgl_lab.engine.compute.models.packed import pack_decoder
from sgl_lab.engine.compute.runners.choose import make_runner
from sgl_lab.engine.compute.runners.runner import TorchRunner
from sgl_lab.session import Lab

from .tiny import CONFIG, Sequences, load_tiny, scores, tokens, write_tiny

RANK, ALPHA = 4, 6.0
PROMPT = tokens(40)
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MODULES = {"red": ("q_proj", "v_proj"), "blue": ALL, "up": ("up_proj",)}
WIDE = CONFIG | {"hidden_size": 128, "intermediate_size": 160, "head_dim": 32}


def write_adapter(folder: Path, seed: int, modules: tuple[str, ...], config: dict[str, Any] = CONFIG, **changes: Any) -> Path:
    """As PEFT saves one for the tiny model, with random weights on both sides."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in spec_from_config(config).tensors().items():
        if (module := name.removesuffix(".weight")).rpartition(".")[2] in modules:
            for side, of in (("A", (RANK, shape[-1])), ("B", (shape[0], RANK))):
                state[f"base_model.model.{module}.lora_{side}.weight"] = torch.randn(of, generator=generator) * 0.2
    folder.mkdir(parents=True)
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    saved = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none", "rank_pattern": {}}
    (folder / "adapter_config.json").write_text(json.dumps(saved | {"target_modules": list(modules), "use_dora": False} | changes))
    return folder


def merged(folder: Path, base: Path, adapter: Path) -> Path:
    """The model with the adapter's products added to its weights."""
    folder.mkdir()
    for file in ("config.json", "tokenizer.json"):
        (folder / file).write_text((base / file).read_text())
    weights, low = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for name in weights:
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in low:
            weights[name] += low[f"{module}.lora_B.weight"] @ low[f"{module}.lora_A.weight"] * (ALPHA / RANK)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(folder / name, seed, modules) for seed, (name, modules) in enumerate(MODULES.items())}


def test_rows_of_one_batch_equal_merged_models(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    wanted: dict[str | None, torch.Tensor] = {}
    for name in (None, *adapters):
        folder = base if name is None else merged(tmp_path / name, base, adapters[name])
        alone = Sequences(load_tiny(folder), 4)
        wanted[name] = scores(alone.run(alone.row(1, PROMPT, n_targets=len(PROMPT)))[0])
    rows = Sequences(load_tiny(base), 4)
    assert isinstance(rows.runner, TorchRunner)
    for name, folder in adapters.items():
        rows.runner.add_adapter(folder, name)
    keys = {None: None} | dict(rows.runner.adapters)
    for is_exact, first in ((False, 10), (True, 20)):
        found: dict[str | None, list[torch.Tensor]] = {name: [] for name in keys}
        for a, b in ((0, 17), (17, 18), (18, 40)):  # rows of one token come first in a batch: red's are mixed among the others'
            batch = [
                replace(rows.row(first + n, PROMPT[a:b], n_targets=b - a), adapter=key, is_exact=is_exact)
                for n, key in enumerate(keys.values())
            ]
            batch.insert(1, replace(rows.row(first + 9, PROMPT[a : a + 1]), adapter=keys["red"], is_exact=is_exact))
            outputs = rows.run(*batch)
            for name, output in zip(keys, (outputs[0], *outputs[2:]), strict=True):
                found[name].append(scores(output))
        for name, parts in found.items():
            assert torch.allclose(torch.cat(parts), wanted[name], atol=2e-4), name
    others = [wanted[name] for name in keys]
    assert all((one - other).abs().max() > 0.05 for n, one in enumerate(others) for other in others[:n])


@pytest.mark.parametrize("kind", Kind)
def test_the_native_step_computes_them_beside_packed_weights(library: ctypes.CDLL, tmp_path: Path, kind: Kind) -> None:
    base = write_tiny(tmp_path / "base", scale=0.1, **WIDE)
    stored = load_file(base / "model.safetensors")

    def read(*names: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.cat([stored[name] for name in names]).to(dtype or torch.float32)

    model = pack_decoder(spec_from_config(WIDE), kind, read)
    wanted, native = (Sequences(None, 4, runner=make_runner(model, some, 512, 4, threads=2)) for some in (None, library))  # type: ignore[arg-type]
    folders = {name: write_adapter(tmp_path / name, seed, modules, WIDE) for seed, (name, modules) in enumerate(MODULES.items())}
    for name, folder in folders.items():
        for rows in (wanted, native):
            rows.runner.add_adapter(folder, name)
    keys = {None: None} | dict(native.runner.adapters)
    batch = [[replace(rows.row(n, PROMPT, n_targets=40), adapter=key) for n, key in enumerate(keys.values())] for rows in (wanted, native)]
    outputs = [[scores(output) for output in rows.run(*some)] for rows, some in zip((wanted, native), batch, strict=True)]
    rounding = 0.0
    for n, (name, twin, found) in enumerate(zip(keys, *outputs, strict=True)):
        assert (found - twin).abs().mean() < 0.03
        floats = Sequences(load_tiny(base if name is None else merged(tmp_path / f"{name} merged", base, folders[name])), 4)
        error = float((found - scores(floats.run(floats.row(1, PROMPT, n_targets=40))[0])).abs().mean())
        rounding = rounding or error  # of the base model's weights
        assert error < 2.5 * rounding
        parts = []
        for a, b in ((0, 17), (17, 18), (18, 40)):  # to the bit, however it is cut and whatever is beside it
            others = [replace(native.row(20 + 4 * n + i, PROMPT[a : a + 1]), adapter=key) for i, key in enumerate(keys.values())]
            mine = replace(native.row(10 + n, PROMPT[a:b], n_targets=b - a), adapter=keys[name])
            parts.append(scores(native.run(*others, mine)[-1]))
        assert torch.equal(torch.cat(parts), found)
    assert all((one - other).abs().mean() > 0.05 for n, one in enumerate(outputs[1]) for other in outputs[1][:n])


def test_it_is_what_peft_computes(base: Path, adapters: dict[str, Path]) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    rows = Sequences(load_tiny(base), 4)
    assert isinstance(rows.runner, TorchRunner)
    for n, name in enumerate(adapters):
        rows.runner.add_adapter(adapters[name], name)
        theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapters[name])
        with torch.inference_mode():
            wanted = theirs(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
        row = replace(rows.row(n, PROMPT, n_targets=len(PROMPT)), adapter=rows.runner.adapters[name])
        assert torch.allclose(scores(rows.run(row)[0]), wanted, atol=2e-4)


@sgl.function
def answered(s: sgl.ProgramState) -> None:
    s += "One two three four five six seven: "
    s += sgl.gen("answer", max_tokens=6, temperature=0)


def test_requests_switch_and_share_no_kv(base: Path, adapters: dict[str, Path]) -> None:
    with Lab(base, device="cpu", dtype="float32", cache_tokens=2048) as lab:
        assert lab.load_adapter(adapters["red"]) == "red"
        lab.load_adapter(adapters["blue"], "other")
        assert lab.adapters == ("red", "other")
        hits: dict[str | None, list[int]] = {}
        answers: dict[str | None, set[str]] = {}
        for name in (None, "red", "other", None, "red", "other"):
            with lab.record("run") as record:
                answers.setdefault(name, set()).add(answered.run(backend=lab.backend, adapter=name)["answer"])
            hits.setdefault(name, []).append(max(e.event.n_hit for e in record.entries if isinstance(e.event, PrefixMatched)))
        assert all(first == 0 < second for first, second in hits.values())
        assert all(len(texts) == 1 for texts in answers.values())
        assert len({text for texts in answers.values() for text in texts}) == 3

        @sgl.function
        def both(s: sgl.ProgramState) -> None:
            branches = s.fork(3)
            for branch, name in zip(branches, (None, "red", "other"), strict=True):
                branch += "One two three four five six seven: "
                branch += sgl.gen("answer", max_tokens=6, temperature=0, adapter=name)
            branches.join()
            for branch, name in zip(branches, (None, "red", "other"), strict=True):
                assert branch["answer"] in answers[name]

        both.run(backend=lab.backend)
        lab.load_adapter(adapters["up"], "red")
        assert answered.run(backend=lab.backend, adapter="red")["answer"] not in answers["red"]
        with pytest.raises(BadArgument, match="no adapter 'rod'"):
            answered.run(backend=lab.backend, adapter="rod")["answer"]
        lab.check()


def test_where_there_are_none_they_are_refused_by_name() -> None:
    with pytest.raises(BackendUnsupported, match="LoRA adapters"):
        answered.run(backend=ScriptedBackend("ok"), adapter="red")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type = 'LOHA'"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"r": 8}, r"has shape \(4, 64\), the configuration says \(8, 64\)"),
        ({"r": 0}, "r and lora_alpha"),
        ({"lora_alpha": "x"}, "r and lora_alpha"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_name(base: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    runner = TorchRunner(load_tiny(base).model, 16)  # type: ignore[arg-type]
    with pytest.raises((ModelError, ModelDamaged), match=message):
        runner.add_adapter(write_adapter(tmp_path / "adapter", 0, ("q_proj",), **changes), "x")
    with pytest.raises((ModelError, ModelDamaged), match=r"reads no such tensor|no LoRA weights"):
        runner.add_adapter(write_adapter(tmp_path / "other", 0, ("lm_head",)), "x")
    with pytest.raises(ModelMissing, match="not a folder"):
        runner.add_adapter(tmp_path / "none", "x")
    assert not runner.adapters


def test_a_key_that_is_not_there_has_pefts_default_and_one_without_a_default_is_named(base: Path, tmp_path: Path) -> None:
    runner = TorchRunner(load_tiny(base).model, 16)  # type: ignore[arg-type]
    folder = write_adapter(tmp_path / "adapter", 0, ("q_proj",))
    path = folder / "adapter_config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key in ("peft_type", "r", "lora_alpha", "target_modules")}
    path.write_text(json.dumps(kept))
    runner.add_adapter(folder, "x")
    assert list(runner.adapters) == ["x"]
    path.write_text(json.dumps({key: value for key, value in kept.items() if key != "peft_type"}))
    with pytest.raises(ModelError, match="peft_type = None is not supported"):
        runner.add_adapter(folder, "y")
