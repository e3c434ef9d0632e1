"""Measures a user's waiting time: `%load_ext sgl_lab`, then the first token of the first cell, in a
real kernel.

    python benchmarks/start.py [--reps 5]

Prints for each repetition in a fresh kernel: seconds of `%load_ext sgl_lab`; seconds from the start
of the first `%%sgl` cell (imports, model from disk, prefill) to its first generated token and to
its end. The model must be on disk (`sgl-lab model pull smollm2`). Targets: 0.3 s and 5 s on two
cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

LOAD = "import time; t0 = time.perf_counter(); get_ipython().run_line_magic('load_ext', 'sgl_lab'); print(time.perf_counter() - t0)"
FIRST = '%%sgl --temperature 0\nuser("Say hello.")\nassistant(gen("hello", max_tokens=8))'


def run(client: BlockingKernelClient, code: str) -> str:
    """Execute code and return its printed text; raises on an error."""
    printed: list[str] = []

    def hook(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])
        elif message["msg_type"] == "error":
            raise RuntimeError("\n".join(message["content"]["traceback"]))

    client.execute_interactive(code, output_hook=hook, timeout=120)
    return "".join(printed)


def once() -> dict[str, float]:
    manager, client = start_new_kernel()
    try:
        load_s = float(run(client, LOAD).split()[-1])
        run(client, "started = time.monotonic_ns()")
        run(client, FIRST)
        code = (
            "import json, time, sgl_lab as sgl\n"
            "lab = sgl.default_lab()\n"
            "first = next(e for e in lab.events() if type(e.event).__name__ == 'TokensSampled')\n"
            "last = [e for e in lab.events() if type(e.event).__name__ == 'CellFinished'][-1]\n"
            "born = lab.ring.born_ns\n"
            "print(json.dumps([(born + first.t_ns - started) / 1e9, (born + last.t_ns - started) / 1e9]))"
        )
        first_token_s, cell_s = json.loads(run(client, code))
        return {"load_ext_s": load_s, "first_token_s": first_token_s, "first_cell_s": cell_s}
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reps", type=int, default=5)
    rows = [once() for _ in range(parser.parse_args().reps)]
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name:<15} median {statistics.median(values):.3f}  min {min(values):.3f}  max {max(values):.3f}")


if __name__ == "__main__":
    main()
