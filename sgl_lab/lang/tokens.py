"""The requests of a stream whose backend takes token ids: a gen, the scoring of choices, and the
computation of a prefix before a fork.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Generator, Sequence
from contextvars import Context
from dataclasses import replace
from statistics import fmean
from typing import Protocol

from ..contracts.errors import ProgramError
from ..contracts.events import ExprAsked, Foreseen
from ..contracts.ids import RequestId
from ..contracts.params import SamplingParams
from ..contracts.port import Backend, GenJob, GenOutput, ScoreJob, ScoreOutput, TokenLogprob, Usage, WarmJob
from .ahead import asking_next, first_stop
from .choices import logprobs
from .expressions import Gen, Select
from .generation import Generation
from .history import Piece
from .transcript import Transcript
from .usage import usage_of
from .variable import Variable
from .work import Evaluation, Work, Worked


class TokenWorked(Worked, Protocol):
    backend: Backend
    foreseen: Foreseen | None

    @property
    def transcript(self) -> Transcript: ...


class TokenEvaluation(Evaluation[TokenWorked]):
    @property
    def backend(self) -> Backend:
        return self.stream.backend

    def prompt(self) -> tuple[int, ...]:
        transcript = self.stream.transcript
        n_rewritten, n_healed = transcript.n_rewritten, transcript.n_healed
        transcript.settle(to_generate=True)
        self.n_rewritten, self.n_healed = transcript.n_rewritten - n_rewritten, transcript.n_healed - n_healed
        self.variable.prompt = tuple(transcript.ids)
        return self.variable.prompt

    def spelled(self, entries: Sequence[TokenLogprob]) -> list[tuple[float | None, int, str]]:
        """Log-probabilities as programs read them: (logprob, token id, text)."""
        return [(entry.logprob, entry.token, self.backend.decode((entry.token,))) for entry in entries]


class TokenGeneration(TokenEvaluation, Generation[TokenWorked, GenOutput]):
    def __init__(self, stream: TokenWorked, source: Gen, variable: Variable, context: Context | None) -> None:
        super().__init__(stream, source, variable, context)
        self._logprobs: list[TokenLogprob] = []
        """of the first sample's tokens so far"""

    def _adapted(self, params: SamplingParams) -> SamplingParams:
        transcript = self.stream.transcript
        if transcript.in_turn:
            params = replace(params, stop=(*params.stop, *self.run.chat.stop))
        if self.source.reasoning is not None:
            params = replace(params, skip_special_tokens=False)  # which may mark the reasoning
        self._only_looks = self._hides = params.max_tokens == 0 and params.logprobs
        self.variable.logprobs_from = self._logprobs_from if params.logprobs else None
        if params.constraint is not None:
            transcript.let_go()  # a transcript contains only complete characters
        self.prompt()
        if self.source.begins:
            transcript.hold(self.source.begins)
        return params

    @property
    def _heals(self) -> bool:
        return self._n_heal() > 0

    def _n_heal(self) -> int:
        heals = self.source.heal and self._params.max_tokens != 0 and not self._goes_ahead
        return self.stream.transcript.n_open() if heals else 0

    def _submit(self, params: SamplingParams) -> RequestId:
        transcript = self.stream.transcript
        self._job = GenJob(
            transcript.prompt(),
            asking_next(params) if self._only_looks else params,
            self.stream.id,
            self.expr,
            heal=self._n_heal(),
            begun=len(transcript.held.ids),
            lead=transcript.held.lead,
            whole=True,
            blocks=transcript.blocks,
            goes_on=self.run.goes_on,
            foreseen=self.stream.foreseen,
        )
        return self.backend.submit(self._job, self)

    # ------------------------------------------------------------ results

    def on_logprobs(self, index: int, logprobs: tuple[TokenLogprob, ...]) -> None:
        with self.run.lock:
            if index == 0 and not self._only_looks:
                self._logprobs += logprobs

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
        with self.run.lock:
            self.variable.n_partial += len(ids) if index == 0 else 0
            self._grew(index, text)

    def _take(self, outputs: tuple[GenOutput, ...]) -> None:
        if self._only_looks:
            outputs = tuple(replace(output, text="", ids=()) for output in outputs)
        self.variable.ids = tuple(output.ids for output in outputs)
        super()._take(outputs)

    def _generated(self, output: GenOutput, text: str) -> tuple[Piece, tuple[int, ...]]:
        backend, special = self.backend, not self._params.skip_special_tokens
        if text != output.text:
            return Piece(text, ids_of_end(backend, output, text, special), "generated", fixed=True, special=special), output.held
        held = self.stream.transcript.held
        lead, ids = (held.lead, output.ids) if held.ids else ("", output.ids)
        if output.healed is not None:
            lead, ids = backend.decode(self._job.prompt[len(self._job.prompt) - self._job.heal :]), output.healed + ids
        return Piece(text, ids, "generated", lead=lead, fixed=True, special=special), output.held

    def _meta(self, output: GenOutput) -> dict[str, object]:
        meta = super()._meta(output)
        if output.prompt_logprobs:
            meta |= self._listed("input", output.prompt_logprobs)
        if self._params.logprobs:
            meta |= self._listed("output", output.logprobs) | {"output_token_logprobs_length": len(output.logprobs)}
        return meta

    def _logprobs_from(self, first: int) -> dict[str, object]:
        return self._listed("output", self._logprobs[first:]) | {"output_token_logprobs_length": len(self._logprobs)}

    def _listed(self, side: str, entries: Sequence[TokenLogprob]) -> dict[str, object]:
        return {
            f"{side}_token_logprobs": self._spelled([(entry.token, entry.logprob) for entry in entries]),
            f"{side}_top_logprobs": [self._spelled(entry.top) for entry in entries],
        }

    def _spelled(self, pairs: Sequence[tuple[int, float | None]]) -> list[tuple[float | None, int, str | None]]:
        decode, stated = self.backend.decode, self.source.spells_logprobs
        with_text = self.run.spells_logprobs if stated is None else stated
        return [(logprob, token, decode((token,)) if with_text else None) for token, logprob in pairs]

    # ------------------------------------------------------------ ahead of the program

    def _served(self) -> GenOutput:
        ahead, usage = self.stream.ahead, Usage(prompt_tokens=len(self.stream.transcript.prompt()))
        ids = self.backend.encode(ahead.text)
        return self._own(GenOutput(ahead.text, ids, "stop" if ahead.ended else "length", None, (), usage))

    def _own(self, output: GenOutput) -> GenOutput:
        backend, most = self.backend, self._params.max_tokens
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


