"""Settings of the whole process, under the names of the original."""

from __future__ import annotations

import warnings
from typing import Any

from ..contracts.port import Backend
from .default import default_backend, set_default_backend

NOT_NEEDED = {
    "enable_precache_with_tracing": "a batch finds its common prefix from the prompts themselves",
    "enable_parallel_encoding": 'join("concate_and_append") reuses what the forks computed wherever positions allow',
    "skip_special_tokens_in_output": "special tokens that a model generates are never part of a value",
    "spaces_between_special_tokens_in_out": "special tokens that a model generates are never part of a value",
}
"""Switches of the original that are always on here, with the reason."""


class GlobalConfig:
    """`default_backend`, and `verbosity`: with 2, each run prints its text when it is done."""

    default_backend: Backend
    verbosity: int

    def __init__(self) -> None:
        vars(self)["verbosity"] = 0

    def __getattr__(self, name: str) -> object:
        if name == "default_backend":
            return default_backend()
        if name in NOT_NEEDED:
            return True
        raise AttributeError(f"global_config has no {name!r}: it has default_backend, verbosity, {', '.join(NOT_NEEDED)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "default_backend":
            set_default_backend(value)
        elif name == "verbosity":
            vars(self)[name] = value
        elif not getattr(self, name) or not value:
            warnings.warn(f"global_config.{name} cannot be switched off here: {NOT_NEEDED[name]}", stacklevel=2)


global_config = GlobalConfig()
