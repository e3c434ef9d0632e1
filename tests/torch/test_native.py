"""The native step computes what its torch twins compute, and a row's result depends on that row alone."""

from __future__ import annotations

import ctypes
import random
import resource
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sgl_lab.cli import main
from sgl_lab.contracts.errors import InvariantBroken, ModelError, OutOfMemory, RequestFailed
from sgl_lab.contracts.ids import RequestId
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.doctor import examine
from sgl_lab.engine.compute.kernels.linear import Linear
from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.engine.compute.kernels.native.pack import GROUP, Kind, Packed, pack, pack_bf16, quantise
from sgl_lab.engine.compute.kernels.native.twin import Bf16Linear, RoundedLinear
from sgl_lab.engine.compute.models.load import LoadedModel, load_model
from sgl_lab.engine.compute.models.packed import PackedDecoder
from sgl_lab.engine.compute.runners.choose import make_runner
from sgl_lab.engine.compute.runners.native import NativeRunner
from sgl_lab.engine.files import store
from sgl_lab.engine.plan import Launching, Plan, Row, RowOutput, Timed

from .gguf_files import write_gguf
from .tiny import GREEDY, Sequences, scores, tokens, write_tiny

pytestmark = pytest.mark.skipif(build.obstacle() is not None, reason=f"no native step here: {build.obstacle()}")

LARGER = {"hidden_size": 128, "intermediate_size": 160, "head_dim": 32, "max_position_embeddings": 2048}


def packed(weight: torch.Tensor, kind: Kind, bias: torch.Tensor | None) -> Packed:
    return pack_bf16(weight, bias) if kind is Kind.BF16 else pack(quantise(weight, kind), bias)


def multiply(library: ctypes.CDLL, weight: Packed, x: torch.Tensor, threads: int = 2) -> torch.Tensor:
    y = torch.full((len(x), weight.n_out), torch.nan)
    library.sgl_linear(weight.pointer(), x.contiguous().data_ptr(), len(x), y.data_ptr(), threads)
    return y


