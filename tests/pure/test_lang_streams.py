"""Appending queues, reading waits; forks, joins, errors and stopping."""

from __future__ import annotations

import _thread
import threading
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import (
    BadArgument,
    EngineStopped,
    ProgramError,
    PromptTooLong,
    RequestFailed,
    Stopped,
    UnknownAttribute,
    UnknownVariable,
)
from sgl_lab.contracts.events import Event, ExprFinished, ExprStarted, ForkJoined, ForkOpened
from sgl_lab.contracts.port import GenJob, WarmJob

from .language import line_with, streams_of, watchdog, within  # noqa: F401

gen = sgl.gen


def test_appending_never_waits_and_reading_does() -> None:
    backend = ScriptedBackend("yes", held=True)
    s = sgl.start(backend)
    s += "Is it?" + gen("a") + " And?" + gen("b")
    assert len(backend.jobs) == 1, "the second gen waits for the first"
    backend.resume()
    assert s["b"] == "yes"
    assert s["a"] == "yes"
    assert s.text() == "Is it?yes And?yes"


def test_a_stream_runs_in_order_and_generated_tokens_are_never_encoded_again() -> None:
    backend = ScriptedBackend(["one", "two"])
    s = sgl.start(backend)
    s += "a" + gen("x") + "b" + gen("y")
    toy = backend.tokenizer
    assert s["y"] == "two"
    first, second = backend.jobs_of(GenJob)
    assert first.prompt == toy.encode("a")
    assert second.prompt == toy.encode("a") + toy.sampled("one") + toy.encode("b")
    assert s.get_meta_info("y")["cached_tokens"] == len("aone") - 1, "all generated tokens but the last are found again"


def test_a_read_of_an_unknown_name_is_an_error_at_once() -> None:
    s = sgl.start(ScriptedBackend())
    s += "x" + gen("answer")
    with pytest.raises(UnknownVariable, match="did you mean 'answer'"):
        s["anser"]
    assert "answer" in s
    assert "anser" not in s


def test_unnamed_gens_are_kept_under_their_positions() -> None:
    s = sgl.start(ScriptedBackend(["one", "two", "three"]))
    s += "x" + gen() + gen("named") + gen()
    assert (s[0], s["named"], s[1]) == ("one", "two", "three")


def test_several_samples_are_a_list_and_the_program_goes_on_with_the_first() -> None:
    s = sgl.start(ScriptedBackend(["one", "two", "three"]))
    s += "x" + gen("many", n=2) + gen("last")
    assert s["many"] == ["one", "two"]
    assert [meta["finish_reason"] for meta in s.get_meta_info("many")] == ["stop", "stop"]
    assert s.text() == "xonethree"


def test_a_var_scope_holds_all_text_inside_it() -> None:
    s = sgl.start(ScriptedBackend("42"))
    s += "Start. "
    with s.var_scope("sentence"):
        s += "The answer is " + gen("n") + "."
        with pytest.raises(ProgramError, match="own var_scope"):
            s["sentence"]
    s += " End."
    assert s["sentence"] == "The answer is 42."


def test_set_var_is_read_like_any_other() -> None:
    s = sgl.start(ScriptedBackend())
    s["k"] = 3
    assert s["k"] == 3
    assert s.fork(1)[0]["k"] == 3


def test_role_methods_append_once_however_they_are_used() -> None:
    s = sgl.start(ScriptedBackend())
    s += s.user("hi")
    s.user("again")
    s += s.user("third") + s.assistant(gen("a"))
    assert [message["content"] for message in s.messages()] == ["hi", "again", "third", "ok"]


def test_only_strings_and_expressions_can_be_appended() -> None:
    s = sgl.start(ScriptedBackend())
    with pytest.raises(BadArgument, match="cannot append int"):
        s += 5


def test_an_expression_is_refused_whole() -> None:
    s = sgl.start(ScriptedBackend())
    with pytest.raises(BadArgument, match="min_tokens"):
        s += "text" + gen("a") + gen("b", min_tokens=500)
    assert "a" not in s
    assert s.text() == ""


# ---------------------------------------------------------------- forks


