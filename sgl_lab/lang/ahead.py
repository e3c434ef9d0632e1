"""Text that was paid for already: what a completion API said past the end of a gen.

One call asks for more tokens than its gen needs. As long as the program's own text and its next gens agree with
what came, they are served from it; where they do not, the next gen makes a call of its own.
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
    """The stop that comes first in `text`, and where. RequestFailed if a pattern takes too many steps to tell."""
    found = [End(at, stop) for stop in params.stop if (at := text.find(stop)) >= 0]
    found += [End(start, pattern) for pattern in params.stop_regex if (start := first_match(pattern, text)) is not None]
    return min(found, default=None, key=lambda end: end.at)


def may_share(params: SamplingParams) -> bool:
    """Whether a text that was generated for another gen can be this one's."""
    asked = params.logprobs or params.top_logprobs or params.prompt_logprobs_from is not None
    return params.n == 1 and params.constraint is None and not params.stop_token_ids and not params.min_tokens and not asked


def asking_ahead(params: SamplingParams, n_tokens: int) -> SamplingParams:
    """For a call that goes past its gen: no stops, and at least `n_tokens`."""
    most = None if params.max_tokens is None else max(params.max_tokens, n_tokens)
    return replace(params, max_tokens=most, stop=(), stop_regex=())


def asking_next(params: SamplingParams) -> SamplingParams:
    """For a gen of no tokens with log-probabilities: those of the next token, which has to be drawn for that, whatever it is."""
    return replace(params, max_tokens=1, ignore_eos=True, stop=(), stop_regex=(), stop_token_ids=())


@dataclass
class Ahead:
    """Belongs to a stream, and stands where the stream stands."""

    text: str = ""
    ended: bool = False
    """the model had no more to say after it"""

    def forget(self) -> None:
        self.text, self.ended = "", False

    def hold(self, text: str, ended: bool) -> None:
        self.text, self.ended = text, ended

    def pass_over(self, text: str) -> None:
        """The program says `text` itself."""
        if self.text.startswith(text):
            self.text = self.text[len(text) :]
        else:
            self.forget()

    def can_serve(self, params: SamplingParams) -> bool:
        """Whether it can be told from here where a gen with these parameters ends."""
        return bool(self.text) and (self.ended or first_stop(self.text, params) is not None)