class Scoring(TokenEvaluation):
    """Scores every choice after the prompt and, if the method requires it, again without the
    prompt.
    """

    source: Select

    def start(self) -> None:
        self._jobs = self._ask()
        self._go_on(lambda: next(self._jobs))

    def on_done(self, output: ScoreOutput) -> None:
        with self.run.lock:
            if self.current:
                self._go_on(lambda: self._jobs.send(output))

    def _go_on(self, next_job: Callable[[], ScoreJob]) -> None:
        try:
            self.request = self.backend.score(next_job(), self)
        except StopIteration:
            pass  # the choice is made
        except Exception as error:
            self.on_error(error)

    def _ask(self) -> Generator[ScoreJob, ScoreOutput, None]:
        """The jobs to score, one after the other, and then the decision."""
        stream, transcript, encode = self.stream, self.stream.transcript, self.backend.encode
        transcript.let_go()
        prompt = self.prompt()
        seam = transcript.with_choices(self.source.choices) if self.source.heal else None
        at, choices = seam or (len(prompt), tuple(encode(choice) for choice in self.source.choices))
        self.n_healed += len(prompt) - at
        self.run.emit(ExprAsked(stream.id, self.expr, transcript.end_of_literal(), seam is not None))
        adapter = self.run.defaults.adapter
        given = yield ScoreJob(prompt[:at], choices, stream.id, self.expr, transcript.blocks, adapter, self.run.goes_on, stream.foreseen)
        rows = [self.spelled(entries) for entries in given.logprobs]
        means = [fmean(logprobs(row)) for row in rows]
        alone = None
        if self.source.method.requires_unconditional_logprobs:
            alone = [self.spelled(entries) for entries in (yield from self._ask_alone(choices))]
        output_rows: list[list[tuple[float | None, int, str]]] = [[] for _ in rows]
        decision = self.source.method(
            choices=self.source.choices,
            normalized_prompt_logprobs=means,
            input_token_logprobs=rows,
            output_token_logprobs=output_rows,
            unconditional_token_logprobs=alone,
        )
        if decision.decision not in self.source.choices:
            raise ProgramError(f"{self.source.method!r} chose {decision.decision!r}, which is not one of the choices")
        usage_of(self.backend).add(given.usage)
        meta = self.meta(given.usage, "stop") | {
            "normalized_prompt_logprobs": means,
            "input_token_logprobs": rows,
            "output_token_logprobs": output_rows,
        }
        if self.variable.reasoning:
            self.variable.reasoning.set("")  # a choice has no reasoning
        chosen = decision.decision
        piece = Piece(chosen, None if seam else choices[self.source.choices.index(chosen)], "choice", fixed=seam is None)
        self.settle(piece, (), chosen, meta | decision.meta_info)

    def _ask_alone(self, choices: Sequence[tuple[int, ...]]) -> Generator[ScoreJob, ScoreOutput, list[list[TokenLogprob]]]:
        """The choices after the beginning of a text. If the model has none, a first token has no
        log-probability.
        """
        backend = self.backend
        lead = tuple(id for text, markup in backend.render_text("") for id in backend.encode(text, markup=markup))
        n_before = 0 if lead else 1
        rows = [[TokenLogprob(id, None) for id in choice[:n_before]] for choice in choices]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, choice in enumerate(choices):
            if choice[n_before:]:
                groups.setdefault(lead or choice[:1], []).append(index)
        for prompt, members in groups.items():
            rest = tuple(choices[index][n_before:] for index in members)
            output = yield ScoreJob(prompt, rest, self.stream.id, self.expr, adapter=self.run.defaults.adapter)
            for index, row in zip(members, output.logprobs, strict=True):
                rows[index] += row
        return rows


