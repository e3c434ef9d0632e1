"""Graphs run with the results of the programs that they were traced from, whatever pass is applied."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sgl_lab as sgl
from sgl_lab.backends.local import LocalBackend
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import BadArgument, ProgramError, UnknownVariable
from sgl_lab.contracts.events import Event, PrefixMatched, RequestQueued
from sgl_lab.contracts.prefixes import n_common
from sgl_lab.lang.expressions import Gen, Select, Text, Warm
from sgl_lab.lang.graph.compiled import Compiled
from sgl_lab.lang.graph.passes import PASSES
from sgl_lab.lang.graph.plan import requests
from sgl_lab.lang.graph.prompts import Prompts, is_plain
from sgl_lab.lang.graph.values import Call
from sgl_lab.lang.graph.waves import turns_of
from sgl_lab.lang.sampling import GenDefaults

from .api import Api, Reply
from .generated import LONG, drawn
from .language import watchdog  # noqa: F401
from .words import lab

N_PROGRAMS = 205


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    made = lab(tmp_path_factory.mktemp("words"))
    yield made
    made._resident.check()
    made._resident.close()


def seen(state: sgl.ProgramState) -> object:
    """All that a run has given: text, tokens, values, log-probabilities, and what it returned."""
    state.sync()
    variables = state._stream.variables
    kept = ("output_token_logprobs", "normalized_prompt_logprobs", "finish_reason", "prompt_tokens", "completion_tokens")
    metas = {name: {key: meta[key] for key in kept if key in meta} for name in variables if isinstance(meta := variables[name].meta, dict)}
    return (
        state.text(),
        state.token_ids(),
        {name: variables[name].value for name in variables},
        metas,
        state.ret_value["last"],
        state.ret_value["all"],
    )


def test_generated_programs_give_bit_for_bit_what_their_graphs_give(backend: LocalBackend) -> None:
    differing, changed = [], set()
    for number in range(N_PROGRAMS):
        program = drawn(number)
        compiled = program.compile()
        changed |= {report.name for report in compiled.reports if report.numbers}
        expected = seen(program.run(question="Q?", backend=backend, temperature=0))
        for each in (compiled, *([program.compile(optimise="none")] if number % 10 == 0 else [])):
            found = each.run(question="Q?", backend=backend, temperature=0)
            if seen(found) != expected:
                differing.append(number)
            assert found.ret_value["state"] is found
    assert differing == []
    assert changed == {"common", "warm", "prefetch", "together", "foresight"}


def test_a_graph_runs_as_a_batch_as_a_stream_and_in_coroutines(backend: LocalBackend) -> None:
    program = drawn(7)
    compiled = program.compile()
    rows = [{"question": f"{text} is what?"} for text in ("b", "a", "c", "a")]
    expected = program.run_batch(rows, backend=backend, temperature=0)
    for states in (
        compiled.run_batch(rows, backend=backend, temperature=0),
        compiled.run_batch([tuple(row.values()) for row in rows], backend=backend, temperature=0, num_threads=1),
        list(compiled.run_batch(rows, backend=backend, temperature=0, generator_style=True)),
        compiled.run_batch(rows, backend=backend, temperature=0, stream=True),
        asyncio.run(together(compiled, rows, backend)),
    ):
        assert list(map(seen, states)) == list(map(seen, expected))
    for other in map(drawn, (7, 20, 33, 46)):
        expected_of_other = other.run_batch(rows, backend=backend, temperature=0)
        by_node = other.compile().run_batch(rows, backend=backend, temperature=0, num_threads=2, by="nodes")
        assert list(map(seen, by_node)) == list(map(seen, expected_of_other))
    assert compiled.run_batch([], backend=backend) == []
    state = compiled.stream(question="b is what?", backend=backend, temperature=0)
    assert "".join(state.text_iter()) == expected[0].text()


async def together(compiled: Compiled, rows: list[dict[str, str]], backend: LocalBackend) -> list[sgl.ProgramState]:
    return await asyncio.gather(*(compiled.run_async(**row, backend=backend, temperature=0) for row in rows))


def test_rows_begin_in_the_order_of_their_prefixes_and_return_in_the_users(tmp_path: Path) -> None:
    @sgl.function
    def program(s: Any, document: str, question: str) -> None:
        s += document + question + sgl.gen("a", max_tokens=1)

    def computed(order: bool) -> int:
        made = lab(tmp_path, n_pages=40)
        rows = [{"document": f"{n % 3} {LONG}", "question": f"{n}?"} for n in range(12)]
        states = program.compile().run_batch(rows, backend=made, temperature=0, num_threads=1, reorder=order)
        assert [state.text()[0] for state in states] == [str(n % 3) for n in range(12)]
        total = sum(state.get_meta_info("a")["computed_tokens"] for state in states)
        made._resident.close()
        return int(total)

    assert computed(True) * 2 < computed(False)


@sgl.function
def marked(s: Any, essay: str, dimension: str) -> None:
    s += dimension + LONG + essay + sgl.gen("mark", max_tokens=2)


@sgl.function
def judge(s: Any, essay: str) -> None:
    s += "".join(marked(essay=essay, dimension=each)["mark"] for each in "ABCD") + sgl.gen("verdict", max_tokens=2)


def test_a_batch_runs_node_by_node_where_that_computes_less(tmp_path: Path) -> None:
    rows = [{"essay": f"{n} essays."} for n in range(12)]

    def run(n_pages: int, **options: Any) -> tuple[int, list[str], dict[str, int]]:
        made = lab(tmp_path, n_pages=n_pages)
        compiled = judge.compile()
        report = compiled.batch_report(rows, num_threads=1, backend=made)
        states = compiled.run_batch(rows, backend=made, temperature=0, num_threads=1, **options)
        computed = int(made._resident.stats()["computed_tokens"])
        made._resident.check()
        made._resident.close()
        return computed, [state.text() for state in states], dict(report.numbers)

    (auto, texts, numbers), (by_item, same, _) = run(60), run(60, by="items")
    assert texts == same
    assert auto * 1.5 < by_item
    assert numbers["tokens node by node"] * 2 < numbers["tokens item by item"]
    _, _, roomy = run(300)
    assert roomy["tokens node by node"] >= 0.95 * roomy["tokens item by item"]
    assert run(2000)[2] == {}  # there is room for all items at once
    with pytest.raises(BadArgument, match=r"by must be one of auto, items, nodes, not 'node'"):
        judge.compile().run_batch(rows, by="node", backend=ScriptedBackend())


@sgl.function
def talk(s: Any, essay: str) -> None:
    s += sgl.system("Judge. " + LONG) + sgl.user(essay) + sgl.assistant(sgl.gen("first", max_tokens=5))
    forks = s.fork(2)
    for fork, what in zip(forks, ("style", "facts"), strict=True):
        fork += sgl.user(what) + sgl.assistant(sgl.select("mark", ["good", "bad"]) + sgl.gen("why", max_tokens=3))
    forks.join()
    s += sgl.user(marked(essay=s["first"], dimension="A")["mark"]) + sgl.assistant(sgl.gen("end", max_tokens=2))


@pytest.mark.parametrize("program", [judge, talk])
def test_prompts_are_nearly_those_of_a_run_without_running_it(program: Any, tmp_path: Path) -> None:
    made = lab(tmp_path)
    graph = program.trace()
    steps = turns_of(graph)
    assert is_plain(graph)
    of = Prompts(graph, made.encode, steps, GenDefaults()).of
    rows = [{"essay": f"{n} essays."} for n in range(2)]
    near = [of(row) for row in rows]
    exact = [requests(graph, row, made, steps, GenDefaults()) for row in rows]
    assert [len(run) for run in near] == [len(run) for run in exact]
    for one, other in zip(near[0] + near[1], exact[0] + exact[1], strict=True):
        assert all(min(abs(len(mine) - len(its)) for its in other) <= 0.1 * len(mine) for mine in one)
    shared = [n_common(first[0][-1], then[0][-1]) for first, then in (near, exact)]
    assert 0 < abs(shared[0] - len(near[0][0][-1])) <= 0.3 * shared[0]  # up to the essay
    assert abs(shared[0] - shared[1]) <= 0.1 * shared[1]
    assert near[0][-1] != near[1][-1]  # they contain answers, which differ
    made._resident.close()


def test_what_waits_for_the_same_starts_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    made = lab(tmp_path, events.append)
    submit = made._queue
    monkeypatch.setattr(made, "_queue", lambda *job: (submit(*job), time.sleep(0.02))[0])
    compiled = judge.compile()
    (report,) = [report for report in compiled.reports if report.name == "together"]
    assert dict(report.numbers) == {"groups": 1, "gens and selects": 4}
    compiled.run(essay="x", backend=made, temperature=0)
    made._resident.close()
    kinds = [type(event) for event in events if isinstance(event, RequestQueued | PrefixMatched)]
    assert kinds[:5] == [RequestQueued] * 4 + [PrefixMatched]


def test_a_saved_graph_runs_in_another_process_without_its_program(tmp_path: Path) -> None:
    drawn(7).trace().save(tmp_path / "graph.json")
    script = (
        "import sys, pathlib, sgl_lab as sgl\nfrom tests.pure.words import lab\n"
        "backend = lab(pathlib.Path(sys.argv[1]))\n"
        "print(ascii(sgl.Compiled(sgl.load_graph(sys.argv[1] + '/graph.json')).run('Q?', backend=backend, temperature=0).text()))\n"
        "backend._resident.close()"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120)
    made = lab(tmp_path)
    assert done.stdout.strip() == ascii(drawn(7).run("Q?", backend=made, temperature=0).text())
    made._resident.close()


# ---------------------------------------------------------------- the shapes of the original's tests of tracing


def test_programs_that_call_and_fork_run_on_a_model_of_plain_text() -> None:
    @sgl.function
    def expand(s: Any, tip: str) -> None:
        s += "Expand this: " + tip + "\n"
        s += sgl.gen("detail")

    @sgl.function
    def suggest(s: Any, topic: str) -> None:
        s += "Two tips for " + topic + ".\n"
        for name in ("tip_1", "tip_2"):
            s += name + ":" + sgl.gen(name, stop=["\n", ":", "."]) + "\n"
        for name in ("tip_1", "tip_2"):
            s += name + ": " + expand(tip=s[name])["detail"] + "\n"
        forks = s.fork(2)
        for index in range(2):
            forks[index] += f"Tip {index + 1}:" + sgl.gen("more")
        s += forks[0]["more"] + forks[1]["more"] + "In short" + sgl.gen("summary")

    choice = {"index": 0, "text": " walk", "finish_reason": "stop", "logprobs": None}
    piece = {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    text = "Two tips for {0}.\ntip_1: walk\ntip_2: walk\ntip_1:  walk\ntip_2:  walk\n walk walkIn short walk"
    with Api(lambda asked: Reply(events=[piece, "[DONE]"]), "/v1") as api:
        backend = sgl.OpenAI("gpt-3.5-turbo-instruct", base_url=api.url, server="openai", api_key="sk-test-0123456789abcdef")
        compiled = suggest.compile(backend=backend)
        assert compiled.run(topic="health").text() == suggest.run(topic="health", backend=backend).text() == text.format("health")
        states = compiled.run_batch([{"topic": "joy"}, {"topic": "money"}], temperature=0)
        assert [state.text() for state in states] == [text.format("joy"), text.format("money")]
        assert {asked.path for asked in api.asked} == {"/v1/completions"}


def test_a_bound_program_is_traced_and_its_beginning_cached(backend: LocalBackend) -> None:
    @sgl.function
    def few_shot(s: Any, prompt: str, question: str) -> None:
        s += prompt
        s += "Q: What is hot?\nA: Fire\n"
        s += "Q: " + question + "\nA:" + sgl.gen("answer", stop="\n")

    bound = few_shot.bind(prompt=LONG)
    lines = bound.trace().last_node.print_graph_dfs().splitlines()
    assert lines[0] == f"%0 = Constant({LONG!r})"
    assert lines[1:4] == ["%1 = %0 + Constant('Q: What is hot?\\nA: Fire\\n')", "%2 = %1 + Constant('Q: ')", ASKED]
    assert lines[-1] == "%5 = %4 + Gen('answer')"
    assert bound.cache(backend) >= len(backend.encode(LONG))


ASKED = "%3 = %2 + Argument(name=question, value=None)"


# ---------------------------------------------------------------- errors


def test_a_graph_refuses_arguments_and_passes_that_it_does_not_have() -> None:
    @sgl.function
    def program(s: Any, question: str, k: int = 2) -> None:
        s += question * 1 if False else question

    compiled, backend = program.compile(), ScriptedBackend()
    with pytest.raises(TypeError, match="missing 1 required arguments: 'question'"):
        compiled.run(backend=backend)
    with pytest.raises(TypeError, match="did you mean 'question'"):
        compiled.run(qestion="a", backend=backend)
    with pytest.raises(BadArgument, match=r"traced with k=2, not 3 \(compile\(k=\.\.\.\)"):
        compiled.run("a", k=3, backend=backend)
    with pytest.raises(BadArgument, match=r"'question' of the graph of program is a text, not list"):
        compiled.run(["a"], backend=backend)
    with pytest.raises(TypeError, match="item 1 of the batch"):
        compiled.run_batch([{"question": "a"}, {}], backend=backend)
    for wrong in ({"optimise": "fast"}, {"apply": ["moves"]}, {"without": "warm"}):
        with pytest.raises(BadArgument):
            program.compile(**wrong)
    assert compiled.run("a", k=2, backend=backend).text() == "a"
    with pytest.raises(ProgramError, match=r"ends at line \d+"):
        Compiled(sgl.function(lambda s, q: q.upper()).trace(until="data"))


def test_the_error_of_a_value_that_is_read_is_raised_and_nothing_hangs() -> None:
    @sgl.function
    def program(s: Any) -> None:
        forks = s.fork(2)
        forks += "x" + sgl.gen("a", max_tokens=0, min_tokens=0)
        forks.join()
        s += "x" + sgl.select("v", ["a", "b"])
        sgl.cond(s, s["v"], {"never": lambda s: s.append_expression(sgl.gen("only"))})
        s += s["only"]

    backend = ScriptedBackend()
    for run in (program.compile().run, lambda **given: asyncio.run(program.compile().run_async(**given))):
        with pytest.raises(ProgramError, match=r"no variable 'only' \(the case that ran does not fill it"):
            run(backend=backend)
    for by in ("items", "nodes"):
        results = program.compile().run_batch([{}, {}], by=by, backend=backend, return_exceptions=True)
        assert [type(each) for each in results] == [UnknownVariable] * 2


# ---------------------------------------------------------------- the passes


@sgl.function
def judged(s: Any, essay: str, text: str) -> None:
    s += text + essay + sgl.gen("score", max_tokens=2)


def test_common_calls_run_once_where_they_are_greedy(backend: LocalBackend) -> None:
    @sgl.function
    def program(s: Any, essay: str) -> None:
        scores = [judged(essay=essay, text=text)["score"] for text in ("a", "b", "a", "a")]
        s += "".join(scores) + sgl.gen("sum", max_tokens=1)

    compiled = program.compile()
    (report,) = [report for report in compiled.reports if report.name == "common"]
    assert (report.state, dict(report.numbers)) == ("applied", {"calls": 2, "gens and selects": 2})
    assert len(compiled.optimised(greedy=False).graph.nodes) == len(compiled.graph.nodes)
    assert sum(isinstance(node.value, Gen | Select) for node in compiled.optimised().graph.nodes) == 3
    expected = program.run("E", backend=backend, temperature=0).text()
    assert compiled.run("E", backend=backend, temperature=0).text() == expected


def test_warm_and_prefetch_compute_what_calls_begin_with_once_and_early(tmp_path: Path) -> None:
    @sgl.function
    def program(s: Any, essay: str) -> None:
        first = judged(essay=essay, text="first")
        s += "".join(judged(essay=first["score"] + each, text=LONG)["score"] for each in "abc")

    def run(**options: Any) -> tuple[str, list[int]]:
        events: list[Event] = []
        made = lab(tmp_path, events.append)
        text = program.compile(**options).run("E", backend=made, temperature=0).text()
        made._resident.close()
        return text, [event.n_prompt - event.n_hit for event in events if isinstance(event, PrefixMatched)]

    graph = program.compile().optimised().graph
    warm = next(number for number, node in enumerate(graph.nodes) if isinstance(node.value, Warm))
    assert [node.after for node in graph.nodes if isinstance(node.value, Call)] == [(), (), (warm,), (warm,), (warm,)]
    (text, computed), (plain, _) = run(), run(optimise="none")
    assert text == plain
    beginning, calls = computed[:-3], computed[-3:]
    assert max(beginning) > 40
    assert max(calls) < 12


def test_fields_move_suggests_and_selection_say_what_they_would_save() -> None:
    @sgl.function
    def classify(s: Any, question: str) -> None:
        s += "Q: " + question + "\n"
        s += LONG
        s += sgl.unordered(["about " + question, "a rule. "])
        s += sgl.gen("label", regex="(yes|no)")

    compiled = classify.compile(optimise="suggest")
    reports = {report.name: report for report in compiled.reports}
    assert {name for name, report in reports.items() if report.numbers} == {"fields", "move", "selection"}
    assert (reports["move"].state, reports["fields"].state) == ("suggested", "applied")
    assert reports["move"].numbers["tokens shared by each further run"] >= len(LONG) // 4
    assert "move" in str(reports["move"])
    texts = [node.value for node in compiled.optimised().graph.nodes]
    assert texts.index(Text("a rule. ")) < texts.index(Text("about "))
    moved = classify.compile(apply=["move", "selection"]).optimised().graph
    assert moved.nodes[0].value == Text(LONG)
    assert isinstance(moved.nodes[-1].value, Select)
    assert set(PASSES) == {*reports}


def test_a_batch_orders_unordered_fields_by_its_rows(tmp_path: Path) -> None:
    @sgl.function
    def describe(s: Any, number: str, product: str) -> None:
        s += sgl.unordered(["No. " + number + "\n", "Product: " + product + "\n", "Say what it is.\n"]) + sgl.gen("a", max_tokens=2)

    rows = [{"number": str(n), "product": f"{'ABC'[n % 3]} {LONG}"} for n in range(12)]

    def computed(**options: Any) -> int:
        made = lab(tmp_path)
        describe.compile(**options).run_batch(rows, backend=made, temperature=0, num_threads=1)
        n = int(made._resident.stats()["computed_tokens"])
        made._resident.close()
        return n

    assert computed() * 2 < computed(without=["fields"])


def test_dead_calls_are_dropped_on_request() -> None:
    @sgl.function
    def program(s: Any) -> None:
        first = judged(essay="x", text="y")
        judged(essay=first["score"], text="z")
        s += "a" + sgl.gen("b")

    compiled = program.compile(optimise="suggest")
    assert next(report for report in compiled.reports if report.name == "dead").numbers == {"nodes": 7, "gens and selects": 2}
    assert len(program.compile(apply=["dead"]).optimised().graph.nodes) == 2
    assert len(compiled.optimised().graph.nodes) == len(compiled.graph.nodes)


# ---------------------------------------------------------------- before running


def test_a_plan_has_the_tokens_of_the_run_to_two_percent(tmp_path: Path) -> None:
    @sgl.function
    def program(s: Any, essay: str) -> None:
        s += sgl.user(LONG + essay) + sgl.assistant(sgl.gen("a", max_tokens=12, ignore_eos=True))
        forks = s.fork(3)
        for index, fork in enumerate(forks):
            fork += sgl.user(f"{index}? {LONG}") + sgl.assistant(sgl.gen("b", max_tokens=5, ignore_eos=True))
        s += sgl.user("Is it hot?") + sgl.assistant(sgl.select("c", ["hot", "cold"]))

    made = lab(tmp_path)
    compiled, rows = program.compile(), [{"essay": f"{n}. One thing."} for n in range(4)]
    planned = compiled.plan(rows, made, temperature=0)
    for row in rows:
        state = compiled.run(**row, backend=made, temperature=0)
    real = made._resident.stats()
    real["computed_tokens"] -= real["rejected_tokens"]  # how much is drafted depends on how long steps take
    for name in ("prompt_tokens", "cached_tokens", "computed_tokens"):
        assert planned.counts()[name] == pytest.approx(real[name], rel=0.02), name
    again = compiled.plan(rows[:1], made, [state.token_ids()], temperature=0)
    assert again.cached_tokens > planned.cached_tokens / 5
    made._resident.close()
