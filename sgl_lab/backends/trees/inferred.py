"""The radix tree of an engine that cannot be seen: inferred from what was sent and the counts that
came back.

A request sends its prompt, and the answer says how many of its tokens were cached. If these are
fewer than the prompt shares with earlier ones, the engine has dropped the rest since. If they are
more, it has them from someone else. Between two answers nothing is known, so the tree says
`inferred` wherever it is shown.
"""

from __future__ import annotations

from ...contracts.events import PrefixMatched
from ...contracts.ids import RequestId
from .growing import Node, Tokens
from .requests import RemoteTree, Sent


class InferredTree(RemoteTree):
    """The tree, and the events of the requests that it is inferred from."""

    def _admit(self, request: RequestId, sent: Sent, n_cached: int) -> None:
        tree, prompt, now = self._tree, sent.prompt, self._clock()
        n_hit = self._n_hit(sent, n_cached)
        *_, n_known = tree.walk(prompt)
        if n_hit < n_known:
            self._drop(prompt, n_hit, sent)
        elif n_hit > n_known:
            tree.insert(prompt[:n_hit], now)  # it was cached for another client
        sent.n_hit = n_hit
        *_, n_known = tree.walk(prompt)
        node = tree.end_at(prompt, min(n_hit, n_known))
        self._emit(PrefixMatched(request, n_hit, len(prompt), node.id))
        tree.touch(node, now)

    def _n_hit(self, sent: Sent, n_cached: int) -> int:
        """The engine's count in ids of the tree: the same where ids are its tokens, else by the
        share of the prompt."""
        n_ids = len(sent.prompt)
        if self.rules.unit == "tokens" or not sent.n_prompt:
            return min(n_cached, n_ids)
        known = self._tree.walk(sent.prompt)[2]
        share = sent.n_prompt / n_ids if n_ids else 1.0
        about = self.rules.step + max(2, sent.n_prompt // 50)
        """tokens by which the two may differ although they mean the same"""
        if n_cached and abs(n_cached - self.rules.cacheable(int(known * share))) <= about:
            return known
        return min(n_ids, int(n_cached / share))

    def _drop(self, prompt: Tokens, n_hit: int, sent: Sent) -> None:
        """What stands beyond the hit is gone, unless it is less than a step, or came after the
        request was sent."""
        tree, rules = self._tree, self.rules
        *_, n_known = tree.walk(prompt)
        if rules.unit == "tokens" and n_hit >= rules.cacheable(min(n_known, len(prompt) - 1)):
            return
        node: Node | None = tree.root
        n = 0
        while node is not None:
            n += len(node.tokens)
            if n > n_hit:
                if node.seen_s > sent.at_s:
                    return
                n_upper = n_hit - (n - len(node.tokens))
                if n_upper:
                    tree.split(node, n_upper)
                tree.evict(node)
                return
            node = node.children.get(prompt[n]) if n < len(prompt) else None

    def _compute(self, sent: Sent) -> None:
        n_ids = len(sent.prompt)
        n = min(sent.n_cacheable, n_ids)
        if self.rules.unit == "tokens" or not sent.n_prompt:
            self._insert(sent.prompt[: self.rules.cacheable(n)])
        elif self.rules.cacheable(int(n * sent.n_prompt / max(1, n_ids))):
            self._insert(sent.prompt[:n])

    def _answered(self, sent: Sent, answer: Tokens) -> None:
        if answer and self.rules.keeps_answers:
            whole = (*sent.prompt, *answer)[:-1]  # the last token of an answer is drawn and not computed
            self._insert(whole[: self.rules.cacheable(len(whole))])

    def _clear(self) -> None:
        self._tree.clear()

    def _insert(self, tokens: Tokens) -> None:
        if tokens:
            end = self._tree.insert(tokens, self._clock())
            for node in self._tree.path(end):
                node.seen_s = self._clock()
