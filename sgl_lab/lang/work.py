"""The requests of a stream: what is common to them, a selection, the warming before a fork.

Each is the listener of its own request. The backend calls it on its own thread; it takes the
run's lock, puts the result where it belongs and lets the stream advance.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, Protocol

from ..contracts.errors import ProgramError, Stopped
from ..contracts.events import ExprFinished, ExprStarted
from ..contracts.ids import ExprId, ForkId, RequestId
from ..contracts.port import ScoreJob, ScoreOutput, TokenLogprob, Usage, WarmJob
from .ahead import Ahead
from .choices import logprobs
from .expressions import Gen, Select
from .finish import FinishReason
from .ids import expr_ids
from .run import Run
from .transcript import Piece, Transcript
from .usage import usage_of
from .variable import Variable


class Worked(Protocol):
    """What a request needs of the stream that it works for."""

    id: ForkId
    run: Run
    transcript: Transcript
    ahead: Ahead
    work: Work | None

    def advance(self) -> None:
        """Go on with what is queued."""

    def fail(self, error: Exception) -> None:
        """Nothing more happens on this stream."""


class Work:
    """One request under way. At most one a stream."""

    def __init__(self, stream: Worked) -> None:
        self.stream = stream
        self.run = stream.run
        self.request: RequestId | None = None
        stream.work = self

    @property
    def current(self) -> bool:
        """False once the stream has given up on it: its answer then comes too late."""
        return self.stream.work is self

    def cancel(self) -> None:
        if self.request is not None:
            self.run.backend.cancel(self.request)

    def finish(self) -> None:
        self.stream.work = None
        self.stream.advance()

    def on_error(self, error: Exception) -> None:
        with self.run.lock:
            if self.current:
                self.give_up(error)

    def give_up(self, error: Exception) -> None:
        self.stream.fail(error)


class Expression(Work):
    """Work that an expression of the program asked for: it has a value, a line and events."""

    def __init__(self, stream: Worked, source: Gen | Select, variable: Variable) -> None:
        super().__init__(stream)
        self.source = source
        self.variable = variable
        self.n_rewritten = self.n_healed = 0
        self.expr = ExprId(expr_ids.next())
        role = stream.transcript.role
        self.run.emit(ExprStarted(stream.id, self.expr, source.kind, source.name or "", source.location.line, role))

    def prompt(self) -> tuple[int, ...]:
        transcript = self.stream.transcript
        n_rewritten, n_healed = transcript.n_rewritten, transcript.n_healed
        transcript.settle(to_generate=True)
        self.n_rewritten, self.n_healed = transcript.n_rewritten - n_rewritten, transcript.n_healed - n_healed
        self.variable.prompt = tuple(transcript.ids)
        return self.variable.prompt

    def meta(self, usage: Usage, finish_reason: str, matched: str | int | None = None) -> dict[str, Any]:
        """What every expression tells of itself."""
        reason = FinishReason.of(finish_reason, usage.completion_tokens, matched)
        counts = {"rewritten_tokens": self.n_rewritten, "healed_tokens": self.n_healed}
        return asdict(usage) | {"finish_reason": reason} | counts

    def spelled(self, entries: Sequence[TokenLogprob]) -> list[tuple[float | None, int, str]]:
        """Log-probabilities as programs read them: (logprob, token id, text)."""
        return [(entry.logprob, entry.token, self.run.backend.decode((entry.token,))) for entry in entries]

    def settle(self, said: Piece, held: tuple[int, ...], value: object, meta: object, aborted: bool = False) -> None:
        self.stream.transcript.take(said, held)
        self.variable.aborted = aborted
        self.variable.set(value, meta)
        self.run.emit(ExprFinished(self.stream.id, self.expr, "stopped" if aborted else "ok", said.text))
        if aborted:
            self.stream.fail(self.run.stopped or Stopped("the generation was stopped"))
        else:
            self.finish()

    def give_up(self, error: Exception) -> None:
        if not isinstance(error, Stopped):
            note = f"in {self.source.kind}({self.source.name or ''!r}), {self.source.location}"
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        self.variable.fail(error)
        self.run.emit(ExprFinished(self.stream.id, self.expr, "stopped" if isinstance(error, Stopped) else "error", str(error)))
        super().give_up(error)


class Selection(Expression):
    """Scores every choice after the prompt and, where the method asks for it, again without the prompt."""

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
            self.request = self.run.backend.score(next_job(), self)
        except StopIteration:
            pass  # the choice is made
        except Exception as error:
            self.on_error(error)

    def _ask(self) -> Generator[ScoreJob, ScoreOutput, None]:
        """What has to be scored, one job after the other, and then the decision."""
        transcript, encode = self.stream.transcript, self.run.backend.encode
        transcript.let_go()
        prompt = self.prompt()
        seam = transcript.with_choices(self.source.choices) if self.source.heal else None
        at, choices = seam or (len(prompt), tuple(encode(choice) for choice in self.source.choices))
        self.n_healed += len(prompt) - at
        given = yield ScoreJob(prompt[:at], choices, self.stream.id, self.expr, transcript.blocks)
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
        usage_of(self.run.backend).add(given.usage)
        meta = self.meta(given.usage, "stop") | {
            "normalized_prompt_logprobs": means,
            "input_token_logprobs": rows,
            "output_token_logprobs": output_rows,
        }
        if self.variable.reasoning:
            self.variable.reasoning.set("")  # a choice is all answer
        chosen = decision.decision
        said = Piece(chosen, None if seam else choices[self.source.choices.index(chosen)], "choice", fixed=seam is None)
        self.settle(said, (), chosen, meta | decision.meta_info)

    def _ask_alone(self, choices: Sequence[tuple[int, ...]]) -> Generator[ScoreJob, ScoreOutput, list[list[TokenLogprob]]]:
        """The choices after what stands before any text. Where that is nothing, a first token has no log-probability."""
        backend = self.run.backend
        lead = tuple(id for text, markup in backend.render_text("") for id in backend.encode(text, markup=markup))
        n_before = 0 if lead else 1
        rows = [[TokenLogprob(id, None) for id in choice[:n_before]] for choice in choices]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, choice in enumerate(choices):
            if choice[n_before:]:
                groups.setdefault(lead or choice[:1], []).append(index)
        for prompt, members in groups.items():
            rest = tuple(choices[index][n_before:] for index in members)
            output = yield ScoreJob(prompt, rest, self.stream.id, self.expr)
            for index, row in zip(members, output.logprobs, strict=True):
                rows[index] += row
        return rows


class Warming(Work):
    """Computes the KV of all that stands in a stream, so that it is found cached.

    Then it calls `warmed` or, if that cannot be done, `failed` with the error, each under the run's lock.
    """

    def __init__(self, stream: Worked, warmed: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        super().__init__(stream)
        self._warmed, self._failed = warmed, failed

    def start(self) -> None:
        try:
            transcript = self.stream.transcript
            job = WarmJob(tuple(transcript.ids), self.stream.id, transcript.blocks)
            self.request = self.run.backend.warm(job, self)
        except Exception as error:
            self.on_error(error)

    def on_done(self, usage: Usage) -> None:
        with self.run.lock:
            if self.current:
                self._warmed()
                self.finish()

    def give_up(self, error: Exception) -> None:
        self._failed(error)
