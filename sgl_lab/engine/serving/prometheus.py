"""An engine's own counts in the text format that Prometheus reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .metrics import PARTS, REASONS


class Metric(NamedTuple):
    name: str
    help: str
    samples: Mapping[str, str]
    """labels -> name in `Engine.stats`; one that is not there is left out"""

    @property
    def kind(self) -> str:
        return "counter" if self.name.endswith("_total") else "gauge"


METRICS = (
    Metric("prompt_tokens_total", "Prompt tokens of finished requests.", {"": "prompt_tokens"}),
    Metric("cached_prompt_tokens_total", "Prompt tokens that were taken from the radix tree.", {"": "cached_prompt_tokens"}),
    Metric("cached_tokens_total", "Tokens of finished requests that were taken from the radix tree.", {"": "cached_tokens"}),
    Metric("computed_tokens_total", "Computed tokens of finished requests.", {"": "computed_tokens"}),
    Metric("recomputed_tokens_total", "Tokens computed again after a preemption.", {"": "recomputed_tokens"}),
    Metric("generated_tokens_total", "Tokens sampled.", {"": "generated_tokens"}),
    Metric("drafted_tokens_total", "Draft tokens that were verified.", {"": "drafted_tokens"}),
    Metric("accepted_tokens_total", "Draft tokens that were accepted.", {"": "accepted_tokens"}),
    Metric("rejected_tokens_total", "Draft tokens that were rejected.", {"": "rejected_tokens"}),
    Metric("overrun_tokens_total", "Tokens computed past the end of a text, because the next step had started.", {"": "overrun_tokens"}),
    Metric("forced_tokens_total", "Tokens forced by a constraint.", {"": "forced_tokens"}),
    Metric("evicted_tokens_total", "Tokens evicted from the radix tree.", {"": "evicted_tokens"}),
    Metric("evictions_total", "Nodes evicted from the radix tree.", {"": "evictions"}),
    Metric("preemptions_total", "Preempted requests.", {"": "preemptions"}),
    Metric("steps_total", "Steps of the engine.", {"": "steps"}),
    Metric("requests_total", "Finished requests, by reason.", {f'reason="{reason}"': f"requests_{reason}" for reason in REASONS}),
    Metric(
        "step_seconds_total",
        "Time spent in steps, by part.",
        {f'part="{part}"': f"{part}_s" for part in (*PARTS, "sampler")},
    ),
    Metric("hit_ratio", "Share of prompt tokens that came from the radix tree.", {"": "hit_rate"}),
    Metric("requests", "Open requests.", {'state="running"': "requests_running", 'state="waiting"': "requests_waiting"}),
    Metric("pages", "Pages of the KV cache.", {"": "pages_total"}),
    Metric("pages_free", "Free pages.", {"": "pages_free"}),
    Metric("pages_pinned", "Pinned pages.", {"": "pages_pinned"}),
    Metric("pins", "Prefixes that are pinned.", {"": "pins"}),
    Metric("step_ms", "Mean time of a step, in milliseconds.", {"": "step_ms"}),
    Metric(
        "step_cost_ms",
        "What a step costs on this machine, in milliseconds: itself, each row, each draft token.",
        {f'part="{part}"': f"step_{part}_ms" for part in ("base", "row", "token")},
    ),
    Metric("step_rows", "Mean number of rows of a step.", {"": "step_rows"}),
    Metric("tree_nodes", "Nodes of the radix tree.", {"": "nodes"}),
)


def prometheus(stats: Mapping[str, float]) -> str:
    """The text exposition, format 0.0.4, of the result of `Engine.stats`."""
    lines = []
    for metric in METRICS:
        name = f"sgl_lab_{metric.name}"
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        for labels, key in metric.samples.items():
            if key in stats:
                lines.append(f"{name}{{{labels}}} {stats[key]}" if labels else f"{name} {stats[key]}")
    return "\n".join(lines) + "\n"
