"""llama.cpp's own benchmarks in C: prefill with llama-bench, decode at any batch size with
llama-batched-bench.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from .loads import Decode, Load, Prefill, Sample


class Engine:
    def __init__(self, threads: int, gguf: str, folder: str) -> None:
        self._folder = Path(folder)
        self._common = ["-m", gguf, "-t", str(threads)]
        self.version = str(self._run("llama-bench", "-p", "1", "-n", "0", "-o", "jsonl")["build_commit"])

    def sample(self, load: Load) -> Sample:
        match load:
            case Prefill(prompt):
                ran = self._run("llama-bench", "-p", str(len(prompt)), "-n", "0", "-r", "1", "-fa", "1", "-o", "jsonl")
                return Sample(ran["avg_ns"] / 1e9)
            case Decode(prompts, n_new):
                sizes = ["-npp", str(len(prompts[0])), "-ntg", str(n_new), "-npl", str(len(prompts))]
                return Sample(self._run("llama-batched-bench", "-c", "8192", *sizes, "--output-format", "jsonl")["t_tg"])
            case _:
                raise NotImplementedError("llama.cpp's benchmarks decode and prefill only")

    def _run(self, tool: str, *options: str) -> Any:
        done = subprocess.run([self._folder / tool, *self._common, *options], capture_output=True, text=True, check=True)
        return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
