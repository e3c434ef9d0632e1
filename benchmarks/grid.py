"""Measures a grid in real Chromium: 500 rows in 3 versions, opened, sorted, filtered and scrolled.

    python benchmarks/grid.py [--rows 500 2000]

The grid is the page that `%sgl grid NAME -o FILE.html` writes. Each answer has 40 words, and every
third differs between versions.

    open    from the page's load to the first sorted table
    sort    by a column, until the next frame is drawn; the median of 10 and the slowest
    filter  by a text that half of the rows have, the same
    scroll  frames per second while the table is scrolled from its top to its end

Needs the browser of the tests. Targets at 500 rows: sort and filter under 100 ms, 50 frames per second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Page

from sgl_lab.contracts.events import Checked
from sgl_lab.contracts.ids import ForkId, RunId
from sgl_lab.viz.explain.table import GridPicture, picture
from sgl_lab.viz.explain.versions import Grid
from sgl_lab.viz.freeze import LIMIT
from sgl_lab.viz.grid import frozen, page
from sgl_lab.viz.views.grid import Cell, Given
from tests.browser.harness import chromium

N_TIMES = 10
GRID = "document.querySelector('main > div > div').shadowRoot"
DRAWN = "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now())))) "
SCROLL = """
async () => {
  const box = GRID.querySelector('.scroll');
  const gaps = [];
  let last = performance.now();
  while (box.scrollTop + box.clientHeight < box.scrollHeight - 1) {
    box.scrollTop += 60;
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - last);
    last = now;
  }
  return gaps;
}
""".replace("GRID", GRID)


def made(n_rows: int, n_versions: int = 3) -> GridPicture:
    """A grid as a run would leave it."""
    grid = Grid("measured")
    grid.order({str(n): Given((("question", f"What is number {n}, and why?"), ("answer", str(n % 7)))) for n in range(n_rows)})
    for version in range(1, n_versions + 1):
        column = grid.column(f"key {version}", "model")
        for n in range(n_rows):
            words = [f"word{(n * 7 + at * (version if n % 3 == 0 else 1)) % 97} " for at in range(40)]
            answer, passed = "".join(words), (n * version) % 4 > 0
            check = Checked(ForkId(1), "right", "contains", passed, answer, str(n % 7), "", 4)
            pieces: list[tuple[str, int | None]] = [(word, None) for word in words]
            column.cells[str(n)] = Cell(
                n, RunId(version), "In[1]", "ok", answer, "", 0, {"answer": answer}, [check], pieces, "answer", 20, 40, 40, 0, 90.0
            )
    return picture(grid)


def timed(tab: Page, act: str) -> float:
    """Milliseconds from an action to the frame after it."""
    script = f"async () => {{ const root = {GRID}; const begun = performance.now(); {act}; return (await {DRAWN}) - begun; }}"
    return float(tab.evaluate(script))


def measure(tab: Page, n_rows: int) -> str:
    found = made(n_rows)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "grid.html"
        file.write_text(page(found), encoding="utf-8")
        size = file.stat().st_size
        tab.goto(file.as_uri())
        tab.wait_for_function(f"{GRID.replace('.shadowRoot', '?.shadowRoot')}?.querySelector('.bundle')")
        opened = float(tab.evaluate("performance.now()"))
    heads = "root.querySelectorAll('.head button')"
    sorts = [timed(tab, f"{heads}[{n % 5}].click()") for n in range(N_TIMES)]
    enter = "const box = root.querySelector('input'); box.value = {}; box.dispatchEvent(new Event('input'))"
    filters = [timed(tab, enter.format(f"'{'' if n % 2 else 'word1'}'")) for n in range(N_TIMES)]
    gaps: list[float] = tab.evaluate(SCROLL)
    cell = sum(len(part.encode()) for part in frozen(found).values())
    figures = [opened, statistics.median(sorts), max(sorts), statistics.median(filters), max(filters), 1000 * len(gaps) / sum(gaps)]
    return f"{n_rows:>6,}" + "".join(f"{figure:>13.1f}" for figure in figures) + f"{size / 1e3:>10.0f}{cell / 1e3:>10.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures a grid in real Chromium.")
    parser.add_argument("--rows", type=int, nargs="+", default=[500, 2000])
    names = ("open ms", "sort ms", "slowest", "filter ms", "slowest", "frames/s")
    print(
        f"{'rows':>6}"
        + "".join(f"{name:>13}" for name in names)
        + f"{'page KB':>10}{'cell KB':>10}   (a cell's limit is {LIMIT / 1e3:.0f} KB)"
    )
    with chromium() as browser:
        for n_rows in parser.parse_args().rows:
            tab = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            print(measure(tab, n_rows), flush=True)


if __name__ == "__main__":
    main()
