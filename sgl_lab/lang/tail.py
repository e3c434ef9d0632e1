"""Follows a growing text: that of a stream or of one variable. Guarded by the run's lock."""

from __future__ import annotations

from .expressions import Name
from .run import Strand
from .variable import Variable

_OUTPUT_LOGPROBS = ("output_token_logprobs", "output_top_logprobs")


class Tail:
    """The part of a text that has not been taken yet."""

    def __init__(self, stream: Strand, name: Name | None) -> None:
        self.ended = False
        """whether nothing more will come"""
        self.meta: object = {}
        """the details of the variable when the last piece was taken"""
        self._stream = stream
        self._name = name
        self._n_taken = 0
        self._n_logprobs = 0

    def grew(self) -> bool:
        return len(self.text()) > self._n_taken or self._has_ended()

    def take(self) -> str:
        """The new text since the last call."""
        with self._stream.run.lock:
            piece = self.text()[self._n_taken :]
            self.ended = self._has_ended()
            if (variable := self._variable) is not None:
                self.meta = self._meta(variable)
        self._n_taken += len(piece)
        return piece

    def _meta(self, variable: Variable) -> object:
        """The current details; of log-probabilities, the new ones and their total number."""
        meta = variable.meta if variable.done else {"finish_reason": None, "completion_tokens": variable.n_partial}
        if variable.logprobs_from is None or not isinstance(meta, dict):
            return meta
        n_before = self._n_logprobs
        if variable.done:
            meta = meta | {name: meta[name][n_before:] for name in _OUTPUT_LOGPROBS if name in meta}
        else:
            meta |= variable.logprobs_from(n_before)
        self._n_logprobs = meta.get("output_token_logprobs_length", n_before)
        return meta

    def text(self) -> str:
        stream = self._stream
        if self._name is not None:
            return variable.text if (variable := self._variable) else ""
        if self._has_ended() and stream.error is None:
            return stream.transcript.text()
        return stream.transcript.certain() + stream.partial

    @property
    def _variable(self) -> Variable | None:
        return None if self._name is None else self._stream.variables.get(self._name)

    def _has_ended(self) -> bool:
        variable = self._variable
        return (variable is not None and variable.done) or (self._stream.idle and not self._stream.run.body_elsewhere)
