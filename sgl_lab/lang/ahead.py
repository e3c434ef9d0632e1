"""Text that is already paid for: what a completion API returned past the end of a gen.

One call requests more tokens than its gen needs. As long as the program's own text and its next
gens agree with the result, they are served from it. Otherwise the next gen makes a call of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from ..contracts.params import SamplingParams
from ..contracts.patterns.watching import first_match


class End(NamedTuple):
    at: int
    stop: str


def first_stop(text: str, params: SamplingParams) -> End | None:
    """The stop that comes first in `text`, and its position. RequestFailed if a pattern takes too
    many steps.
    """
    found = [End(at, stop) for stop in params.stop if (at := text.find(stop)) >= 0]
    found += [End(start, pattern) for pattern in params.stop_regex if (start := first_match(pattern, text)) is not None]
    return min(found, default=None, key=lambda end: end.at)


def may_share(params: SamplingParams) -> bool:
    """Whether text that was generated for another gen can serve this one."""
    has_logprobs = params.logprobs or params.top_logprobs or params.prompt_logprobs_from is not None
    return params.n == 1 and params.constraint is None and not params.stop_token_ids and not params.min_tokens and not has_logprobs


def asking_ahead(params: SamplingParams, n_tokens: int) -> SamplingParams:
    """Parameters for a call past its gen: no stops, and at least `n_tokens`."""
    most = None if params.max_tokens is None else max(params.max_tokens, n_tokens)
    return replace(params, max_tokens=most, stop=(), stop_regex=())


def asking_next(params: SamplingParams) -> SamplingParams:
    """Parameters for a gen of no tokens with log-probabilities: those of the next token, which must
    be sampled.
    """
    return replace(params, max_tokens=1, ignore_eos=True, stop=(), stop_regex=(), stop_token_ids=())


@dataclass
class Ahead:
    """The remaining text. It belongs to a stream and its current position."""

    text: str = ""
    ended: bool = False
    """whether the model had nothing more to generate after it"""

    def forget(self) -> None:
        self.text, self.ended = "", False

    def hold(self, text: str, ended: bool) -> None:
        self.text, self.ended = text, ended

    def pass_over(self, text: str) -> None:
        """The program appends `text` itself."""
        if self.text.startswith(text):
            self.text = self.text[len(text) :]
        else:
            self.forget()

    def can_serve(self, params: SamplingParams) -> bool:
        """Whether the end of a gen with these parameters can be determined from here."""
        return bool(self.text) and (self.ended or first_stop(self.text, params) is not None)
