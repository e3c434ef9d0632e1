"""Runs a notebook file: its cells in a kernel of their own, their outputs, and a page of the
result.

Jupyter's packages are loaded when a file is read. Signals end a run at once: the kernel is a
separate process, and the client runs on a thread of its own, so that the main thread can receive
signals.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .contracts.errors import BadArgument, SglError
from .contracts.legible import clipped
from .trace.files import beginning, not_ours

if TYPE_CHECKING:
    from nbclient import NotebookClient
    from nbformat import NotebookNode

CELL_TIMEOUT_S = 1800
SLICE_S = 0.1
STOPPING_S = 15.0
"""seconds that a stopped kernel has to end"""

MARK = '<meta content="sgl_lab" name="generator"/>'
"""the mark in our pages, as nbconvert writes it"""
PAGE = """
{%- extends "lab/index.html.j2" -%}
{%- block html_head -%}
<meta name="generator" content="sgl_lab">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:">
{{ super() }}
{%- endblock -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
"""
"""nbconvert's page without external resources; the policy enforces that"""


class NotebookFailed(SglError):
    """A cell of a notebook raised, or its kernel died."""


class NotebookStopped(NotebookFailed):
    """A signal ended the run. `is_stuck`: one of its threads continues, so the process cannot exit
    normally.
    """

    def __init__(self, message: str, number: int, is_stuck: bool) -> None:
        super().__init__(message)
        self.exit_code, self.is_stuck = 128 + number, is_stuck


def sources_of(cells: Sequence[NotebookNode]) -> str:
    """A fingerprint of the sources of all cells."""
    return hashlib.sha256(json.dumps([cell["source"] for cell in cells]).encode()).hexdigest()[:16]


def check_output(path: Path) -> None:
    """BadArgument if a file exists at `path`, unless it is an unchanged notebook of an earlier run."""
    if not (text := beginning(path, -1)):
        return
    try:
        there = _nbformat().reads(_decoded(text), as_version=4)
        is_ours = there.metadata.get("sgl_lab", {}).get("ran") == sources_of(there.cells)
    except Exception:  # the reader raises a different type for each kind of invalid file
        is_ours = False
    if not is_ours:
        raise not_ours(path)


def read(path: Path) -> NotebookNode:
    if path.suffix != ".ipynb":
        raise BadArgument(f"{path} is neither a notebook (.ipynb) nor a script (.py)")
    try:
        notebook: NotebookNode = _nbformat().reads(_decoded(path.read_bytes()), as_version=4)
    except OSError as error:
        raise BadArgument(f"no notebook at {path}: {error.strerror}", hint="run this in the project's folder, or name a notebook") from None
    except Exception as error:  # the file is not JSON or not a notebook: the reader raises various types
        raise BadArgument(f"{path} cannot be read as a notebook: {error}") from None
    return notebook


def execute(notebook: NotebookNode, path: Path, closing: Sequence[str] = ()) -> NotebookFailed | None:
    """Run all cells, then `closing` as additional cells at the end. Returns the error, or None.

    In either case the outputs are in the notebook.
    """
    import nbclient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook.metadata.pop("widgets", None)
    notebook.cells += [_nbformat().v4.new_code_cell(source) for source in closing]
    n_code = sum(cell.cell_type == "code" for cell in notebook.cells)
    at = 0

    def started(cell: NotebookNode, cell_index: int) -> None:
        nonlocal at
        if cell.cell_type != "code":
            return
        at += 1
        print(f"\r{path}: cell {at} of {n_code} ", end="", file=sys.stderr, flush=True)

    client = nbclient.NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent.resolve())}},
        store_widget_state=False,
        record_timing=False,
        coalesce_streams=False,  # its regular expressions take quadratic time, and signals do not end them
        extra_arguments=["--log-level=ERROR"],
        on_cell_start=started,
    )
    try:
        _until_over(client)
    except CellExecutionError as error:
        return NotebookFailed(f"{path}, cell {at}: {error.ename}: {clipped(error.evalue, 2_000)}")
    except CellTimeoutError:
        return NotebookFailed(f"{path}, cell {at} ran for more than {CELL_TIMEOUT_S} s")
    except DeadKernelError:
        return NotebookFailed(f"{path}, cell {at}: the kernel died", hint="sgl-lab doctor checks this machine")
    except _Signal as caught:
        where = f"in cell {at}" if at else "before its first cell"
        return NotebookStopped(f"{path}: stopped {where}", caught.number, caught.is_stuck)
    finally:
        print(file=sys.stderr)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = joined_streams(cell.outputs)
    return None


