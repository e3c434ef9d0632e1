"""Sampling parameters, complete and validated on construction.

The language has "not given", which falls back to the run's defaults. When a request leaves the
language, every parameter has a value and is in one of these classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import BadArgument
from .patterns.watching import pattern

MAX_N = 256
MAX_STOPS = 64
MAX_TOP_LOGPROBS = 20
MAX_BIAS = 1e30
"""the logits have 32 bits; a larger bias would leave their range"""
MAX_SOURCE = 1 << 17
"""characters of a constraint; for a JSON schema, also bytes"""

CONSTRAINTS = ("regex", "json_schema", "grammar")


def _is_token(token: object) -> bool:
    return type(token) is int and token >= 0


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a generated text must match, from its first character to its last.

    `source` is a regular expression, a JSON schema (its JSON text) or a Lark grammar, according to
    `kind`. `Backend.prepare` raises if a backend cannot enforce it. `lead` is a regular expression
    of the text before the part that `source` describes; empty for nothing.
    """

    kind: str
    source: str
    lead: str = ""
    seam: str = ""
    """literal text before it: the end of a prompt that is generated again (`GenJob.heal`)"""

    def __post_init__(self) -> None:
        if self.kind not in CONSTRAINTS:
            raise BadArgument(f"a constraint is one of {', '.join(CONSTRAINTS)}, not {self.kind!r}")


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one request.

    * max_tokens is None for "up to the context".
    * temperature 0 is greedy. top_k None is all tokens.
    * `stop` strings and `stop_regex` patterns are searched in the generated text across token
      borders and are not part of it. `stop_token_ids` end generation and are not part of the text
      either.
    * Penalties count generated tokens only, except `repetition_penalty`, which also counts the
      prompt (as transformers does).
    * With `skip_special_tokens`, special tokens that the model generates are tokens of the answer
      but not part of its text. A stop may spell them in either case.
    * `seed` None draws from the engine's own stream.
    * `adapter` is the name of a LoRA adapter that the backend has loaded; None for the model alone.
    * `prompt_logprobs_from` is the first position of the prompt whose token's log-probability is
      returned; None for no position.

    BadArgument names the parameter and its valid values.
    """

    max_tokens: int | None = 128
    min_tokens: int = 0
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    stop_regex: tuple[str, ...] = ()
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs_from: int | None = None
    constraint: Constraint | None = None
    skip_special_tokens: bool = True
    adapter: str | None = None

    @property
    def is_penalised(self) -> bool:
        """Whether earlier tokens change the logits of later ones."""
        return bool(self.frequency_penalty or self.presence_penalty or self.repetition_penalty != 1)

    def __post_init__(self) -> None:
        def check(ok: bool, name: str, legal: str) -> None:
            if not ok:
                raise BadArgument(f"{name} must be {legal}, not {getattr(self, name)!r}")

        for name in ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"):
            value = getattr(self, name)
            check(isinstance(value, int | float) and math.isfinite(value), name, "a finite number")
        for name in ("min_tokens", "n", "top_logprobs"):
            check(type(getattr(self, name)) is int, name, "an integer")
        most = self.max_tokens
        check(most is None or (type(most) is int and most >= 0), "max_tokens", "a whole number, 0 or more, or None")
        check(self.min_tokens >= 0 and (most is None or self.min_tokens <= most), "min_tokens", f"between 0 and max_tokens ({most})")
        check(1 <= self.n <= MAX_N, "n", f"between 1 and {MAX_N}")
        check(self.temperature >= 0, "temperature", "0 or more")
        check(0 < self.top_p <= 1, "top_p", "in (0, 1]")
        check(self.top_k is None or (type(self.top_k) is int and self.top_k >= 1), "top_k", "1 or more, or -1 or None for all")
        check(0 <= self.min_p <= 1, "min_p", "in [0, 1]")
        check(-2 <= self.frequency_penalty <= 2, "frequency_penalty", "in [-2, 2]")
        check(-2 <= self.presence_penalty <= 2, "presence_penalty", "in [-2, 2]")
        check(0 < self.repetition_penalty <= 10, "repetition_penalty", "in (0, 10]")
        check(len(self.stop) + len(self.stop_regex) <= MAX_STOPS, "stop", f"at most {MAX_STOPS} strings and patterns")
        check(all(isinstance(s, str) and s for s in self.stop), "stop", "non-empty strings")
        check(0 <= self.top_logprobs <= MAX_TOP_LOGPROBS, "top_logprobs", f"between 0 and {MAX_TOP_LOGPROBS}")
        check(type(self.skip_special_tokens) is bool, "skip_special_tokens", "True or False")
        adapter = self.adapter
        check(adapter is None or (isinstance(adapter, str) and adapter != ""), "adapter", "the name of a loaded adapter, or None")
        biases = self.logit_bias
        check(all(_is_token(token) for token, _ in biases), "logit_bias", "of token ids, which are whole numbers, 0 or more")
        is_bias = all(isinstance(bias, int | float) and math.isfinite(bias) and abs(bias) <= MAX_BIAS for _, bias in biases)
        check(is_bias, "logit_bias", f"finite and at most {MAX_BIAS:g} either way")
        check(all(map(_is_token, self.stop_token_ids)), "stop_token_ids", "token ids, which are whole numbers, 0 or more")
        check(self.seed is None or type(self.seed) is int, "seed", "an integer or None")
        first = self.prompt_logprobs_from
        check(first is None or (type(first) is int and first >= 0), "prompt_logprobs_from", "a position in the prompt, 0 or more, or None")
        check(self.constraint is None or isinstance(self.constraint, Constraint), "constraint", "a Constraint or None")
        check(all(isinstance(source, str) for source in self.stop_regex), "stop_regex", "patterns as strings")
        for source in self.stop_regex:
            try:
                pattern(source)
            except BadArgument as error:
                raise BadArgument(f"stop_regex {error.message}", hint=error.hint) from None
