"""sgl_lab as a user's program uses it: a Lab, jobs through its backend port, and listeners that
wait for the answers.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

import sgl_lab
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.port import GenJob, GenOutput, ScoreJob, ScoreOutput
from sgl_lab.session import Lab

from .loads import Answer, Form, Ids
from .twin import Twin


class Gen(Future[GenOutput]):
    """A future of the first sample."""

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None: ...

    def on_done(self, outputs: tuple[GenOutput, ...]) -> None:
        self.set_result(outputs[0])

    def on_error(self, error: Exception) -> None:
        self.set_exception(error)


class Score(Future[tuple[float, ...]]):
    """Logprobs of choices of one token each."""

    def on_done(self, output: ScoreOutput) -> None:
        self.set_result(tuple(row[0].logprob or 0.0 for row in output.logprobs))

    def on_error(self, error: Exception) -> None:
        self.set_exception(error)


class Engine:
    has_cache = True

    def __init__(self, threads: int, **options: Any) -> None:
        self._lab = Lab(threads=threads, **options)
        self.version = f"{sgl_lab.__version__}, {self._lab.card.dtype}"

    def gen(self, prompts: list[Ids], n_new: int) -> list[Ids]:
        return self._run(prompts, SamplingParams(temperature=0, ignore_eos=True, max_tokens=n_new))

    def matching(self, prompts: list[Ids], form: Form, n_most: int) -> list[Ids]:
        return self._run(prompts, SamplingParams(temperature=0, max_tokens=n_most, constraint=Constraint("regex", form.regex)))

    def _run(self, prompts: list[Ids], params: SamplingParams) -> list[Ids]:
        answers = [Gen() for _ in prompts]
        for prompt, answer in zip(prompts, answers, strict=True):
            self._lab.backend.submit(GenJob(tuple(prompt), params), answer)
        return [list(answer.result().ids) for answer in answers]

    def select(self, prompts: list[Ids], choices: Ids) -> Ids:
        answers = [Score() for _ in prompts]
        for prompt, answer in zip(prompts, answers, strict=True):
            self._lab.backend.score(ScoreJob(tuple(prompt), tuple((choice,) for choice in choices)), answer)
        scores = [answer.result() for answer in answers]
        return [choices[score.index(max(score))] for score in scores]

    def reset(self) -> None:
        self._lab.flush()

    # ------------------------------------------------------------ for our engine only

    def stats(self) -> dict[str, Any]:
        return self._lab.stats()

    def peak_mib(self) -> float:
        """Peak memory of this process, as reported by the system."""
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

    def check(self, figures: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
        """Compares the generated tokens with the torch twin of the same weights, and reports the
        intended size of weights and KV pool.
        """
        twin = Twin(self._lab.card.name, self._lab.card.dtype)
        agreement = {figure: asdict(twin.agreement([Answer(**each) for each in mine])) for figure, mine in figures.items()}
        pool_mib = self._lab.n_bytes / 2**20 - twin.weights_mib
        return {"agreement": agreement, "weights_mib": twin.weights_mib, "pool_mib": pool_mib}
