"""Every family against transformers: how far logits differ, and how fast both decode.

    python benchmarks/families.py [--only qwen2] [--threads 2]
    python benchmarks/families.py --edges 40
    python benchmarks/families.py --model qwen2.5-coder-0.5b

The first makes a random model of each family (those of `tests/torch/family_models.py`) and prints
the largest difference of logprobs from transformers' own in float32: of torch in float32 cold, then
in chunks, batched and cached; the mean difference of the native step in bfloat16, as a share of
their spread; and tokens per second of one row, of a decode of 48 tokens and of a prefill of 100: of the
native step, and of transformers with as many threads in float32, which on CPUs without bfloat16
instructions is its faster type. Speeds are the best of five turns, ours and theirs alternating, of
the same random model, which is wider (`WIDE`).

`--edges` tries configurations around the edges of each family: they are equal, or refused by name.
`--model` compares a real model with transformers on the dequantised file: greedy tokens, the
perplexity of a text, load time and tokens per second.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from sgl_lab.contracts.errors import ModelError
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.engine.compute.kernels.native.pack import Kind
from sgl_lab.engine.compute.models.executors import GPU, NATIVE, fitted, unfit
from sgl_lab.engine.compute.models.families import spec_from_config
from sgl_lab.engine.compute.models.load import load_model
from sgl_lab.engine.compute.models.packed import PackedDecoder, pack_decoder
from sgl_lab.engine.compute.runners.choose import make_runner
from sgl_lab.engine.compute.runners.native import NativeRunner
from sgl_lab.engine.compute.runners.runner import TorchRunner
from sgl_lab.engine.files import store
from sgl_lab.engine.files.weights import Checkpoint
from tests.torch.family_models import CONFIGS, PROMPT, config_of, edge, largest_difference, made, theirs_of
from tests.torch.tiny import Sequences, scores

if TYPE_CHECKING:
    from sgl_lab.engine.compute.runners.gpu.device import DeviceRunner

GREEDY = SamplingParams(temperature=0, ignore_eos=True)
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_hidden_layers": 4, "vocab_size": 4096}
"""for tokens per second: heads of 32 dimensions"""
TURNS = 5
TEXT = Path(__file__).resolve().parents[1] / "docs" / "engine.md"


def rows_on(runner: TorchRunner | NativeRunner | DeviceRunner, page_size: int = 1) -> Sequences:
    return Sequences(None, page_size, runner.kv.keys[0].shape[0] // page_size, runner=runner)  # type: ignore[arg-type]


def differences(changes: dict[str, Any]) -> tuple[float, float]:
    """Of torch from transformers in float32: cold, and in chunks, batched and cached."""
    with TemporaryDirectory() as folder:
        model, wanted = made(Path(folder), changes)
    rows = rows_on(TorchRunner(model, 256, 1))
    cold = float((scores(rows.run(rows.row(1, PROMPT, n_targets=len(PROMPT)))[0]) - wanted).abs().max())
    rows, cached = rows_on(TorchRunner(model, 256, 4), 4), 0.0
    for start, end in pairwise((0, 7, 37, 38, 96, 100)):
        one = rows.row(1, PROMPT[start:end], n_targets=end - start)
        found = scores(rows.run(rows.row(9 + start, PROMPT[:3]), one)[1])
        cached = max(cached, float((found - wanted[start:end]).abs().max()))
    rows.adopt(2, 1)
    tail = rows.row(2, PROMPT[96:], n_targets=4) if len(rows.pages(2)) == 24 else rows.row(3, PROMPT, n_targets=4)
    return cold, max(cached, float((scores(rows.run(tail)[0]) - wanted[96:]).abs().max()))


def packed(changes: dict[str, Any], folder: Path) -> tuple[PackedDecoder, Any]:
    config = config_of(changes)
    theirs = theirs_of(config)
    theirs.save_pretrained(folder)
    spec = fitted(spec_from_config(json.loads((folder / "config.json").read_text())), NATIVE)
    with Checkpoint(folder) as checkpoint:
        return pack_decoder(spec, Kind.BF16, checkpoint.read), theirs


def prefilled_by_ours(rows: Sequences, prompt: Sequence[int]) -> float:
    """Tokens per second."""
    started = time.perf_counter()
    rows.run(rows.row(901, prompt, sample=GREEDY))
    return len(prompt) / (time.perf_counter() - started)


def prefilled_by_theirs(theirs: Any, prompt: Sequence[int]) -> float:
    with torch.inference_mode():
        started = time.perf_counter()
        theirs(torch.tensor([prompt]), use_cache=True, logits_to_keep=1).logits.argmax()
    return len(prompt) / (time.perf_counter() - started)


def decoded_by_ours(rows: Sequences, prompt: Sequence[int], n: int) -> tuple[list[int], float]:
    """Greedy tokens, and tokens per second."""
    (draw,) = rows.run(rows.row(900, prompt, sample=GREEDY))[0].draws
    found, started = [draw.token], time.perf_counter()
    while len(found) < n:
        (draw,) = rows.run(rows.row(900, found[-1:], sample=GREEDY))[0].draws
        found.append(draw.token)
    return found, (n - 1) / (time.perf_counter() - started)


def decoded_by_theirs(theirs: Any, prompt: Sequence[int], n: int) -> tuple[list[int], float]:
    with torch.inference_mode():
        output, started = theirs(torch.tensor([prompt]), use_cache=True), 0.0
        found = [int(output.logits[0, -1].argmax())]
        started = time.perf_counter()
        while len(found) < n:
            output = theirs(torch.tensor([found[-1:]]), past_key_values=output.past_key_values, use_cache=True)
            found.append(int(output.logits[0, -1].argmax()))
    return found, (n - 1) / (time.perf_counter() - started)


def line(name: str, library: Any, threads: int) -> str:
    changes = CONFIGS[name]
    cold, cached = differences(changes)
    wide = changes | WIDE | ({"head_dim": 32} if "head_dim" in changes else {})
    if "short_factor" in wide.get("rope_scaling", {}):
        wide |= {"rope_scaling": {"type": "longrope", "short_factor": [1.5] * 16, "long_factor": [2.0] * 16}}
    if rope := wide.get("no_rope_layers"):
        wide |= {"no_rope_layers": [*rope, *rope]}  # twice the layers
    with TemporaryDirectory() as folder, torch.inference_mode():
        model, theirs = packed(wide, Path(folder))
        wanted = theirs(torch.tensor([PROMPT])).logits[0].float().log_softmax(-1)[:, :97]
        rows = rows_on(make_runner(model, library, 512, threads=threads))
        found = scores(rows.run(rows.row(1, PROMPT, n_targets=len(PROMPT)))[0])
        native = float((found - wanted).abs().mean() / wanted.std())
        speeds = tuple(max(column) for column in zip(*(speeds_of(model, theirs, library, threads) for _ in range(TURNS)), strict=True))
    gpu = "yes" if unfit(model.spec, GPU) is None else "no"
    shown = " | ".join(f"{speed:,.0f}" for speed in speeds)
    return f"| {name} | {cold:.1e} | {cached:.1e} | {native:.1%} | {gpu} | {shown} |"


def speeds_of(model: PackedDecoder, theirs: Any, library: Any, threads: int) -> tuple[float, float, float, float]:
    """Tokens per second: decode by ours and theirs, prefill by ours and theirs."""
    rows = rows_on(make_runner(model, library, 512, threads=threads))
    _, ours = decoded_by_ours(rows, PROMPT[:30], 48)
    _, other = decoded_by_theirs(theirs, PROMPT[:30], 48)
    return ours, other, prefilled_by_ours(rows, PROMPT), prefilled_by_theirs(theirs, PROMPT)


def edges(n: int) -> None:
    largest, refused = 0.0, 0
    for seed in range(n):
        with TemporaryDirectory() as folder:
            found = largest_difference(Path(folder), edge(seed))
        refused += found is None
        largest = max(largest, found or 0.0)
        print(f"{seed:3} {edge(seed)['model_type']:12} {'refused by name' if found is None else f'{found:.1e}'}", flush=True)
    print(f"{n} configurations: {n - refused} equal, the largest difference {largest:.1e}; {refused} refused by name")


QUESTIONS = (
    "Write a Python function that returns the n-th Fibonacci number.",
    "What does the SQL keyword GROUP BY do? Answer in one sentence.",
    "Reverse the string 'notebook'. Answer with the result only.",
    "def is_prime(n):",
)


def real(name: str, threads: int, n_tokens: int) -> None:
    """A real model in the types of its file, on the native step, against transformers on the
    dequantised file.
    """
    from transformers import AutoModelForCausalLM

    from sgl_lab.engine.compute.models.convert import convert

    path, library = store.resolve(name), build.load(store.cache_dir())
    started = time.perf_counter()
    loaded = load_model(path, name=name, device="cpu", native=True, cache_dir=store.cache_dir())
    seconds = time.perf_counter() - started
    print(f"{name}: {loaded.spec.n_params / 1e6:,.0f}M parameters in {loaded.dtype}, {loaded.n_bytes >> 20} MiB, loaded in {seconds:.1f} s")
    folder = convert(path, name, store.cache_dir(), lambda done, total, text: None)
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    encode = loaded.tokenizer.encode
    text = encode(TEXT.read_text(encoding="utf-8"))[:n_tokens]

    def run(rows: Sequences) -> float:
        """The mean of the text's surprises."""
        row = rows.row(1, text)
        row = type(row)(row.request, row.tokens, 0, row.pages, None, tuple((token,) for token in (*text[1:], 0)))
        (output,) = rows.run(row)
        return -sum(value for (value,) in output.target_logprobs[:-1]) / (len(text) - 1)

    rows = rows_on(make_runner(loaded.model, library, 2 * n_tokens + 2048, threads=threads))
    ours = run(rows)
    with torch.inference_mode():
        logprobs = theirs(torch.tensor([text])).logits[0, :-1].float().log_softmax(-1)
    wanted = -float(logprobs[range(len(text) - 1), text[1:]].mean())
    both = f"{math.exp(ours):.4f}, dequantised in float32 {math.exp(wanted):.4f}"
    print(f"perplexity of {len(text)} tokens: {both}: {math.expm1(ours - wanted):+.2%}")
    same, total = 0, 0
    speeds: list[tuple[float, float]] = []
    for question in QUESTIONS:
        prompt = encode(question)
        rows = rows_on(make_runner(loaded.model, library, 1024, threads=threads))
        found, speed = decoded_by_ours(rows, prompt, 40)
        expected, other = decoded_by_theirs(theirs, prompt, 40)
        same += next((i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b), len(found))
        total, speeds = total + len(found), [*speeds, (speed, other)]
        print(f"  {question!r}: {loaded.tokenizer.decode(found)[:70]!r}", flush=True)
    ours_speed, their_speed = (sorted(column)[len(column) // 2] for column in zip(*speeds, strict=True))
    both = f"{ours_speed:.1f} tokens/s, transformers in float32 {their_speed:.1f}"
    print(f"greedy: {same} of {total} tokens before the first difference; {both}")


def table(only: str, threads: int) -> None:
    library = build.load(store.cache_dir())
    sizes = ", ".join(f"{name} {size}" for name, size in WIDE.items())
    print(f"{threads} threads, load {os.getloadavg()[0]:.1f} before; tokens/s of {sizes}\n")
    speeds = ("decode", "transformers", "prefill", "transformers")
    columns = ("family", "cold, float32", "cached", "native, bf16, mean", "GPU", *(f"{speed}, tok/s" for speed in speeds))
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in CONFIGS:
        if only in name:
            try:
                print(line(name, library, threads), flush=True)
            except ModelError as error:
                print(f"| {name} | {error} |")
    print(f"\nload {os.getloadavg()[0]:.1f} after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="families whose name has this in it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--edges", type=int, default=0, metavar="N")
    parser.add_argument("--model", default="")
    parser.add_argument("--tokens", type=int, default=1024, help="of the text whose perplexity is computed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet: Callable[[], None] = __import__("transformers").utils.logging.disable_progress_bar
    quiet()
    if options.edges:
        edges(options.edges)
    elif options.model:
        real(options.model, options.threads, options.tokens)
    else:
        table(options.only, options.threads)


if __name__ == "__main__":
    main()