class Warming(Work[TokenWorked]):
    """Computes the KV of everything in a stream, so that it is found cached.

    Then it calls `warmed` or, on failure, `failed` with the error, under the run's lock.
    """

    def __init__(self, stream: TokenWorked, warmed: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        super().__init__(stream)
        self._warmed, self._failed = warmed, failed

    def start(self) -> None:
        try:
            stream, run = self.stream, self.run
            transcript = stream.transcript
            job = WarmJob(tuple(transcript.ids), stream.id, transcript.blocks, run.defaults.adapter, run.goes_on, stream.foreseen)
            self.request = stream.backend.warm(job, self)
        except Exception as error:
            self.on_error(error)

    def on_done(self, usage: Usage) -> None:
        with self.run.lock:
            if self.current:
                self._warmed()
                self.finish()

    def give_up(self, error: Exception) -> None:
        self._failed(error)


def ids_of_beginning(backend: Backend, output: GenOutput, text: str, special: bool) -> tuple[int, ...]:
    """The tokens of the first part of an output. If the part ends inside a token, the beginning of
    that token is encoded again.
    """
    if text == output.text:
        return output.ids
    n = bisect_right(range(len(output.ids) + 1), len(text), key=lambda n: len(backend.decode(output.ids[:n], special=special))) - 1
    while n and not text.startswith(backend.decode(output.ids[:n], special=special)):
        n -= 1
    return output.ids[:n] + backend.encode(text[len(backend.decode(output.ids[:n], special=special)) :])


def ids_of_end(backend: Backend, output: GenOutput, text: str, special: bool) -> tuple[int, ...]:
    """The tokens of the last part of an output. If the part begins inside a token, the rest of that
    token is encoded again.
    """
    if text == output.text:
        return output.ids
    n = bisect_left(range(len(output.ids) + 1), -len(text), key=lambda n: -len(backend.decode(output.ids[n:], special=special)))
    while n < len(output.ids) and not text.endswith(backend.decode(output.ids[n:], special=special)):
        n += 1
    ids = output.ids[n:]
    return backend.encode(text[: len(text) - len(backend.decode(ids, special=special))]) + ids
