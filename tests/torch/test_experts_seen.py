"""The experts that each token passed through: as transformers routes them, and as a run's record and its pictures tell."""

from __future__ import annotations

import ctypes
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import sgl_lab as sgl
from sgl_lab.contracts.events import FIRST_EXPERT, ExpertsChosen
from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.engine.compute.kernels.native.pack import Kind
from sgl_lab.engine.compute.models.decoder import Decoder
from sgl_lab.engine.compute.models.executors import TORCH, fitted
from sgl_lab.engine.compute.models.families import spec_from_config
from sgl_lab.engine.compute.models.upcycle import upcycle
from sgl_lab.engine.files.weights import Checkpoint
from sgl_lab.engine.plan import Plan, RowOutput
from sgl_lab.session import Lab
from sgl_lab.trace import read_jsonl, write_jsonl
from sgl_lab.viz.draw import experts as draw
from sgl_lab.viz.draw import inspection as draw_inspection
from sgl_lab.viz.views.experts import load_of
from sgl_lab.viz.views.inspection import inspections

from .family_models import CONFIGS, config_of, theirs_of
from .test_native_families import packed, rows_of
from .tiny import GREEDY, Sequences, tokens, write_tiny

PROMPT = tokens(40)
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")


def chosen(*outputs: RowOutput) -> list[int]:
    return [ord(char) - FIRST_EXPERT for output in outputs for char in output.experts]


@pytest.mark.parametrize("name", MIXTURES)
def test_they_are_those_of_transformers_router(tmp_path: Path, name: str) -> None:
    theirs = theirs_of(config_of(CONFIGS[name]))
    with torch.inference_mode():
        logits = theirs(torch.tensor([PROMPT]), output_router_logits=True).router_logits
    theirs.save_pretrained(tmp_path)
    spec = fitted(spec_from_config(json.loads((tmp_path / "config.json").read_text())), TORCH)
    with Checkpoint(tmp_path) as checkpoint:
        model = Decoder(spec, checkpoint.read, device=torch.device("cpu"), dtype=torch.float32)
    rows = Sequences(None, 4, runner=_runner(model))  # type: ignore[arg-type]
    wanted = torch.stack([layer.topk(rows.runner.routing.top_k).indices for layer in logits], 1)  # type: ignore[union-attr]
    assert chosen(*rows.run(rows.row(1, PROMPT))) == wanted.flatten().tolist()
    parts = [rows.run(rows.row(2, PROMPT[:n]), rows.row(3, PROMPT[a:b]))[1] for n, a, b in ((9, 0, 7), (1, 7, 8), (5, 8, 40))]
    mixed = rows.run(rows.row(5, PROMPT[:9]), rows.row(6, PROMPT[:1]), rows.row(7, PROMPT[:4]))  # the second comes first in the batch
    assert [chosen(output) for output in mixed] == [wanted[:n].flatten().tolist() for n in (9, 1, 4)]
    exact = rows.run(replace(rows.row(4, PROMPT), is_exact=True))
    assert chosen(*parts) == chosen(*exact) == wanted.flatten().tolist()


def _runner(model: Decoder) -> object:
    from sgl_lab.engine.compute.runners.runner import TorchRunner

    return TorchRunner(model, 512, 4)


@pytest.mark.skipif(build.obstacle() is not None, reason=f"no native step here: {build.obstacle()}")
def test_the_native_step_reports_what_its_twin_chooses(library: ctypes.CDLL) -> None:
    model = packed(CONFIGS["qwen2_moe"], Kind.BF16)
    twin, native = (chosen(*rows.run(rows.row(1, PROMPT))) for rows in (rows_of(model, None), rows_of(model, library)))
    assert len(native) == len(twin) > 0
    assert sum(a == b for a, b in zip(native, twin, strict=True)) > 0.97 * len(twin)  # where two score alike, either may be chosen
    rows = rows_of(model, library, 4)
    parts = [rows.run(rows.row(2, PROMPT[:n]), rows.row(3, PROMPT[a:b]))[1] for n, a, b in ((9, 0, 7), (1, 7, 8), (5, 8, 40))]
    assert chosen(*parts) == native


