"""Speculation from earlier text on agent traces: this engine's drafts against SuffixDecoding's rule.

    python benchmarks/suffixes.py [--data FOLDER] [-n 40] [--model smollm2]

The recorded steps of agents (`react_traces.jsonl`) are decoded again with a perfect verifier: what
the model would draw is what was recorded, so everything is a count. Each thought and action is a
request; its prompt is the instruction, the question and all steps before it. Both rules see the
prompt, what was generated so far, and the requests that are over. Printed are accepted tokens a
step, which is a pass of the model, and the share of drafted tokens that were accepted.

SuffixDecoding (G. Oliaro et al., NeurIPS 2025, arXiv:2411.04975) keeps a suffix tree of finished
texts and one of the request. It looks for the longest suffix of the text, of at most 64 tokens, and
follows the most frequent continuation while its estimated probability stays above 0.1, for at most
the length of the suffix (factor 1); of all lengths and of both trees the draft with the highest sum of
probabilities is taken. Ours is asked as the scheduler asks it, with free drafts (`free`) and with the
costs of a step on two cores (`gated`).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence

from sgl_lab.contracts.ids import RequestId
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.engine.files import store
from sgl_lab.engine.serving.cache.pool import TREE, PagePool
from sgl_lab.engine.serving.cache.tree import RadixTree
from sgl_lab.engine.serving.scheduling.costs import Prices, StepCosts
from sgl_lab.engine.serving.scheduling.drafts import Drafts
from sgl_lab.engine.serving.scheduling.request import Request
from sgl_lab.engine.text.found import tokenizer_at
from sgl_lab.session import BUILT_IN
from sgl_lab.workloads.data import Data
from sgl_lab.workloads.react import read

DEPTH, FACTOR, LEAST = 64, 1.0, 0.1
MOST = 64
"""tokens drafted at a time"""
ROOM = 1 << 22

Tokens = tuple[int, ...]
Turn = tuple[Tokens, Tokens]
"""a prompt, and what follows it"""


class Free(StepCosts):
    """Drafts cost nothing."""

    def prices(self, n_rows: int) -> Prices:
        return Prices(0.0, 0.0, MOST)


class Suffixes:
    """All positions of each token in some texts: a suffix tree's answers, by looking."""

    def __init__(self) -> None:
        self.texts: list[list[int]] = []
        self._places: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)

    def begin(self) -> None:
        self.texts.append([])

    def extend(self, tokens: Sequence[int]) -> None:
        text = self.texts[-1]
        for token in tokens:
            self._places[token].append((len(self.texts) - 1, len(text)))
            text.append(token)

    def best(self, tail: Sequence[int]) -> tuple[float, list[int]]:
        """The draft with the highest score over all lengths of the suffix."""
        found: tuple[float, list[int]] = (0.0, [])
        at = [(which, position + 1) for which, position in self._places.get(tail[-1], ())] if tail else []
        for n in range(1, min(DEPTH, len(tail)) + 1):
            if n > 1:
                at = [(which, end) for which, end in at if end >= n and self.texts[which][end - n] == tail[-n]]
            if not at:
                break
            found = max(found, self._draft(at, n), key=lambda each: each[0])
        return found

    def _draft(self, at: Sequence[tuple[int, int]], n: int) -> tuple[float, list[int]]:
        score, likely, draft = 0.0, 1.0, list[int]()
        while len(draft) < min(MOST, int(FACTOR * n)):
            next_ones = defaultdict[int, list[tuple[int, int]]](list)
            for which, end in at:
                if end < len(self.texts[which]):
                    next_ones[self.texts[which][end]].append((which, end + 1))
            if not next_ones:
                break
            token, following = max(next_ones.items(), key=lambda each: len(each[1]))
            likely *= len(following) / len(at)
            if likely < LEAST:
                break
            score, at = score + likely, following
            draft.append(token)
        return score, draft


class Count:
    def __init__(self) -> None:
        self.steps = self.drafted = self.accepted = self.tokens = 0

    def add(self, draft: Sequence[int], truth: Sequence[int]) -> int:
        """One step; returns how many tokens it gave."""
        n = next((i for i, (a, b) in enumerate(zip(draft, truth, strict=False)) if a != b), min(len(draft), len(truth)))
        given = min(n + 1, len(truth))
        self.steps += 1
        self.drafted += len(draft)
        self.accepted += n
        self.tokens += given
        return given

    def row(self, name: str) -> str:
        share = self.accepted / max(1, self.drafted)
        return f"{name:16}{self.tokens:9,}{self.steps:9,}{self.tokens / self.steps:14.2f}{self.accepted / self.steps:16.2f}{share:12.0%}"


def published(turns: Sequence[Turn]) -> Count:
    count, earlier = Count(), Suffixes()
    for prompt, answer in turns:
        own = Suffixes()
        own.begin()
        own.extend(prompt)
        text, at = list(prompt), 0
        while at < len(answer):
            draft = max(own.best(text[-DEPTH:]), earlier.best(text[-DEPTH:]), key=lambda each: each[0])[1]
            n = count.add(draft, answer[at:])
            own.extend(answer[at : at + n])
            text += answer[at : at + n]
            at += n
        earlier.begin()
        earlier.extend(answer)
    return count


def ours(turns: Sequence[Turn], costs: StepCosts) -> Count:
    count, drafts = Count(), Drafts(MOST, costs)
    pool = PagePool(ROOM, 1)
    tree = RadixTree(pool)
    for number, (prompt, answer) in enumerate(turns, 1):
        params = SamplingParams(max_tokens=len(answer), temperature=0)
        request = Request(RequestId(number), RequestId(number), "gen", (), prompt, limit=len(answer), params=params)
        while len(request.generated) < len(answer):
            rest = answer[len(request.generated) :]
            draft = drafts.draft(tree, request, len(rest), 1)
            n = count.add(draft, rest)
            request.generated += rest[:n]
            if draft:
                drafts.learn(request, len(draft), min(n - 1, len(draft)) if n < len(rest) else min(n, len(draft)), is_over=n == len(rest))
        drafts.close(request)
        text = prompt + answer
        tree.insert((), text, pool.take(len(text), TREE), TREE)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder of JSON Lines; the package's own sample without it")
    parser.add_argument("-n", type=int, default=40, help="agents; default: %(default)s")
    parser.add_argument("--model", default=BUILT_IN, help="whose tokenizer; default: %(default)s")
    options = parser.parse_args()
    encode = tokenizer_at(store.tokenizer_files(options.model)).encode
    turns: list[Turn] = []
    for item in read(Data(options.data), options.n):
        text = f"{item.arguments['instruction']}Question: {item.arguments['question']}\n"
        for number, step in enumerate(item.arguments["steps"], 1):
            text += f"Thought {number}:"
            answer = f" {step['thought']}\nAction {number}: {step['action']}\n"
            turns.append((tuple(encode(text)), tuple(encode(answer))))
            text += answer + f"Observation {number}: {step.get('observation') or ''}\n"
    print(f"{len(turns)} requests of {options.n} agents at most")
    print(f"{'':16}{'tokens':>9}{'steps':>9}{'tokens a step':>14}{'accepted a step':>16}{'of drafted':>12}")
    print(Count.row(published(turns), "SuffixDecoding"))
    print(Count.row(ours(turns, Free()), "ours, free"))
    print(Count.row(ours(turns, StepCosts()), "ours, gated"))


if __name__ == "__main__":
    main()
