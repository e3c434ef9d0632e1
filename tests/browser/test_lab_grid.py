"""A grid of two versions with hostile rows in a real JupyterLab, by mouse and keyboard; then its files."""

from __future__ import annotations

import csv
import json

import pytest
from playwright.sync_api import Browser, expect

from .conftest import OpenNotebook
from .harness import RUN_S, Notebook, Server, write_notebook

MARKUP = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
TURNED, LONG = "abc\u202edef\u2066", "w" * 1500
ROWS = f"rows = [{{'text': t, 'wanted': w}} for t, w in zip([{MARKUP!r}, {TURNED!r}, {LONG!r}, 'plain'], 'abcd')]"
CELL = (
    "%%sgl --over rows --as hostile --temperature 0\nuser({prompt})\n"
    'assistant(gen("a", max_tokens=3))\nexpect(text, contains="a", name="has <b>a")'
)
WIDE = "[...document.querySelectorAll('.jp-OutputArea-output')].filter((it) => it.scrollWidth > it.clientWidth + 1)"
SECOND = 3


@pytest.fixture(scope="module")
def notebook(dark_7: Server, open_notebook: OpenNotebook) -> Notebook:
    cells = (CELL.format(prompt=prompt) for prompt in ("text[:40]", "'Say: ' + text[:40]"))
    write_notebook(dark_7.root / "grid.ipynb", "%load_ext sgl_lab", ROWS, *cells, "%sgl grid hostile -o grid.html")
    notebook = open_notebook(dark_7, "grid.ipynb")
    notebook.run_all()
    return notebook


def test_a_grid_is_sorted_filtered_and_opened_by_mouse_and_keyboard(notebook: Notebook) -> None:
    output, keys = notebook.output(SECOND), notebook.page.keyboard
    rows, first = output.locator(".sgl-grid .bundle"), output.locator(".sgl-grid .open").first
    expect(rows).to_have_count(4, timeout=1000 * RUN_S)
    expect(output.locator(".sgl-grid .totals .name")).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("<img src=x onerror=")
    assert "\u202e" not in output.locator(".sgl-grid").inner_text()
    header = output.get_by_role("columnheader", name="text")
    header.get_by_role("button").focus()
    keys.press("Enter")
    expect(header).to_have_attribute("aria-sort", "ascending")
    expect(rows.nth(0)).to_contain_text("<img")
    keys.press("Enter")
    expect(rows.nth(0)).to_contain_text("wwwwww")
    keys.press("Enter")
    find = output.get_by_label("Find in rows and answers")
    find.fill("PLAIN")
    expect(output.locator(".sgl-grid .count")).to_have_text("1 of 4 rows")
    find.fill("")
    output.get_by_label("Rows to show").select_option("bad")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("<img")
    output.get_by_label("Rows to show").select_option("all")
    first.focus()
    keys.press("Enter")
    expect(first).to_have_attribute("aria-expanded", "true")
    details = output.locator(".sgl-grid .details")
    expect(details).to_contain_text("has <b>a")
    command = details.locator("code").last.inner_text()
    assert notebook.js("return document.title") != "run"
    assert notebook.js(f"return {WIDE}.length") == 0
    index = notebook.run(command)
    expect(notebook.output(index).locator(".sgl-x-answer .sgl-x-tok").first).to_be_visible(timeout=1000 * RUN_S)
    assert notebook.errors == []
    assert notebook.outside == []


def test_its_files_hold_the_texts_as_they_are_and_its_page_runs_nothing(notebook: Notebook, browser: Browser) -> None:
    folder = notebook.file.parent
    for name in ("grid.csv", "grid.jsonl"):
        notebook.run(f"%sgl grid hostile -o {name}")
    with (folder / "grid.csv").open(encoding="utf-8", newline="") as file:
        assert {TURNED, LONG} < {row["row.text"] for row in csv.DictReader(file)}
    lines = (folder / "grid.jsonl").read_text(encoding="utf-8").splitlines()
    assert MARKUP in {json.loads(line)["given"]["text"] for line in lines}
    page = browser.new_page(offline=True)
    page.goto((folder / "grid.html").as_uri())
    expect(page.locator(".sgl-grid .bundle")).to_have_count(4)
    assert page.title() != "run"
    page.close()
