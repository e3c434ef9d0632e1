"""The requests that are sent to an engine elsewhere, and what they say of its cache."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ...contracts.events import Emit, PrefixMatched
from ...contracts.ids import Namespace, RequestId
from ...contracts.port import Usage
from ...contracts.tree import CacheRules, TreeSnapshot
from .growing import GrowingTree, Tokens


@dataclass(slots=True)
class Sent:
    prompt: Tokens
    at_s: float
    """when it was sent"""
    n_cacheable: int
    """of its tokens, as many as the engine may keep"""
    n_prompt: int | None = None
    """tokens of the prompt as the engine counts them; None until an answer says so"""
    is_admitted: bool = False
    is_computed: bool = False
    n_hit: int = 0


class RemoteTree:
    """A tree, and the requests that meet it. What a request changes in the tree is a subclass's business.

    Of a request it emits one event, PrefixMatched, when its count of cached tokens is known.

    All methods may be called from any thread; events are emitted under its lock, in order.
    """

    def __init__(self, namespace: Namespace, rules: CacheRules, emit: Emit, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tree = GrowingTree(namespace, rules, emit)
        self._emit, self._clock = emit, clock
        self._sent: dict[RequestId, Sent] = {}
        self._lock = threading.RLock()
        self._n_hit_tokens = self._n_prompt_tokens = self._n_generated = self._n_requests = 0

    @property
    def namespace(self) -> Namespace:
        return self._tree.namespace

    @property
    def rules(self) -> CacheRules:
        return self._tree.rules

    def snapshot(self, cursor: Callable[[], int] = lambda: 0) -> TreeSnapshot:
        """`cursor` gives the number of the next event."""
        with self._lock:
            return self._tree.snapshot(cursor())

    def stats(self) -> dict[str, int | str]:
        """Counts since it was made, under the names of `Lab.stats` where they mean the same."""
        with self._lock:
            return {
                "origin": self.rules.origin,
                "tree_nodes": sum(1 for _ in self._tree) - 1,
                "tree_tokens": self._tree.n_tokens,
                "prompt_tokens": self._n_prompt_tokens,
                "hit_tokens": self._n_hit_tokens,
                "generated_tokens": self._n_generated,
                "evicted_nodes": self._tree.n_evicted,
                "evicted_tokens": self._tree.n_evicted_tokens,
                "requests_finished": self._n_requests,
                "requests_running": len(self._sent),
            }

    def expected(self, prompt: Tokens) -> int:
        """How many of the prompt's tokens are cached, as far as this tree knows."""
        with self._lock:
            return self.rules.cacheable(min(self._tree.walk(prompt)[2], max(len(prompt) - 1, 0)))

    # ------------------------------------------------------------ what happens

    def queued(self, request: RequestId, prompt: Tokens, *, n_cacheable: int | None = None) -> None:
        """It is being sent. `n_cacheable`: tokens up to its last mark, where the engine caches up
        to marks only."""
        with self._lock:
            most = len(prompt) if n_cacheable is None else n_cacheable
            self._sent[request] = Sent(prompt, self._clock(), 0 if self.rules.marked and n_cacheable is None else most)

    def admitted(self, request: RequestId, n_cached: int, n_prompt: int | None = None) -> None:
        """The engine found `n_cached` of its `n_prompt` tokens in its cache. Only the first call counts."""
        with self._lock:
            sent = self._sent.get(request)
            if sent is not None and not sent.is_admitted:
                sent.is_admitted, sent.n_prompt = True, n_prompt
                self._tree.tell_root()
                self._admit(request, sent, n_cached)

    def begun(self, request: RequestId) -> None:
        """A part of its answer came, so its prompt is computed. Before its count is known this
        changes nothing."""
        with self._lock:
            if (sent := self._sent.get(request)) is not None and sent.is_admitted:
                self._computed(sent)

    def finished(self, request: RequestId, answer: Tokens, reason: str, usage: Usage) -> None:
        """It is over, with this answer and these counts."""
        if reason != "error":
            self.admitted(request, usage.cached_tokens, usage.prompt_tokens or None)
        with self._lock:
            sent = self._sent.pop(request, None)
            if sent is None:
                return
            if reason != "error" and sent.is_admitted:
                self._computed(sent)
                self._answered(sent, answer)
            self._n_requests += 1
            self._n_prompt_tokens += usage.prompt_tokens
            self._n_hit_tokens += usage.cached_tokens
            self._n_generated += usage.completion_tokens

    def flushed(self) -> None:
        """The engine's cache was flushed."""
        with self._lock:
            self._clear()

    def _computed(self, sent: Sent) -> None:
        if not sent.is_computed:
            sent.is_computed = True
            self._compute(sent)

    # ------------------------------------------------------------ what it means for the tree

    def _admit(self, request: RequestId, sent: Sent, n_cached: int) -> None:
        """The hit, as far as the tree has it."""
        node, _, n_known = self._tree.walk(sent.prompt[:n_cached])
        sent.n_hit = min(n_cached, len(sent.prompt))
        self._emit(PrefixMatched(request, sent.n_hit, len(sent.prompt), node.id))
        if n_known:
            self._tree.touch(node, self._clock())

    def _compute(self, sent: Sent) -> None:
        """Its prompt is computed."""

    def _answered(self, sent: Sent, answer: Tokens) -> None:
        """Its answer is complete."""

    def _clear(self) -> None:
        """What a flush means for the tree."""
