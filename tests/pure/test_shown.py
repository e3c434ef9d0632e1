"""How a state is shown: in a line, in words, as HTML, as rows, as Markdown."""

from __future__ import annotations

import importlib.util
import re
import threading
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.errors import ProgramError, RequestFailed
from sgl_lab.lang.shown import States, tame
from sgl_lab.viz.draw import state as draw

from ..hostile_text import PAYLOADS
from .language import watchdog, within  # noqa: F401


@sgl.function
def guide(s: Any, city: str) -> None:
    s += sgl.system("Be terse.") + sgl.user(f"A sight in {city}?") + sgl.assistant("See " + sgl.gen("sight") + "!")
    tips = s.fork(2)
    tips += lambda index: sgl.user(f"Tip {index}?") + sgl.assistant(sgl.gen("tip"))
    s += sgl.user("Sure?") + sgl.assistant(sgl.select("sure", ["yes", "no"]))
    s.set_var("note", 7)


def guided(answers: Any = "the Forum") -> Any:
    return guide.run("Rome", backend=ScriptedBackend(answers))


class Printer:
    def __init__(self, *stack: int) -> None:
        self.stack, self.written = stack, ""

    def text(self, words: str) -> None:
        self.written += words


def test_a_state_shows_its_turns_values_and_counts() -> None:
    state = guided()
    found = state.summary()
    assert found.turns == (
        ("system", "Be terse."),
        ("user", "A sight in Rome?"),
        ("assistant", "See the Forum!"),
        ("user", "Sure?"),
        ("assistant", "yes"),
    )
    assert [(value.name, value.text) for value in found.values] == [("sight", "the Forum"), ("sure", "yes"), ("note", "7")]
    meta = state.get_meta_info("sight")
    assert (found.values[0].counts.generated, found.values[0].counts.prompt) == (meta["completion_tokens"], meta["prompt_tokens"])
    assert (found.status, found.n_forks) == ("done", 2)
    assert repr(state) == "<ProgramState guide: sight='the Forum', sure='yes', note='7'; done, 9 tokens generated>"
    state._repr_pretty_(alone := Printer(1), False)
    for words in ("[user] A sight in Rome?", "[assistant] See the Forum!", "sight", "stop", "done"):
        assert words in alone.written
    state._repr_pretty_(inside := Printer(1, 2), False)
    assert inside.written == repr(state)
    page = draw.html(found).source
    for words in ("A sight in Rome?", "See the Forum!", "sight", "2 forks"):
        assert words in page


def test_a_running_failed_or_stopped_state_says_so_without_waiting() -> None:
    backend = ScriptedBackend("abc", held=True)
    state = guide.run("Rome", backend=backend, stream=True)
    assert "running" in str(within(5, lambda: repr(state)))
    backend.step()
    state.cancel()
    state.wait()
    assert "stopped" in repr(state)
    backend.close()
    failed = guide.run("Rome", backend=ScriptedBackend(RequestFailed("boom")), stream=True)
    failed.wait()
    assert failed.summary().status == "error"
    assert "boom" in draw.html(failed.summary()).source
    assert "boom" in failed.rows()[0]["error"]


def test_forks_and_items_of_a_batch_are_rows() -> None:
    state = guided(lambda prompt: f"{len(prompt)}")
    rows = state.rows()
    assert [row["tip"] is not None for row in rows] == [False, True, True]
    assert [row["sight"] is not None for row in rows] == [True, False, False]
    assert rows[0]["note"] == 7
    backend = ScriptedBackend({"Rome": "Forum", "Oslo": RequestFailed("boom")})
    states = guide.run_batch([("Rome",), ("Oslo",)], backend=backend, return_exceptions=True)
    assert isinstance(states, States)
    assert isinstance(states, list)
    first, second = states.rows()
    assert (first["sight"], first["error"], second["error"]) == ("Forum", None, "RequestFailed: boom")
    assert first.keys() == second.keys()
    table = draw.table(states.summaries(), "2 states").source
    assert "Forum" in table
    assert "boom" in table
    assert guide.run_batch([], backend=backend).rows() == []


def test_numbers_in_rows_are_numbers() -> None:
    @sgl.function
    def count(s: Any) -> None:
        s += "n: " + sgl.gen("n", dtype=int)

    assert count.run(backend=ScriptedBackend("42")).rows()[0]["n"] == 42


def test_a_frame_has_one_row_per_fork_or_names_the_missing_package() -> None:
    state = guided()
    if importlib.util.find_spec("pandas") is None:
        with pytest.raises(ProgramError, match=r"needs pandas.*rows\(\)"):
            state.to_frame()
        return
    frame = state.to_frame()
    assert list(frame.index) == ["guide", "guide[0]", "guide[1]"]
    assert list(frame["tip"])[1:] == ["the Forum"] * 2


def test_markdown_is_the_text_and_is_rendered_safely() -> None:
    state = guided("**bold** <b onclick=x>")
    text = state.markdown("sight")
    assert text == "**bold** <b onclick=x>"
    assert text._repr_markdown_() == "**bold** <\u2060b onclick=x>"
    assert state.markdown().startswith("**system**\n\nBe terse.")
    assert tame("[a](https://x.y) and a[0](b)") == "[a](https://x.y) and a[0](b)"


@pytest.mark.parametrize(
    "text",
    [
        "[x](javascript:alert(1))",
        "[x]( JaVaScRiPt:alert(1))",
        "[x](<javascript:alert(1)>)",
        "[x](\njavascript:alert(1))",
        "[x](java&#115;cript:alert(1))",
        "[x](data:text/html,1)",
        "![x](https://e.com/a.png)",
        "[x][y]\n\n[y]: javascript:alert(1)",
        "> [y]: javascript:alert(1)\n\n[y]",
        "<img src=x onerror=alert(1)>",
        "```\n</code><script>alert(1)</script>",
        r"$\href{javascript:alert(1)}{x}$",
    ],
)
def test_active_markdown_is_neutralised(text: str) -> None:
    shown = tame(text)
    assert shown.replace("\u2060", "") == text
    assert not re.search(r"<[A-Za-z/!?]|!\[|\]\(\s*<?\s*(java|data)|\]:|\\href", shown, re.IGNORECASE)


def test_no_hostile_text_keeps_a_tag() -> None:
    assert len(PAYLOADS) > 100
    assert not [payload for payload in PAYLOADS if re.search(r"<[A-Za-z/!?]", tame(payload.text))]


def test_many_ask_while_it_runs() -> None:
    state = guide.run("Rome", backend=ScriptedBackend("x" * 200), stream=True)
    threads = [threading.Thread(target=lambda: [repr(state) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    state.sync()
    assert "done" in repr(state)
