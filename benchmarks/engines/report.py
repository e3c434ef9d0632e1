"""The table of figures and the targets, from the results of one run (`build/peers.json`). Knows no
engine and runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from .make import BATCHES, N_NEW, N_PREFILL


@dataclass(frozen=True)
class Column:
    figure: str
    title: str
    of_seconds: Callable[[float], float]
    unit: str
    digits: int = 0

    def text(self, seconds: float | None) -> str:
        return "-" if seconds is None else f"{self.of_seconds(seconds):,.{self.digits}f}"


def rate(amount: float) -> Callable[[float], float]:
    return lambda seconds: amount / seconds


COLUMNS = (
    *(Column(f"decode {n}", f"decode tok/s, batch {n}", rate(n * N_NEW), "tok/s") for n in BATCHES),
    Column("prefill", "prefill tok/s", rate(N_PREFILL), "tok/s"),
    Column("prefill", f"TTFT cold {N_PREFILL:,}, ms", lambda s: 1000 * s, "ms"),
    Column("ttft", "TTFT 1,000 cached, ms", lambda s: 1000 * s, "ms"),
    *(Column(name, f"{name} s", lambda s: s, "s", digits=2) for name in ("W1", "W2", "W3", "W4")),
)


@dataclass(frozen=True)
class Faster:
    """A target: our `ours` is to be `ratio` times as fast as the best of `theirs` (None: of all
    peers).
    """

    figure: str
    text: str
    ratio: float
    ours: str = "sgl_lab"
    theirs: tuple[str, ...] | None = None


TARGETS = (
    Faster("W1", "W1", 2.0),
    Faster("W2", "W2", 2.0),
    Faster("W3", "W3", 2.0),
    Faster("W4", "W4", 1.5),
    Faster("decode 1", "batch 1 decode, 4-bit, against llama.cpp's C benchmark", 1.2, ours="sgl_lab-plain", theirs=("llama.cpp-bench",)),
    Faster("decode 1", "batch 1 decode, bf16, against OpenVINO's", 1.3, ours="sgl_lab-bf16", theirs=("openvino-bf16",)),
    Faster("decode 8", "batch 8 decode", 1.5, ours="sgl_lab-plain"),
    Faster("decode 32", "batch 32 decode", 1.5, ours="sgl_lab-plain"),
    Faster("prefill", "prefill", 1.3),
)
MOST_TTFT_MS = 20.0
MOST_MEMORY = 1.3

ELSEWHERE = (
    "Measured elsewhere: quality of the quantised default (`benchmarks/cpu.py --perplexity`), our own time a step and the tree's share "
    "(`benchmarks/overhead.py`), running an edited cell again (`benchmarks/rerun.py`), GPUs."
)

Results = Mapping[str, Any]


def seconds(results: Results, engine: str, figure: str) -> float | None:
    """The median; None if it was not measured."""
    samples = results["engines"].get(engine, {}).get("figures", {}).get(figure, {}).get("seconds")
    return median(samples) if samples else None


def text(results: Results) -> str:
    return "\n".join([*head(results), "", *table(results), "", *notes(results), "", *targets(results), "", ELSEWHERE])


def head(results: Results) -> list[str]:
    machine, options = results["machine"], results["options"]
    return [
        f"{options['model']}, greedy, {options['threads']} threads of {machine['cores']} ({machine['cpu']}), "
        f"load {machine['load']:.2f} at start, commit {machine['commit']}.",
        f"Median of {options['reps']} after one run that warms up, each cold and with text of its own; fewer where they take longer "
        f"than {options['budget_s']:.0f} s. ~ is one run without warm-up, for what takes that long alone.",
    ]


def table(results: Results) -> list[str]:
    lines = ["| engine | " + " | ".join(column.title for column in COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name, engine in results["engines"].items():
        if "problem" in engine:
            lines.append(f"| {engine['title']} | {engine['problem']} |" + " |" * (len(COLUMNS) - 1))
            continue
        cells = [column.text(seconds(results, name, column.figure)) + _mark(engine, column.figure) for column in COLUMNS]
        lines.append(f"| {engine['title']} ({engine['version']}) | " + " | ".join(cells) + " |")
    return lines


def _mark(engine: Mapping[str, Any], figure: str) -> str:
    return "" if engine["figures"].get(figure, {}).get("is_warm", True) else " ~"


def notes(results: Results) -> list[str]:
    """Failures; our tokens compared with the torch twin's; our drafts and memory."""
    lines = []
    for engine in results["engines"].values():
        figures, about = engine.get("figures", {}), f"* {engine['title']}"
        lines += [f"{about}, {name}: {figure['problem']}" for name, figure in figures.items() if "problem" in figure]
        if unchecked := engine.get("unchecked"):
            lines.append(f"{about}, not held against the torch twin: {unchecked}")
        if agreement := engine.get("agreement"):
            lines.append(
                f"{about}: tokens that are the torch twin's own, and how much likelier its own is in nats, median and most, where not:"
            )
            lines.append("  " + "; ".join(f"{name} {_agreed(**found)}" for name, found in agreement.items()))
        if matched := {name: figure["matched"] for name, figure in figures.items() if "matched" in figure}:
            lines.append(f"{about}: texts that are in the form that was asked for: " + "; ".join(f"{k} {v}" for k, v in matched.items()))
        if accepted := {name: n for name, figure in figures.items() if (n := figure.get("n_accepted"))}:
            lines.append(
                f"{about}: drafted tokens that were accepted, warm-up included: " + "; ".join(f"{name} {n}" for name, n in accepted.items())
            )
        if memory := engine.get("memory"):
            lines.append(
                f"{about}: at most {memory['peak_mib']:,.0f} MiB held in all; "
                f"weights {memory['weights_mib']:,.0f} MiB, KV pool {memory['pool_mib']:,.0f} MiB"
            )
    return lines


