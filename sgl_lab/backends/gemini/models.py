"""What each Gemini model does, by its name and by where it is asked. From Google's documentation,
as of November 2026."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...contracts.capabilities import Capabilities
from ...contracts.params import MAX_TOP_LOGPROBS

MAX_STOPS = 5
MAX_SAMPLES = 8
DECISION_MODEL = "gemini-decision-1"
"""answers questions with a closed set of answers, and nothing else"""
DECISION_PRICE = 0.10
"""of a million tokens of its prompts, in USD (November 2026); its answers cost nothing"""


@dataclass(frozen=True, slots=True)
class Model:
    context: int = 1_048_576
    max_tokens: int = 65_536
    """of an answer"""
    least_thinking: int | str | None = None
    """the budget in tokens, or the level, at which it thinks least; None leaves it to the model"""
    thinks: bool = True
    """even then, so that its answers need room for thoughts"""
    penalties: bool = False
    samples: tuple[int, int] = (1, MAX_SAMPLES)
    """of one prompt: on AI Studio, on Vertex"""
    logprobs: tuple[bool, bool] = (False, True)


_2 = Model(penalties=True, samples=(MAX_SAMPLES, MAX_SAMPLES))
MODELS: dict[str, Model] = {
    "gemini-2.0-flash": replace(_2, max_tokens=8_192, thinks=False, logprobs=(True, True)),
    "gemini-2.5-pro": replace(_2, least_thinking=128),
    "gemini-2.5-flash": replace(_2, least_thinking=0, thinks=False),
    "gemini-3-flash": Model(least_thinking="minimal"),
    "gemini-3-pro": Model(least_thinking="low"),
    "gemini-3.1-pro": Model(least_thinking="low"),
    "gemini-3.1-flash-lite": Model(least_thinking="minimal"),
    "gemini-3.5-flash": Model(least_thinking="minimal"),
    "gemini-3.8-flash": Model(least_thinking="low"),
}
"""By how the name begins; the longest beginning counts."""
UNKNOWN = Model(thinks=False, logprobs=(False, False), samples=(1, 1))
"""Another server's model: nothing is taken for granted."""
NEWER = replace(UNKNOWN, thinks=True)
"""a Gemini that is newer than this table"""


def model_of(name: str) -> Model:
    name = name.rpartition("/")[2]
    fitting = [beginning for beginning in MODELS if name == beginning or name.startswith(f"{beginning}-")]
    if fitting:
        return MODELS[max(fitting, key=len)]
    return NEWER if name.startswith("gemini-") else UNKNOWN


def capabilities_of(model: Model, *, on_vertex: bool, decides: bool) -> Capabilities:
    penalties = ("frequency_penalty", "presence_penalty") if model.penalties else ()
    has_logprobs = model.logprobs[on_vertex]
    return Capabilities(
        sampling=("max_tokens", "temperature", "top_p", "top_k", "seed", "stop", *penalties),
        stops=MAX_STOPS,
        samples=model.samples[on_vertex],
        constraints=("json_schema",),
        choices="decided" if decides else "generated",
        logprobs=has_logprobs,
        top_logprobs=MAX_TOP_LOGPROBS if has_logprobs else 0,
        images=True,
        tools=True,
        cached_counts=True,
        costly_calls=True,
    )
