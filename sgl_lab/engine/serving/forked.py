"""A process that is forked after a model was loaded has the model's memory but not its threads. It
cannot compute.

Neither can a model of its own be: the libraries underneath hang in such a process.
"""

from __future__ import annotations

import os

from ...contracts.errors import EngineStopped

_loaded_in: int | None = None
"""the process in which a model was loaded first"""


def begin_to_load() -> None:
    """A model is loaded in this process."""
    global _loaded_in
    _loaded_in = os.getpid()


def is_forked() -> bool:
    """Whether this process was forked after a model was loaded."""
    return _loaded_in is not None and _loaded_in != os.getpid()


def check_not_forked() -> None:
    """EngineStopped in a process that cannot compute."""
    if is_forked():
        raise EngineStopped(
            "this process was forked from one with a model in it, so neither that model nor another can run here",
            hint='start it with multiprocessing.get_context("spawn"), or load models in the forked processes alone',
        )
