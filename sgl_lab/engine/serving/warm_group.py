"""A warm or a pin as a request group: one prompt."""

from __future__ import annotations

from ...contracts.errors import Stopped
from ...contracts.ids import Namespace, RequestId
from ...contracts.port import WarmJob, WarmListener
from ..plan import Row, RowOutput
from .group import Accepted, Answer, RequestGroup, new_request_id, prompt_done, to, usage_of
from .scheduling.request import Request


class WarmGroup(RequestGroup):
    """One prompt, as far as it fills whole pages: no more of it can be kept."""

    def __init__(self, job: WarmJob, listener: WarmListener, namespace: Namespace, page_size: int, now: float) -> None:
        self._n_prompt = len(job.prompt)
        self._listener = listener
        request = new_request_id()
        kept = job.prompt[: self._n_prompt // page_size * page_size]
        self.requests = (Request(request, request, "warm", namespace, kept, blocks=job.blocks, submitted=now),)

    def accept(self, request: Request, row: Row, output: RowOutput, now: float) -> Accepted:
        return prompt_done(request, row)

    def progress(self, request: Request) -> Answer | None:
        return None

    def finished(self, request: Request, reason: str, now: float) -> Answer | None:
        if reason == "abort":
            return self.failed(Stopped(f"request {self.id} was cancelled"))
        usage = usage_of(request, now, self._n_prompt)
        return to(self._listener, lambda listener: listener.on_done(usage))

    def failed(self, error: Exception) -> Answer:
        return to(self._listener, lambda listener: listener.on_error(error))


class PinGroup(WarmGroup):
    """A warm whose prompt is pinned, under the number `handle`, when it is computed."""

    def __init__(
        self, job: WarmJob, listener: WarmListener, namespace: Namespace, page_size: int, now: float, handle: RequestId | None = None
    ) -> None:
        super().__init__(job, listener, namespace, page_size, now)
        self.handle = handle or self.id
