"""The workloads: their data, the comparison of results, and what a program may be."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sgl_lab.contracts.errors import BackendUnsupported, BadArgument
from sgl_lab.workloads.bench import ABLATIONS, Outcome, Setup, Times
from sgl_lab.workloads.catalogue import WORKLOADS, find
from sgl_lab.workloads.data import SAMPLE, Data
from sgl_lab.workloads.react import Corpus
from sgl_lab.workloads.results import Results, average, compared, mcnemar, sign_flip, text
from sgl_lab.workloads.suite import measure

OUTCOME = Outcome(
    "mmlu",
    "sample",
    ["a", "b", "c"],
    seconds=2.0,
    requests=3,
    prompt_tokens=100,
    cached_prompt_tokens=40,
    computed_tokens=70,
    generated_tokens=12,
    steps=9,
    hit_rate=0.4,
    best_in_order=0.5,
    best=0.5,
    latency_s=[1.0, 2.0, 4.0],
    first_s=[0.1],
    right=[True, False, None],
    texts=["", "", ""],
    failed=[],
)


def test_each_workload_reads_the_sample_and_is_a_program_of_one_screen() -> None:
    for name, workload in WORKLOADS.items():
        assert name == workload.name
        source = inspect.getsource(inspect.unwrap(workload.program.func))
        assert len(source.splitlines()) < 60
        if name == "pictures":
            continue
        items = workload.read(Data(), 3)
        assert 1 <= len(items) <= 3
        assert len({item.id for item in items}) == len(items)
        assert set(items[0].arguments) <= set(inspect.signature(workload.program.func).parameters)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"mmlu_dev.jsonl, line 1 is not JSON"),
        ('\n["subject"]\n', r"line 2 has to be a JSON object, not list"),
        ('{"subject": "s", "question": "q", "choices": ["a"]}', r"line 1: 'answer' has to be str; it is missing"),
        ('{"subject": "s", "question": 4, "choices": ["a"], "answer": "A"}', r"line 1: 'question' has to be str; it is int"),
        ("\n", r"mmlu_dev.jsonl has no rows"),
        ("\udcff", r"cannot read .*mmlu_dev.jsonl"),
        (None, r"has no mmlu_dev.jsonl, which this workload reads"),
    ],
)
def test_data_of_another_form_is_refused_with_file_and_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "mmlu_dev.jsonl").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(BadArgument, match=message):
        find("mmlu").read(Data(tmp_path), None)


def test_a_file_that_a_row_names_lies_in_the_folder(tmp_path: Path) -> None:
    assert Data().file("mmlu_dev.jsonl") == SAMPLE / "mmlu_dev.jsonl"
    for outside in ("../mmlu.py", "/etc/passwd", "absent.jpg"):
        with pytest.raises(BadArgument, match="there is no file"):
            Data().file(outside)
    with pytest.raises(BadArgument, match="there is no folder of data"):
        Data(tmp_path / "absent")


def test_an_unknown_name_a_wrong_number_and_two_ablated_are_refused() -> None:
    with pytest.raises(BadArgument, match="did you mean 'mmlu'"):
        measure(["mmul"], Data(), Setup())
    with pytest.raises(BadArgument, match="n must be 1 or more"):
        measure(["mmlu"], Data(), Setup(), 0)
    with pytest.raises(BadArgument, match="of one workload"):
        measure(["mmlu", "react"], Data(), Setup(), ablated=True)
    with pytest.raises(BadArgument, match="parallel must be"):
        Setup(parallel=0)


def test_an_ablation_changes_one_setting() -> None:
    for name, change in ABLATIONS.items():
        n = sum(a != b for a, b in zip(Setup().plain().values(), change(Setup()).plain().values(), strict=True))
        assert n == (name != "full"), name
    own = [name for name, change in ABLATIONS.items() if change(Setup()).of_lab != Setup().of_lab]
    assert own == ["no cache", "no tree", "FCFS", "random order", "no drafts", "no forced tokens"]


def test_results_survive_their_file_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results = Results({"cpu": "x"}, Setup().plain(), {"mmlu": OUTCOME}, {"pictures": "no images"})
    results.write(path)
    assert Results.read(path) == results
    plain = json.loads(path.read_text())
    damaged = {**plain, "outcomes": {"mmlu": {"workload": "mmlu"}}}
    for wrong, message in (
        ({**plain, "format": 0}, "in format 0; this version reads format 1"),
        ({"a": 1}, "has no results"),
        (damaged, "have no data, ids"),
        ({**plain, "outcomes": 3}, "is damaged"),
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(BadArgument, match=message):
            Results.read(path)
    path.write_text("{")
    with pytest.raises(BadArgument, match="cannot read results"):
        Results.read(path)


def test_a_comparison_pairs_items_and_counts_what_it_fixes() -> None:
    a = Results({}, {}, {"mmlu": OUTCOME})
    b = Results({}, {}, {"mmlu": replace(OUTCOME, ids=["c", "b", "a"], latency_s=[2.0, 1.0, 0.5], right=[None, True, True])})
    (found,) = compared(a, b)
    assert (found.n, found.faster, found.fixed, found.broken, found.p_right) == (3, 2.0, 1, 0, 1.0)
    assert found.words() == (
        "mmlu: B is 2.00 times as fast over 3 items (p = 0.250: not shown to differ); "
        "3 of 3 texts are the same; it fixes 1 and breaks 0 (p = 1.000: not shown to differ)"
    )
    for other in ({"react": OUTCOME}, {"mmlu": replace(OUTCOME, ids=["x", "y", "z"])}, {"mmlu": replace(OUTCOME, data="other")}):
        with pytest.raises(BadArgument, match="in common"):
            compared(a, Results({}, {}, other))


def test_the_tests_of_a_comparison_are_exact() -> None:
    for fixed, broken in itertools.product(range(6), repeat=2):
        n = fixed + broken
        tails = [math.comb(n, i) for i in range(n + 1)]
        wanted = min(1.0, sum(tails[i] for i in range(n + 1) if abs(2 * i - n) >= abs(fixed - broken)) / 2**n)
        assert math.isclose(mcnemar(fixed, broken), wanted), (fixed, broken)
    assert sign_flip([1.0, 1.0, 1.0]) == 0.25
    assert sign_flip([1.0, -1.0]) == 1.0
    assert sign_flip([0.5] * 30) < 0.001
    assert sign_flip([0.5, -0.5] * 15) > 0.5
    assert sign_flip([]) == 1.0


def test_the_search_tool_finds_the_passage_with_the_rarest_words() -> None:
    find_in = Corpus([{"title": "Sea", "text": "a harbour by the sea"}, {"title": "Inn", "text": "an inn by the harbour with a violin"}])
    assert find_in("harbour violin").startswith("Inn.")
    assert find_in("zebra") == "Could not find [zebra]."


def test_the_table_has_a_row_for_each_outcome() -> None:
    lines = text({"mmlu": OUTCOME, "other": replace(OUTCOME, right=[None] * 3, failed=["a: no"])}).splitlines()
    assert [line.split()[0] for line in lines] == ["workload", "mmlu", "other"]
    assert "50%" in lines[1]
    assert "80.0%" in lines[1]
    assert "(1 failed)" in lines[2]
    assert lines[2].rstrip().endswith("-")
    assert average({"mmlu": OUTCOME, "other": replace(OUTCOME, hit_rate=0.5)}).startswith("90.0% of the best hit rate on average over 2")
    assert average({"mmlu": OUTCOME}) == ""


def test_without_dspy_its_workload_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dspy", None)
    around = find("dspy-rag").around
    assert around is not None
    lab: Any = None
    with pytest.raises(BackendUnsupported, match=r"dspy-rag needs DSPy.*sgl_lab"), around(lab):
        pass


def test_times_are_by_program_and_by_request() -> None:
    from sgl_lab.contracts.events import Entry, Event, ExprFinished, ForkOpened, ForksEnded, RequestQueued, Sample, TokensSampled
    from sgl_lab.contracts.ids import ExprId, ForkId, RequestId, RunId

    events: list[tuple[float, Event]] = [
        (1.0, ForkOpened(RunId(1), ForkId(1), None, 0, "s")),
        (1.5, ForkOpened(RunId(1), ForkId(2), ForkId(1), 0, "")),
        (2.0, RequestQueued(RequestId(1), ForkId(1), None, "warm", (1,), 0, RequestId(1))),
        (2.0, RequestQueued(RequestId(2), ForkId(2), None, "gen", (1, 2), 4, RequestId(2))),
        (2.5, TokensSampled(1, (Sample(RequestId(2), 7, -0.1, (), 0, False, False),))),
        (3.0, TokensSampled(2, (Sample(RequestId(2), 8, -0.1, (), 0, False, False),))),
        (4.0, ExprFinished(ForkId(2), ExprId(1), "ok", "x")),
        (4.5, ForkOpened(RunId(1), ForkId(3), None, 0, "without a value")),
        (5.0, ForksEnded((ForkId(1), ForkId(2), ForkId(3)), True)),
    ]
    times = Times.of(Entry(i, int(t * 1e9), event) for i, (t, event) in enumerate(events))
    assert (times.n_requests, times.first, times.programs) == (1, [0.5], {ForkId(1): 3.0, ForkId(3): 0.5})
