"""Rules that hold for every file: nothing untrusted is run, the page fetches nothing, no file knows its author's machine."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

from .imports import PACKAGE, SOURCES, all_imports, inside, parsed

ROOT = PACKAGE.parent
STATIC = sorted(path for path in (PACKAGE / "viz" / "static").iterdir() if path.is_file())
TRACKED = [
    ROOT / name
    for name in subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    if name and (ROOT / name).is_file()
]

RUNS_WHAT_IT_READS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch.load", "torch.hub"}
LISTENS = {"http.server", "socketserver", "socket", "asyncio.start_server", "aiohttp.web", "flask", "fastapi", "uvicorn"}
MAY_LISTEN = {"sgl_lab.serve.door": "uvicorn", "sgl_lab.lang.fetched": "socket"}
"""The one door: on loopback, off until asked for, with a token. A fetch does not listen: it resolves a host, and connects."""

MARKUP_FROM_TEXT = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|srcdoc|setHTML|\.html\("
    r"|\beval\b|\bnew Function\b|\bset(?:Timeout|Interval)\(\s*[\"'`]|\.(?:src|href|action)\s*=(?!=)|\.on[a-z]+\s*=(?!=)"
)
LOADS_SOMETHING = re.compile(r"@import|\burl\((?!#|data:)|\bimport\s*\(|\bfrom\s+['\"](?!\./\w+\.js\")")
ADDRESS = re.compile(r"(?:https?:)?//[a-z0-9-]+\.[a-z0-9.-]+[^\s'\"`)]*")
TEXTS = {".md", ".ipynb", ".toml", ".txt", ".py", ".js", ".css", ""}

ELEMENT = re.compile(
    r"(?<!\?P)</?(?:!doctype|html|head|body|meta|link|base|title|style|script|template|iframe|object|embed|form|input|button|select|option|textarea"
    r"|main|section|div|span|p|a|b|i|em|br|hr|h[1-6]|ul|ol|li|dl|pre|code|table|tr|td|th|img|svg|g|rect|text|path|details|summary)\b"
)
MAKES_MARKUP = {
    "sgl_lab/viz/draw/escape.py",
    "sgl_lab/viz/draw/page.py",  # its doctype, and the mark that files are known by
    "sgl_lab/viz/draw/whatif.py",  # plotly's line breaks in a text of ours
    "sgl_lab/notebook.py",  # nbconvert's template
}
TRUSTS_MARKUP = {"sgl_lab/viz/draw/escape.py", "sgl_lab/magics/output.py"}
"""Where source becomes `Markup`: where it is built, and where an output goes out that was."""
SAYS = "sgl_lab/magics/printing.py"

USER_CELLS = "sgl_lab/magics/cell.py"
"""The only place that runs code: the user's code in a cell."""


@cache
def calls() -> list[tuple[str, int, str, set[str]]]:
    """(file, line, called function, its keywords) of every call in the package."""
    return [
        (
            path.relative_to(ROOT).as_posix(),
            node.lineno,
            dotted(node.func),
            {f"{word.arg}={constant(word.value)}" for word in node.keywords},
        )
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
    ]


def dotted(node: ast.expr) -> str:
    """As `ast.unparse`, of names and attributes at once."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ast.unparse(node)


def constant(node: ast.expr) -> str:
    return repr(node.value) if isinstance(node, ast.Constant) else ""


def test_nothing_is_imported_that_runs_what_it_reads_or_listens() -> None:
    bad = [found for found in all_imports() for module in RUNS_WHAT_IT_READS | LISTENS if inside(found.of, module)]
    assert not [str(found) for found in bad if MAY_LISTEN.get(found.by) != found.of]


def test_nothing_is_called_that_runs_what_it_reads() -> None:
    assert len(calls()) > 100
    assert not [(file, line, name) for file, line, name, _ in calls() if name in RUNS_WHAT_IT_READS]
    assert not [(file, line, name) for file, line, name, _ in calls() if name in {"eval", "exec"} and file != USER_CELLS]


def test_no_call_trusts_remote_code_unpickles_or_goes_through_a_shell() -> None:
    trusting = {"trust_remote_code=True", "allow_pickle=True", "weights_only=False", "shell=True"}
    assert not [(file, line, name) for file, line, name, keywords in calls() if keywords & trusting]


@pytest.mark.parametrize("path", STATIC, ids=lambda path: path.name)
def test_what_runs_in_the_page_makes_no_markup_of_text_and_fetches_nothing_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not MARKUP_FROM_TEXT.findall(text)
    assert not LOADS_SOMETHING.findall(text)
    assert set(ADDRESS.findall(text)) <= {"http://www.w3.org/2000/svg"}


def test_markup_is_put_together_in_one_place() -> None:
    """Elsewhere no string holds a tag, so that no text can be put into one."""
    found = set()
    for path in SOURCES:
        tree = parsed(path)
        remarks = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in remarks]
        found |= {path.relative_to(ROOT).as_posix() for text in texts if isinstance(text, str) and ELEMENT.search(text)}
    assert found == MAKES_MARKUP
    assert {file for file, _, name, _ in calls() if name.split(".")[-1] == "Markup"} == TRUSTS_MARKUP


def test_what_the_magics_print_is_made_legible_first() -> None:
    assert {file for file, _, name, _ in calls() if name == "print" and file.startswith("sgl_lab/magics/")} == {SAYS}


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    mine = re.compile(r"/root/|/home/\w|/Users/\w|/work/\w|[A-Z]:\\\\?Users")
    texts = [path for path in TRACKED if path.suffix in TEXTS and path != Path(__file__)]
    assert len(texts) > 20
    assert not [(path.name, found[0]) for path in texts if (found := mine.findall(path.read_text(encoding="utf-8")))]


def test_no_file_names_a_package_index() -> None:
    index = re.compile(r"py" + r"pi\.org|python" + r"hosted|--(extra-)?index" + r"-url\s+\S+://")
    texts = [path for path in TRACKED if path.suffix not in {".png", ".gguf", ".safetensors"}]
    assert not [path.name for path in texts if index.search(path.read_text(encoding="utf-8"))]


def test_a_saved_notebook_carries_no_widget_state_and_no_error() -> None:
    notebooks = [path for path in TRACKED if path.suffix == ".ipynb"]
    assert notebooks
    for path in notebooks:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        assert "widgets" not in notebook["metadata"], path.name
        outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output["output_type"] == "error"], path.name
        assert not [output for output in outputs if "application/vnd.jupyter.widget-view+json" in output.get("data", {})], path.name


def test_a_file_that_a_page_names_exists() -> None:
    named = [
        (page.name, name)
        for page in TRACKED
        if page.suffix == ".md" and page.name != "CHANGELOG.md"
        for name in re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|js|css|md))`", page.read_text(encoding="utf-8"))
    ]
    assert len(named) > 30
    assert not [(page, name) for page, name in named if not any(path.as_posix().endswith(f"/{name}") for path in TRACKED)]