@pytest.mark.parametrize("cpu", ["haswell", "alderlake", "cascadelake", "sapphirerapids"])
def test_the_step_compiles_for_cpus_that_are_not_here(cpu: str) -> None:
    flags = [flag for flag in build.FLAGS if not flag.startswith("-march")]
    command = [build.compiler() or "g++", *flags, f"-march={cpu}", "-fsyntax-only", str(build.SOURCES / "step.cpp")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------ linears


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("shape", [(1, 32), (97, 64), (65, 288), (192, 96)])
def test_a_native_linear_is_its_twin_for_any_number_of_rows(library: ctypes.CDLL, kind: Kind, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = packed(torch.randn(shape) * 0.1, kind, torch.randn(shape[0]))
    twin: type[Linear] = Bf16Linear if kind is Kind.BF16 else RoundedLinear
    scale = torch.logspace(-3, 3, 33)[:, None]
    x = torch.randn(33, shape[1]) * scale
    wanted = twin(weight.floats(), weight.bias)(x) / scale
    for n in (1, 2, 6, 7, 8, 9, 33):
        torch.testing.assert_close(multiply(library, weight, x[:n]) / scale[:n], wanted[:n], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("kind", Kind)
def test_a_row_alone_gives_the_same_bits_as_in_company(library: ctypes.CDLL, kind: Kind) -> None:
    torch.manual_seed(1)
    weight = packed(torch.randn(97, 96), kind, None)
    x = torch.randn(263, 96)  # more than pass over a block of weights at once
    together = multiply(library, weight, x)
    for n in (1, 5, 8, 23):
        assert torch.equal(multiply(library, weight, x[:n], threads=1), together[:n])
        assert torch.equal(multiply(library, weight, x[-n:]), together[-n:])


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_shows_in_its_row_and_no_other(library: ctypes.CDLL, kind: Kind, bad: float) -> None:
    weight = packed(torch.randn(20, 64), kind, None)
    x = torch.randn(3, 64)
    x[1, 40] = bad
    y = multiply(library, weight, x)
    assert not y[1].isfinite().any()
    assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("kind", Kind)
def test_packing_loses_nothing(library: ctypes.CDLL, kind: Kind) -> None:
    torch.manual_seed(2)
    weight = torch.randn(37, 96)
    weight[5] = 0
    whole = pack_bf16(weight) if kind is Kind.BF16 else pack(quantise(weight, kind))
    wanted = weight.bfloat16().float() if kind is Kind.BF16 else quantise(weight, kind).floats()
    assert torch.equal(whole.floats(), wanted)
    row = torch.empty(96)
    library.sgl_weight_row(whole.pointer(), 36, row.data_ptr())
    assert torch.equal(row, wanted[36])


@pytest.mark.parametrize(("kind", "steps"), [(Kind.Q4, 15), (Kind.Q8, 254)])
def test_quantised_weights_are_within_half_a_step(kind: Kind, steps: int) -> None:
    torch.manual_seed(3)
    weight = torch.randn(40, 128)
    groups = weight.view(40, -1, GROUP)
    span = groups.amax(-1) - groups.amin(-1) if kind is Kind.Q4 else 2 * groups.abs().amax(-1)
    error = (quantise(weight, kind).floats() - weight).abs().view(40, -1, GROUP).amax(-1)
    assert (error <= span / steps * 0.51 + 2e-3).all()


# ------------------------------------------------------------ attention


AttentionRow = tuple["array[int]", int, torch.Tensor]
"""(pages, start, queries [n, heads, dim])"""


def attend(
    library: ctypes.CDLL,
    keys: torch.Tensor,
    values: torch.Tensor,
    page_size: int,
    n_heads: int,
    rows: list[tuple[array[int], int, torch.Tensor]],
    *,
    window: int = 0,
    scale: float = 0.125,
    softcap: float = 0.0,
) -> torch.Tensor:
    """What the rows' queries read, one after the other, [tokens, heads, dim]."""
    n_kv, dim = keys.shape[1:]
    queries = torch.cat([q for _, _, q in rows]).contiguous()
    offsets = np.cumsum([0, *(len(q) for _, _, q in rows)], dtype=np.int32)
    starts = np.array([start for _, start, _ in rows], np.int32)
    pages = np.array([pages.buffer_info()[0] for pages, _, _ in rows], np.uint64)
    out = torch.full(queries.shape, torch.nan, dtype=torch.bfloat16)
    library.sgl_attention(
        build.Shape(n_heads, n_kv, dim, page_size, window, scale, softcap),
        build.Rows(len(rows), len(queries), None, offsets.ctypes.data, starts.ctypes.data, pages.ctypes.data),
        build.Pages(keys.data_ptr(), values.data_ptr()),
        queries.data_ptr(),
        out.data_ptr(),
        2,
    )
    return out


@pytest.mark.parametrize(
    ("page_size", "window", "softcap"), [(1, 0, 0.0), (4, 0, 0.0), (16, 0, 0.0), (4, 100, 0.0), (1, 1, 2.0), (16, 300, 5.0)]
)
@pytest.mark.parametrize(("n_heads", "n_kv", "dim"), [(9, 3, 64), (4, 4, 32), (8, 1, 96), (2, 1, 128)])
def test_native_attention_is_the_textbooks(
    library: ctypes.CDLL, page_size: int, window: int, softcap: float, n_heads: int, n_kv: int, dim: int
) -> None:
    torch.manual_seed(4)
    keys, values = (torch.randn(1200, n_kv, dim).bfloat16() for _ in range(2))
    deal = random.Random(page_size)
    prefix = deal.sample(range(1200 // page_size), 400 // page_size)

    def row(n_context: int, n: int, *, shares: bool = False) -> AttentionRow:
        own = deal.sample(range(1200 // page_size), -(-n_context // page_size))
        return array("i", [*prefix, *own][: len(own)] if shares else own), n_context - n, torch.randn(n, n_heads, dim).bfloat16()

    rows = [row(n, 1) for n in (1, 2, 63, 64, 65, 256, 257, 700)] + [row(n, min(n, 40)) for n in (3, 17, 90, 300)] + [row(130, 130)]
    rows += [row(n, 1, shares=True) for n in (100, 401, 410, 500, 700, 320, 64, 450)] + [row(440, 20, shares=True)]
    deal.shuffle(rows)
    shape = {"window": window, "scale": dim**-0.5, "softcap": softcap}
    found = attend(library, keys, values, page_size, n_heads, rows, **shape).split([len(q) for _, _, q in rows])
    for (pages, start, q), part in zip(rows, found, strict=True):
        slots = torch.tensor([page * page_size + i for page in pages for i in range(page_size)])[: start + len(q)]
        k, v = (x[slots].float().repeat_interleave(n_heads // n_kv, 1) for x in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", q.float(), k) / dim**0.5
        scores = softcap * torch.tanh(scores / softcap) if softcap else scores
        key, query = torch.arange(len(slots)), start + torch.arange(len(q))[:, None]
        hidden = (key > query) | (key <= query - (window or len(slots)))
        wanted = torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)
        torch.testing.assert_close(part.float(), wanted, rtol=0.004, atol=0.01)


# ------------------------------------------------------------ the whole step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "larger", scale=0.08, **LARGER)


def load(folder: Path, dtype: str) -> LoadedModel:
    return load_model(folder, name="larger", device="cpu", dtype=dtype, native=True, cache_dir=folder)


@pytest.fixture(scope="module", params=["int4", "int8", "bfloat16"])
def loaded(folder: Path, request: pytest.FixtureRequest) -> LoadedModel:
    return load(folder, request.param)


class Native(Sequences):
    """`Sequences` on the native runner, or on its twin."""

    def __init__(self, loaded: LoadedModel, library: ctypes.CDLL | None, page_size: int, *, threads: int = 2, n_pages: int = 2048) -> None:
        assert isinstance(loaded.model, PackedDecoder)
        super().__init__(loaded, page_size, n_pages, runner=make_runner(loaded.model, library, n_pages, page_size, threads=threads))

    def start(self, plan: Plan) -> Callable[[], tuple[RowOutput, ...]]:
        assert isinstance(self.runner, Launching)
        return self.runner.start(plan)


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 300])
def test_a_prompt_is_computed_as_by_the_twin(library: ctypes.CDLL, loaded: LoadedModel, page_size: int, n: int) -> None:
    prompt = tokens(n)
    native, twin = Native(loaded, library, page_size), Native(loaded, None, page_size)
    found, wanted = (scores(rows.run(rows.row(1, prompt, n_targets=min(n, 40)))[0]) for rows in (native, twin))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.15)
    assert (found - wanted).abs().mean() < 0.015


def test_a_long_context_is_read_as_by_the_twin(library: ctypes.CDLL, loaded: LoadedModel) -> None:
    prompt = tokens(1500)
    native, twin = Native(loaded, library, 4), Native(loaded, None, 4)
    for rows in (native, twin):
        rows.run(rows.row(1, prompt[:1490]))
    found, wanted = (scores(rows.run(rows.row(1, prompt[1490:], n_targets=10))[0]) for rows in (native, twin))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.15)


def bits(output: RowOutput) -> tuple[object, ...]:
    assert output.error is None
    return output.target_logprobs


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("chunks", [(1,) * 330, (7, 1, 16, 300, 6), (64, 64, 128, 74), (329, 1)])
def test_chunks_and_pages_change_no_bit(library: ctypes.CDLL, loaded: LoadedModel, page_size: int, chunks: tuple[int, ...]) -> None:
    prompt = tokens(330)
    whole = Native(loaded, library, 1, threads=1)
    wanted = bits(whole.run(whole.row(1, prompt, n_targets=330))[0])
    rows = Native(loaded, library, page_size)
    found: tuple[object, ...] = ()
    for n in chunks:
        begin = len(found)
        found += bits(rows.run(rows.row(1, prompt[begin : begin + n], n_targets=n))[0])
    assert found == wanted


def shared_prefix(rows: Native, prefix: list[int], n_rows: int) -> Iterator[int]:
    """Requests 1 to n_rows whose leading pages are those of request 0."""
    rows.run(rows.row(0, prefix))
    for request in range(1, n_rows + 1):
        rows.adopt(request, 0)
        yield request


@pytest.mark.parametrize(("page_size", "n_prefix"), [(1, 333), (4, 640), (16, 64), (1, 10)])
def test_rows_that_share_a_prefix_compute_what_each_computes_alone(
    library: ctypes.CDLL, loaded: LoadedModel, page_size: int, n_prefix: int
) -> None:
    prefix, tails = tokens(n_prefix), [tokens(3 + 40 * (i % 3), seed=i + 2) for i in range(9)]
    rows = Native(loaded, library, page_size)
    requests = list(shared_prefix(rows, prefix, len(tails)))
    rows.run(*(rows.row(request, tail[:-1]) for request, tail in zip(requests, tails, strict=True)))
    order = random.Random(0).sample(requests, len(requests))
    together = rows.run(*(rows.row(request, tails[request - 1][-1:], n_targets=1) for request in order))
    alone = Native(loaded, library, 1, n_pages=9 * 800)
    for request, output in zip(order, together, strict=True):
        wanted = alone.run(alone.row(request, prefix + tails[request - 1], n_targets=1))[0]
        assert bits(output) == bits(wanted)


def test_a_mixed_step_computes_what_its_rows_compute_alone(library: ctypes.CDLL, loaded: LoadedModel) -> None:
    prompt = tokens(120)
    whole = Native(loaded, library, 1)
    wanted = bits(whole.run(whole.row(1, prompt, n_targets=120))[0])
    rows = Native(loaded, library, 4)
    rows.run(rows.row(1, prompt[:100]), rows.row(2, prompt[:5]), rows.row(3, prompt[:20]))
    outputs = rows.run(
        rows.row(4, prompt[:11], n_targets=2),
        rows.row(1, prompt[100:], n_targets=20),
        rows.row(3, prompt[20:30], n_targets=3),
        rows.row(2, prompt[5:6], n_targets=1),
        rows.row(5, prompt[:1], n_targets=1),
    )
    ends = [(9, 11), (100, 120), (27, 30), (5, 6), (0, 1)]
    assert [bits(output) for output in outputs] == [wanted[begin:end] for begin, end in ends]


def test_a_row_that_reads_nan_fails_alone(library: ctypes.CDLL, loaded: LoadedModel) -> None:
    prompt = tokens(40)
    rows = Native(loaded, library, 4)
    rows.run(rows.row(1, prompt[:39]), rows.row(2, prompt[:39]))
    rows.runner.kv.poison([rows.pages(2)[3]])
    healthy, broken, scored = rows.run(
        rows.row(1, prompt[39:], sample=GREEDY), rows.row(2, prompt[39:], sample=GREEDY, n_targets=1), rows.row(4, prompt, n_targets=1)
    )
    assert isinstance(broken.error, RequestFailed)
    assert healthy.draws
    assert scored.error is None


def test_greedy_rows_get_the_token_and_logprob_that_the_sampler_would_give(library: ctypes.CDLL, loaded: LoadedModel) -> None:
    rows = Native(loaded, library, 1)
    outputs = rows.run(rows.row(1, tokens(30), sample=GREEDY), rows.row(2, tokens(30), sample=replace(GREEDY, top_logprobs=3)))
    (plain,), (listed,) = (output.draws for output in outputs)
    assert plain.token == listed.token == listed.top[0][0]
    assert plain.logprob == pytest.approx(listed.logprob, abs=1e-5)


SHAPED = SamplingParams(temperature=0.7, top_p=0.9, frequency_penalty=1.0, repetition_penalty=1.3, top_logprobs=2)


@pytest.mark.parametrize("n_true", [0, 2, 4])
def test_drafts_that_come_true_give_the_draws_that_single_steps_give(library: ctypes.CDLL, loaded: LoadedModel, n_true: int) -> None:
    prompt, wanted = tokens(20), []
    single = Native(loaded, library, 1)
    row = single.row(1, prompt, sample=SHAPED)
    for _ in range(5):
        (draw,) = single.run(row)[0].draws
        wanted.append(draw)
        assert row.sample is not None
        row = replace(single.row(1, [draw.token], sample=SHAPED), sample=row.sample.after([draw.token]))
    drafts = [draw.token for draw in wanted[:4]]
    drafts[n_true:] = [(token + 1) % 97 for token in drafts[n_true:]]
    rows = Native(loaded, library, 4)
    row = rows.row(1, [*prompt, *drafts], sample=SHAPED)
    assert row.sample is not None
    row = replace(row, n_drafts=4, sample=replace(row.sample, prompt=prompt))
    assert list(rows.run(row)[0].draws) == wanted[: n_true + 1]


def test_more_lines_than_are_computed_together_are_all_computed(library: ctypes.CDLL, loaded: LoadedModel) -> None:
    rows, alone = (Native(loaded, library, 1) for _ in range(2))
    prompts = [tokens(2, seed=seed) for seed in range(300)]
    together = rows.run(*(rows.row(i, prompt, sample=SHAPED) for i, prompt in enumerate(prompts)))
    assert [together[i] for i in (0, 127, 128, 299)] == [alone.run(alone.row(i, prompts[i], sample=SHAPED))[0] for i in (0, 127, 128, 299)]


@pytest.mark.parametrize("is_native", [True, False])
def test_a_runner_says_how_long_it_drew(library: ctypes.CDLL, loaded: LoadedModel, is_native: bool) -> None:
    rows = Native(loaded, library if is_native else None, 1)
    assert isinstance(rows.runner, Timed)
    rows.run(rows.row(1, tokens(5)))
    assert rows.runner.seconds["sampler"] == 0
    rows.run(rows.row(1, tokens(1), sample=SHAPED))
    assert rows.runner.seconds["sampler"] > 0


# ------------------------------------------------------------ started and taken later


def pair(rows: Native) -> Plan:
    return Plan(0, (rows.row(1, tokens(150), sample=GREEDY, n_targets=2), rows.row(2, tokens(7, seed=2), sample=GREEDY)))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_started_gives_what_a_step_run_gives(library: ctypes.CDLL, loaded: LoadedModel, threads: int) -> None:
    started, run = (Native(loaded, library, 4, threads=threads) for _ in range(2))
    assert started.start(pair(started))() == run.runner.run(pair(run))


def test_the_other_threads_need_no_caller(library: ctypes.CDLL, loaded: LoadedModel) -> None:
    rows = Native(loaded, library, 1)
    plan = pair(rows)
    outputs = rows.start(plan)
    last_written = rows.runner.kv.values[-1][rows.pages(2)[-1]]
    deadline = time.monotonic() + 60
    while not last_written.isfinite().all():  # poisoned at birth
        assert time.monotonic() < deadline
    assert all(output.draws for output in outputs())


def test_a_step_waits_until_the_one_before_is_taken_or_dropped(library: ctypes.CDLL, loaded: LoadedModel) -> None:
    rows = Native(loaded, library, 4)
    plan = pair(rows)
    outputs = rows.start(plan)
    with pytest.raises(InvariantBroken, match="before the results"):
        rows.start(plan)
    wanted = outputs()
    rows.start(plan)
    assert rows.runner.run(plan) == wanted


def test_an_error_that_is_kept_keeps_no_step_under_way(folder: Path, library: ctypes.CDLL) -> None:
    """In a process of its own: what other tests free makes room there, and the whole prompt is computed for minutes."""
    command = [sys.executable, "-c", "from tests.torch.test_native import lack_memory; lack_memory()", str(folder)]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=120)


def lack_memory() -> None:
    library, loaded = build.load(store.cache_dir()), load(Path(sys.argv[1]), "int4")
    rows, other = (Native(loaded, library, 4) for _ in range(2))
    plan = pair(rows)
    huge = Row(RequestId(3), (1,) * 300_000, 0, array("i", bytes(4 * 75_000)), None)  # the first layer's input alone is more than 100 MB
    with pytest.raises(OutOfMemory, match="the native step is out of memory") as kept, room(64 << 20):
        rows.start(Plan(1, (huge,)))
    assert rows.runner.run(plan) == other.runner.run(pair(other))
    assert kept.tb is not None


@contextmanager
def room(n_bytes: int) -> Iterator[None]:
    """This process gets so much more memory, and no more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (n_pages * resource.getpagesize() + n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_runner_closes_with_an_untaken_step(library: ctypes.CDLL, loaded: LoadedModel) -> None:
    for threads in (1, 2):
        rows = Native(loaded, library, 4, threads=threads)
        outputs = rows.start(pair(rows))
        rows.runner.close()
        assert all(output.draws for output in outputs())


# ------------------------------------------------------------ building, loading and choosing


def test_what_is_not_built_is_not_loaded_and_building_twice_builds_once(tmp_path: Path, library: ctypes.CDLL) -> None:
    assert build.load(tmp_path) is None
    built = build.build(store.cache_dir())
    when = built.stat().st_mtime_ns
    assert build.build(store.cache_dir()).stat().st_mtime_ns == when


def test_what_was_built_is_found_without_a_compiler_and_made_anew_where_it_is_no_library(
    tmp_path: Path, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build.build(store.cache_dir())
    good, bad = (tmp_path / name / "native" / whole.name for name in ("good", "bad"))  # apart: an open library must not change
    for copy, data in ((good, whole.read_bytes()), (bad, b"no library")):
        copy.parent.mkdir(parents=True)
        copy.write_bytes(data)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert build.compiler() is None
    assert build.built(tmp_path / "good") == build.build(tmp_path / "good") == good
    assert build.load(tmp_path / "good") is not None
    assert build.load(tmp_path / "bad") is None
    with pytest.raises(build.NativeUnavailable, match="no C\\+\\+ compiler"):
        build.build(tmp_path / "bad")


def test_a_structure_that_is_not_the_librarys_own_is_found_out(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wider(ctypes.Structure):
        _fields_ = [("token", ctypes.c_int32), ("add", ctypes.c_double)]

    build.expect_layout(library)
    monkeypatch.setattr(build, "STRUCTURES", tuple(Wider if each is build.Bias else each for each in build.STRUCTURES))
    with pytest.raises(InvariantBroken, match="the size of Wider is 16 here and 8"):
        build.expect_layout(library)
    monkeypatch.setattr(build, "STRUCTURES", build.STRUCTURES[:-1])
    with pytest.raises(InvariantBroken, match="sizes and places"):
        build.expect_layout(library)


def test_threads_that_the_machine_does_not_give_are_one_error(folder: Path, library: ctypes.CDLL) -> None:
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from sgl_lab.contracts.errors import BadArgument; from sgl_lab.engine.compute.kernels.native import build\n"
        "library = build.load(Path(sys.argv[1])); resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))\n"
        "try: library.sgl_choose(None, 0, build.SamplingRequests(0, None, None), 20_000)\n"
        "except BadArgument as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(store.cache_dir())], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:56]) == (0, "the system gives the native step no more threads: Resour")


def test_the_doctor_and_the_command_agree_on_the_native_step(library: ctypes.CDLL, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["native"]) == 0
    path = capsys.readouterr().out.strip()
    instructions = build.instructions(Path(path))
    assert instructions in {"AVX2", "AVX-512", "AVX-512 BF16"}
    assert [finding.text for finding in examine() if finding.subject == "native step"] == [f"{instructions}, {path}"]


def test_without_the_library_the_twin_serves(folder: Path, library: ctypes.CDLL) -> None:
    model = load(folder, "int4").model
    assert isinstance(model, PackedDecoder)
    assert isinstance(make_runner(model, library, 16), NativeRunner)
    assert not isinstance(make_runner(model, None, 16), NativeRunner)


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [("Q4_0", "int4"), ("Q4_1", "int4"), ("Q8_0", "int8"), ("Q5_0", "int8"), ("F16", "bfloat16"), ("F32", "bfloat16"), (None, "bfloat16")],
)
def test_told_nothing_a_model_is_kept_as_its_file_has_it_where_the_native_step_is_and_as_float32_elsewhere(
    folder: Path, tmp_path: Path, stored: str | None, dtype: str
) -> None:
    path = folder if stored is None else write_gguf(tmp_path / "tiny.gguf", folder, stored)
    for native, wanted in ((True, dtype), (False, "float32")):
        loaded = load_model(path, name="tiny", device="cpu", native=native, cache_dir=tmp_path)
        assert (loaded.dtype, isinstance(loaded.model, PackedDecoder)) == (wanted, native)


@pytest.mark.parametrize(
    ("has_units", "given", "chosen"), [(False, None, "int8"), (False, "bfloat16", "bfloat16"), (True, None, "bfloat16")]
)
def test_without_bfloat16_instructions_a_large_model_is_rounded_and_a_line_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch, has_units: bool, given: str | None, chosen: str
) -> None:
    monkeypatch.setattr(build, "has_bfloat16", lambda: has_units)
    arguments: dict[str, Any] = {"name": "one", "device": "cpu", "dtype": given, "native": True, "cache_dir": folder}
    assert load_model(folder, **arguments).dtype == "bfloat16", "a small model is fast anyway"
    monkeypatch.setattr("sgl_lab.engine.compute.models.load._SMALL", 1)
    loaded = load_model(folder, **arguments)
    assert loaded.dtype == loaded.namespace[-1] == chosen
    rounded = "one is rounded to int8: this CPU has no bfloat16 instructions, so bfloat16 is slower; dtype='bfloat16' keeps it"
    assert loaded.remark == (rounded if chosen == "int8" else None)


def test_told_nothing_a_model_of_odd_width_runs_in_float32(tiny_folder: Path) -> None:
    assert load_model(tiny_folder, name="tiny", device="cpu", native=True, cache_dir=tiny_folder).dtype == "float32"


def test_a_model_of_odd_width_is_refused_with_a_way_out(tiny_folder: Path) -> None:
    with pytest.raises(ModelError, match="head_dim 16 is not a multiple of 32"):
        load_model(tiny_folder, name="tiny", device="cpu", dtype="int4", cache_dir=tiny_folder)


def test_a_gguf_keeps_its_own_bits(smollm2: LoadedModel) -> None:
    model = load_model(store.resolve("smollm2"), name="smollm2", device="cpu", dtype="int4", cache_dir=store.cache_dir()).model
    assert isinstance(model, PackedDecoder)
    assert model.weights["model.layers.3.mlp.down_proj.weight"].kind is Kind.Q4
    assert model.weights["model.embed_tokens.weight"].kind is Kind.Q8
    wanted = stored_floats(smollm2, "model.layers.3.self_attn.q_proj.weight", "model.layers.3.self_attn.k_proj.weight")
    assert torch.equal(model.weights["model.layers.3.self_attn.q_proj.weight"].floats()[: len(wanted)], wanted)
    assert torch.equal(model.weights["model.embed_tokens.weight"].floats(), stored_floats(smollm2, "model.embed_tokens.weight"))


def stored_floats(loaded: LoadedModel, *names: str) -> torch.Tensor:
    from sgl_lab.engine.compute.models.convert import convert
    from sgl_lab.engine.files.weights import Checkpoint

    with Checkpoint(convert(store.resolve("smollm2"), "smollm2", store.cache_dir(), lambda done, total, text: None)) as checkpoint:
        return checkpoint.read(*names).clone()
