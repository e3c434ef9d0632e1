"""What outlasts a cell in a real JupyterLab: dashboard, background cells, controls; saved,
reloaded, and read without a kernel.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from .conftest import OpenNotebook
from .harness import RUN_S, Notebook, Server, exported, write_notebook

ASK = """import threading, sgl_lab as sgl
@sgl.function
def ask(s, n):
    s += sgl.system("You sell tea.") + sgl.user(f"Question {n}?") + sgl.assistant(sgl.gen("answer", max_tokens=24))"""
CROWD = """threads = [threading.Thread(target=lambda n=n: ask.run(n=n).sync()) for n in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()"""
LONG = '%%sgl --bg\nprint("from the job")\nuser("Tell a story.")\nassistant(gen("story", max_tokens={n}, ignore_eos=True))'
CONTROLS = (
    '%%sgl --temperature 0 --interact x=1..5\nuser(f"Count to {x}.")\nassistant(gen("a", max_tokens=2 * x, ignore_eos=True))\nx * 100'
)
GENERATED = "print(f\"{sgl.default_lab().stats()['generated_tokens']:,}\")"

DASHBOARD, JOB, MOVED = 2, 4, 6


@pytest.fixture(scope="module")
def notebook(dark_7: Server, open_notebook: OpenNotebook) -> Notebook:
    write_notebook(dark_7.root / "session.ipynb", "%load_ext sgl_lab", ASK, "%sgl dashboard", CROWD)
    notebook = open_notebook(dark_7, "session.ipynb")
    notebook.run_all()
    return notebook


def strip(notebook: Notebook, view: int = 0) -> str:
    return notebook.page.locator(".sgl-dashboard .sgl-m-generated .sgl-value").nth(view).inner_text()


def test_the_dashboard_shows_the_requests_of_threads_and_the_engines_own_counts(notebook: Notebook) -> None:
    notebook.wait("document.querySelectorAll('.sgl-dashboard .sgl-name.request').length === 6")
    expect(notebook.page.locator(".sgl-dashboard .sgl-phase")).to_have_text("idle")
    assert strip(notebook) == notebook.ask(GENERATED)


def test_a_background_cell_is_seen_while_others_run_and_frozen_when_it_is_over(notebook: Notebook) -> None:
    assert notebook.run(LONG.format(n=200)) == JOB
    output = notebook.output(JOB)
    expect(output.locator(".sgl-live")).to_be_visible()
    other = notebook.run("print('mine')")
    expect(output.locator(".sgl-stop:not(.sgl-play)")).to_have_count(0, timeout=1000 * RUN_S)
    assert "from the job" in output.inner_text()
    assert notebook.output(other).inner_text().strip() == "mine"


def test_moving_a_slider_runs_the_cell_again(notebook: Notebook) -> None:
    assert notebook.run(CONTROLS) == MOVED
    slider = notebook.output(MOVED).get_by_role("slider", name="x", exact=True)
    slider.focus()
    for _ in range(3):
        notebook.page.keyboard.press("ArrowRight")
    expect(notebook.output(MOVED).locator(".sgl-m-generated .sgl-value")).to_have_text("8")
    drawn = "JSON.stringify(lab.cell(arg).model.toJSON().outputs)"
    notebook.wait(f"{drawn}.includes('Value:\\\\n400')", MOVED, seconds=30)
    expect(slider).to_be_focused()
    assert slider.input_value() == "3"


def test_the_saved_file_holds_no_widget_and_is_readable_without_a_kernel(notebook: Notebook, browser: Browser) -> None:
    saved = notebook.save()
    outputs = [output for cell in saved.cells for output in cell.outputs if "data" in output]
    assert len(outputs) >= 4
    assert {kind for output in outputs for kind in output.data} == {"text/html", "text/plain"}
    page = browser.new_page(offline=True)
    page.goto(exported(notebook.file).as_uri())
    assert "Dashboard · smollm2" in page.locator("body").inner_text()
    assert "x=4" in page.locator("body").inner_text()
    page.close()


def test_a_reloaded_page_and_a_new_view_of_the_output_are_live(notebook: Notebook) -> None:
    notebook.page.reload()
    notebook.wait_ready()
    notebook.wait("document.querySelectorAll('.sgl-dashboard').length === 1")
    notebook.run(CROWD)
    counts = notebook.ask(GENERATED)
    expect(notebook.page.locator(".sgl-dashboard .sgl-m-generated .sgl-value")).to_have_text(counts)
    notebook.js("lab.panel().content.activeCellIndex = arg; await jupyterapp.commands.execute('notebook:create-output-view')", DASHBOARD)
    notebook.wait("document.querySelectorAll('.sgl-dashboard').length === 2")
    notebook.wait("document.querySelectorAll('.sgl-dashboard .sgl-name.request').length >= 24")
    assert strip(notebook, 1) == counts


def test_off_keeps_the_pictures(notebook: Notebook) -> None:
    notebook.run("%sgl dashboard off")
    notebook.wait("document.querySelectorAll('.sgl-dashboard').length === 0")
    assert notebook.page.locator("[data-sgl-place]", has_text="Dashboard").count() <= 2
    assert notebook.ask("import threading; print([t.name for t in threading.enumerate() if t.name == 'sgl-live'])") == "[]"


def test_no_step_caused_an_error_or_a_foreign_request(notebook: Notebook) -> None:
    assert notebook.errors == []
    assert notebook.outside == []
