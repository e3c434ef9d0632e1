"""A text ends before the first stop that was asked for, also where a server goes past it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...contracts.conversation import ChatOutput
from ...contracts.params import Constraint, SamplingParams
from ...contracts.port import Usage
from .whole import is_whole


class PastStops(Exception):
    """All samples have reached a stop, and the server goes on: what it still sends belongs to none
    of them.
    """


class Stops:
    """Cuts the samples of one job. A server that keeps to its stops sends none of them, so its
    texts stay as they are.

    A request with `min_tokens` is left alone: its text may have a stop within them.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._stops = () if params.min_tokens else params.stop
        self._constraint: Constraint | None = params.constraint
        self._may_end = not params.logprobs
        self._texts = [""] * params.n
        self._n_passed = [0] * params.n
        self._found: list[str | None] = [None] * params.n

    def push(self, index: int, text: str) -> str:
        """Sample `index` grew by `text`: the part that is certain, without what may begin a stop.
        PastStops at the end of all."""
        if not self._stops:
            return text
        if self._found[index] is None:
            before = len(self._texts[index])
            self._texts[index] += text
            self._search(index, before)
        return self._certain(index)

    def _search(self, index: int, before: int) -> None:
        text = self._texts[index]
        hit = first_stop(text, self._stops, max(0, before - max(map(len, self._stops)) + 1))
        if hit is not None:
            self._texts[index], self._found[index] = text[: hit[0]], hit[1]

    def _certain(self, index: int) -> str:
        text, start = self._texts[index], self._n_passed[index]
        held = 0 if self._found[index] is not None else max(n_begun(text, stop) for stop in self._stops)
        self._n_passed[index] = max(start, len(text) - held)
        return text[start : self._n_passed[index]]

    @property
    def is_over(self) -> bool:
        """Whether nothing that may still come belongs to an answer."""
        return self._may_end and None not in self._found

    def rest(self, index: int) -> str:
        """The end of a text, which was held because it might have begun a stop."""
        start, text = self._n_passed[index], self._texts[index]
        self._n_passed[index] = len(text)
        return text[start:]

    def before(self, text: str) -> str:
        """What stands before its first stop."""
        hit = first_stop(text, self._stops, 0)
        return text if hit is None else text[: hit[0]]

    def outputs(self, usages: Iterable[Usage]) -> tuple[ChatOutput, ...]:
        """All that came, after PastStops. The server's own counts are lost with the rest of its answer."""
        return tuple(
            ChatOutput(text, "stop", usage, stop, is_complete=is_whole(self._constraint, text, "stop", stop), is_cut=True)
            for text, stop, usage in zip(self._texts, self._found, usages, strict=True)
        )

    def cut(self, output: ChatOutput) -> ChatOutput:
        """The output before its first stop; itself if it has none."""
        hit = first_stop(output.text, self._stops, 0)
        if hit is None:
            return output
        at, stop = hit
        n, length = 0, 0
        for n, each in enumerate(output.logprobs, 1):
            length += len(each.text)
            if length > at:
                n -= 1
                break
        text = output.text[:at]
        is_complete = is_whole(self._constraint, text, "stop", stop)
        return replace(
            output, text=text, finish_reason="stop", matched_stop=stop, logprobs=output.logprobs[:n], is_complete=is_complete, is_cut=True
        )


def first_stop(text: str, stops: tuple[str, ...], start: int) -> tuple[int, str] | None:
    """(position, stop) of the first in `text` from `start` on; of two at one position the first
    that was given."""
    found = [(at, stop) for stop in stops if (at := text.find(stop, start)) >= 0]
    return min(found, key=lambda hit: hit[0], default=None)


def n_begun(text: str, stop: str) -> int:
    """How many characters at the end of `text` may begin `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