def test_the_parent_is_drained_and_warmed_before_its_children_start() -> None:
    backend = ScriptedBackend({"Q": "A", "1": "one", "2": "two"}, held=True)
    s = sgl.start(backend)
    s += "Q" + gen("q")
    f = s.fork(2)
    f += lambda i: f"{i + 1}"
    f += gen("x")
    assert len(backend.jobs) == 1
    backend.resume()
    assert [child["x"] for child in f] == ["one", "two"]
    kinds = [type(job) for job in backend.jobs]
    assert kinds == [GenJob, WarmJob, GenJob, GenJob]
    warm = backend.jobs[1]
    assert warm.prompt == backend.tokenizer.encode("Q") + backend.tokenizer.sampled("A")
    assert [child.get_meta_info("x")["cached_tokens"] for child in f] == [len(warm.prompt)] * 2


def test_a_fork_is_not_a_thread() -> None:
    backend = ScriptedBackend("x", held=True)
    s = sgl.start(backend)
    s += "Q"
    before = threading.active_count()
    f = s.fork(200)
    f += gen("x")
    assert threading.active_count() == before
    backend.resume()
    assert [child["x"] for child in f] == ["x"] * 200


def test_a_fork_inside_a_turn_goes_on_inside_it() -> None:
    backend = ScriptedBackend({"1.": "one", "2.": "two"})
    s = sgl.start(backend)
    s += sgl.user("Count")
    with s.assistant():
        s += "So: "
        f = s.fork(2)
        f += lambda i: f"{i + 1}." + gen("x") + sgl.assistant_end()
        f.join()
        s += "done"
    assert s["x"] == ["one", "two"]
    assert f[1].messages()[-1] == {"role": "assistant", "content": "So: 2.two"}
    assert s.messages()[-1] == {"role": "assistant", "content": "So: done"}


def test_children_know_the_parents_values_and_the_parent_goes_on() -> None:
    s = sgl.start(ScriptedBackend(["p", "c", "q"]))
    s += "x" + gen("a")
    child = s.fork(1)[0]
    child += "y" + gen("b")
    assert (child["a"], child["b"]) == ("p", "c")
    s += "z" + gen("c")
    assert s["c"] == "q"
    assert "b" not in s
    assert (s.text(), child.text()) == ("xpzq", "xpyc")


def test_join_gathers_each_new_variable_as_a_list() -> None:
    s = sgl.start(ScriptedBackend({"x": "y", "0": "zero", "1": "one"}))
    s += "x" + gen("before")
    f = s.fork(2)
    f += ["0", "1"]
    f += gen("tip")
    f[1].set_var("only", 7)
    f.join()
    assert s["tip"] == ["zero", "one"]
    assert s["only"] == [None, 7]
    assert s["before"] == "y"
    assert s.text() == "xy"
    with pytest.raises(ProgramError, match="joined"):
        f[0] += "more"
    with pytest.raises(ProgramError, match="joined already"):
        f.join()


def test_join_can_append_what_the_children_said_with_their_tokens() -> None:
    backend = ScriptedBackend({"0": "zero", "1": "one"})
    toy = backend.tokenizer
    s = sgl.start(backend)
    s += "x"
    f = s.fork(2)
    f += lambda i: f" {i}:" + gen("tip")
    f.join("concate_and_append")
    s += "!"
    assert s.text() == "x 0:zero 1:one!"
    s += gen("end")
    assert s["end"] == "one"
    expected = toy.encode("x") + toy.encode(" 0:") + toy.sampled("zero") + toy.encode(" 1:") + toy.sampled("one") + toy.encode("!")
    assert backend.jobs_of(GenJob)[-1].prompt == expected
    assert s.get_meta_info("end")["cached_tokens"] == len("x 0:zer") + 0, "the first child's KV stands where the parent goes on"