def test_of_drafts_only_the_accepted_ones_have_experts(tmp_path: Path) -> None:
    with Checkpoint(upcycle(write_tiny(tmp_path / "dense"), tmp_path / "mixture", noise=0.2)) as checkpoint:
        spec = spec_from_config(json.loads((tmp_path / "mixture" / "config.json").read_text()))
        rows = Sequences(None, 4, runner=_runner(Decoder(spec, checkpoint.read, device=torch.device("cpu"), dtype=torch.float32)))  # type: ignore[arg-type]
    first = rows.run(rows.row(1, PROMPT, sample=GREEDY))[0].draws[0].token
    row = rows.row(2, [*PROMPT, first, 0 if first else 1], sample=GREEDY)
    (output,) = rows.runner.run(Plan(0, (replace(row, n_drafts=2),)))
    n_each = len(rows.run(rows.row(3, PROMPT[:1]))[0].experts)
    assert len(output.draws) in (2, 3)
    assert len(output.experts) == (len(PROMPT) + len(output.draws) - 1) * n_each


@sgl.function
def forked(s: sgl.ProgramState) -> None:
    s += "One two three four five six: "
    branches = s.fork(2)
    for n, branch in enumerate(branches):
        branch += f"{n} is"
        branch += sgl.gen("answer", max_tokens=4, temperature=0)
    branches.join()


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    return upcycle(write_tiny(folder / "dense"), folder / "mixture", noise=0.2)


def test_a_record_tells_them_and_so_does_its_file(mixture: Path, tmp_path: Path) -> None:
    with Lab(mixture, device="cpu", cache_tokens=512) as lab:
        with lab.record("first") as record:
            forked.run(backend=lab.backend)
        with lab.record("second") as second:
            forked.run(backend=lab.backend)
        spell = lab.spell
    found, load = inspections(record.entries), load_of(record.entries)
    assert load is not None
    assert (load.layers, load.count, load.top_k) == ((0, 1), 4, 2)
    assert sum(load.share(expert) for expert in range(4)) == pytest.approx(1)
    assert [sum(counts.values()) for counts in load.by_layer] == [load.n_tokens * 2] * 2
    for one in found:  # of the last token only what it is followed by would be computed
        assert one.routes is not None
        assert set(one.routes.at) == set(range(len(one.prompt) + len(one.samples) - 1))
        assert all(len(chars) == 4 for chars in one.routes.at.values())
        of_layer = one.routes.of_layer(1)
        assert of_layer.first(0) == (ord(one.routes.at[0][2]) - FIRST_EXPERT, 1)
    write_jsonl(record, tmp_path / "run.jsonl")
    again = read_jsonl(tmp_path / "run.jsonl")
    assert [one.routes for one in inspections(again.entries)] == [one.routes for one in found]
    page, plain = draw_inspection.html(found[0], spell).source, draw_inspection.text(found[0], spell)
    assert "first in" in page
    assert "first in" in plain
    assert "E0" in draw.html(load).source
    later = inspections(second.entries)[0].routes  # most of it was cached, and what is not computed is not known
    assert later is not None
    assert 0 not in later.at


def test_without_experts_or_with_the_switch_off_nothing_is_reported(mixture: Path, tiny_folder: Path) -> None:
    for model, notes in ((tiny_folder, True), (mixture, False)):
        with Lab(model, device="cpu", cache_tokens=512, notes_experts=notes) as lab, lab.record("run") as record:
            forked.run(backend=lab.backend)
        assert not [entry for entry in record.entries if isinstance(entry.event, ExpertsChosen)]
        assert inspections(record.entries)[0].routes is None
        assert load_of(record.entries) is None
