"""One gen in flight, through either port.

It is a request to the backend, or it is served from the text of an earlier one. Its text is split
and read, and if it is the call of a tool, the tool is called.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import partial
from typing import Generic, Protocol, TypeVar

from ..contracts.events import ExprAsked
from ..contracts.ids import RequestId
from ..contracts.params import Constraint, SamplingParams
from ..contracts.port import Usage
from .ahead import asking_ahead, may_share
from .expressions import Gen
from .form import read
from .history import Piece
from .reasoning import Split
from .tools import ToolCall
from .usage import usage_of
from .variable import Variable
from .work import Evaluation, W


class Output(Protocol):
    """The common part of a sample of either port."""

    @property
    def text(self) -> str: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def matched_stop(self) -> str | int | None: ...
    @property
    def is_complete(self) -> bool | None: ...
    @property
    def usage(self) -> Usage: ...


O = TypeVar("O", bound=Output)  # noqa: E741
Item = TypeVar("Item")


class Generation(Evaluation[W], Generic[W, O]):
    source: Gen

    def __init__(self, stream: W, source: Gen, variable: Variable, context: Context | None) -> None:
        super().__init__(stream, source, variable)
        self._context = context
        """the context of the program's own code at the gen; None if no tool is to be called"""
        self._settle: Callable[[bool], None] | None = None
        """called when the busy tool has ended, with whether it was stopped"""
        self._is_served = False
        """tokens from an earlier call"""
        self._hides = False
        """text is shown only at the end: until then it is unknown which part of it belongs to this
        gen
        """

    # ------------------------------------------------------------ what a port does in its own way

    @abstractmethod
    def _adapted(self, params: SamplingParams) -> SamplingParams:
        """The parameters in this port's form. The prompt is brought up to date."""

    @abstractmethod
    def _submit(self, params: SamplingParams) -> RequestId: ...

    @abstractmethod
    def _generated(self, output: O, text: str) -> tuple[Piece, tuple[int, ...]]:
        """The part of an output with which the program continues, and the held part after it."""

    @abstractmethod
    def _served(self) -> O:
        """This gen's part of an earlier call's result."""

    @abstractmethod
    def _own(self, output: O) -> O:
        """This gen's part of a text that continues past it. The rest is kept for later gens."""

    def _may_go_ahead(self, params: SamplingParams) -> bool:
        return bool(self.run.n_ahead) and self.source.reasoning is None and not self.source.begins and may_share(params)

    # ------------------------------------------------------------ asking

    def start(self, params: SamplingParams) -> None:
        own = params
        try:
            params = self._params = self._adapted(params)
            self._raw = [""] * params.n
            self.variable.partial = [""] * params.n
            if self.variable.reasoning:
                self.variable.reasoning.partial = [""] * params.n
            self._goes_ahead = self._may_go_ahead(params)
            if self._goes_ahead and self.stream.ahead.can_serve(params):
                self._is_served = True
                self._take((self._served(),))
                return
            self.stream.ahead.forget()
            self._hides = self._hides or self._goes_ahead
            self.run.emit(self._asked(own))
            self.request = self._submit(asking_ahead(params, self.run.n_ahead) if self._goes_ahead else params)
        except Exception as error:
            self.on_error(error)

    @property
    def _heals(self) -> bool | None:
        """Whether the end of the prompt may merge with the answer; None where there are no tokens."""
        return None

    def _asked(self, params: SamplingParams) -> ExprAsked:
        """`params` are the program's own."""
        constraint = params.constraint or Constraint("regex", "")
        kind = "" if params.constraint is None else constraint.kind
        has_limit = "max_tokens" in dict(self.source.given) or self.run.defaults.max_tokens != SamplingParams().max_tokens
        return ExprAsked(
            self.stream.id,
            self.expr,
            self.stream.transcript.end_of_literal(),
            self._heals,
            params.n,
            params.temperature,
            params.max_tokens,
            has_limit,
            params.stop,
            kind,
            constraint.source,
            constraint.lead,
        )

    # ------------------------------------------------------------ results

    def _grew(self, index: int, text: str) -> None:
        self._raw[index] += text
        if not self._hides:
            reasoning, self.variable.partial[index] = self._split(self._raw[index], is_whole=False)
            if self.variable.reasoning:
                self.variable.reasoning.partial[index] = reasoning
            self.run.notify()

    def _split(self, text: str, *, is_whole: bool = True) -> Split:
        return self.source.reasoning.split(text, is_whole=is_whole) if self.source.reasoning else Split("", text)

    def on_done(self, outputs: tuple[O, ...]) -> None:
        with self.run.lock:
            if not self.current:
                return
            try:
                self._take((self._own(outputs[0]),) if self._goes_ahead and outputs[0].finish_reason != "abort" else outputs)
            except Exception as error:
                self.on_error(error)

    def _take(self, outputs: tuple[O, ...]) -> None:
        def one_or_all(items: Sequence[Item]) -> Item | Sequence[Item]:
            return items[0] if len(outputs) == 1 else items

        if not self._is_served:
            usage_of(self.run.backend).add(*(output.usage for output in outputs))
        splits = [self._split(output.text) for output in outputs]
        texts, metas = [split.answer for split in splits], [self._meta(output) for output in outputs]
        if self.variable.reasoning:
            for meta, split in zip(metas, splits, strict=True):
                meta["reasoning_content"] = split.reasoning
            self.variable.reasoning.set(one_or_all([split.reasoning for split in splits]))
        if self.source.form is not None:
            reading = partial(read, self.source.name or "text", self.source.form)
            reads = [partial(reading, text, meta) for text, meta in zip(texts, metas, strict=True)]
            self.variable.means = lambda: one_or_all([read_one() for read_one in reads])
        self.is_complete = outputs[0].is_complete if self._params.constraint is not None else None
        settle = partial(self.settle, *self._generated(outputs[0], texts[0]), one_or_all(texts), one_or_all(metas))
        aborted = any(output.finish_reason == "abort" for output in outputs)
        if self._context is not None and not aborted and metas[0]["is_complete"]:
            self._settle = settle
            threading.Thread(target=self._context.run, args=(self._call,), name="sgl-tool", daemon=True).start()
        else:
            settle(aborted)

    def _meta(self, output: O) -> dict[str, object]:
        form, matched = self.source.form, output.matched_stop
        if form is not None and matched in form.stop_regex:
            matched = None
        meta = self.meta(output.usage, output.finish_reason, matched) | {"matched_stop": matched}
        if form is not None:
            meta["is_complete"] = bool(output.is_complete)
        return meta

    # ------------------------------------------------------------ a tool

    def _call(self) -> None:
        """Call the tool on a thread of its own: it may be slow, and may run programs."""
        self.run.adopt_thread()
        try:
            call: ToolCall = self.variable.read().executed()
            observed = call.spelled()
        except Exception as error:
            self.on_error(error)
            return
        with self.run.lock:
            if self.current and self._settle:
                self.variable.means = lambda: call
                self.variable.observed = observed
                self._settle(False)

    def cancel(self) -> None:
        """A busy tool cannot be stopped; its result will come too late."""
        if self._settle is None:
            super().cancel()
        else:
            self._settle(True)
