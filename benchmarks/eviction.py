"""Compares eviction policies on the programs of `sgl_lab/workloads`, against Belady's optimum.

    python benchmarks/eviction.py [NAME ...] [--data FOLDER] [-n 32] [--parallel 16]
    python benchmarks/eviction.py --model smollm2
    python benchmarks/eviction.py --figure eviction.html

Each workload runs once, in a cache with room for all of it. Without `--model` the tokenizer is the
real one and the model draws words at random, so that it takes minutes: what is asked, in which
order, and what is shared are those of the programs, and only the answers are not. The recording is
then served again by every policy, one request at a time in order of arrival as the optimum is
(`--scheduled`: in the engine's own order), in caches of 10 to 100 % of the working set, which is the
number of distinct tokens with KV. A cache has at least the room of the largest request.

The share of the gap that a policy closes is how far it comes from lru to the optimum, in cached
tokens. Where the two are within half a percent of the prompts there is no gap to close, and the case
counts only among the worst ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

from published import Knowledge

from sgl_lab.backends.local import LocalBackend
from sgl_lab.contracts.capabilities import TOKEN_LEVEL
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument
from sgl_lab.contracts.events import Event
from sgl_lab.contracts.policies import BELADY, EVICTIONS
from sgl_lab.contracts.port import ModelCard
from sgl_lab.engine.files import store
from sgl_lab.engine.plan import Draw, Plan, RowOutput, Sampling, Score, output_of
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.resident import Resident
from sgl_lab.engine.serving.scheduling.scheduler import DECODE_AHEAD
from sgl_lab.engine.text.found import tokenizer_at
from sgl_lab.engine.text.tokenizer import Tokenizer
from sgl_lab.engine.tools.simulate import Outcome, Recording, simulate, what_if
from sgl_lab.session import BUILT_IN, Lab
from sgl_lab.trace import Ring
from sgl_lab.workloads.catalogue import WORKLOADS, find
from sgl_lab.workloads.data import Data
from sgl_lab.workloads.workload import Workload

SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
ROOM = 1 << 20
"""tokens of the cache in which a workload is recorded"""
PUBLISHED = ("t-lru", "kvflow", "saecache")
ALL = (*EVICTIONS, *PUBLISHED)
NO_GAP = 0.005
"""of the prompts' tokens"""
COLOURS = {
    "lru": "#767676",
    "s3-fifo": "#b07aa1",
    "t-lru": "#e0a100",
    "kvflow": "#59a14f",
    "saecache": "#e15759",
    "program": "#1f5fbf",
    BELADY: "#222222",
}
WORDS = ("the", "of", "and", "to", "in", "is", "was", "for", "on", "that", "by", "with", "as", "at", "from", "it")


