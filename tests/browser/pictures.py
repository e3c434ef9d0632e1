"""Takes the pictures of the README: `python -m tests.browser.pictures [NAME ...]` writes
docs/pictures/*.png.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Locator

from .harness import Notebook, chromium, jupyterlab, write_notebook

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
LOAD = "%load_ext sgl_lab"

TOWN = """\
%%sgl -o town --temperature 0.8 --seed 3
system("You write short tips for travellers.")
user("Tell me about the town of Ellery by the sea.")
assistant(gen("hello", max_tokens=40))
tips = fork(3)
for tip, topic in zip(tips, ["food", "money", "safety"]):
    tip += user(f"One tip about {topic} there.") + assistant(gen("tip", max_tokens=110))
user("Is it warm there?")
assistant(select("warm", choices=["yes", "no", "hard to say"]))"""

RECIPE = """\
from pydantic import BaseModel, Field

class Recipe(BaseModel):
    name_of_the_dish: str = Field(max_length=30)
    minutes_to_prepare: int = Field(ge=1, le=240)
    suitable_for_vegetarians: bool
    list_of_ingredients: list[str] = Field(min_length=3, max_length=3)"""

COOK = """\
%%sgl -o cook --temperature 0 --view tokens,timeline
user("How do I make pancakes? Answer with a record in JSON.")
assistant(gen("recipe", json_schema=Recipe, max_tokens=120))"""

RULES = '''\
rules = """You answer questions of the guests of a small hotel by the sea.
Breakfast is from seven to ten, in the room with the blue door. Dogs are welcome, but not in the kitchen."""'''

DAY = """\
%%sgl -o {name} --temperature 0 --view tokens
now = "{now}"
system(f"It is {{now}}. {{rules}}")
user("When is breakfast?")
assistant(gen("answer", max_tokens=24))"""


@contextmanager
def opened(browser: Browser, *, dark: bool = False) -> Iterator[Notebook]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        write_notebook(root / "pictures.ipynb", LOAD)
        with jupyterlab(root, Path(folder) / "home", dark=dark) as server:
            notebook = Notebook(browser, server, "pictures.ipynb")
            notebook.page.set_viewport_size({"width": 1180, "height": 1400})
            notebook.page.evaluate("jupyterapp.commands.execute('application:toggle-left-area')")
            notebook.run(LOAD)
            notebook.run("%sgl model")
            yield notebook
            notebook.close()


def shot(seen: Locator, name: str, *, settle_ms: int = 600) -> None:
    seen.scroll_into_view_if_needed()
    seen.page.mouse.move(5, 5)
    seen.page.wait_for_timeout(settle_ms)
    seen.screenshot(path=PICTURES / f"{name}.png")
    print(f"docs/pictures/{name}.png, {(PICTURES / f'{name}.png').stat().st_size >> 10} KiB")


def live(browser: Browser) -> None:
    """The view of a cell while it runs."""
    with opened(browser) as notebook:
        index = notebook.start(TOWN.replace("max_tokens=110", "max_tokens=400, ignore_eos=True"))
        notebook.wait("document.querySelectorAll('.sgl-fork .t.generated').length >= 150")
        shot(notebook.output(index).locator(".sgl-live"), "live", settle_ms=0)
        notebook.wait_idle()


def saved(browser: Browser) -> None:
    """The saved view, and a moment in the middle of the run."""
    with opened(browser, dark=True) as notebook:
        output = notebook.output(notebook.run(TOWN))
        slider = output.get_by_role("slider", name="Moment of the run")
        slider.focus()
        for _ in range(25):
            slider.press("ArrowLeft")
        shot(output, "saved-dark")


def structured(browser: Browser) -> None:
    with opened(browser) as notebook:
        notebook.run(RECIPE)
        shot(notebook.output(notebook.run(COOK)), "structured")
        shot(notebook.output(notebook.run("%sgl tokens recipe")), "tokens")


def explained(browser: Browser) -> None:
    with opened(browser) as notebook:
        notebook.run(RULES)
        notebook.run(DAY.format(name="monday", now="Monday, 9:15"))
        notebook.run(DAY.format(name="tuesday", now="Tuesday, 18:40"))
        shot(notebook.output(notebook.run("%sgl why")), "why")
        shot(notebook.output(notebook.run("%sgl diff monday tuesday")), "diff")
        shot(notebook.output(notebook.run("%sgl whatif --tokens 60..240")), "whatif")
        shot(notebook.output(notebook.run("%sgl stats")), "stats")


def dashboard(browser: Browser) -> None:
    with opened(browser, dark=True) as notebook:
        index = notebook.run("%sgl dashboard")
        notebook.run(TOWN)
        shot(notebook.output(index), "dashboard-dark")


TAKEN: dict[str, Callable[[Browser], None]] = {each.__name__: each for each in (live, saved, structured, explained, dashboard)}


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for name in sys.argv[1:] or TAKEN:
            TAKEN[name](browser)


if __name__ == "__main__":
    main()