def test_joined_chats_go_on_as_one_chat() -> None:
    backend = ScriptedBackend({"Q0": "zero", "Q1": "one", "last": "end"})
    s = sgl.start(backend)
    s += sgl.user("first") + sgl.assistant("hello")
    f = s.fork(2)
    f += lambda i: sgl.user(f"Q{i}") + sgl.assistant(gen("a"))
    f.join("concate_and_append")
    s += sgl.user("last") + sgl.assistant(gen("z"))
    assert s["z"] == "end"
    assert [m["content"] for m in s.messages()] == ["first", "hello", "Q0", "zero", "Q1", "one", "last", "end"]
    ids = s.token_ids()
    assert sum(id >= backend.tokenizer.SAMPLED for id in ids) == len("zeroone" + "end"), "no generated token was encoded again"
    assert s.prompt() + "<|im_end|>\n" == s.text()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gen", "forks += ... appends the same to each fork"),
        ("select", "forks += ..."),
        ("text", "forks[0].text"),
        ("messages", "forks[0].messages"),
        ("jion", "did you mean 'join'?"),
    ],
)
def test_an_attribute_that_forks_lack_says_what_to_write(name: str, hint: str) -> None:
    forks = sgl.start(ScriptedBackend("v")).fork(2)
    with pytest.raises(UnknownAttribute, match=f"no '{name}'") as caught:
        getattr(forks, name)
    assert hint in (caught.value.hint or "")
    assert isinstance(caught.value, AttributeError)
    assert not hasattr(forks, "_repr_png_")


def test_one_fork_is_appended_to_by_its_index_and_cannot_be_replaced() -> None:
    s = sgl.start(ScriptedBackend("v"))
    f = s.fork(2)
    f[0] += "x" + gen("a")
    f[-1] += "y"
    assert (f[0].text(), f[1].text()) == ("xv", "y")
    with pytest.raises(ProgramError, match="cannot be replaced"):
        f[0] = f[1]
    assert f[0].text() == "xv"


def test_children_that_end_in_another_role_cannot_be_appended() -> None:
    s = sgl.start(ScriptedBackend())
    f = s.fork(2)
    f += sgl.user_begin() + "x"
    with pytest.raises(ProgramError, match="begins inside role"):
        f.join("concate_and_append")


def test_a_copy_in_a_with_is_joined_at_its_end() -> None:
    s = sgl.start(ScriptedBackend("v"))
    s += "x"
    with s.copy() as t:
        t += gen("a")
    assert s["a"] == ["v"]
    assert s.text() == "x"


@pytest.mark.parametrize("size", [0, -1, 1.5, True, 10**6])
def test_a_fork_of_no_sensible_size_is_refused(size: object) -> None:
    with pytest.raises(BadArgument, match="fork takes"):
        sgl.start(ScriptedBackend()).fork(size)  # type: ignore[arg-type]


# ---------------------------------------------------------------- errors


def test_a_failed_gen_raises_the_original_exception_at_the_first_read_with_the_users_line() -> None:
    failure = RequestFailed("the sampler broke")
    s = sgl.start(ScriptedBackend({"bad": failure, "good": "fine"}))
    s += "good" + gen("a")
    s += "bad" + gen("b")  # the line in the note
    s += "never" + gen("c")
    for read in (lambda: s["b"], lambda: s["c"], s.sync, s.text, s.messages):
        with pytest.raises(RequestFailed) as caught:
            read()
        assert caught.value is failure
    assert failure.__notes__ == [f"in gen('b'), line {line_with('# the line ' + 'in the note', __file__)} of test_lang_streams.py"]
    assert s["a"] == "fine"
    assert s.error() is failure
    s += "more" + gen("d")
    assert within(5, lambda: s["d"]) is failure, "appending after a failure neither hangs nor hides it"


def test_a_job_that_is_refused_at_once_fails_like_any_other() -> None:
    s = sgl.start(ScriptedBackend(context=10))
    s += "far too long a prompt" + gen("a")
    with pytest.raises(RequestFailed, match="context 10") as caught:
        s["a"]
    assert "in gen('a')" in caught.value.__notes__[0]


def test_an_error_in_a_child_is_raised_from_join_and_names_the_fork() -> None:
    s = sgl.start(ScriptedBackend({"1": RequestFailed("boom"), "0": "a", "2": "b"}))
    s += "x"
    f = s.fork(3)
    f += lambda i: str(i) + gen("v")
    with pytest.raises(RequestFailed, match="boom") as caught:
        f.join()
    assert "in fork 1 of 3" in caught.value.__notes__
    assert (f[0]["v"], f[2]["v"]) == ("a", "b"), "the others are not touched"


def test_a_parent_that_fails_fails_its_children() -> None:
    s = sgl.start(ScriptedBackend(RequestFailed("boom")))
    s += "x" + gen("a")
    child = s.fork(1)[0]
    child += gen("b")
    grandchild = child.fork(1)[0]
    assert within(5, grandchild.error) is s.error()
    assert within(5, lambda: child["b"]) is s.error()