def _agreed(n_tokens: int, n_same: int, gaps: list[float]) -> str:
    return f"{n_same} of {n_tokens}" + (f" ({median(gaps):.3f}, {max(gaps):.3f})" if gaps else "")


def targets(results: Results) -> list[str]:
    lines = ["| target | at least | ours | best peer | ratio | |", "|---|---|---|---|---|---|"]
    for target in TARGETS:
        mine, best = seconds(results, target.ours, target.figure), fastest(results, target)
        column = next(column for column in COLUMNS if column.figure == target.figure)
        ratio = best[1] / mine if mine and best else None
        theirs = f"{column.text(best[1])} {column.unit}, {results['engines'][best[0]]['title']}" if best else "-"
        ours = f"{column.text(mine)} {column.unit}" if mine else "-"
        lines.append(_target(target.text, f"{target.ratio} x", ours, theirs, ratio, ratio is not None and ratio >= target.ratio))
    cached, memory = seconds(results, "sgl_lab", "ttft"), results["engines"].get("sgl_lab", {}).get("memory")
    ms = None if cached is None else 1000 * cached
    lines.append(_limit("TTFT, 1,000 cached and 24 new", MOST_TTFT_MS, ms, "ms"))
    share = None if memory is None else memory["peak_mib"] / (memory["weights_mib"] + memory["pool_mib"])
    lines.append(_limit("peak memory of weights + KV budget", MOST_MEMORY, share, "x"))
    return lines


def fastest(results: Results, target: Faster) -> tuple[str, float] | None:
    """The best of the measured peers, and its seconds."""
    names = target.theirs or tuple(name for name, engine in results["engines"].items() if not engine["ours"])
    measured = [(name, took) for name in names if (took := seconds(results, name, target.figure)) is not None]
    return min(measured, key=lambda pair: pair[1], default=None)


def _target(what: str, wanted: str, ours: str, theirs: str, ratio: float | None, is_met: bool) -> str:
    outcome = ("-", "not measured") if ratio is None else (f"{ratio:.2f}", "met" if is_met else "missed")
    return f"| {what} | {wanted} | {ours} | {theirs} | {outcome[0]} | {outcome[1]} |"


def _limit(what: str, most: float, value: float | None, unit: str) -> str:
    outcome = "not measured" if value is None else "met" if value <= most else "missed"
    return f"| {what} | at most {most:g} {unit} | {'-' if value is None else f'{value:.2f} {unit}'} | | | {outcome} |"
