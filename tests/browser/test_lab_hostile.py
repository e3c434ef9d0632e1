"""Hostile strings in a real JupyterLab, wherever a cell shows what it was given: they stay text, live, frozen, reopened and exported.

The whole corpus is in `test_hostile_pages`; here is what only a real notebook does: its own scripts, sanitizer and formulas. And S9:
to open what somebody shares runs nothing.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from sgl_lab.contracts.legible import legible

from .conftest import OpenNotebook
from .harness import Notebook, Server, exported, write_notebook

OUTPUT = ".jp-OutputArea-output"

PAYLOADS = [
    "<script>window.__xss = 1</script>",
    "</script><script>window.__xss = 2</script>",
    "<img src=x onerror='window.__xss = 3'>",
    "<svg onload='window.__xss = 4'></svg>",
    "<svg><script>window.__xss = 5</script></svg>",
    "<iframe srcdoc='<script>parent.__xss = 6</script>'></iframe>",
    "<a id=lab href='javascript:window.__xss = 7'>click</a>",
    "\"><b onpointerover='window.__xss = 8' id=jupyter-config-data>",
    "' onfocus='window.__xss = 9' autofocus tabindex=1 '",
    "<details open ontoggle='window.__xss = 10'>",
    "<style>@import 'http://outside.test/a.css';</style><link rel=stylesheet href='http://outside.test/b.css'>",
    "<div data-commandlinker-command='notebook:run-all-cells'>run</div>",
    "]]></text></svg><img src=x onerror='window.__xss = 13'>",
    "${window.__xss = 14}{{constructor.constructor('window.__xss = 15')()}}",
    "it is $5 and $6, $\\href{javascript:window.__xss=16}{x}$ and \\(\\cssId{lab}{y}\\) and \\begin{align}z\\end{align}",
    "\x1b]0;title\x07\x1b[31mred\x1b[0m \u202egnp.exe\u2066 \u200bnothing",
]

SHORT = "<b/onload=1>"
"""short enough for the labels of nodes and bars"""

PROGRAM = """%%sgl --temperature 0
for payload in payloads:
    user(payload)
assistant(gen(short, max_tokens=3) + select(payloads[2], choices=payloads[:3]))
twins = fork(2)
for twin, words in zip(twins, [short, "words"]):
    twin += words + gen(short, max_tokens=n, ignore_eos=True)
twins.join()
raise ValueError("".join(payloads))"""

INSERTED = "#lab, b#jupyter-config-data, [data-commandlinker-command], iframe, img[src=x], [onerror], [onload], [onfocus], [ontoggle]"
INSERTED += ", mjx-container, .MathJax"
"""elements that only a payload taken for markup or for a formula would make"""

COMMANDS = """%sgl tree
%sgl timeline
%sgl tokens
%sgl why
%sgl lint
%sgl diff -1 -1
%sgl whatif --tokens 500,1000
%sgl stats
%sgl status
%sgl config
%sgl jobs
%sgl dashboard
%sgl save hostile.jsonl
%sgl replay hostile.jsonl"""

INTERACT = """%%sgl --interact words=["</script><script>window.__xss = 21</script>", "$x$ <img src=x onerror='window.__xss = 22'>"]
user(words) + assistant(gen(short, max_tokens=2))"""


@pytest.fixture(scope="module")
def notebook(dark_7: Server, open_notebook: OpenNotebook) -> Notebook:
    write_notebook(dark_7.root / "hostile.ipynb", "%load_ext sgl_lab", f"payloads, short = {PAYLOADS!r}, {SHORT!r}")
    notebook = open_notebook(dark_7, "hostile.ipynb")
    notebook.run_all()
    return notebook


def assert_only_text(page: Page, within: str) -> None:
    """Point at everything, then see that nothing of the payloads became more than text."""
    pointed = page.locator(within).evaluate_all(
        """(all) => {
          const parts = all.flatMap((part) => [part, ...part.querySelectorAll('*')]);
          const events = ['pointerover', 'mouseover', 'focus', 'toggle', 'load', 'error'];
          for (const part of parts) for (const name of events) part.dispatchEvent(new Event(name, { bubbles: true }));
          return parts.length;
        }"""
    )
    assert pointed > 50
    assert page.locator(within).locator(INSERTED).count() == 0
    assert page.evaluate("() => window.__xss") is None


KERNEL = """
import sys, psutil
print([name for name in ("sgl_lab", "torch", "plotly", "anywidget") if name in sys.modules],
      [cell for cell in In if cell],
      psutil.Process().children(),
      [c.raddr.ip for c in psutil.Process().net_connections() if c.raddr and c.raddr.ip != "127.0.0.1"])
