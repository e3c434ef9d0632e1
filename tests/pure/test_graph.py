"""Programs as graphs: traced, printed, saved; what decides by text that is not there is refused."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sgl_lab as sgl
from sgl_lab.contracts.errors import BadArgument, ProgramError
from sgl_lab.lang.backend.base_backend import BaseBackend
from sgl_lab.lang.chat_template import get_chat_template
from sgl_lab.lang.expressions import Argument, Gen, Reference, Select, Text, Tools
from sgl_lab.lang.graph.dataflow import Graph, graph_of
from sgl_lab.lang.graph.values import Call, Cond, Constant, Field, Items, Joined, Meaning, State, TextSoFar

from .language import line_with


@sgl.function
def expand(s: Any, tip: str) -> None:
    s += "Expand this tip: " + tip + "\n"
    s += sgl.gen("detail", max_tokens=8)


@sgl.function
def tips(s: Any, topic: str) -> Any:
    s += f"Tips for {topic}.\n1." + sgl.gen("tip_1", stop=["\n"])
    first = expand(tip=s["tip_1"], temperature=0.5)
    forks = s.fork(2)
    for index, fork in enumerate(forks):
        fork += f"{index}: " + sgl.gen("more")
    forks.join()
    s += first["detail"] + s["more"][1]
    with s.user(), s.var_scope("asked"):
        s += "Which?"
    s += sgl.assistant(sgl.select("which", ["one", "two"]))
    with s.copy() as aside:
        aside += sgl.gen("note")
    s["kept"] = f"{s['which']}!"
    return {"asked": s["asked"], "all": s.text(), "number": (1, s["kept"])}


def add(a: int) -> int:
    return a


@sgl.function
def every_construct(s: Any, question: str) -> Any:
    s += sgl.system("Be short.") + sgl.user(sgl.image(PNG) + question)
    s += sgl.assistant(sgl.separate_reasoning(sgl.gen("thought"), model_type="qwen3"))
    s += sgl.user(sgl.describe_tools([add])) + sgl.assistant(sgl.gen("call", tools=[add], execute=True))
    s += sgl.user("And?") + sgl.assistant(sgl.gen("samples", n=2))
    s += sgl.user("".join(s["samples"]) + s["thought_reasoning_content"])
    s += sgl.user(sgl.unordered(["a", "b" + question])) + sgl.gen_int("n")
    return s.value("n")


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d4944415478da63fcffff3f030005fe02fea73581840000000049454e44ae426082"
)


def test_every_construct_is_traced_without_a_backend() -> None:
    graph = every_construct.trace()
    kinds = {type(node.value).__name__ for node in graph.nodes}
    assert {"Image", "Argument", "Tools", "ToolTurn", "Gen", "Reference", "RoleBegin", "RoleEnd"} <= kinds
    assert [node.field for node in graph.nodes if node.field] == [Field(0, 0), Field(0, 1), Field(0, 1)]
    samples = [node.value for node in graph.nodes if isinstance(node.value, Reference) and node.value.name == "samples"]
    assert [value.sample for value in samples] == [0, 1]
    assert isinstance(graph.returned, Meaning)
    assert any(isinstance(node.value, Tools) for node in graph.nodes)
    with pytest.raises(ProgramError, match=r"node %\d+, line \d+ of test_graph.py: .* has no JSON form"):
        graph.to_json()


def test_a_graph_has_strands_reads_scopes_and_what_is_returned() -> None:
    graph = tips.trace()
    assert (graph.arguments, graph.labels) == (("topic",), ("s", "expand", "s[0]", "s[1]", "s[0]"))
    call = next(number for number, node in enumerate(graph.nodes) if isinstance(node.value, Call))
    assert graph.nodes[call].value == Call("expand", (("temperature", 0.5),))
    tip = next(number for number, node in enumerate(graph.nodes) if isinstance(node.value, Gen) and node.value.name == "tip_1")
    assert [graph.nodes[number].value for number in graph.strands[1]][1:3] == [Text("Expand this tip: "), Reference(tip, "tip_1")]
    scope = [number for number, node in enumerate(graph.nodes) if type(node.value).__name__ == "ScopeEnd"]
    text = next(number for number, node in enumerate(graph.nodes) if isinstance(node.value, TextSoFar))
    assert isinstance(graph.returned, Items)
    assert graph.returned.items[:2] == (Joined((Reference(scope[0], "asked"),)), Joined((Reference(text, None),)))
    assert all(read < number for number, reads in enumerate(graph.reads) for read in reads)
    assert sum(len(numbers) for numbers in graph.strands.values()) == len(graph.nodes)


def test_loops_over_known_data_unroll_and_defaults_are_known() -> None:
    @sgl.function
    def program(s: Any, items: list[str], question: str, k: int = 2) -> None:
        for item in items * k:
            s += item
        s += question + sgl.gen("a")

    graph = program.trace(items=["x", "y"])
    assert [node.value for node in graph.nodes[:5]] == [*map(Text, "xyxy"), Argument("question")]
    assert graph.known == (("k", "2"), ("items", "['x', 'y']"))
    assert program.bind(items=["z"], question="?").trace().arguments == ()


def test_a_graph_prints_one_line_a_node_and_draws() -> None:
    graph = tips.trace()
    text = graph.last_node.print_graph_dfs()
    assert text.splitlines()[:3] == [
        "%0 = Constant('Tips for ')",
        "%1 = %0 + Argument(name=topic, value=None)",
        "%2 = %1 + Constant('.\\n1.')",
    ]
    assert "= %8 + Variable('tip_1', source=%3)" not in text.splitlines()[0]
    assert any(line.startswith("%") and "Fork(%3, number=2, position_ids_offset=None)" in line for line in text.splitlines())
    numbers = [int(line[1 : line.index(" ")]) for line in text.splitlines()]
    for at, line in enumerate(text.splitlines()):
        assert all(int(read) in numbers[:at] for read in _read(line))
    assert "stream 1 (expand):" in str(graph)
    dot = graph.dot()
    assert dot.count("label=") >= len(graph.nodes)
    assert dot.startswith("digraph {")
    assert repr(graph) == f"<graph of tips(topic): {len(graph.nodes)} nodes, 6 gens and selects>"


def _read(line: str) -> list[str]:
    return re.findall(r"%(\d+)", line.partition("=")[2]) if "Constant" not in line else []


# ---------------------------------------------------------------- what is refused


REFUSED: dict[str, tuple[Callable[[Any, str], Any], str]] = {
    "branch": (lambda s, q: s["a"] == "yes", r"the text of 'a'.*sgl\.cond"),
    "loop": (lambda s, q: list(s["a"]), r"the text of 'a'.*sgl\.loop"),
    "joined": (lambda s, q: ("x" + s["a"]).upper(), r"the text of 'a'.*sgl\.cond"),
    "argument": (lambda s, q: q.upper(), r"argument 'question' \(give the argument when tracing, trace\(question="),
    "number": (lambda s, q: s.value("n") + 1, r"the value of 'n'"),
    "meta": (lambda s, q: s.get_meta_info("a")["finish_reason"], r"the meta info of 'a'"),
    "cut": (lambda s, q: s.append_expression(f"{q}"[:9]), r"was cut or changed"),
    "upper": (lambda s, q: s.append_expression(f"{q}".upper()), r"was cut or changed"),
    "stop": (lambda s, q: s.append_expression(sgl.gen("b", stop=q)), r"argument .question."),
    "choices": (lambda s, q: s.append_expression(sgl.select("b", [s["a"], "x"])), r"an argument of select|the text of 'a'"),
    "messages": (lambda s, q: s.messages(), r"the messages so far"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_text_that_is_not_there_names_its_line_and_a_way_out(name: str) -> None:
    decide, message = REFUSED[name]

    @sgl.function
    def program(s: Any, question: str) -> None:
        s += sgl.user("Q: " + question) + sgl.assistant(sgl.gen("a") + sgl.gen_int("n"))
        decide(s, question)

    with pytest.raises(ProgramError, match=rf"line \d+ of test_graph.py depends on text .*({message})"):
        program.trace()
    partial = program.trace(until="data")
    assert partial.end is not None
    assert partial.end.location.file == __file__
    assert [type(node.value).__name__ for node in partial.nodes[:3]] == ["RoleBegin", "Text", "Argument"]
    assert "ends at line" in str(partial)


def test_a_partial_trace_ends_at_the_line_that_decides() -> None:
    @sgl.function
    def program(s: Any, question: str) -> None:
        s += "Q: " + question + sgl.gen("a")
        if s["a"] == "x":  # where it ends
            s += "never"

    end = program.trace(until="data").end
    assert end is not None
    assert end.location.line == line_with("# where " + "it ends", __file__)
    with pytest.raises(BadArgument, match="until must be 'data'"):
        program.trace(until="end")
    with pytest.raises(TypeError, match="did you mean 'question'"):
        program.trace(qestion="x")


# ---------------------------------------------------------------- decisions


def branch(s: Any, verdict: str) -> None:
    s += verdict + ":" + sgl.gen("why")


def test_cond_and_loop_are_nodes_with_a_region_a_case() -> None:
    @sgl.function
    def program(s: Any) -> Any:
        s += "Q" + sgl.select("v", ["yes", "no"])
        sgl.cond(s, s["v"], {"yes": lambda s: branch(s, "Y")}, lambda s: branch(s, "N"))
        s += s["why"]
        sgl.loop(s, lambda s, number: s.append_expression(f"{number}" + sgl.select("act", ["go", "end"])), most=3, until={"act": "end"})
        return s["act"]

    graph = program.trace()
    conds = [number for number, node in enumerate(graph.nodes) if isinstance(node.value, Cond)]
    assert [graph.nodes[number].value for number in conds] == [
        Cond((Reference(1, "v"),), ("yes",), (1,), 2),
        *(Cond((Reference(number - 1, "act"),), ("end",), (3 + 2 * at,), 4 + 2 * at) for at, number in enumerate(conds[1:])),
    ]
    assert graph.nodes[conds[0] + 5].value == Reference(conds[0], "why")
    assert [node.region for node in graph.nodes if isinstance(node.value, Select)] == [0, 0, 4, 6]
    assert graph_of(json.loads(graph.to_json())) == graph


def test_cond_and_loop_refuse_what_they_cannot_do() -> None:
    s = sgl.start(BaseBackend())
    for wrong, message in (
        (lambda: sgl.cond(s, 1, {"a": branch}), "cond decides by text"),
        (lambda: sgl.cond("s", "a", {"a": branch}), "needs the program's state first"),
        (lambda: sgl.cond(s, "a", {}), "cases must map texts"),
        (lambda: sgl.loop(s, branch, most=0, until={"a": "b"}), "most must be a whole number from 1 to 64"),
        (lambda: sgl.loop(s, branch, most=2, until="a"), "until one variable"),
        (lambda: sgl.unordered("ab"), "unordered takes a list"),
    ):
        with pytest.raises(BadArgument, match=message):
            wrong()

    @sgl.function
    def other(s: Any) -> None:
        s += sgl.gen("v")
        outside = s.fork(1)[0]
        sgl.cond(s, s["v"], {"a": lambda s: outside.append_expression("x")})

    with pytest.raises(ProgramError, match=r"line \d+ of test_graph.py appends to another state inside a case"):
        other.trace()


# ---------------------------------------------------------------- saved


def test_a_saved_graph_comes_back_equal(tmp_path: Path) -> None:
    graph = tips.trace()
    for each in (graph, tips.compile().optimised().graph):
        each.save(tmp_path / "tips.json")
        assert sgl.load_graph(tmp_path / "tips.json") == each


def test_a_program_that_returns_an_object_is_saved_without_it() -> None:
    graph = sgl.function(lambda s: (s, object())).trace()
    assert isinstance(graph.returned, Items)
    assert graph.returned.items[0] == State(0)
    assert graph_of(json.loads(graph.to_json())).returned == Constant(None)


def damaged(change: Callable[[dict[str, Any]], object]) -> object:
    document = json.loads(tips.trace().to_json())
    change(document)
    return document


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "version": (lambda d: d.update(version=2), "of version 2, this reads version 1"),
    "format": (lambda d: d.pop("format"), "no graph of sgl_lab"),
    "field": (lambda d: d.pop("labels"), "'labels' is missing"),
    "node": (lambda d: d["nodes"][3].pop("strand"), "node %3 has no 'strand'"),
    "kind": (lambda d: d["nodes"][2].update(value={"is": "Nothing"}), "node %2: .* is no value of a program"),
    "later": (lambda d: d["nodes"][6]["value"].update(step=99), "node %6 reads node %99, which is not before it"),
    "argument": (lambda d: d.update(arguments=[]), "node %1 reads the argument 'topic', which the graph does not have"),
    "strand": (lambda d: d["nodes"][1].update(strand=3), "node %1 is on strand 3, which nothing opens"),
    "region": (lambda d: d["nodes"][1].update(region=3), "node %1 is in region 3, which no Cond opens"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_graph_is_refused_in_one_line_with_the_place(name: str) -> None:
    change, message = DAMAGES[name]
    with pytest.raises(BadArgument, match=message) as refused:
        graph_of(damaged(change))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_graph_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text(tips.trace().to_json()[:-9])
    with pytest.raises(BadArgument, match=r"cut.json is damaged"):
        sgl.load_graph(tmp_path / "cut.json")
    with pytest.raises(BadArgument, match=r"none.json cannot be read: No such file"):
        sgl.load_graph(tmp_path / "none.json")


def test_any_change_of_a_graphs_json_is_loaded_or_refused() -> None:
    text, draw = tips.trace().to_json(), random.Random(0)
    for _ in range(400):
        document = json.loads(text)
        where: Any = document
        while isinstance(where, dict | list) and where and (draw.random() < 0.9 or where is document):
            holder, key = where, draw.choice(list(where) if isinstance(where, dict) else range(len(where)))
            where = holder[key]
        holder[key] = draw.choice([None, -1, 10**6, "x", [], {}, [1], {"is": "Text"}, 0.5, True])
        try:
            str(graph_of(document))
        except BadArgument as error:
            assert "\n" not in str(error)  # noqa: PT017 - most changes are refused, some are not


# ---------------------------------------------------------------- under the original's names


def test_what_the_originals_tests_of_tracing_ask_for() -> None:
    @sgl.function
    def chat(s: Any, question: str) -> None:
        s += sgl.user("Who are you? " + question) + sgl.assistant(sgl.gen("answer"))

    backend = BaseBackend()
    backend.chat_template = get_chat_template("llama-2-chat")
    tracer = chat.trace(backend=backend)
    assert isinstance(tracer, Graph)
    assert tracer.last_node.prev_node is not None
    assert tracer.last_node.prev_node.pid == 0
    assert list(tracer.variables) == ["question", "answer"]
    assert tips.trace().child_states == [1, 2, 3, 4]
    assert [node.node_id for node in tracer.flatten_nodes()] == list(range(len(tracer.nodes)))
    assert tracer.ret_value == Constant(None)
    assert [repr(node) for node in tracer.flatten_nodes()][-1] == "%6 = %5 + RoleEnd(assistant)"
    assert chat.bind(question="x").trace().arguments == ()
