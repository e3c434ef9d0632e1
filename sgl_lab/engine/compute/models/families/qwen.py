"""Qwen 2, 2.5 and 3."""

from __future__ import annotations

from dataclasses import replace

from ..config import MAX_WIDTH, Config
from ..spec import ModelSpec, Projection
from .common import QKV, attending, biased, llama_like, sliding, window_of


def qwen2(config: Config) -> ModelSpec:
    return _qwen(config, QKV)


def qwen3(config: Config) -> ModelSpec:
    spec = _qwen(config, biased(config), splits_hidden=False)
    return attending(spec, lambda attention: replace(attention, qk_norm="head"))


def _qwen(config: Config, biases: frozenset[Projection], *, splits_hidden: bool = True) -> ModelSpec:
    spec = llama_like(config, biases=biases, splits_hidden=splits_hidden)
    window, first = None, 0
    if config.flag("use_sliding_window"):
        window, first = window_of(config), config.integer("max_window_layers", MAX_WIDTH, least=0, has_default=True)
    return sliding(config, spec, window, lambda index: index >= first)
