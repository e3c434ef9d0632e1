"""A score as a request group: the branches of its choices' trie."""

from __future__ import annotations

from ...contracts.errors import Stopped
from ...contracts.ids import Namespace
from ...contracts.port import ScoreJob, ScoreListener, ScoreOutput, TokenLogprob, Usage
from ..plan import Row, RowOutput
from .group import Accepted, Answer, RequestGroup, new_request_id, prompt_done, seconds_since, to
from .scheduling.request import Request
from .trie import branches


class ScoreGroup(RequestGroup):
    """The branches of a trie of choices. The first one includes the prompt; the others reuse it
    from the tree.
    """

    def __init__(self, job: ScoreJob, listener: ScoreListener, namespace: Namespace, now: float) -> None:
        self._job = job
        self._listener = listener
        self._logprobs: dict[tuple[tuple[int, ...], int], float] = {}
        found = branches(job.choices)
        ids = [new_request_id() for _ in found]
        last = len(job.prompt) - 1
        self.requests = tuple(
            Request(
                request,
                ids[0],
                "score",
                namespace,
                job.prompt + branch.tokens,
                submitted=now,
                n_shared=0 if request == ids[0] else last + 1,
                targets={last + i: wanted for i, wanted in enumerate(branch.wanted) if wanted},
                blocks=job.blocks,
            )
            for request, branch in zip(ids, found, strict=True)
        )
        self._open = set(ids)
        self._is_stopped = False

    def accept(self, request: Request, row: Row, output: RowOutput, now: float) -> Accepted:
        n_prompt = len(self._job.prompt)
        first = row.start + len(row.tokens) - len(row.targets)
        for position, (wanted, score) in enumerate(zip(row.targets, output.scores, strict=True), first):
            path = request.prompt[n_prompt : position + 1]
            for token, logprob in zip(wanted, score.logprobs, strict=True):
                self._logprobs[path, token] = logprob
        return prompt_done(request, row)

    def progress(self, request: Request) -> Answer | None:
        return None

    def finished(self, request: Request, reason: str, now: float) -> Answer | None:
        self._open.discard(request.id)
        self._is_stopped |= reason == "abort"
        if self._open:
            return None
        if self._is_stopped:
            return self.failed(Stopped(f"request {self.id} was cancelled"))
        rows = tuple(
            tuple(TokenLogprob(token, self._logprobs[choice[:i], token]) for i, token in enumerate(choice)) for choice in self._job.choices
        )
        output = ScoreOutput(rows, self._total_usage(now))
        return to(self._listener, lambda listener: listener.on_done(output))

    def _total_usage(self, now: float) -> Usage:
        """Usage of all branches: the prompt counts once, whichever branches read it, and so do the
        required tokens of the choices.
        """
        lead = self.requests[0]
        return Usage(
            prompt_tokens=sum(len(request.prompt) - request.n_shared for request in self.requests),
            cached_tokens=sum(request.n_cached for request in self.requests),
            computed_tokens=sum(request.n_computed for request in self.requests),
            model_steps=max(request.n_steps for request in self.requests),
            preemptions=sum(request.n_preemptions for request in self.requests),
            queue_s=seconds_since(lead.submitted, lead.admitted, now),
            first_token_s=now - lead.submitted,
            total_s=now - lead.submitted,
        )

    def failed(self, error: Exception) -> Answer:
        return to(self._listener, lambda listener: listener.on_error(error))