class _Signal(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.is_stuck = False
        """whether the client's thread is still running"""


@contextmanager
def _signals() -> Iterator[None]:
    """The first Ctrl-C or SIGTERM raises `_Signal` here; the second one ends the process."""

    def caught(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        raise _Signal(number)

    can_hear = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, caught) for number in (signal.SIGINT, signal.SIGTERM) if can_hear}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _until_over(client: NotebookClient) -> None:
    """Run the client's notebook on a thread of its own, so that this thread receives signals. A
    signal ends the kernel.
    """
    failed: list[BaseException] = []
    loop = asyncio.new_event_loop()
    task = loop.create_task(client.async_execute())

    def work() -> None:
        try:
            loop.run_until_complete(task)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="sgl-notebook", daemon=True)
    with _signals():
        thread.start()
        try:
            while thread.is_alive():
                thread.join(SLICE_S)
        except _Signal as caught:
            with suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(lambda: loop.create_task(_kill(client, task)))
            thread.join(STOPPING_S)
            caught.is_stuck = thread.is_alive()
            raise
    loop.close()
    if failed:
        raise failed[0]


async def _kill(client: Any, task: asyncio.Task[NotebookNode]) -> None:
    """Kill the kernel and its children. The client then ends as after any death of its kernel."""
    if client.km is not None and client.km.has_kernel:
        await client.km.signal_kernel(signal.SIGKILL)
    else:
        task.cancel()


def joined_streams(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """The outputs with everything printed on stdout as one output and on stderr as another, without
    text that a carriage return overwrites.
    """
    parts: dict[str, list[str]] = {}
    joined: list[NotebookNode] = []
    for output in outputs:
        if output.output_type != "stream":
            joined.append(output)
            continue
        if output.name not in parts:
            parts[output.name] = []
            joined.append(output)
        parts[output.name].append(output.text)
    for at, output in enumerate(joined):
        if output.output_type == "stream":
            lines = "".join(parts[output.name]).replace("\r\n", "\n").split("\n")
            output.text = "\n".join(line.rstrip("\r").rpartition("\r")[2] if "\r" in line else line for line in lines)
            is_behind = at and output.name == "stdout" and joined[at - 1].get("name") == "stderr"
            if is_behind:
                joined[at - 1 : at + 1] = output, joined[at - 1]
    return joined


def _decoded(text: bytes) -> str:
    """JSON in the encodings that Windows programs also write: UTF-8 or UTF-16, with or without a
    byte order mark.
    """
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return text.decode("utf-16")
    return text.decode("utf-8-sig")


def _nbformat() -> ModuleType:
    import nbformat

    return nbformat


def written(notebook: NotebookNode) -> str:
    """The text of the file."""
    return str(_nbformat().writes(notebook))


def as_html(notebook: NotebookNode, title: str) -> str:
    """One HTML file without external resources."""
    from nbconvert import HTMLExporter

    exporter: Callable[..., HTMLExporter] = HTMLExporter  # untyped
    page, _ = exporter(raw_template=PAGE, embed_images=True).from_notebook_node(notebook, {"metadata": {"name": title}})
    return str(page)


def text_of(cell: NotebookNode) -> str:
    """The plain-text version of a cell's outputs."""
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs).rstrip()
