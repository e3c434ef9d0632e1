"""Every error that a user can meet: one line that says what failed, which item, how much, and what
to do.

`str(error)` is the message with the hint. It is safe to show, whatever text it quotes. `error.hint`
is the next action alone.
"""

from __future__ import annotations

from .legible import legible

__all__ = [
    "AuthenticationFailed",
    "BackendUnsupported",
    "BadArgument",
    "BudgetExceeded",
    "CacheFull",
    "ConnectionFailed",
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
    "RateLimited",
    "RequestFailed",
    "RequestTimedOut",
    "SglError",
    "Stopped",
    "UnfinishedValue",
    "UnknownArgument",
    "UnknownVariable",
]


class SglError(Exception):
    """Base of all errors that sgl_lab raises deliberately."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return legible(f"{self.message} ({self.hint})" if self.hint else self.message)


class BadArgument(SglError, ValueError):
    """An argument of the language, the engine or a magic is invalid."""


class UnknownArgument(BadArgument, TypeError):
    """A keyword argument that the function does not have."""


class UnknownAttribute(BadArgument, AttributeError):
    """An attribute that an object of the language does not have."""


class ProgramError(SglError):
    """A program used the language incorrectly: a missing variable, a join of unrelated states, a
    read inside an unfinished role.
    """


class UnknownVariable(ProgramError, KeyError):
    """`s[name]`, but the program never generates `name`."""

    __str__ = SglError.__str__


class UnfinishedValue(ProgramError):
    """A constrained text ended before it was complete (token limit, stop or cancel). The text is
    kept, but it has no value.
    """

    def __init__(self, message: str, *, text: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.text = text


class InvalidValue(ProgramError):
    """A complete text that a validator of its type rejects, for example one that no schema can
    express.
    """


class Stopped(SglError):
    """The user stopped the run; the text generated so far is kept."""


class RequestFailed(SglError):
    """One request failed inside a backend; no other request is affected."""

    partial: tuple[str, ...] = ()
    """the text of each sample that came before it failed, where a backend knows it"""


class ConnectionFailed(RequestFailed, ConnectionError):
    """A server could not be reached, or the connection ended before the answer did."""


class RequestTimedOut(RequestFailed, TimeoutError):
    """A server did not answer, or did not go on, before a deadline."""


class RateLimited(RequestFailed):
    """A server takes no more requests now: a rate limit, or an account without credit."""


class ConstraintFailed(RequestFailed):
    """A constraint allows no token, or became too complex to follow."""


class CacheFull(RequestFailed):
    """A request can never fit into the KV pool."""


class PromptTooLong(RequestFailed):
    """A prompt, or a `min_tokens`, exceeds the model's context."""


class ModelError(SglError):
    """A model cannot be found, fetched or loaded."""


class ModelMissing(ModelError):
    """There is no model of that name, path or hub id."""


class ModelDamaged(ModelError):
    """A file exists but is invalid: wrong checksum, truncated, malformed."""


class DeviceUnfit(ModelError):
    """The requested GPU does not exist, or cannot run our kernels."""


class OutOfMemory(SglError):
    """The model's weights or the requested cache do not fit into the available memory."""


class BackendUnsupported(SglError):
    """The backend does not support what the program needs."""


class AuthenticationFailed(SglError):
    """There is no key for a server, or the server refuses it."""


class BudgetExceeded(SglError):
    """The next call could cost more than is left of a budget. It was not made."""


class EngineStopped(SglError):
    """The engine was closed; its requests are lost."""


class InvariantBroken(SglError):
    """An internal inconsistency, with the recounted numbers: a bug of sgl_lab."""
