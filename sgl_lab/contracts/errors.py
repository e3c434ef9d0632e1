"""Every error a user can meet: one line that says what, which, how much, and the way out.

`str(error)` is the message and the hint, fit to be shown whatever was quoted in it; `error.hint` alone is the next action.
"""

from __future__ import annotations

from .legible import legible

__all__ = [
    "BackendUnsupported",
    "BadArgument",
    "CacheFull",
    "ConstraintFailed",
    "DeviceUnfit",
    "EngineStopped",
    "InvalidValue",
    "InvariantBroken",
    "ModelDamaged",
    "ModelError",
    "ModelMissing",
    "OutOfMemory",
    "ProgramError",
    "PromptTooLong",
    "RequestFailed",
    "SglError",
    "Stopped",
    "UnfinishedValue",
    "UnknownArgument",
    "UnknownVariable",
]


class SglError(Exception):
    """Root of all errors that sgl_lab raises on purpose."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return legible(f"{self.message} ({self.hint})" if self.hint else self.message)


class BadArgument(SglError, ValueError):
    """An argument of the language, the engine or a magic is not legal."""


class UnknownArgument(BadArgument, TypeError):
    """A keyword argument that the function does not have."""


class ProgramError(SglError):
    """A program used the language wrongly: a missing variable, a join of strangers, a read of an unfinished role."""


class UnknownVariable(ProgramError, KeyError):
    """`s[name]` where the program never generates `name`."""

    __str__ = SglError.__str__


class UnfinishedValue(ProgramError):
    """A constrained text ended before it was whole (out of tokens, a stop, a cancel): it is kept, and has no value."""

    def __init__(self, message: str, *, text: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.text = text


class InvalidValue(ProgramError):
    """A whole text that the type it was to be refuses, by a validator that no schema can say for example."""


class Stopped(SglError):
    """The run was stopped by the user; the text generated so far is kept."""


class RequestFailed(SglError):
    """One request failed inside a backend; nothing else did."""


class ConstraintFailed(RequestFailed):
    """A constraint leaves no token to draw, or became too complex to follow."""


class CacheFull(RequestFailed):
    """A request can never fit into the KV pool."""


class PromptTooLong(RequestFailed):
    """A prompt, or a `min_tokens`, passes the model's context."""


class ModelError(SglError):
    """A model cannot be found, fetched or loaded."""


class ModelMissing(ModelError):
    """Nothing at that name, path or hub id."""


class ModelDamaged(ModelError):
    """A file is there and is not what it should be: wrong checksum, truncated, malformed."""


class DeviceUnfit(ModelError):
    """The GPU that was asked for is not there, or cannot run our kernels."""


class OutOfMemory(SglError):
    """The weights of a model, or the cache asked for, do not fit into the memory there is."""


class BackendUnsupported(SglError):
    """The backend cannot do what the program asks of it."""


class EngineStopped(SglError):
    """The engine was closed; its requests are gone."""


class InvariantBroken(SglError):
    """Our own books are wrong: a bug of sgl_lab, with what was recounted."""
