"""The first notebooks of the course in a real JupyterLab: run from top to bottom, saved, opened again, exported."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Browser, Locator

from ..notebook.freeze import count_names, counts, instructions
from .conftest import OpenNotebook
from .harness import Notebook, Server, exported

COURSE = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.stem for path in COURSE.glob("*.ipynb"))
PICTURES = "img[src^='data:image/svg+xml']"
VIEW = "application/vnd.jupyter.widget-view+json"
CHART = "application/vnd.plotly.v1+json"
"""elements that JupyterLab draws instead of the picture beside them"""


@pytest.fixture(scope="module", params=NAMES)
def executed(
    request: pytest.FixtureRequest, dark_7: Server, light_6: Server, open_notebook: OpenNotebook
) -> Iterator[tuple[Notebook, Any]]:
    """A notebook that was run from empty outputs, on alternating versions of ipykernel, and the
    content of its file.
    """
    name = f"{request.param}.ipynb"
    server = (dark_7, light_6)[NAMES.index(request.param) % 2]
    content: Any = nbformat.read(COURSE / name, as_version=4)  # type: ignore[no-untyped-call]
    for cell in code_cells(content):
        cell.outputs, cell.execution_count = [], None
    nbformat.write(content, server.root / name)  # type: ignore[no-untyped-call]
    shutil.copytree(COURSE / "recorded", server.root / "recorded", dirs_exist_ok=True)
    notebook = open_notebook(server, name)
    notebook.run_all()
    yield notebook, notebook.save()
    notebook.close()


@pytest.fixture(scope="module")
def reopened(executed: tuple[Notebook, Any], dark_7: Server, light_6: Server, open_notebook: OpenNotebook) -> Iterator[Notebook]:
    """On the server that did not run it and does not trust it, in the other theme."""
    other = light_6 if executed[0].server is dark_7 else dark_7
    notebook = open_notebook(other, executed[0].file.name)
    yield notebook
    notebook.close()


def code_cells(content: Any) -> list[Any]:
    return [cell for cell in content.cells if cell.cell_type == "code"]


def outputs(content: Any) -> list[Any]:
    return [output for cell in code_cells(content) for output in cell.outputs]


def answers(content: Any) -> list[str]:
    """The model's text in the cells that show it both as frozen tokens and as `Out`, without white
    space.
    """
    found: list[str] = []
    for cell in code_cells(content):
        if "--view tree" not in cell.source and any("sgl_lab" in output.get("metadata", {}) for output in cell.outputs):
            results = [output.data["text/plain"] for output in cell.outputs if output.output_type == "execute_result"]
            found += [bare(text) for result in results for text in strings(ast.literal_eval(result))]
    return found


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from strings(part)


def bare(text: str) -> str:
    return "".join(text.replace("↵", "").split())


def frozen_text(frozen: Locator) -> str:
    return bare(" ".join(frozen.all_inner_texts()))


def widths(pictures: Locator) -> list[int]:
    """Of every picture, in pixels, once it is there; 0 for a broken one."""
    found: list[int] = pictures.evaluate_all(
        "(all) => Promise.all(all.map((image) => image.decode().then(() => image.naturalWidth, () => 0)))"
    )
    return found


def n_pictures(content: Any) -> int:
    return sum(output.get("data", {}).get("text/html", "").count("data:image/svg+xml") for output in outputs(content))


def test_every_cell_runs_and_nothing_leaves_the_machine(executed: tuple[Notebook, Any]) -> None:
    notebook, content = executed
    assert all(cell.execution_count for cell in code_cells(content))
    assert [output for output in outputs(content) if output.output_type == "error"] == []
    assert notebook.errors == []
    assert notebook.outside == []


def test_it_counts_what_its_saved_outputs_counted(executed: tuple[Notebook, Any]) -> None:
    """The numbers must be equal on a CPU with the instructions of the one that froze them; `python
    -m tests.notebook.freeze` saves them again.
    """
    notebook, content = executed
    frozen: Any = nbformat.read(COURSE / notebook.file.name, as_version=4)  # type: ignore[no-untyped-call]
    saved, found = ([counts(cell) for cell in code_cells(run)] for run in (frozen, content))
    assert count_names(found) == count_names(saved)
    if frozen.metadata.get("sgl_lab") == {"instructions": instructions()} != {"instructions": None}:
        assert found == saved
    assert sum(map(len, saved)) >= 4


def test_what_is_shown_and_saved_in_the_end_is_no_widget(executed: tuple[Notebook, Any]) -> None:
    """Explorations alone stay live; players stand in shadow trees."""
    notebook, content = executed
    views = "[...document.querySelectorAll('.sgl-live')]"
    assert notebook.js(f"return {views}.filter((view) => !view.querySelector('.sgl-x-answer')).length") == 0
    assert [output for output in outputs(content) if VIEW in output.get("data", {})] == []
    assert "widgets" not in content.metadata
    assert len([output for output in outputs(content) if "sgl_lab" in output.get("metadata", {})]) >= 2


@pytest.mark.parametrize("executed", ["05_why_did_it_miss"], indirect=True)
def test_opened_elsewhere_it_is_readable_and_runs_nothing(executed: tuple[Notebook, Any], reopened: Notebook) -> None:
    _, content = executed
    assert reopened.js("return lab.panel().content.widgets.some((cell) => cell.model.trusted && cell.model.type === 'code')") is False
    shown = frozen_text(reopened.page.locator(".jp-RenderedHTMLCommon.jp-OutputArea-output"))
    assert shown
    assert [answer for answer in answers(content) if answer not in shown] == []
    charts = [output for output in outputs(content) if CHART in output.get("data", {})]
    drawn = reopened.page.locator(".jp-RenderedPlotly")
    assert drawn.count() == len(charts)
    for chart in drawn.all():
        chart.scroll_into_view_if_needed()  # it is drawn when it is seen, or is the picture that was saved of it
        chart.locator("svg.main-svg, img").first.wait_for()
    sizes = widths(reopened.page.locator(PICTURES))
    assert len(sizes) == n_pictures(content) - len(charts)
    assert [size for size in sizes if size <= 100] == []
    assert reopened.errors == []
    assert reopened.outside == []
    assert reopened.ask("import sys; print([name for name in ('sgl_lab', 'torch') if name in sys.modules])") == "[]"
    assert [cell.get("execution_count") for cell in reopened.cells()] == [cell.get("execution_count") for cell in content.cells]


@pytest.mark.parametrize("executed", ["02_fork_and_watch_the_tree"], indirect=True)
def test_exported_by_nbconvert_it_is_readable_offline(executed: tuple[Notebook, Any], browser: Browser) -> None:
    notebook, content = executed
    page = browser.new_page(offline=True)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    file = exported(notebook.file).as_uri()
    page.goto(file)
    shown = frozen_text(page.locator(".jp-RenderedHTMLCommon.jp-OutputArea-output"))
    assert [answer for answer in answers(content) if answer not in shown] == []
    sizes = widths(page.locator(PICTURES))
    assert len(sizes) == n_pictures(content)
    assert [size for size in sizes if size <= 100] == []
    assert [url for url in requests if url != file and not url.startswith(("data:", "blob:"))] == []
    page.close()
