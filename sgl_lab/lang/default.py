"""The backend of programs that name none.

On first use, the package fills `backend_slot` with a function that creates one, and `named_slot` with
one that finds it by name; the language itself knows no backend. A backend may have `emit`, which
receives its events: the language then sends its own events there too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Protocol, runtime_checkable

from ..contracts.conversation import AnyBackend, ConversationBackend, takes_tokens
from ..contracts.errors import BackendUnsupported, BadArgument, ProgramError
from ..contracts.events import Emit, silent
from ..contracts.port import Backend
from .keywords import suggests

backend_slot: Callable[[], AnyBackend] | None = None
named_slot: Callable[[str], AnyBackend] | None = None
"""the backend that a name such as `openai:gpt-5-mini` stands for; the package fills it too"""
_chosen: AnyBackend | None = None


@runtime_checkable
class _Observed(Protocol):
    emit: Emit


@runtime_checkable
class Reached(Protocol):
    """An object in front of a backend, such as `sgl.Runtime`."""

    @property
    def endpoint(self) -> AnyBackend: ...


@runtime_checkable
class _Flushable(Protocol):
    def flush(self) -> None: ...


@suggests
def set_default_backend(backend: AnyBackend | Reached | str | None) -> None:
    """Programs and cells run on `backend` from now on unless they name another. None restores the
    built-in one.
    """
    global _chosen
    _chosen = None if backend is None else checked(backend)


def checked(backend: object) -> AnyBackend:
    """The backend itself, the `endpoint` of an object in front of one, or the backend with a name.
    BadArgument for anything else.
    """
    if takes_tokens(backend):
        return backend
    if isinstance(backend, str) and named_slot is not None:
        return named_slot(backend)
    if not isinstance(backend, ConversationBackend) and isinstance(backend, Reached):
        backend = backend.endpoint
    if not isinstance(backend, Backend | ConversationBackend):
        raise BadArgument(f"expected a backend, not {type(backend).__name__} {backend!r:.60}", hint="a lab's backend is lab.backend")
    return backend


def chosen() -> AnyBackend | None:
    """What `set_default_backend` was given; None for the built-in one."""
    return _chosen


def default_backend() -> AnyBackend:
    if _chosen is not None:
        return _chosen
    if backend_slot is None:
        raise ProgramError("no backend to run on", hint="call sgl.set_default_backend(...) or pass backend=")
    return backend_slot()


def emit_of(backend: AnyBackend) -> Emit:
    return backend.emit if isinstance(backend, _Observed) else silent


@suggests
def flush_cache(backend: AnyBackend | Reached | str | None = None) -> None:
    """Drop all cached prefixes that no request uses."""
    backend = default_backend() if backend is None else checked(backend)
    if not isinstance(backend, _Flushable):
        raise BackendUnsupported(f"{type(backend).__name__} has no cache to flush")
    backend.flush()


@suggests
def get_server_info(backend: AnyBackend | Reached | str | None = None) -> dict[str, object]:
    """The backend's description of itself."""
    return asdict((default_backend() if backend is None else checked(backend)).describe())