def test_a_prompt_that_cannot_be_warmed_fails_the_children_too() -> None:
    s = sgl.start(ScriptedBackend(context=10))
    s += "far too long a prompt"
    child = s.fork(1)[0]
    child += gen("a")
    assert isinstance(within(5, lambda: child["a"]), PromptTooLong)
    assert child.error() is s.error()


def test_an_answer_that_comes_after_the_stream_was_given_up_changes_nothing() -> None:
    class Lost(ScriptedBackend):
        lost = True

        def poll(self) -> None:
            if self.lost:
                raise EngineStopped("not to be reached")

    backend = Lost("late", held=True)
    s = sgl.start(backend)
    s += "Q" + gen("a")
    assert isinstance(within(5, lambda: s["a"]), EngineStopped)
    backend.lost = False
    backend.resume()
    t = sgl.start(backend)
    t += "Q" + gen("a") + gen("b")
    assert t["b"] == "late", "the backend has answered all that came before"
    assert isinstance(within(5, lambda: s["a"]), EngineStopped)
    assert s._stream.transcript.seen() == "Q"


def test_finish_raises_only_unseen_errors() -> None:
    s = sgl.start(ScriptedBackend(RequestFailed("boom")))
    s += "x" + gen("a")
    with pytest.raises(RequestFailed):
        s["a"]
    s.finish()
    s = sgl.start(ScriptedBackend(RequestFailed("boom")))
    s.fork(1)[0].append_expression("x" + gen("a"))
    with pytest.raises(RequestFailed):
        s.finish()


@pytest.mark.parametrize("end", ["close", "die"])
def test_a_backend_that_ends_ends_every_wait(end: str) -> None:
    backend = ScriptedBackend("x", held=True)
    s = sgl.start(backend)
    s += "x" + gen("a")
    f = s.fork(2)
    f += gen("b")
    getattr(backend, end)()
    assert isinstance(within(5, lambda: s["a"]), EngineStopped)
    assert isinstance(within(5, f.join), EngineStopped)
    assert within(5, s.finish) is None, "seen already"


def test_roles_that_do_not_match_are_an_error_at_the_call() -> None:
    s = sgl.start(ScriptedBackend())
    s += sgl.user_begin()
    with pytest.raises(ProgramError, match="'assistant' begins inside role 'user'"):
        s += sgl.assistant("x")
    with pytest.raises(ProgramError, match="'assistant' ends, but 'user' is open"):
        s += sgl.assistant_end()
    s += sgl.user_end()


# ---------------------------------------------------------------- stopping


def test_literal_text_is_streamed_before_the_model_sees_it() -> None:
    s = sgl.start(ScriptedBackend(["a", "b"]))
    pieces, seen = s.text_iter(), ""

    def until(text: str) -> None:
        nonlocal seen
        while seen != text:
            seen += next(pieces)
            assert text.startswith(seen)

    with s._run.body():
        s += "Begun"
        within(20.0, lambda: until("Begun"))
        s += ", " + gen("x") + " and so"
        within(20.0, lambda: until("Begun, a and so"))
        s += sgl.user("What?") + "On" + gen("y")
    assert seen + "".join(pieces) == s.text()


def test_a_stopped_run_keeps_partial_text_and_marks_it() -> None:
    backend = ScriptedBackend("a long answer", held=True)
    s = sgl.start(backend)
    s += "Q:" + gen("a") + "and" + gen("b")
    f = s.fork(2)
    f += gen("c")
    backend.step(6)
    text = s.text_iter("a")
    seen = ""
    while seen != "a long":
        seen += next(text)
    s.cancel()
    s.wait()
    assert s["a"] == "a long"
    assert s.get_meta_info("a")["finish_reason"] == "abort"
    assert s.text() == "Q:a long"
    for read in (s.finish, lambda: s["b"], s.sync, lambda: f[0]["c"], f.join):
        with pytest.raises(Stopped):
            read()
    assert backend.n_cancelled == 1
    assert len(backend.jobs) == 1