class RandomWords:
    """A model without weights. What it draws depends on the seed and the position alone: words, an
    end of line or of the text once in a while; under a constraint, any token that it allows.
    """

    is_exact = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._words = [tokenizer.encode(f" {word}")[0] for word in WORDS]
        self._line = tokenizer.encode("\n")[0]
        self._end = min(tokenizer.eos_ids)

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        plan.before_draws()
        outputs = []
        for row in plan.rows:
            scores = tuple(Score(tuple(-float(token % 7) for token in wanted)) for wanted, _ in row.scored)
            samplings = row.samplings
            outputs.append(output_of(row, lambda n, samplings=samplings: self._draw(samplings[n]), scores))  # type: ignore[misc]
        return tuple(outputs)

    def _draw(self, sampling: Sampling) -> Draw:
        chance = Random(f"{sampling.seed} {sampling.position} {len(sampling.prompt)}")
        kind = chance.random()
        token = self._end if kind < 0.015 else self._line if kind < 0.05 else chance.choice(self._words)
        if (mask := sampling.mask) is not None and not mask[token // 32] >> token % 32 & 1:
            words = [at for at, word in enumerate(mask) if word]
            at = chance.choice(words)
            token = at * 32 + chance.choice([bit for bit in range(32) if mask[at] >> bit & 1])
        return Draw(token, -1.0, ())

    def copy_page(self, source: int, target: int) -> None: ...

    def close(self) -> None: ...


class Recorder:
    """Runs workloads in a cache that evicts nothing. Without a model's name the words are random."""

    def __init__(self, model: str | None, parallel: int, life: ExitStack) -> None:
        self._parallel = parallel
        self._flush: Callable[[], object]
        self._ring = Ring()
        if model is not None:
            lab = life.enter_context(Lab(model, deterministic=True, draft_tokens=0))
            self._backend, self._ring, self._namespace, self._flush = lab.backend, lab.ring, lab.card.namespace, lab.flush
            return
        tokenizer = tokenizer_at(store.tokenizer_files(BUILT_IN))
        namespace = ("random words",)
        config = EngineConfig(n_pages=ROOM, draft_tokens=0)
        engine = Engine(config, RandomWords(tokenizer), tokenizer, context=ROOM, namespace=namespace, emit=self._ring.emit)
        resident = Resident(engine)
        life.callback(resident.close)
        can = replace(TOKEN_LEVEL, chat_template=True, deterministic=True)
        card = ModelCard("random words", namespace, ROOM, tokenizer.n_vocab, "none", "none", can, tokenizer.tool_style)
        self._backend, self._namespace, self._flush = LocalBackend(resident, tokenizer, card, self._ring.emit), namespace, resident.flush

    def __call__(self, workload: Workload, data: Data, n: int | None) -> tuple[Recording, Knowledge]:
        """BackendUnsupported or BadArgument if it cannot run; SglError if one of its programs fails."""
        can = self._backend.describe().capabilities
        for name in workload.needs:
            if not getattr(can, name):
                raise can.missing(name, "the model", f"the workload {workload.name}")
        if workload.around is not None:
            raise BadArgument("it is no program of this language alone")
        arguments = [dict(item.arguments) for item in workload.read(data, n)]
        self._flush()
        events: list[Event] = []
        stop = self._ring.listen(lambda entry: events.append(entry.event))
        try:
            run = workload.program.run_batch
            run(arguments, num_threads=self._parallel, backend=self._backend, temperature=workload.temperature)
        finally:
            stop()
        return Recording.of(events, None, self._namespace), Knowledge(events)


@dataclass(frozen=True)
class Case:
    """One workload at one size of the cache."""

    workload: str
    share: float
    n_pages: int
    found: dict[str, Outcome]

    def cached(self, policy: str) -> int:
        return self.found[policy].cached_prompt_tokens

    @property
    def gap(self) -> int:
        """Cached tokens between lru and the optimum; 0 where they are too close to tell."""
        gap = self.cached(BELADY) - self.cached("lru")
        return gap if gap > NO_GAP * self.found["lru"].prompt_tokens else 0

    def against_lru(self, policy: str) -> float:
        """Cached tokens more or less than lru's, as a share of the prompts' tokens."""
        return (self.cached(policy) - self.cached("lru")) / max(1, self.found["lru"].prompt_tokens)


def cases(name: str, recording: Recording, known: Knowledge, config: EngineConfig) -> Iterable[Case]:
    prefixes: dict[tuple[int, int], int] = {}
    for job in recording.jobs:
        at = 0
        for token in job.sequence:
            at = prefixes.setdefault((at, token), len(prefixes) + 1)
    largest = max(len(job.queued.prompt) + len(job.generated) for job in recording.jobs) + DECODE_AHEAD + 1
    sizes = {max(largest, int(share * len(prefixes))): share for share in reversed(SHARES)}
    for n_pages, share in sorted(sizes.items()):
        found = {outcome.evict: outcome for outcome in what_if(recording, config, n_pages=(n_pages,))}
        for policy, (known_as, made) in known.served(recording).items():
            found[policy] = simulate(known_as, replace(config, n_pages=n_pages), made())
        yield Case(name, share, n_pages, found)


def row(case: Case) -> str:
    rates = "".join(f"{100 * case.found[policy].hit_rate:9.1f}" for policy in (*ALL, BELADY))
    return f"{case.workload:18}{case.share:6.0%}{case.n_pages:9,}{rates}"


def summary(all_cases: Sequence[Case]) -> list[str]:
    lines = []
    open_cases = [case for case in all_cases if case.gap]
    for policy in ALL[1:]:
        closed = [(case.cached(policy) - case.cached("lru")) / case.gap for case in open_cases]
        worst = min(all_cases, key=lambda case: case.against_lru(policy))
        total = sum(case.gap * share for case, share in zip(open_cases, closed, strict=True)) / max(1, sum(case.gap for case in open_cases))
        lines.append(
            f"{policy:9} closes {statistics.mean(closed or [0]):7.1%} of the gap on average over {len(closed)} cases with one, "
            f"{total:7.1%} of all gaps together; at worst {100 * worst.against_lru(policy):+.2f} points of the hit rate "
            f"against lru ({worst.workload} at {worst.share:.0%})"
        )
    return lines


def figure(all_cases: Sequence[Case], path: Path) -> None:
    """The hit rate of each policy by the size of the cache, a picture for each workload."""
    from plotly.subplots import make_subplots

    names = list(dict.fromkeys(case.workload for case in all_cases))
    page = make_subplots(rows=-(-len(names) // 3), cols=3, subplot_titles=names, shared_xaxes=True)
    for number, name in enumerate(names):
        for policy in ("lru", "s3-fifo", *PUBLISHED, "program", BELADY):
            own = [case for case in all_cases if case.workload == name]
            page.add_scatter(
                x=[100 * case.share for case in own],
                y=[100 * case.found[policy].hit_rate for case in own],
                name=policy,
                legendgroup=policy,
                showlegend=not number,
                line={"color": COLOURS[policy], "dash": "dot" if policy == BELADY else "solid", "width": 3 if policy == "program" else 1.5},
                row=number // 3 + 1,
                col=number % 3 + 1,
            )
    title = "hit rate, %, by the cache's share of the working set, %"
    page.update_layout(title=title, height=260 * -(-len(names) // 3), template="plotly_white")
    page.write_html(path, include_plotlyjs="cdn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads; all without any")
    parser.add_argument("--data", help="a folder of JSON Lines; the package's own sample without it")
    parser.add_argument("-n", type=int, default=32, help="programs of each; default: %(default)s")
    parser.add_argument("--parallel", type=int, default=16, help="programs at once; default: %(default)s")
    parser.add_argument("--model", help="a model that answers; random words without it")
    parser.add_argument("--scheduled", action="store_true", help="serve as the engine does, by longest prefix and many requests at once")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file for the counts")
    parser.add_argument("--figure", type=Path, help="an HTML file for the curves; needs plotly")
    options = parser.parse_args()
    config = EngineConfig(draft_tokens=0) if options.scheduled else EngineConfig(draft_tokens=0, schedule="fcfs", max_rows=1)
    data = Data(options.data)
    found: list[Case] = []
    print(f"{'workload':18}{'size':>6}{'tokens':>9}{''.join(f'{policy:>9}' for policy in (*ALL, BELADY))}")
    with ExitStack() as life:
        record = Recorder(options.model, options.parallel, life)
        for workload in [find(name) for name in options.names] or WORKLOADS.values():
            try:
                recorded = record(workload, data, options.n)
            except (BackendUnsupported, BadArgument) as error:
                print(f"{workload.name:18}left out: {error}")
                continue
            for case in cases(workload.name, *recorded, config):
                found.append(case)
                print(row(case), flush=True)
    if found:
        print("\n".join(summary(found)))
        if options.figure is not None:
            figure(found, options.figure)
    if options.output is not None:
        rows = [{"workload": case.workload, "share": case.share} | {p: asdict(o) for p, o in case.found.items()} for case in found]
        options.output.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
