"""The lint of runs without a model: what it reads is bounded, and a text that begins twice is found."""

from __future__ import annotations

from sgl_lab.contracts.events import CellStarted, Entry, Event, ExprStarted, ForkOpened, RequestQueued, StreamExtended
from sgl_lab.contracts.ids import ExprId, ForkId, RequestId, RunId
from sgl_lab.trace import Record
from sgl_lab.viz.draw import lint as draw
from sgl_lab.viz.lint import MAX_EARLIER, lint
from sgl_lab.viz.lint.finding import Finding
from sgl_lab.viz.lint.seen import MAX_ENTRIES, MAX_REQUESTS, MAX_TOKENS, seen

RUN, FORK = RunId(1), ForkId(1)
VOCAB = {0: "<s>", 1: "Hello", 2: " there", 3: "<", 4: "s", 5: ">"}


def record_of(*prompts: tuple[int, ...], source: str = '%%sgl\ns += "<s>Hello"\ngen("a")', role: str = "") -> Record:
    events: list[Event] = [CellStarted(RUN, "In[1]", source), ForkOpened(RUN, FORK, None, 0, "s")]
    for number, prompt in enumerate(prompts, 1):
        events += [
            StreamExtended(FORK, 0, prompt, "text", role),
            ExprStarted(FORK, ExprId(number), "gen", "a", 3, role),
            RequestQueued(RequestId(number), FORK, ExprId(number), "gen", prompt, 8, RequestId(number)),
        ]
    return Record(RUN, vocab=dict(VOCAB), entries=[Entry(n, n, event) for n, event in enumerate(events)])


def codes(record: Record) -> list[tuple[str, int]]:
    return [(finding.code, finding.line) for finding in lint(record)]


def test_a_text_that_begins_twice_is_found_as_tokens_and_as_typed_text() -> None:
    assert codes(record_of((0, 0, 1, 2))) == [("double-bos", 3)]
    assert codes(record_of((0, 3, 4, 5, 1))) == [("double-bos", 2)]
    assert codes(record_of((0, 1, 3, 4, 5))) == []
    assert codes(record_of((1, 1, 2))) == []


def test_a_long_run_is_read_within_limits() -> None:
    wide = record_of(*[(1, 2)] * (MAX_REQUESTS + 50))
    assert len(seen(wide).requests) == MAX_REQUESTS
    deep = record_of(*[(1,) * 30_000] * 9)
    assert sum(len(request.prompt) for request in seen(deep).requests) <= MAX_TOKENS
    assert sum(map(len, seen(deep).texts)) <= MAX_TOKENS
    long = record_of((1, 2))
    long.entries += [Entry(10 + n, 10 + n, StreamExtended(FORK, 0, (1,), "text", "")) for n in range(3 * MAX_ENTRIES)]
    assert len(seen(long).texts) < MAX_ENTRIES


def test_of_earlier_runs_few_are_read() -> None:
    spelled: list[int] = []

    def spell(token: int) -> str:
        spelled.append(token)
        return VOCAB.get(token, f" {token}")

    prompt = tuple(range(100, 160))
    changed = tuple(range(50, 60)) + prompt
    lint(record_of(changed), [record_of(prompt)] * 500, spell=spell)
    assert len(spelled) < 60 * (MAX_EARLIER + 2) * 10


def test_the_quiet_line_is_one_line_and_counts_the_others() -> None:
    findings = [Finding("cut", 3, "the answer\nis cut", "its end", "more tokens"), Finding("cut", 0, "x", "y", "z")]
    assert draw.quiet(findings[:1]) == "lint: line 3: the answer↵is cut · %sgl lint"
    assert draw.quiet(findings) == "lint: line 3: the answer↵is cut (and 1 more) · %sgl lint"
    assert draw.text("In[1]", []) == "In[1]: no finding"


def test_a_cell_that_is_no_python_is_linted_all_the_same() -> None:
    assert codes(record_of((0, 0, 1), source="%%sgl\nthis is (no python")) == [("double-bos", 0)]
    assert codes(record_of((1, 2), source="")) == []
