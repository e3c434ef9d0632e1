"""One gen under way: asked of the backend, or served from what came ahead; read, split, and its call of a tool made."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import Any

from ..contracts.params import SamplingParams
from ..contracts.port import Backend, GenJob, GenOutput, TokenLogprob, Usage
from .ahead import asking_ahead, asking_next, first_stop, may_share
from .expressions import Gen
from .form import read
from .reasoning import Split
from .tools import ToolCall
from .transcript import Piece
from .usage import usage_of
from .variable import Variable
from .work import Expression, Worked


class Generation(Expression):
    source: Gen

    def __init__(self, stream: Worked, source: Gen, variable: Variable, context: Context | None) -> None:
        super().__init__(stream, source, variable)
        self._context = context
        """what the program's own code saw when it said so; None where no tool is to be called"""
        self._settle: Callable[[bool], None] | None = None
        """what to do, told whether it was stopped, when the tool that is busy has come to its end"""
        self._is_served = False
        """from what came with an earlier call"""
        self._logprobs: list[TokenLogprob] = []
        """of the first sample's tokens so far"""

    def start(self, params: SamplingParams) -> None:
        try:
            if self.stream.transcript.in_turn:
                params = replace(params, stop=(*params.stop, *self.run.chat.stop))
            if self.source.reasoning is not None:
                params = replace(params, skip_special_tokens=False)  # which may mark it
            self._params = params
            self._only_looks = params.max_tokens == 0 and params.logprobs
            self._raw = [""] * params.n
            self.variable.partial = [""] * params.n
            self.variable.logprobs_from = self._logprobs_from if params.logprobs else None
            if self.variable.reasoning:
                self.variable.reasoning.partial = [""] * params.n
            transcript = self.stream.transcript
            if params.constraint is not None:
                transcript.let_go()  # which speaks of whole characters
            self.prompt()
            prompt = transcript.prompt()
            self._goes_ahead = bool(self.run.n_ahead) and self.source.reasoning is None and may_share(params)
            if self._goes_ahead and self.stream.ahead.can_serve(params):
                self._is_served = True
                self._take((self._served(prompt),))
                return
            self.stream.ahead.forget()
            asked = asking_ahead(params, self.run.n_ahead) if self._goes_ahead else asking_next(params) if self._only_looks else params
            heals = self.source.heal and params.max_tokens != 0 and not self._goes_ahead
            self._job = GenJob(
                prompt,
                asked,
                self.stream.id,
                self.expr,
                heal=transcript.n_open() if heals else 0,
                begun=len(transcript.held.ids),
                lead=transcript.held.lead,
                whole=True,
                blocks=transcript.blocks,
            )
            self.request = self.run.backend.submit(self._job, self)
        except Exception as error:
            self.on_error(error)

    # ------------------------------------------------------------ what comes

    def on_logprobs(self, index: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        with self.run.lock:
            if index == 0 and not self._only_looks:
                self._logprobs += logprobs

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
        with self.run.lock:
            self._raw[index] += text
            self.variable.n_partial += len(ids) if index == 0 else 0
            if not (self._goes_ahead or self._only_looks):  # else nobody knows yet what of it is this gen's
                reasoning, self.variable.partial[index] = self._split(self._raw[index], is_whole=False)
                if self.variable.reasoning:
                    self.variable.reasoning.partial[index] = reasoning
                self.run.notify()

    def _split(self, text: str, *, is_whole: bool = True) -> Split:
        return self.source.reasoning.split(text, is_whole=is_whole) if self.source.reasoning else Split("", text)

    def on_done(self, outputs: tuple[GenOutput, ...]) -> None:
        with self.run.lock:
            if not self.current:
                return
            try:
                if self._goes_ahead and outputs[0].finish_reason != "abort":
                    outputs = (self._own(outputs[0]),)
                elif self._only_looks:
                    outputs = tuple(replace(output, text="", ids=()) for output in outputs)
                self._take(outputs)
            except Exception as error:
                self.on_error(error)

    def _take(self, outputs: tuple[GenOutput, ...]) -> None:
        def one_or_all(items: Sequence[Any]) -> Any:
            return items[0] if len(outputs) == 1 else items

        if not self._is_served:
            usage_of(self.run.backend).add(*(output.usage for output in outputs))
        self.variable.ids = tuple(output.ids for output in outputs)
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
        settle = partial(self.settle, self._said(outputs[0], texts[0]), outputs[0].held, one_or_all(texts), one_or_all(metas))
        aborted = any(output.finish_reason == "abort" for output in outputs)
        if self._context is not None and not aborted and metas[0]["is_complete"]:
            self._settle = settle
            threading.Thread(target=self._context.run, args=(self._call,), name="sgl-tool", daemon=True).start()
        else:
            settle(aborted)

    def _said(self, output: GenOutput, text: str) -> Piece:
        """What of an output the program goes on with."""
        backend, special = self.run.backend, not self._params.skip_special_tokens
        if text != output.text:
            return Piece(text, ids_of_end(backend, output, text, special), "generated", fixed=True, special=special)
        held = self.stream.transcript.held
        lead, ids = (held.lead, output.ids) if held.ids else ("", output.ids)
        if output.healed is not None:
            lead, ids = backend.decode(self._job.prompt[len(self._job.prompt) - self._job.heal :]), output.healed + ids
        return Piece(text, ids, "generated", lead=lead, fixed=True, special=special)

    def _meta(self, output: GenOutput) -> dict[str, Any]:
        form, matched = self.source.form, output.matched_stop
        if form is not None and matched in form.stop_regex:
            matched = None
        meta = self.meta(output.usage, output.finish_reason, matched) | {"matched_stop": matched}
        if form is not None:
            meta["is_complete"] = bool(output.is_complete)
        if output.prompt_logprobs:
            meta |= self._told("input", output.prompt_logprobs)
        if self._params.logprobs:
            meta |= self._told("output", output.logprobs) | {"output_token_logprobs_length": len(output.logprobs)}
        return meta

    def _logprobs_from(self, first: int) -> dict[str, Any]:
        return self._told("output", self._logprobs[first:]) | {"output_token_logprobs_length": len(self._logprobs)}

    def _told(self, side: str, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        return {
            f"{side}_token_logprobs": self._spelled([(entry.token, entry.logprob) for entry in entries]),
            f"{side}_top_logprobs": [self._spelled(entry.top) for entry in entries],
        }

    def _spelled(self, pairs: Sequence[tuple[int, float | None]]) -> list[tuple[float | None, int, str | None]]:
        decode, stated = self.run.backend.decode, self.source.spells_logprobs
        with_text = self.run.spells_logprobs if stated is None else stated
        return [(logprob, token, decode((token,)) if with_text else None) for token, logprob in pairs]

    # ------------------------------------------------------------ a tool

    def _call(self) -> None:
        """On a thread of its own: a tool may take its time, and may run programs."""
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
        """A tool that is busy cannot be stopped: what it says will come too late."""
        if self._settle is None:
            super().cancel()
        else:
            self._settle(True)

    # ------------------------------------------------------------ ahead of the program

    def _served(self, prompt: tuple[int, ...]) -> GenOutput:
        """This gen's part of what came with an earlier call."""
        ahead = self.stream.ahead
        ids = self.run.backend.encode(ahead.text)
        return self._own(GenOutput(ahead.text, ids, "stop" if ahead.ended else "length", None, (), Usage(prompt_tokens=len(prompt))))

    def _own(self, output: GenOutput) -> GenOutput:
        """This gen's part of a text that goes on past it; the rest is kept for those that follow."""
        backend, most = self.run.backend, self._params.max_tokens
        end = first_stop(output.text, self._params)
        text = output.text if end is None else output.text[: end.at]
        special = not self._params.skip_special_tokens
        ids = ids_of_beginning(backend, output, text, special)
        reason, stop = ("stop", end.stop) if end else (output.finish_reason, None)
        if most is not None and len(ids) > most:
            ids, reason, stop = ids[:most], "length", None
            while ids and not output.text.startswith(backend.decode(ids, special=special)):
                ids = ids[:-1]  # it ends inside a character
            text = backend.decode(ids, special=special)
        self.stream.ahead.hold(output.text[len(text) :], ended=output.finish_reason == "stop")
        usage = replace(output.usage, completion_tokens=len(ids))
        return replace(output, text=text, ids=ids, finish_reason=reason, matched_stop=stop, usage=usage)


def ids_of_beginning(backend: Backend, output: GenOutput, text: str, special: bool) -> tuple[int, ...]:
    """The tokens that spell the first part of an output; of one that it ends in, the part is encoded anew."""
    if text == output.text:
        return output.ids
    n = bisect_right(range(len(output.ids) + 1), len(text), key=lambda n: len(backend.decode(output.ids[:n], special=special))) - 1
    while n and not text.startswith(backend.decode(output.ids[:n], special=special)):
        n -= 1
    return output.ids[:n] + backend.encode(text[len(backend.decode(output.ids[:n], special=special)) :])


def ids_of_end(backend: Backend, output: GenOutput, text: str, special: bool) -> tuple[int, ...]:
    """The tokens that spell the last part of an output; of one that it begins in, the part is encoded anew."""
    if text == output.text:
        return output.ids
    n = bisect_left(range(len(output.ids) + 1), -len(text), key=lambda n: -len(backend.decode(output.ids[n:], special=special)))
    while n < len(output.ids) and not text.endswith(backend.decode(output.ids[n:], special=special)):
        n += 1
    ids = output.ids[n:]
    return backend.encode(text[: len(text) - len(backend.decode(ids, special=special))]) + ids
