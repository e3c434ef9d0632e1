"""Costs that a lint of a run measures on the engine itself: the likeliest tokens after a prompt, and
the length of a constraint's shortest text.
"""

from __future__ import annotations

from collections.abc import Callable

from ...contracts.errors import SglError
from ...contracts.params import Constraint, SamplingParams
from ...contracts.port import Backend, GenJob, GenOutput
from ..serving.replies import ReplyListener

N_LIKELIEST = 5
ONE = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True, logprobs=True, top_logprobs=N_LIKELIEST)


class Measures:
    """shortest  the tokens of a constraint's shortest text, or None"""

    def __init__(self, backend: Backend, shortest: Callable[[Constraint], int | None]) -> None:
        self._backend = backend
        self._shortest = shortest

    def likeliest(self, prompt: tuple[int, ...]) -> tuple[tuple[int, float], ...]:
        """The likeliest tokens after a prompt with their log-probabilities, by one request. Empty if
        the engine refuses it.
        """
        reply = ReplyListener[tuple[GenOutput, ...]](self._backend)
        try:
            self._backend.submit(GenJob(prompt, ONE), reply)
            (output,) = reply.answer()
        except SglError:
            return ()
        return output.logprobs[0].top if output.logprobs else ()

    def n_shortest(self, constraint: Constraint) -> int | None:
        """Tokens of the shortest text of a constraint, as far as one is known."""
        try:
            return self._shortest(constraint)
        except SglError:
            return None
