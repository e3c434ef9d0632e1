"""Selects the text that the model prefers among several: three ways to compare token
log-probabilities.

Knows no model: a method receives one row per choice, with one `(logprob, token id, text)` per
token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

Row = Sequence[tuple[float | None, int, str]]


@dataclass(frozen=True)
class ChoicesDecision:
    decision: str
    meta_info: dict[str, object] = field(default_factory=dict)
    """intermediate results of the method, beside what every select reports"""


class ChoicesSamplingMethod(ABC):
    """Base class for a custom method; `choices_method=` takes an instance."""

    requires_unconditional_logprobs = False

    @abstractmethod
    def __call__(
        self,
        *,
        choices: Sequence[str],
        normalized_prompt_logprobs: Sequence[float],
        input_token_logprobs: Sequence[Row],
        output_token_logprobs: Sequence[Row],
        unconditional_token_logprobs: Sequence[Row] | None = None,
    ) -> ChoicesDecision:
        """Decide. `input_token_logprobs` are those of the choices' tokens after the prompt;
        `normalized_prompt_logprobs` are their means.
        """

    def __repr__(self) -> str:
        return type(self).__name__


def logprobs(row: Row) -> list[float]:
    """A first token without a predecessor has no log-probability; it counts as certain."""
    return [logprob or 0.0 for logprob, _, _ in row]


def _best(choices: Sequence[str], scores: Sequence[float]) -> str:
    return choices[max(range(len(choices)), key=scores.__getitem__)]


class TokenLengthNormalized(ChoicesSamplingMethod):
    """The highest mean log-probability per token."""

    def __call__(self, *, choices: Sequence[str], normalized_prompt_logprobs: Sequence[float], **_: object) -> ChoicesDecision:
        return ChoicesDecision(_best(choices, normalized_prompt_logprobs))


class GreedyTokenSelection(ChoicesSamplingMethod):
    """Token by token, only the choices with the likeliest next token remain. A shorter choice
    continues with its own mean.
    """

    def __call__(self, *, choices: Sequence[str], input_token_logprobs: Sequence[Row], **_: object) -> ChoicesDecision:
        width = max(map(len, input_token_logprobs))
        matrix = [logprobs(row) + [fmean(logprobs(row))] * (width - len(row)) for row in input_token_logprobs]
        left = list(range(len(choices)))
        for column in range(width):
            best = max(matrix[row][column] for row in left)
            left = [row for row in left if matrix[row][column] == best]
        return ChoicesDecision(choices[left[0]], {"greedy_logprob_matrix": matrix})


class UnconditionalLikelihoodNormalized(ChoicesSamplingMethod):
    """The highest mean gain of a token over its log-probability without the prompt."""

    requires_unconditional_logprobs = True

    def __call__(
        self,
        *,
        choices: Sequence[str],
        input_token_logprobs: Sequence[Row],
        unconditional_token_logprobs: Sequence[Row] | None = None,
        **_: object,
    ) -> ChoicesDecision:
        if unconditional_token_logprobs is None:
            raise ValueError("unconditional_likelihood_normalized needs unconditional_token_logprobs")
        gains = [
            fmean(given - alone for given, alone in zip(logprobs(row), logprobs(base), strict=True))
            for row, base in zip(input_token_logprobs, unconditional_token_logprobs, strict=True)
        ]
        meta = {"unconditional_token_logprobs": list(unconditional_token_logprobs), "normalized_unconditional_prompt_logprobs": gains}
        return ChoicesDecision(_best(choices, gains), meta)


token_length_normalized = TokenLengthNormalized()
greedy_token_selection = GreedyTokenSelection()
unconditional_likelihood_normalized = UnconditionalLikelihoodNormalized()
