"""The tree of an engine behind an API follows the events that its requests have anyway: no backend
has to do more for it."""

from __future__ import annotations

from ...contracts.events import Emit, Event, RequestAnswered, RequestQueued, TextArrived
from ...contracts.ids import RequestId
from ...contracts.port import Usage
from .requests import RemoteTree


class Shadow:
    """In the place of a backend's `emit`: passes every event on, and the tree's with them.

    How many tokens were cached, the answer says. What the tree makes of it comes before the request's end.
    """

    def __init__(self, tree: RemoteTree, emit: Emit) -> None:
        self._tree, self._emit = tree, emit
        self._answers: dict[RequestId, list[int]] = {}

    def __call__(self, event: Event) -> None:
        match event:
            case RequestQueued(request=request, prompt=prompt) if prompt:
                self._emit(event)
                self._answers[request] = []
                self._tree.queued(request, prompt, n_cacheable=len(prompt))
                return
            case TextArrived(request=request, index=0, samples=samples) if request in self._answers:
                came = [sample.token for sample in samples]
                self._answers[request] = came if event.is_whole else [*self._answers[request], *came]
                self._tree.begun(request)
            case RequestAnswered(request=request, n_cached=n_cached) if (answer := self._answers.pop(request, None)) is not None:
                reason = event.reason if n_cached is not None and event.n_prompt else "error"  # then nothing is known
                usage = Usage(prompt_tokens=event.n_prompt, completion_tokens=event.n_completion, cached_tokens=n_cached or 0)
                self._tree.finished(request, tuple(answer), reason, usage)
            case _:
                pass
        self._emit(event)
