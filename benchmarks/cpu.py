"""Measures the CPU: decode, prefill and time to first token through the Engine, native step and
torch twin side by side.

    python benchmarks/cpu.py [--dtypes int4 int8 bfloat16] [--threads 2] [--reps 3] [--no-twin] [--model smollm2]
    python benchmarks/cpu.py --perplexity TEXT [--tokens 20000]

Decode: prompts of 128 tokens with 64 new ones each, from the first new token to the last. Prefill:
1,024 tokens, nothing cached. First token: 24 new tokens after 1,000 cached ones. Each is the best
of --reps after one warm-up. Greedy outputs are compared with the twin's in the same run: "same"
counts tokens up to the first difference, where the twin's own gap between its two likeliest tokens
is given.

The roofline comes first: this machine's memory bandwidth and arithmetic throughput. A decode step
of one row reads every weight once, so bytes / bandwidth is its lower bound.

--perplexity compares each dtype with the same weights in float32, on the text of a file (or JSON
lines with a "text").
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

from sgl_lab.session import SPIN

os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # read when torch is imported

import torch
from listening import generate

from sgl_lab.contracts.ids import RequestId
from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.engine.compute.models.load import LoadedModel, load_model
from sgl_lab.engine.compute.models.packed import PackedDecoder
from sgl_lab.engine.compute.runners.choose import make_runner
from sgl_lab.engine.files import store
from sgl_lab.engine.plan import Plan, Row, Runner
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine

N_PAGES = 16_384


def engine_of(loaded: LoadedModel, runner: Runner) -> Engine:
    return Engine(EngineConfig(n_pages=N_PAGES, draft_tokens=0), runner, loaded.tokenizer, context=loaded.spec.context)


def prompts_of(loaded: LoadedModel, n: int, length: int, seed: int) -> list[tuple[int, ...]]:
    deal = random.Random(seed)
    return [tuple(deal.choices(range(1000, loaded.spec.vocab), k=length)) for _ in range(n)]


def best(reps: int, measure: Callable[[int], float]) -> float:
    """The minimum of `reps` measurements after one warm-up. Each receives its number."""
    measure(0)
    return min(measure(rep) for rep in range(1, reps + 1))


# ---------------------------------------------------------------- figures


def figures(loaded: LoadedModel, runner: Runner, reps: int) -> Iterator[tuple[str, float, str]]:
    engine = engine_of(loaded, runner)

    def decode(n: int) -> float:
        def once(rep: int) -> float:
            engine.flush()
            listeners = generate(engine, prompts_of(loaded, n, 128, 100 * rep + n), 64)
            first = max(listener.times[0] for listener in listeners)
            last = max(listener.times[-1] for listener in listeners)
            n_tokens = sum(sum(when > first for when in listener.times) for listener in listeners)
            return (last - first) / n_tokens

        return 1 / best(reps, once)

    def prefill(rep: int) -> float:
        engine.flush()
        started = time.perf_counter()
        generate(engine, prompts_of(loaded, 1, 1024, 7000 + rep), 1)
        return time.perf_counter() - started

    def first_token(rep: int) -> float:
        prefix, tail = prompts_of(loaded, 1, 1000, 1)[0], prompts_of(loaded, 1, 24, 8000 + rep)[0]
        generate(engine, [prefix], 1)
        started = time.perf_counter()
        generate(engine, [prefix + tail], 1)
        return time.perf_counter() - started

    for n in (1, 8, 32):
        yield f"decode, batch {n}", decode(n), "tok/s"
    yield "prefill, 1,024 tokens", 1024 / best(reps, prefill), "tok/s"
    yield "first token, 1,000 cached + 24", 1000 * best(reps, first_token), "ms"


def agreement(loaded: LoadedModel, native: Runner, twin: Runner) -> str:
    """Compares the greedy tokens of both for 8 prompts."""
    prompts = prompts_of(loaded, 8, 48, 5)
    listeners = [generate(engine_of(loaded, runner), prompts, 32) for runner in (native, twin)]
    runs = [[listener.output.ids for listener in mine if listener.output] for mine in listeners]
    n_same, parted = 0, []
    for prompt, mine, theirs in zip(prompts, *runs, strict=True):
        same = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b), len(mine))
        n_same += same
        if same < len(mine):
            scores = next(scored(twin, (*prompt, *theirs[:same]), (mine[same], theirs[same])))
            parted.append(scores[1] - scores[0])
    gaps = f"; parted where the twin's own logprobs are {', '.join(f'{gap:.3f}' for gap in parted)} apart" if parted else ""
    return f"{n_same} of {8 * 32} greedy tokens are the twin's{gaps}"


# ---------------------------------------------------------------- roofline


def roofline(threads: int) -> None:
    """Sums a buffer far larger than any cache, and multiplies large matrices in 8 bits and in bf16,
    all with torch.
    """
    torch.set_num_threads(threads)
    data = torch.ones(1 << 28, dtype=torch.uint8).view(torch.int64)
    seconds = best(5, lambda _: timed(lambda: data.max()))
    print(f"memory read      {data.numel() * 8 / seconds / 1e9:7.1f} GB/s")
    x = torch.randn(1024, 1024).bfloat16()
    seconds = best(5, lambda _: timed(lambda: x @ x))
    print(f"bf16 product     {2 * 1024**3 / seconds / 1e12:7.2f} TFLOP/s")
    a = torch.randint(-8, 8, (1024, 1024), dtype=torch.int8)
    seconds = best(5, lambda _: timed(lambda: torch._int_mm(a, a)))
    print(f"8-bit product    {2 * 1024**3 / seconds / 1e12:7.2f} TOP/s")


def timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def weight_bytes(model: PackedDecoder) -> int:
    """Bytes that one decode step reads: every weight once, the embedding only if it is the head."""
    return sum(weight.data.numel() for name, weight in model.weights.items() if model.spec.tied or "embed" not in name)


# ---------------------------------------------------------------- perplexity


def scored(runner: Runner, tokens: tuple[int, ...], candidates: tuple[int, ...]) -> Iterator[tuple[float, ...]]:
    row = Row(RequestId(1), tokens, 0, array("i", range(len(tokens))), None, (candidates,))
    yield from runner.run(Plan(0, (row,)))[0].target_logprobs


def perplexity(runner: Runner, tokens: list[int], window: int = 1024) -> float:
    """The perplexity of tokens in independent windows."""
    total, count = 0.0, 0
    for first in range(0, len(tokens) - 1, window):
        part = tokens[first : first + window + 1]
        row = Row(RequestId(1), tuple(part[:-1]), 0, array("i", range(len(part))), None, tuple((token,) for token in part[1:]))
        (output,) = runner.run(Plan(0, (row,)))
        total -= sum(logprob for (logprob,) in output.target_logprobs)
        count += len(part) - 1
    return math.exp(total / count)


def read_text(path: Path, n_chars: int) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        text = "\n\n".join(str(json.loads(line)["text"]) for line in text.splitlines())
    return text[:n_chars]


# ---------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtypes", nargs="+", default=["int4", "int8", "bfloat16"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--no-twin", action="store_true")
    parser.add_argument("--perplexity", type=Path, metavar="TEXT")
    parser.add_argument("--tokens", type=int, default=20_000)
    options = parser.parse_args()
    library = build.load(store.cache_dir())
    if library is None:
        raise SystemExit(f"no native step here: {build.obstacle() or 'build it with sgl-lab native'}")

    def load(dtype: str) -> LoadedModel:
        path = store.resolve(options.model)
        return load_model(path, name=options.model, device="cpu", dtype=dtype, native=True, cache_dir=store.cache_dir())

    def runner_of(loaded: LoadedModel, native: bool) -> Runner:
        return make_runner(loaded.model, library if native else None, N_PAGES, threads=options.threads)

    if options.perplexity:
        loaded = load("float32")
        tokens = list(loaded.tokenizer.encode(read_text(options.perplexity, 8 * options.tokens)))[: options.tokens]
        reference = perplexity(runner_of(loaded, False), tokens)
        print(f"{'float32, torch':<20}{reference:9.4f}  on {len(tokens)} tokens in windows of 1,024")
        for dtype in options.dtypes:
            found = perplexity(runner_of(load(dtype), True), tokens)
            print(f"{dtype + ', native':<20}{found:9.4f}  {100 * (found / reference - 1):+.2f} %")
        return

    print(f"{options.threads} threads, load {os.getloadavg()[0]:.1f}, {options.model}, best of {options.reps}")
    roofline(options.threads)
    for dtype in options.dtypes:
        started = time.perf_counter()
        loaded = load(dtype)
        assert isinstance(loaded.model, PackedDecoder)
        print(f"\n{dtype}: loaded in {time.perf_counter() - started:.2f} s, {weight_bytes(loaded.model) / 1e6:.0f} MB read a step")
        native = runner_of(loaded, True)
        twin = runner_of(loaded, False)
        print(agreement(loaded, native, twin))
        theirs = {} if options.no_twin else {name: value for name, value, _ in figures(loaded, twin, 1)}
        for name, value, unit in figures(loaded, native, options.reps):
            beside = f"   twin {theirs[name]:8.1f}" if theirs else ""
            print(f"{name:<32}{value:9.1f} {unit:<6}{beside}", flush=True)
        native.close()
        twin.close()


if __name__ == "__main__":
    main()
