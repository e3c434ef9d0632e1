"""Measures a step without the model: scheduler, radix tree, text, events, at 32 rows on an
870-token shared prefix.

    python benchmarks/overhead.py [--rows 32] [--prefix 870] [--steps 300]
    python benchmarks/overhead.py --model smollm2 [--steps 60]
    python benchmarks/overhead.py --turns 400

Without a model, the runner is empty and answers at once: the output is our own time in milliseconds
per step (medians over decode steps), and the time of admitting all rows. With a model, the same
requests run on it, cold and each with a prefix of its own (a load without reuse), and the shares of
the whole run's time are printed. Parts do not overlap; the timing itself costs about a tenth of
them. Targets at 32 rows: 1.5 ms in total; the tree takes 0.3 % of a run without reuse.
With `--turns`, a program talks in that many turns to the empty runner, eight tokens each, through a
chat template as models have it. The program's thread is where the language works.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import sgl_lab as sgl
from sgl_lab.backends.local import LocalBackend
from sgl_lab.contracts.capabilities import TOKEN_LEVEL
from sgl_lab.contracts.ids import ExprId, ForkId
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.port import GenJob, Message, ModelCard, Segment
from sgl_lab.engine.plan import Draw, Launching, Plan, RowOutput, Timed
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.resident import Resident
from sgl_lab.engine.text.chat import ChatTemplate
from sgl_lab.engine.text.stream import TextStream
from sgl_lab.engine.tools.fake import ByteTokenizer
from sgl_lab.grammar.matcher import Matcher
from sgl_lab.trace import Ring

PARTS = ("model", "sampler", "masks", "tree", "scheduler", "drafts", "text", "events", "rest")


class Listener:
    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None: ...

    def on_done(self, outputs: object) -> None: ...

    def on_error(self, error: Exception) -> None:
        raise error


class Empty:
    """Returns the same token for every row."""

    is_exact = True

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        plan.before_draws()
        return tuple(RowOutput((Draw(97, -1.0, ()),) if row.sample else ()) for row in plan.rows)

    def copy_page(self, source: int, target: int) -> None: ...

    def close(self) -> None: ...


class Meter:
    """Adds up the time inside selected methods of selected objects, without the time of selected
    methods that they call.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._inner = [0.0]

    def wrap(self, part: str, owner: Any, names: Iterable[str]) -> None:
        for name in names:
            setattr(owner, name, self._timed(part, getattr(owner, name)))

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            try:
                return function(*args, **named)
            finally:
                spent = time.perf_counter() - started
                self.seconds[part] += spent - self._inner.pop()
                self._inner[-1] += spent

        return timed


def metered(engine: Engine, meter: Meter) -> None:
    meter.wrap("model", engine._runner, ["run", "copy_page", *(["start"] if isinstance(engine._runner, Launching) else [])])
    meter.wrap("model", engine._in_flight, ["_outputs"])
    meter.wrap("tree", engine._tree, ["peek", "trail", "acquire", "release", "insert", "evict", "report_locks"])
    meter.wrap("scheduler", engine._scheduler, ["schedule", "admit_ahead", "advance", "finish"])
    meter.wrap("drafts", engine._drafts, ["draft", "learn", "close"])
    meter.wrap("events", engine._scheduler, ["_emit"])
    meter.wrap("events", engine._tree, ["_emit"])
    for part in (engine, engine._groups, engine._in_flight):
        meter.wrap("events", part, ["_emit"])
    meter.wrap("text", TextStream, ["push", "delta", "close"])
    meter.wrap("masks", Matcher, ["fill"])
    meter.wrap("text", Matcher, ["take", "forced"])
    meter.wrap("rest", engine, ["step"])


def ask(engine: Engine, prompts: Iterable[tuple[int, ...]], n_tokens: int, constraint: Constraint | None) -> None:
    params = SamplingParams(max_tokens=n_tokens, ignore_eos=True, temperature=0.0, stop=("\n\nQ:",), constraint=constraint)
    for number, prompt in enumerate(prompts, 1):
        engine.add(engine.gen(GenJob(prompt, params, ForkId(number), ExprId(number)), Listener()))


def without_model(n_rows: int, n_prefix: int, n_steps: int, constraint: Constraint | None) -> None:
    engine = Engine(EngineConfig(), Empty(), ByteTokenizer(), context=4096, emit=Ring().emit)
    meter = Meter()
    plain = Engine(EngineConfig(), Empty(), ByteTokenizer(), context=4096, emit=Ring().emit)
    prefix = tuple(i % 250 for i in range(n_prefix))
    prompts = [(*prefix, row, row + 1) for row in range(n_rows)]
    ask(plain, prompts, n_steps + 10, constraint)
    unmetered = []
    for _ in range(n_steps):
        started = time.perf_counter()
        plain.step()
        unmetered.append((time.perf_counter() - started) * 1000)
    metered(engine, meter)
    ask(engine, prompts, n_steps + 10, constraint)
    rows: list[dict[str, float]] = []
    for _ in range(n_steps):
        before = dict(meter.seconds)
        engine.step()
        rows.append({part: (meter.seconds[part] - before[part]) * 1000 for part in PARTS})
    admission, decode = rows[:3], rows[5:]
    print(f"{n_rows} rows, {n_prefix} shared tokens, {len(decode)} decode steps      ms a step: median (95 %)      first 3 steps, ms")
    for part in PARTS[1:]:
        values = sorted(row[part] for row in decode)
        late = values[int(len(values) * 0.95)]
        print(f"  {part:<12}{statistics.median(values):27.3f} ({late:.3f}){sum(row[part] for row in admission):24.3f}")
    total = [sum(row[part] for part in PARTS[1:]) for row in decode]
    print(f"  {'all':<12}{statistics.median(total):27.3f}; untimed {statistics.median(unmetered[5:]):.3f}")