def test_a_read_in_the_body_of_a_stopped_run_unwinds_it() -> None:
    backend = ScriptedBackend("a long answer", held=True)
    s = sgl.start(backend)
    reached: list[str] = []
    reading = threading.Event()

    def body() -> None:
        with s.running():
            s.append_expression("Q" + gen("a"))
            reading.set()
            reached.append(s["a"])

    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(within(10, body)))
    thread.start()
    assert reading.wait(10)
    s.cancel()
    thread.join(10)
    assert isinstance(outcome[0], Stopped)
    assert not reached


def test_a_body_that_raises_cancels_what_it_started() -> None:
    backend = ScriptedBackend("x", held=True)
    s = sgl.start(backend)
    s += "P" + gen("p")
    with pytest.raises(BadArgument), s.running():
        s.append_expression(5)
    s.wait()
    assert backend.n_cancelled == 1


def test_a_backend_that_aborts_stops_the_stream() -> None:
    backend = ScriptedBackend("x", held=True)
    s = sgl.start(backend)
    s += "Q" + gen("a") + gen("b")
    backend.cancel(s._stream.work.request)  # type: ignore[union-attr, arg-type]
    assert isinstance(within(5, s.error), Stopped)
    assert s["a"] == ""
    assert s.get_meta_info("a")["finish_reason"] == "abort"


def test_an_interrupt_is_felt_while_waiting_and_the_next_run_is_right() -> None:
    backend = ScriptedBackend("x", held=True)
    s = sgl.start(backend)
    s += "Q" + gen("a")
    interrupt = threading.Timer(0.1, _thread.interrupt_main)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt), s.running():
        s["a"]
    s.wait()
    assert backend.n_cancelled == 1
    with pytest.raises(Stopped, match="interrupted"):
        s.sync()
    backend.resume()
    t = sgl.start(backend)
    t += "Q" + gen("a")
    assert t["a"] == "x"


# ---------------------------------------------------------------- events


def test_events_tell_streams_and_expressions_with_the_users_line() -> None:
    events: list[Event] = []
    backend = ScriptedBackend("yes")
    s = sgl.start(backend, events.append, label="cell")
    s += sgl.user("Is it?") + sgl.assistant(gen("a"))  # the expression in the note
    f = s.fork(2)
    f += sgl.user("Sure?") + sgl.assistant(sgl.select("b", ["no", "yes"]))
    f.join()
    s.finish()
    streams = streams_of(events)
    assert {fork: tuple(ids) for fork, ids in streams.items()} == {state._stream.id: state.token_ids() for state in (s, *f)}
    opened = [event for event in events if isinstance(event, ForkOpened)]
    assert [(event.label, event.index, event.parent) for event in opened] == [
        ("cell", 0, None),
        ("cell[0]", 0, opened[0].fork),
        ("cell[1]", 1, opened[0].fork),
    ]
    started = [event for event in events if isinstance(event, ExprStarted)]
    assert [(event.kind, event.name) for event in started] == [("gen", "a"), ("select", "b"), ("select", "b")]
    assert started[0].line == line_with("# the expression in the " + "note", __file__)
    finished = [event for event in events if isinstance(event, ExprFinished)]
    assert [(event.status, event.value) for event in finished] == [("ok", "yes"), ("ok", "no"), ("ok", "no")]
    assert [event.children for event in events if isinstance(event, ForkJoined)] == [tuple(event.fork for event in opened[1:])]


@pytest.mark.parametrize("stream", [False, True])
def test_the_programs_state_reports_an_error_of_a_fork_without_join(stream: bool) -> None:
    failure = RequestFailed("boom")

    @sgl.function
    def careless(s: Any) -> None:
        s += "Q" + gen("a")
        s.fork(2)[1].append_expression("bad" + gen("b"))

    @sgl.function
    def careful(s: Any) -> None:
        s += "Q" + gen("a")
        child = s.fork(1)[0]
        child += "bad" + gen("b")
        with pytest.raises(RequestFailed):
            child["b"]

    backend = ScriptedBackend(lambda prompt: failure if prompt.endswith("bad") else "A")
    state = careless.run(backend=backend, stream=stream)
    assert within(5, state.error) is state.error() is failure
    assert (state["a"], state.text()) == ("A", "QA"), "the program's own text is whole"
    with pytest.raises(RequestFailed, match="boom"):
        state.sync()
    assert careless.run_batch([()], backend=backend, return_exceptions=True) == [failure]
    assert careful.run(backend=backend, stream=stream).error() is None
