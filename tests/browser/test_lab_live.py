"""One cell in a real JupyterLab during its run: it can be watched, stopped, reached by keyboard,
and survives a reload.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import OpenNotebook
from .harness import Notebook, Server, write_notebook

ANSWER = '%%sgl --temperature 0 --view none\nuser("Name a city.")\nassistant(gen("city", max_tokens=8))\ns["city"]'

FORKS = """%%sgl --temperature 0
import os, time

def hold(name):
    while not os.path.exists({folder!r} + name):
        time.sleep(0.02)

user("You know the town of Ellery by the sea.")
s.sync()
for name, topic in zip(["first", "second", "third"], ["food", "money", "safety"]):
    assistant(gen(topic, max_tokens=24, ignore_eos=True))
    s[topic]
    hold(name)
    user(f"One tip about {{topic}} there.")
    for child in fork(2):
        child += assistant(gen("tip", max_tokens=12, ignore_eos=True))
        child["tip"]
    hold(name + " forks")"""
"""Every stage ends when the test has seen it on the page, so nothing is missed on a slow machine."""

STAGES = [f"{name}{what}" for name in ("first", "second", "third") for what in ("", " forks")]

LONG = '%%sgl --temperature 0.7\nuser("Tell a long story.")\nassistant(gen("story", max_tokens={n}, ignore_eos=True))'

HELD = """
import os, time
s["story"]
while not os.path.exists({file!r}):
    time.sleep(0.02)"""
"""Ends a cell that runs until a file exists."""

LOOKED_FOR = """(window.looked ||= [...document.querySelectorAll('.jp-OutputArea-output')]
  .some((output) => output.textContent === 'Loading widget...') && performance.now()) && performance.now() - looked > 3000"""
"""JupyterLab looks for a widget's model for two seconds, then waits for an idle kernel; one that falls idle in the last tenth
of these seconds is noticed by neither."""

SHOWN = """({ n_tokens: document.querySelectorAll('.sgl-roots .t').length,
  tree: [...document.querySelectorAll('.sgl-node')].map((node) => node.textContent).sort().join('\\n') })"""

GREW = f"""(() => {{ const now = {SHOWN}; return now.n_tokens > arg.n_tokens && now.tree !== arg.tree; }})()"""

N_LIVE = "return document.querySelectorAll('.sgl-live').length"
"""Views that a kernel feeds; a saved cell plays in a shadow tree."""

STOP = ".sgl-live .sgl-stop:not(.sgl-play)"

STOP_MS = 5000
"""A generous second, because the machine may be busy. Without the stop, the work would last
minutes.
"""

TIME_THE_STOP = """
delete window.stopped_ms;
addEventListener('click', ({ timeStamp }) => {
  const watch = setInterval(() => {
    if (lab.waiting()) return;
    clearInterval(watch);
    window.stopped_ms = performance.now() - timeStamp;
  }, 5);
}, { capture: true, once: true });
"""


ONCE = pytest.mark.parametrize("server", ["ipykernel7-dark"], indirect=True)
"""what the page alone decides is the same on both versions of ipykernel"""


@pytest.fixture(scope="module")
def notebook(server: Server, open_notebook: OpenNotebook) -> Notebook:
    """With the extension and the model loaded."""
    write_notebook(server.root / "live.ipynb", "%load_ext sgl_lab")
    notebook = open_notebook(server, "live.ipynb")
    notebook.run_all()
    assert notebook.ask("import ipykernel; print(ipykernel.__version__)").startswith("7." if server.dark else "6.")
    return notebook


@pytest.fixture(scope="module")
def answer(notebook: Notebook) -> str:
    """The output of ANSWER after a correct run."""
    answered = notebook.result(notebook.run(ANSWER))
    assert answered
    return answered


def begin_long(notebook: Notebook, n: int = 3000) -> int:
    """Start a cell that generates `n` tokens. Returns when a few of them are on the page."""
    cell = notebook.start(LONG.format(n=n))
    notebook.wait("document.querySelectorAll('.sgl-roots .t.generated').length >= 4")
    return cell


def words_so_far(notebook: Notebook) -> str:
    answered: str = notebook.js(
        "return [...document.querySelectorAll('.sgl-roots .t.generated')].map((token) => token.textContent).join('')"
    )
    return words_of(answered)


def words_of(text: str) -> str:
    """Without the marks at the ends of lines."""
    return " ".join(text.replace("↵", "").split())


def assert_stopped(notebook: Notebook, cell: int, words: str) -> None:
    """Soon after the click the text so far is kept and marked, and the live view is gone."""
    notebook.wait("window.stopped_ms !== undefined")
    assert notebook.js("return stopped_ms") < STOP_MS
    notebook.wait_idle()
    shown = notebook.output(cell).text_content() or ""
    assert "".join(words.split()) in "".join(words_of(shown).split())
    assert "■ stopped" in shown
    assert notebook.js(N_LIVE) == 0


def test_tokens_and_the_tree_grow_on_the_page_while_the_cell_runs(notebook: Notebook, answer: str, tmp_path: Path) -> None:
    notebook.start(FORKS.format(folder=f"{tmp_path}/"))
    shown = {"n_tokens": 0, "tree": ""}
    for stage in STAGES:
        notebook.wait(GREW, shown)
        shown = notebook.js(f"return {SHOWN}")
        (tmp_path / stage).touch()
    notebook.wait_idle()
    assert notebook.js(N_LIVE) == 0


def test_the_stop_button_stops_at_once_and_the_next_cell_is_right(notebook: Notebook, answer: str) -> None:
    cell = begin_long(notebook)
    notebook.js(TIME_THE_STOP)
    words = words_so_far(notebook)
    notebook.page.locator(STOP).click()
    assert_stopped(notebook, cell, words)
    assert notebook.result(notebook.run(ANSWER)) == answer


def test_the_toolbar_interrupts_at_once_and_the_next_cell_is_right(notebook: Notebook, answer: str) -> None:
    cell = begin_long(notebook)
    notebook.js(TIME_THE_STOP)
    words = words_so_far(notebook)
    notebook.page.locator("[data-jp-item-name=interrupt]").click()
    assert_stopped(notebook, cell, words)
    assert notebook.result(notebook.run(ANSWER)) == answer


def press_until(notebook: Notebook, key: str, selector: str) -> None:
    """Press a key until the intended element has the focus."""
    for _ in range(60):
        notebook.page.keyboard.press(key)
        if notebook.js("return document.activeElement.matches(arg)", selector):
            return
    pytest.fail(f"{key} does not reach {selector}")


@ONCE
def test_the_keyboard_reaches_stop_and_the_tokens_with_their_probabilities(notebook: Notebook, answer: str) -> None:
    cell = begin_long(notebook)
    press_until(notebook, "Tab", ".sgl-stop")
    press_until(notebook, "Tab", ".sgl-text")
    press_until(notebook, "ArrowRight", ".t.generated")
    card = notebook.output(cell).locator(".sgl-card")
    assert "sampled by the model" in card.inner_text()
    assert "%" in card.inner_text()
    assert notebook.js("return document.activeElement.getAttribute('aria-describedby')") == card.get_attribute("id")
    words = words_so_far(notebook)
    notebook.js(TIME_THE_STOP)
    press_until(notebook, "Shift+Tab", ".sgl-stop")
    notebook.page.keyboard.press("Enter")
    assert_stopped(notebook, cell, words)


@ONCE
def test_a_page_reloaded_during_a_run_shows_the_whole_run_at_its_end(notebook: Notebook, answer: str, tmp_path: Path) -> None:
    n = 900
    end = tmp_path / "end"
    notebook.start(LONG.format(n=n) + HELD.format(file=str(end)))
    notebook.wait("document.querySelectorAll('.sgl-roots .t.generated').length >= 4")
    notebook.save()
    notebook.page.reload()
    notebook.wait(LOOKED_FOR)
    end.touch()
    notebook.wait_ready()
    notebook.wait("document.querySelector('.sgl-live')?.dataset.phase === 'done'")
    notebook.wait("document.querySelectorAll('.sgl-roots .t.generated').length === arg", n)
    held = "import json; from sgl_lab.viz.live import LiveHandle; print(json.loads(LiveHandle._ended[-1].widget.snapshot)['partial'])"
    assert notebook.ask(held) == "True", "the run is too short: all of it was in the snapshot"
    assert notebook.page.locator(STOP).is_disabled()
    assert notebook.result(notebook.run(ANSWER)) == answer


def test_no_step_caused_an_error_or_a_foreign_request(notebook: Notebook) -> None:
    assert notebook.errors == []
    assert notebook.outside == []