"""


def assert_opening_did_nothing(again: Notebook) -> None:
    """The kernel stays idle, no request leaves the machine, and the outputs are readable."""
    assert again.ask(KERNEL) == "[] [] [] []"
    assert again.outside == []
    assert again.page.locator(OUTPUT, has_text="Radix tree").count() >= 3
    text = " ".join(again.page.locator(OUTPUT).all_text_contents())
    assert [payload for payload in PAYLOADS if legible(payload) not in text] == []
    assert "not found" not in text


def play(page: Page) -> None:
    """Choose a node in the last saved cell, which has opened by itself."""
    page.locator(OUTPUT, has_text="Radix tree").last.scroll_into_view_if_needed()
    page.get_by_role("button", name="Replay").last.wait_for()
    page.get_by_role("tree").last.scroll_into_view_if_needed()
    page.locator(".sgl-node:not(.others)").last.click()
    expect(page.locator(".sgl-details").last).to_be_visible()


def test_while_the_cell_runs_and_in_every_card(notebook: Notebook) -> None:
    page = notebook.page
    notebook.run("n = 3000")
    notebook.start(PROGRAM)
    notebook.wait("document.querySelectorAll('.sgl-fork .t.generated').length >= 4")
    page.locator(".sgl-roots .t", has_text="script").first.dispatch_event("pointerover")
    assert "script" in page.locator(".sgl-card").inner_text()
    assert page.locator(".sgl-node-label", has_text=SHORT).count() > 0
    assert page.locator(".sgl-span-label", has_text=SHORT).count() > 0
    assert_only_text(page, ".sgl-live")
    notebook.command("notebook:interrupt-kernel")
    notebook.wait_idle()


def test_when_the_cell_has_ended_with_them_in_its_error(notebook: Notebook) -> None:
    notebook.run("n = 3")
    notebook.run(PROGRAM)
    notebook.run(COMMANDS)
    frozen = notebook.page.locator(OUTPUT)
    assert frozen.count() >= 16
    text = " ".join(frozen.all_text_contents())
    assert [payload for payload in PAYLOADS if legible(payload) not in text] == []
    assert legible(text) == text
    assert_only_text(notebook.page, OUTPUT)


def test_in_the_controls_of_a_cell(notebook: Notebook) -> None:
    notebook.run(INTERACT)
    box = notebook.page.locator(".sgl-controls select")
    assert "window.__xss = 21" in box.locator("option").first.inner_text()
    box.select_option(index=1)
    notebook.page.get_by_text("onerror='window.__xss = 22'").last.wait_for()
    assert_only_text(notebook.page, OUTPUT)


def test_in_a_trusted_notebook_opened_again(notebook: Notebook, open_notebook: OpenNotebook) -> None:
    notebook.save()
    copy = notebook.file.with_name("copy.ipynb")  # trusted like the first one, with a kernel of its own
    copy.write_bytes(notebook.file.read_bytes())
    again = open_notebook(notebook.server, copy.name)
    assert again.js("return lab.cell(3).model.trusted") is True
    assert_opening_did_nothing(again)
    assert_only_text(again.page, OUTPUT)
    play(again.page)
    assert_only_text(again.page, ".sgl-live")


def test_in_an_untrusted_notebook_opened_elsewhere(notebook: Notebook, light_6: Server, open_notebook: OpenNotebook) -> None:
    again = open_notebook(light_6, notebook.file.name)
    assert again.js("return lab.cell(3).model.trusted") is False
    assert_only_text(again.page, OUTPUT)
    assert_opening_did_nothing(again)


def test_in_a_page_made_by_nbconvert(notebook: Notebook, browser: Browser) -> None:
    page = browser.new_page(offline=True)
    page.goto(exported(notebook.file).as_uri())
    assert_only_text(page, OUTPUT)
    play(page)
    assert_only_text(page, ".sgl-live")
    page.close()


def test_nothing_of_this_left_the_machine(notebook: Notebook) -> None:
    assert notebook.outside == []
    assert notebook.errors == []
