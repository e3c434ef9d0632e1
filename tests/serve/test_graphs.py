"""A saved graph through the door: its results and counts are those of the program here."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

import sgl_lab as sgl
from sgl_lab.serve import Door

from .calls import call, is_idle, until


@sgl.function
def inner(s: Any, word: str) -> None:
    s += "About " + word + ":" + sgl.gen("text", max_tokens=4)


@sgl.function
def program(s: Any, question: str) -> Any:
    s += "Q: " + question + "\nA:" + sgl.select("sure", ["yes", "no"])
    forks = s.fork(2)
    for index, fork in enumerate(forks):
        fork += f" {index}" + sgl.gen("each", max_tokens=3)
    forks.join()
    return {"text": inner(word=s["sure"])["text"], "each": s["each"]}


GRAPH = json.loads(program.trace().to_json())


def test_a_graph_gives_the_results_and_counts_of_its_program(door: Door) -> None:
    rows = [{"question": "is tea hot?"}, {"question": "is ice hot?"}]
    asked = {"graph": GRAPH, "arguments": rows, "sampling_params": {"temperature": 0}, "user": "grapher"}
    status, found = call(door, "/v1/graph", asked)
    assert status == 200
    expected = program.run_batch(rows, backend=door.lab.backend, temperature=0)
    for result, state in zip(found["results"], expected, strict=True):
        assert (result["text"], result["returned"]) == (state.text(), state.ret_value)
        assert result["variables"]["sure"] == state["sure"]
        assert result["usage"]["completion_tokens"] <= 4 + 2 * 3
    assert found["usage"]["prompt_tokens"] == sum(result["usage"]["prompt_tokens"] for result in found["results"])
    assert found["usage"]["cached_tokens"] > 0
    (one,) = call(door, "/v1/graph", asked | {"arguments": rows[0], "optimise": "none"})[1]["results"]
    assert one["text"] == expected[0].text()
    assert door.lab.guests[-1].title == "grapher: program"
    assert until(lambda: is_idle(door))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "damaged": ({"graph": GRAPH | {"arguments": []}}, "reads the argument 'question', which the graph does not have"),
    "version": ({"graph": GRAPH | {"version": 9}}, "the graph is of version 9"),
    "nothing": ({"graph": None}, "no graph of sgl_lab"),
    "missing": ({"arguments": [{"question": "x"}, {}]}, "item 1 of the batch: program.. missing 1 required arguments: 'question'"),
    "unknown": ({"arguments": {"qestion": "x"}}, "did you mean 'question'"),
    "kind": ({"arguments": {"question": ["x"]}}, "is a text, not list"),
    "many": ({"arguments": [{"question": "x"}] * 65}, "arguments has 65 items, a request from 1 to 64"),
    "pass": ({"optimise": "fast"}, "optimise must be one of"),
    "order": ({"by": "node"}, "by must be one of"),
    "sampling": ({"sampling_params": {"temprature": 0}}, "temprature"),
    "value": ({"sampling_params": {"temperature": "hot"}}, "temperature"),
    "field": ({"strem": True}, "strem"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_is_refused_in_one_line(door: Door, name: str) -> None:
    change, message = REFUSED[name]
    status, found = call(door, "/v1/graph", {"graph": GRAPH, "arguments": {"question": "x"}} | change)
    assert status == 400, found
    assert message.replace("..", "()") in found["error"]["message"]
    assert "\n" not in found["error"]["message"]
    assert until(lambda: is_idle(door))


def test_a_graph_ends_when_its_client_is_gone(door: Door) -> None:
    endless = sgl.function(lambda s: s.append_expression("Go on" + sgl.gen("x", max_tokens=3500, ignore_eos=True)))
    body = {"graph": json.loads(endless.trace().to_json())}
    before = door.lab.stats()["computed_tokens"]
    headers = {"authorization": f"Bearer {door.token}"}
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(f"{door.url}/v1/graph", json=body, headers=headers, timeout=0.4)
    assert until(lambda: is_idle(door))
    assert door.lab.stats()["computed_tokens"] - before < 3500
