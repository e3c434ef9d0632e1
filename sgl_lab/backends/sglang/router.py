"""An sglang-router in front of several servers: who they are, whether they are healthy, and what
each found in its cache.

All of it comes through the router: no worker is asked directly, so a key goes to no other server.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)\{(?P<labels>[^}]*)\}\s+(?P<value>\S+)", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

_PROMPT = {"sgl_lab_prompt_tokens_total", "sglang:prompt_tokens_total", "vllm:prefix_cache_queries_total"}
_CACHED = {"sgl_lab_cached_prompt_tokens_total", "sglang:cached_tokens_total", "vllm:prefix_cache_hits_total"}
_REQUESTS = {"sgl_lab_requests_total", "sglang:num_requests_total", "vllm:request_success_total"}


@dataclass(frozen=True, slots=True)
class Worker:
    """One server behind a router. A count that it does not publish is None."""

    url: str
    is_healthy: bool
    model: str = ""
    load: int | None = None
    """requests that the router has sent it and that are not answered"""
    n_requests: int | None = None
    """answered since the worker began"""
    n_prompt: int | None = None
    n_cached: int | None = None

    @property
    def hit_rate(self) -> float | None:
        return None if not self.n_prompt or self.n_cached is None else self.n_cached / self.n_prompt


def workers_of(found: Mapping[str, object], metrics: str) -> tuple[Worker, ...]:
    """Of the router's answers to /workers and /engine_metrics."""
    counts = counts_of(metrics)
    workers = []
    reported = found.get("workers")
    for each in reported if isinstance(reported, list) else ():
        if not isinstance(each, Mapping) or not isinstance(url := each.get("url"), str):
            continue
        mine = counts.get(url.rstrip("/"), {})
        load = each.get("load")
        workers.append(
            Worker(
                url,
                each.get("is_healthy") is True,
                str(each.get("model_id") or ""),
                load if type(load) is int else None,
                mine.get("requests"),
                mine.get("prompt"),
                mine.get("cached"),
            )
        )
    return tuple(workers)


def counts_of(metrics: str) -> dict[str, dict[str, int]]:
    """By worker, the counts of requests, of prompt tokens and of cached ones, out of the text
    format of Prometheus."""
    counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name, labels, value in samples(metrics):
        kind = next((kind for kind, names in (("prompt", _PROMPT), ("cached", _CACHED), ("requests", _REQUESTS)) if name in names), "")
        worker = labels.get("worker_addr", "").rstrip("/")
        if kind and worker:
            counts[worker][kind] = counts[worker].get(kind, 0) + int(value)
    return dict(counts)


def samples(metrics: str) -> Iterable[tuple[str, dict[str, str], float]]:
    """Name, labels and value of every sample that has labels and a finite value."""
    for found in _SAMPLE.finditer(metrics):
        try:
            value = float(found["value"])
        except ValueError:
            continue
        if value == value and abs(value) != float("inf"):
            yield found["name"], dict(_LABEL.findall(found["labels"])), value
