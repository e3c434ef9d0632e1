"""Cells and views on a backend whose engine is elsewhere: what is recorded, drawn and counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.names import KNOWN, Named, make, parsed
from sgl_lab.backends.scripted import ScriptedConversation
from sgl_lab.backends.scripted.conversation import CHAT
from sgl_lab.contracts.conversation import ChatListener, ChatOutput, TextLogprob
from sgl_lab.contracts.errors import BackendUnsupported, BadArgument, RequestFailed
from sgl_lab.contracts.events import RequestAnswered, RequestQueued, StreamExtended, TextArrived
from sgl_lab.contracts.pieces import FIRST, is_piece, mark, piece, pieces, spelled, text_of
from sgl_lab.elsewhere import BackendLab
from sgl_lab.lang.surface import gen
from sgl_lab.trace import Record, read_jsonl, write_jsonl
from sgl_lab.viz.draw import text
from sgl_lab.viz.views import views_of
from sgl_lab.viz.views.inspection import inspections

from .language import watchdog

__all__ = ["watchdog"]


class Priced(ScriptedConversation):
    """Each answer costs 0.25, unless `unknown`; a log-probability for each of its characters if asked for."""

    unknown = False

    def _output(self, *given: Any) -> ChatOutput:
        output = super()._output(*given)
        return replace(output, usage=replace(output.usage, cost=None if self.unknown else 0.25))


def recorded(backend: Any, program: Any, title: str = "In[1]") -> tuple[BackendLab, Record, Any]:
    lab = BackendLab(backend, name="scripted")
    with lab.record(title) as record:
        state = sgl.start(lab.backend_for(), lab.emit, record.run)
        with state.running():
            program(state)
            state.finish()
    return lab, record, state


def talk(s: Any) -> None:
    s += sgl.system("Be terse.")
    s += sgl.user("A sight in Paris?")
    s += sgl.assistant(gen("sight"))
    forks = s.fork(2)
    forks += lambda i: sgl.user(f"Tip {i}?") + sgl.assistant(gen("tip"))


SCRIPT = {"Paris": "The Louvre", "Tip 0": "walk", "Tip 1": "ride"}


def test_the_text_of_pieces_is_the_text_and_their_ids_follow_from_it() -> None:
    for payload in ("", "The quick  brown_fox, 12345 jumps!\n\n  over (x)", "日本語 🎉 a\tb\r\n", "x" * 100, "\ud800 lone"):
        assert text_of(pieces(payload)) == payload
    assert pieces(" quick fox") == (piece(" quick"), piece(" fox"))
    assert piece("a") == 6929368624808495
    assert is_piece(piece("a"))
    assert all(FIRST <= id < 2 * FIRST for id in pieces("many words of several kinds, 1 2 3"))
    assert spelled(FIRST + 1) == f"<{FIRST + 1}>"


def test_a_run_elsewhere_is_recorded_and_drawn_as_one_here_is() -> None:
    lab, record, _ = recorded(Priced(SCRIPT), talk)
    views = views_of(record.scope, lab.spell)
    for entry in record.entries:
        for view in views:
            view.fold(entry)
    drawn = text.transcript(views.tokens.full())
    assert "[system] Be terse." in drawn
    assert "[assistant] ⟦The Louvre⟧" in drawn
    assert [line for line in drawn.splitlines() if "⟦walk⟧" in line or "⟦ride⟧" in line]
    lanes = views.lanes.full()
    assert [lane["label"] for lane in lanes["lanes"]] == ["s", "s[0]", "s[1]"]
    assert sum(bar["n"] for bar in lanes["bars"] if bar["kind"] == "decode") == len("The Louvrewalkride")
    assert all(bar["t1"] is not None for bar in lanes["bars"])


def test_the_counts_are_those_that_the_server_reports_with_the_cost() -> None:
    lab, record, state = recorded(Priced(SCRIPT), talk)
    answered = [entry.event for entry in record.entries if isinstance(entry.event, RequestAnswered)]
    counts = views_of(record.scope, lab.spell).metrics
    for entry in record.entries:
        counts.fold(entry)
    strip = counts.full()
    assert (strip["answered"], strip["cost"], strip["currency"], strip["unpriced"]) == (3, 0.75, "USD", 0)
    assert strip["cached"] + strip["computed"] == sum(one.n_prompt for one in answered)
    assert strip["cached"] == sum(one.n_cached or 0 for one in answered) > 0
    assert strip["generated"] == len("The Louvrewalkride")
    assert "0.7500 USD cost" in text.metrics(strip)
    stats = lab.stats()
    assert (stats["answered"], stats["cost"], stats["requests_running"]) == (3, 0.75, 0)
    assert state.get_meta_info("sight")["cost"] == 0.25


def test_an_unknown_cost_is_shown_as_unknown_and_cached_counts_only_where_they_are_told() -> None:
    backend = Priced(SCRIPT, capabilities=replace(CHAT, cached_counts=False))
    backend.unknown = True
    lab, record, _ = recorded(backend, talk)
    answered = [entry.event for entry in record.entries if isinstance(entry.event, RequestAnswered)]
    assert [(one.cost, one.n_cached) for one in answered] == [(None, None)] * 3
    assert (lab.stats()["unpriced"], lab.stats()["currency"]) == (3, "")


def test_what_is_shown_of_the_prompt_goes_on_where_the_stream_ends() -> None:
    _, record, state = recorded(ScriptedConversation(SCRIPT), talk)
    events = [entry.event for entry in record.entries]
    streams: dict[int, list[int]] = {}
    parents = {event.fork: event.parent for event in events if type(event).__name__ == "ForkOpened"}
    for event in events:
        if isinstance(event, StreamExtended):
            stream = streams.setdefault(event.fork, list(streams.get(parents[event.fork], [])))
            stream[event.start :] = event.tokens
        elif isinstance(event, RequestQueued):
            assert list(event.prompt) == streams[event.fork]
    asked = "<|system|>Be terse.<|user|>A sight in Paris?<|assistant|>"
    assert text_of(next(event.prompt for event in events if isinstance(event, RequestQueued))) == asked
    assert text_of(streams[min(streams)]) == asked + "The Louvre"
    assert state["sight"] == "The Louvre"


def test_prompts_and_answers_are_listed_and_survive_a_file(tmp_path: Path) -> None:
    _lab, record, _ = recorded(ScriptedConversation(SCRIPT), talk)
    write_jsonl(record, tmp_path / "run.jsonl")
    again = read_jsonl(tmp_path / "run.jsonl")
    assert [entry.event for entry in again.entries] == [entry.event for entry in record.entries]
    found = inspections(again.entries)
    assert [(one.title, "".join(again.spell(sample.token) for sample in one.samples)) for one in found] == [
        ("sight", "The Louvre"),
        ("s[0] › tip", "walk"),
        ("s[1] › tip", "ride"),
    ]
    assert found[0].prompt[0] == mark("system")
    assert all(one.reason == "stop" for one in found)
    assert record.has_answers


def test_log_probabilities_are_those_of_the_servers_tokens() -> None:
    class Whole(ScriptedConversation):
        def _output(self, *given: Any) -> ChatOutput:
            tokens = (TextLogprob("The L", -0.25, (("The L", -0.25), ("A", -2.0))), TextLogprob("ouvre", -0.5))
            return replace(super()._output(*given), logprobs=tokens)

    def program(s: Any) -> None:
        s += sgl.user("Paris") + sgl.assistant(gen("sight", return_logprob=True, top_logprobs_num=2))
        s += sgl.user("so") + sgl.assistant(gen("b"))

    lab, record, _ = recorded(Whole({"Paris": "The Louvre", "so": "The Louvre"}), program)
    tokens = views_of(record.scope, lab.spell).tokens
    for entry in record.entries:
        tokens.fold(entry)
    toks = [tok for op in tokens.full()["ops"] for tok in op["toks"] if tok[1] == "generated"]
    assert [(tok[0], tok[2], tok[4]) for tok in toks][:2] == [("The L", -0.25, (("The L", -0.25), ("A", -2.0))), ("ouvre", -0.5, None)]


def test_a_failure_and_a_stop_end_the_request_in_the_views() -> None:
    def program(s: Any) -> None:
        s += sgl.user("Q") + sgl.assistant(gen("x"))

    lab = BackendLab(ScriptedConversation([RequestFailed("the server is busy")]), name="scripted")
    with lab.record("In[1]") as record:
        state = sgl.start(lab.backend_for(), lab.emit, record.run)
        program(state)
        with pytest.raises(RequestFailed):
            state.finish()
    assert [entry.event.reason for entry in record.entries if isinstance(entry.event, RequestAnswered)] == ["error"]
    held = BackendLab(ScriptedConversation("long answer", held=True), name="scripted")
    state = sgl.start(held.backend_for(), held.emit)
    program(state)
    assert held.stats()["requests_running"] == 1
    assert held.stop() == 1
    held.backend.resume()  # type: ignore[union-attr]
    state.wait()
    assert held.stats()["requests_running"] == 0
    assert held.stats()["requests_abort"] == 1


def test_a_listener_called_before_the_number_is_known_loses_nothing() -> None:
    class AtOnce(ScriptedConversation):
        def converse(self, job: Any, listener: ChatListener) -> Any:
            listener.on_delta(0, "early ")
            return super().converse(job, listener)

    _lab, record, state = recorded(AtOnce("early bird"), lambda s: s.append_expression(sgl.user("Q") + sgl.assistant(gen("x"))))
    whole = [entry.event for entry in record.entries if isinstance(entry.event, TextArrived) and entry.event.is_whole]
    assert [text_of(sample.token for sample in event.samples) for event in whole] == [state["x"]] == ["early bird"]


def test_a_lab_elsewhere_has_no_tree_and_refuses_what_needs_the_engine() -> None:
    lab = BackendLab(ScriptedConversation("x"), name="scripted")
    assert not lab.has_tree
    assert lab.snapshot().nodes == ()
    assert lab.title == "scripted-chat · scripted"
    with pytest.raises(BackendUnsupported, match="which --deterministic asks for"):
        lab.backend_for(deterministic=True)
    lab.close()
    assert not lab.is_open


NAMES = {
    "openai": Named("openai", "", ""),
    "openai:gpt-5": Named("openai", "gpt-5", ""),
    "litellm:groq/llama:free": Named("litellm", "groq/llama:free", ""),
    "vllm:qwen@http://127.0.0.1:8000/": Named("vllm", "qwen", "http://127.0.0.1:8000"),
    "http://127.0.0.1:8000/v1": Named("server", "", "http://127.0.0.1:8000/v1"),
    "sglang@https://box:30000": Named("sglang", "", "https://box:30000"),
}
WRONG = {
    "opnai": "did you mean 'openai'",
    "": "there is no backend",
    "server": "server needs an address",
    "litellm": "litellm needs a model",
    "local@http://h": "local has no address",
    "sglang@box": "begins with http",
    "vllm:http://127.0.0.1:8000": "write vllm@http",
    "sglang:http://127.0.0.1:8000": "write sglang@http",
}


@pytest.mark.parametrize("spelled_out", NAMES)
def test_a_name_says_a_model_and_an_address(spelled_out: str) -> None:
    assert parsed(spelled_out) == NAMES[spelled_out]
    assert parsed(str(parsed(spelled_out))) == NAMES[spelled_out]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_name_says_what_to_write(wrong: str) -> None:
    with pytest.raises(BadArgument, match=WRONG[wrong]):
        parsed(wrong)


def test_a_name_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN, "openai", replace(KNOWN["openai"], sdk="no_such_package_here.inside"))
    with pytest.raises(BadArgument, match=r"pip install 'sgl-lab\[openai\]'"):
        make(parsed("openai"))


def test_an_inferred_tree_grows_in_a_cell_and_changes_no_count() -> None:
    from .test_remote_room import PRICES, Toy

    def program(s: Any) -> None:
        s += sgl.user("Q " * 200) + sgl.assistant(gen("a", max_tokens=5)) + sgl.user("R") + sgl.assistant(sgl.select("b", ["x", "y"]))

    lab, record, _ = recorded(Toy("yes", prices=PRICES), program)
    assert lab.has_tree
    assert any(node.tokens for node in lab.snapshot().nodes)
    views = views_of(record.scope, lab.spell)
    views.tree.load(record.snapshot)
    for entry in record.entries:
        for view in views:
            view.fold(entry)
    strip, stats = views.metrics.full(), lab.stats()
    assert (strip["cached"], strip["generated"]) == (stats["cached_prompt_tokens"], stats["generated_tokens"])
    bars = views.lanes.full()["bars"]
    assert sum(bar["n"] for bar in bars if bar["kind"] == "decode") == stats["generated_tokens"]
    assert sum(bar["n"] for bar in bars if bar["kind"] == "found") == stats["cached_prompt_tokens"]
    assert len(views.tree.full()["nodes"]) == len(lab.snapshot().nodes)
