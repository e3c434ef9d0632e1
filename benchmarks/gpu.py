"""Measures a GPU: every kernel against its twin, then decode, prefill, first token and the common
yardstick of small engines beside the card's own limits and transformers.

    python benchmarks/gpu.py [--models SmolLM2-135M Llama-7B] [--minutes 8]
        [--parts kernels decode prefill first shared yardstick transformers]
    python benchmarks/gpu.py --tiny        # a model of two layers, on the CPU under Triton's interpreter: does it still run?

It runs from a bare checkout, with torch, triton and transformers only: weights and prompts are
random, and nothing is downloaded. The card's limits come first: its copy bandwidth (bytes read and
written) and its throughput of bf16 products. A share of the bandwidth is the bytes that a step must
read (every weight once, every key and value once, or a shared prefix once) over its time. A share
of the peak is the floating-point operations of a prompt over its time. Each figure is the best of
three after a warm-up, in which kernels are compiled and graphs recorded; the time of the warm-up is
printed too. Parts that do not fit into --minutes are left out and named.

Exit code 1 if a kernel differs from its twin.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PARTS = ("kernels", "decode", "prefill", "first", "shared", "yardstick", "transformers")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["SmolLM2-135M", "Llama-7B"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    if options.tiny:
        import os

        os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported
        options.models, options.device = ["tiny"], "cpu"

    import torch

    from sgl_lab.contracts.errors import SglError
    from sgl_lab.engine.compute.models.devices import find_device

    try:
        device = find_device(options.device).device
    except SglError as error:
        print(f"no figures: {error}")
        return 2
    import gpu_kernels
    import gpu_loads
    import gpu_peers

    if device.type == "cuda":
        torch.cuda.set_device(device)  # Triton launches kernels on the current device
    until = time.perf_counter() + 60 * options.minutes
    print(f"{described(device)}; {versions()}; commit {commit()}")
    card = gpu_kernels.card(device)
    print(card, flush=True)
    n_wrong = 0
    for name in options.models:
        spec = gpu_loads.SPECS[name]
        print(f"\n## {name}, random weights in {gpu_loads.dtype_of(device)}".replace("torch.", ""), flush=True)
        if "kernels" in options.parts:
            n_wrong += gpu_kernels.check(spec, device, card, is_tiny=options.tiny)
        wanted = [part for part in PARTS[1:-1] if part in options.parts]
        if wanted:
            with gpu_loads.Bench(spec, device, card, is_tiny=options.tiny) as bench:
                for part in wanted:
                    print_lines(getattr(bench, part), until)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # transformers sizes its batches by the free memory
        if "transformers" in options.parts:
            with gpu_peers.Bench(spec, device, is_tiny=options.tiny) as peers:
                for load in peers.generate, peers.continuous:
                    print_lines(load, until)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(f"\n{n_wrong} kernels are not their twins" if n_wrong else "\nevery kernel is its twin")
    return 1 if n_wrong else 0


def print_lines(part: Callable[[], Iterator[str]], until: float) -> None:
    """Print the lines of a part as they are produced. If the time is over or the part fails, print
    what is missing.
    """
    lines = part()
    while True:
        if time.perf_counter() > until:
            print(f"{part.__name__}: left out, the time is over", flush=True)
            return
        try:
            line = next(lines, None)
        except Exception as error:  # a failure of one part, most likely of a peer, must not lose the others
            print(f"{part.__name__}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", flush=True)
            return
        if line is None:
            return
        print(line, flush=True)


def described(device: object) -> str:
    import torch

    if not isinstance(device, torch.device) or device.type != "cuda":
        return "CPU under Triton's interpreter: no figure here says anything of a GPU"
    card = torch.cuda.get_device_properties(device)
    return f"{card.name}, {card.multi_processor_count} multiprocessors, {card.total_memory / 2**30:.0f} GiB, sm_{card.major}{card.minor}"


def versions() -> str:
    from importlib import metadata

    return ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "triton", "transformers"))


def commit() -> str:
    ask = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