class Chatting(ByteTokenizer):
    """Bytes, in turns as a model's own template renders them."""

    def __init__(self) -> None:
        source = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
        source += "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        self._chat = ChatTemplate(source, {}, self.SPECIAL)

    def encode_all(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        return tuple(b"".join(segment.text.encode() for segment in segments))

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        return self._chat.segments(messages, add_generation_prompt)


def in_turns(n_turns: int) -> None:
    tokenizer, n_pages = Chatting(), 100 * n_turns + 1000
    engine = Engine(EngineConfig(n_pages=n_pages), Empty(), tokenizer, context=n_pages)
    card = ModelCard("empty", (), n_pages, tokenizer.n_vocab, "none", "none", replace(TOKEN_LEVEL, chat_template=True))
    backend, spent = LocalBackend(Resident(engine), tokenizer, card), list[tuple[float, float]]()

    @sgl.function
    def chat(s: sgl.ProgramState) -> None:
        for turn in range(n_turns):
            of_program, of_all = time.thread_time(), time.process_time()
            s += sgl.user(f"Question {turn}: what is the capital of France?")
            s += sgl.assistant(sgl.gen(f"answer {turn}", max_tokens=8, ignore_eos=True))
            s.sync()
            spent.append((time.thread_time() - of_program, time.process_time() - of_all))

    chat.run(backend=backend, temperature=0).sync()
    backend.shutdown()
    print("turns      ms of computing a turn, median of ten:   the program's thread   all threads")
    for n in sorted({min(n, n_turns) for n in (10, 50, 100, 200, n_turns)}):
        of_program, of_all = (statistics.median(column) * 1000 for column in zip(*spent[max(0, n - 10) : n], strict=True))
        print(f"  {n:<48}{of_program:13.2f}{of_all:14.2f}")


def with_model(name: str, n_rows: int, n_prefix: int, n_steps: int, constraint: Constraint | None) -> None:
    from sgl_lab import Lab

    with Lab(name, draft_tokens=0) as lab:  # so that a decode step computes one token per row
        engine, meter = lab._resident.engine, Meter()
        prompts = [tuple((row * 977 + i * 31) % 40_000 + 100 for i in range(n_prefix)) for row in range(n_rows)]

        def now() -> dict[str, float]:
            """Milliseconds so far, by part."""
            spent = {part: seconds * 1000 for part, seconds in meter.seconds.items()}
            spent["sampler"] = engine._runner.seconds["sampler"] * 1000 if isinstance(engine._runner, Timed) else 0.0
            spent["model"] -= spent["sampler"]
            return spent

        def run() -> tuple[dict[str, float], dict[str, float], int]:
            """Milliseconds of the whole run and of the steps in which all rows decode, and the
            number of these steps.
            """
            metered(engine, meter)
            ask(engine, prompts, n_steps, constraint)
            started = now()
            decoding = dict.fromkeys(PARTS, 0.0)
            n_decoding, before = 0, started
            while engine.step():
                after = now()
                running = engine._scheduler.running
                if len(running) == n_rows and not any(request.is_prefilling for request in running):
                    n_decoding += 1
                    decoding = {part: decoding[part] + after[part] - before[part] for part in PARTS}
                before = after
            return {part: before[part] - started[part] for part in PARTS}, decoding, max(1, n_decoding)

        whole, decoding, n_decoding = lab._resident.call(run)
        print(f"{name}, {lab.card.dtype}: {n_rows} prompts of {n_prefix} tokens without a common prefix, {n_steps} tokens each")
        print(f"  {'':<12}{'whole run, ms':>16}{'share':>10}{'a decode step, ms':>20}{'share':>10}")
        for part in (*PARTS, "all"):
            ms, step = (sum(spent.values()) if part == "all" else spent[part] for spent in (whole, decoding))
            shares = [value / (sum(spent.values()) or 1) for value, spent in ((ms, whole), (step, decoding))]
            print(f"  {part:<12}{ms:16.1f}{shares[0]:10.3%}{step / n_decoding:20.3f}{shares[1]:10.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--prefix", type=int, default=870)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--model", help="the profile of a real run on this model instead")
    parser.add_argument("--turns", type=int, help="what a turn of a long chat costs instead")
    parser.add_argument("--regex", help="every row follows this constraint")
    given = parser.parse_args()
    constraint = Constraint("regex", given.regex) if given.regex else None
    if given.turns:
        in_turns(given.turns)
    elif given.model:
        with_model(given.model, given.rows, given.prefix, given.steps or 60, constraint)
    else:
        without_model(given.rows, given.prefix, given.steps or 300, constraint)


if __name__ == "__main__":
    main()
