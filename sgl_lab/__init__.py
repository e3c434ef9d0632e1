"""sgl_lab: see an LLM program run.

`import sgl_lab as sgl` provides the language (`sgl.function`, `sgl.gen`, ...), `sgl.Lab`,
`sgl.default_lab` and the errors (`sgl.SglError`, ...). In a notebook, use `%load_ext sgl_lab`.
Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .backends.anthropic import Anthropic as Anthropic
    from .backends.gemini import Gemini as Gemini
    from .backends.gemini import VertexAI as VertexAI
    from .backends.litellm import LiteLLM as LiteLLM
    from .backends.openai import OpenAI as OpenAI
    from .backends.remote import Deadlines as Deadlines
    from .backends.sglang import RuntimeEndpoint as RuntimeEndpoint
    from .contracts.capabilities import Prices as Prices
    from .contracts.conversation import AnyBackend
    from .contracts.errors import *  # noqa: F403
    from .elsewhere import BackendLab as BackendLab
    from .labs import default_lab as default_lab
    from .lang.surface import *  # noqa: F403
    from .runtime import Engine as Engine
    from .runtime import Runtime as Runtime
    from .session import Lab as Lab


_HEAVY = {
    "Lab": "session",
    "default_lab": "labs",
    "Runtime": "runtime",
    "Engine": "runtime",
    "BackendLab": "elsewhere",
    "OpenAI": "backends.openai",
    "RuntimeEndpoint": "backends.sglang",
    "Anthropic": "backends.anthropic",
    "Gemini": "backends.gemini",
    "VertexAI": "backends.gemini",
    "LiteLLM": "backends.litellm",
    "Deadlines": "backends.remote",
    "Prices": "contracts.capabilities",
}
"""Names outside the language, and the modules that are imported when they are used."""


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    if name in _HEAVY:
        if _HEAVY[name] == "runtime":
            _fill_backend_slot()
        return getattr(import_module(f".{_HEAVY[name]}", __name__), name)
    from .contracts import errors

    if name in errors.__all__:
        return getattr(errors, name)
    from .lang import surface
    from .lang.absent import NOT_YET

    _fill_backend_slot()
    if name in surface.__all__:
        return getattr(surface, name)
    # `from sgl_lab import name` calls this through the import system, which would hide an
    # AttributeError from the user.
    imports = sys._getframe(1).f_globals.get("__name__") in ("importlib._bootstrap", "_frozen_importlib")
    if name in NOT_YET:
        raise (ImportError if imports else AttributeError)(f"sgl_lab has no {name!r}: {NOT_YET[name]}")
    raise AttributeError(f"sgl_lab has no {name!r}{_meant(name)}")


def _meant(name: str) -> str:
    from .contracts.near import nearest

    close = nearest(name, __dir__())
    return f"; did you mean {close!r}?" if close else ""


def __dir__() -> list[str]:
    from .contracts import errors
    from .lang import surface

    return sorted({*globals(), *surface.__all__, *errors.__all__, *_HEAVY})


def _fill_backend_slot() -> None:
    """Programs that name no backend run on the backend of the cells, and a backend may be named."""
    from .lang import default

    def backend() -> AnyBackend:
        from .labs import default_lab

        return default_lab().backend

    def named(text: str) -> AnyBackend:
        from .labs import lab_named

        return lab_named(text).backend_for()

    if default.backend_slot is None:
        default.backend_slot = backend
    if default.named_slot is None:
        default.named_slot = named


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext sgl_lab`."""
    from .magics import load

    _fill_backend_slot()
    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext sgl_lab`."""
    from .magics import unload

    unload(shell)
