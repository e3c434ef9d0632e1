"""An exploration in a real JupyterLab, by mouse and keyboard; saved, it is readable without a kernel."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, expect

from .conftest import OpenNotebook
from .harness import RUN_S, Notebook, Server, write_notebook

TRIP = (
    '%%sgl -o trip --temperature 0\nsystem("You are a terse travel guide.")\n'
    'user("Name one famous sight in Paris.")\nassistant(gen("sight", max_tokens=8))'
)
SAME = "print(kept.token_ids() == branch_1.token_ids())"
TRIP_CELL, EXPLORE = 1, 2


@pytest.fixture(scope="module")
def notebook(dark_7: Server, open_notebook: OpenNotebook) -> Notebook:
    write_notebook(dark_7.root / "explore.ipynb", "%load_ext sgl_lab", TRIP, "%sgl explore sight")
    notebook = open_notebook(dark_7, "explore.ipynb")
    notebook.run_all()
    return notebook


def test_an_exploration_by_mouse_and_keyboard(notebook: Notebook) -> None:
    output, keys = notebook.output(EXPLORE), notebook.page.keyboard
    answer, branches = output.locator(".sgl-x-answer .sgl-x-tok"), output.locator(".sgl-x-branch")

    def appears(n: int) -> Locator:
        expect(branches).to_have_count(n, timeout=1000 * RUN_S)
        expect(output.locator(".sgl-x-running")).to_have_count(0, timeout=1000 * RUN_S)
        return branches.first

    # an alternative, by keyboard: the second token, its list, the likeliest other one
    expect(answer.first).to_be_visible(timeout=1000 * RUN_S)
    answer.first.focus()
    keys.press("ArrowRight")
    keys.press("Enter")
    expect(output.locator(".sgl-x-option:not(.sgl-own)").first).to_be_focused()
    keys.press("Enter")
    first = appears(1)
    expect(first.locator(".sgl-x-foot")).to_contain_text("1 computed")
    expect(first.locator(".sgl-x-kept")).to_have_count(1)

    # the same by mouse, from the branch
    first.locator(".sgl-x-tok").nth(3).click()
    output.locator(".sgl-x-option:not(.sgl-own)").first.click()
    expect(appears(2).locator(".sgl-x-foot")).to_contain_text("from branch 1")

    # further texts, and their trie
    output.get_by_label("How many further texts").fill("3")
    answer.nth(1).focus()
    keys.press("m")
    appears(5)
    expect(output.locator(".sgl-x-head")).to_contain_text("of what could follow")

    # another prompt: what it costs is shown first
    output.locator("button.sgl-x-piece").last.click()
    output.get_by_label("Text of the prompt").fill("Name one famous sight in Rome.")
    expect(output.locator(".sgl-x-edit")).to_contain_text("21 tokens stay cached, 8 will be computed")
    keys.press("Control+Enter")
    expect(appears(6)).to_contain_text("edited prompt · 8 computed")

    # delete and undo; pin; keep; copy, and run the copy in this kernel
    branches.first.locator(".sgl-x-tok").first.focus()
    keys.press("Delete")
    appears(5)
    keys.press("u")
    appears(6)
    branches.last.locator(".sgl-x-tok").first.focus()
    keys.press("p")
    expect(branches.first.locator(".sgl-x-name")).to_have_text("◆ branch 1")
    branches.first.locator(".sgl-x-tok").first.focus()
    keys.press("k")
    keys.press("Enter")
    expect(output.locator(".sgl-x-note")).to_have_text("kept as kept")
    branches.first.locator(".sgl-x-tok").first.focus()
    keys.press("c")
    cell = output.locator(".sgl-x-cell textarea")
    expect(cell).to_be_visible()
    copied = cell.input_value()
    assert copied.startswith("%%sgl -o branch_1\nsystem(")
    notebook.run(copied)
    assert notebook.ask(SAME) == "True"


def test_the_saved_file_has_the_last_picture_and_no_widget(notebook: Notebook) -> None:
    drawn = "JSON.stringify(lab.cell(arg).model.toJSON().outputs)"
    notebook.wait(f"{drawn}.includes('edited prompt')", EXPLORE, seconds=30)
    saved = notebook.save()
    (output,) = [output for output in saved.cells[EXPLORE].outputs if "data" in output]
    assert set(output.data) == {"text/html", "text/plain"}
    assert "what it could have said" in output.data["text/plain"]
    assert "★ ◆ branch 1" in output.data["text/plain"]


def test_a_run_that_ended_has_a_button_as_long_as_its_kernel_lives(notebook: Notebook) -> None:
    output = notebook.output(TRIP_CELL)
    button = output.get_by_role("button", name="Explore", exact=True)
    button.click()
    expect(output.locator(".sgl-x-answer .sgl-x-tok").first).to_be_focused(timeout=1000 * RUN_S)
    notebook.page.keyboard.press("Enter")
    notebook.page.keyboard.press("Enter")
    expect(output.locator(".sgl-x-branch")).to_have_count(7, timeout=1000 * RUN_S)  # it is the exploration of before
    notebook.wait("JSON.stringify(lab.cell(arg).model.toJSON().outputs).includes('branch 7')", TRIP_CELL, seconds=30)
    expect(button).to_be_visible()  # the run's own picture is still there
    notebook.js("await lab.panel().sessionContext.restartKernel()")
    expect(button).to_have_count(0, timeout=1000 * RUN_S)
    expect(output.get_by_role("button", name="Replay the run")).to_have_count(2)
