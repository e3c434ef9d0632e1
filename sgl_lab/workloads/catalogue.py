"""The workloads by name."""

from __future__ import annotations

from collections.abc import Mapping

from ..contracts.errors import BadArgument
from ..contracts.near import did_you_mean
from . import agents, chat, dspy_rag, hellaswag, json_decode, judge, mmlu, pictures, react, skeleton, tree_of_thought
from .workload import Workload

WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        mmlu.WORKLOAD,
        hellaswag.WORKLOAD,
        react.WORKLOAD,
        react.LIVE,
        tree_of_thought.WORKLOAD,
        json_decode.WORKLOAD,
        chat.SHORT,
        chat.LONG,
        dspy_rag.WORKLOAD,
        pictures.WORKLOAD,
        judge.WORKLOAD,
        skeleton.WORKLOAD,
        agents.WORKLOAD,
    )
}


def find(name: str) -> Workload:
    """BadArgument if there is none of that name."""
    if name not in WORKLOADS:
        raise BadArgument(f"there is no workload {name!r:.60}", hint=did_you_mean(name, WORKLOADS))
    return WORKLOADS[name]
