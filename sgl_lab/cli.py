"""The `sgl-lab` command: tour, run, doctor, native, tune, model.

Prints results on stdout and one-line errors on stderr; the exit code is 0, 1 (it failed) or
2 (it was called wrongly). Loads IPython only when a notebook is run.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import doctor
from .contracts.errors import BadArgument, SglError
from .engine.kernels.native import build
from .engine.model import store
from .engine.model.fetch import Progress

if TYPE_CHECKING:
    from tqdm import tqdm

FIRST_NOTEBOOK = Path("notebooks/01_first_cell.ipynb")
CELL_TIMEOUT_S = 1800

PAGE = """
{%- extends "lab/index.html.j2" -%}
{%- block html_head -%}
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:">
{{ super() }}
{%- endblock -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
"""
"""nbconvert's page without what it would load from elsewhere; the policy keeps it so."""


class NotebookFailed(SglError):
    """A cell of a notebook raised, or its kernel died."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    runs_script = words[:1] == ["run"] and words[1:2] != [] and words[1].endswith(".py")
    words, script_args = (words[:2], words[2:]) if runs_script else (words, [])
    options = _parser().parse_args(words, argparse.Namespace(script_args=script_args))
    try:
        return int(options.command(options))
    except SglError as error:
        print(f"sgl-lab: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadArgument) else 1
    except KeyboardInterrupt:
        print("sgl-lab: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `sgl-lab ... | head`: nobody reads on, and closing stdout must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help tells more)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sgl-lab", description="See an LLM program run: SGLang programs in Jupyter cells on an engine in the kernel.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    tour = commands.add_parser("tour", help="run a notebook, print its radix tree and hit rate, write one HTML file")
    tour.add_argument("notebook", nargs="?", type=Path, default=FIRST_NOTEBOOK, help="default: %(default)s")
    tour.add_argument("-o", "--output", type=Path, default=Path("build/tour.html"), help="the HTML file (default: %(default)s)")
    tour.set_defaults(command=_tour)

    run = commands.add_parser("run", help="run a notebook (its outputs are saved in it) or a script (with what follows in sys.argv)")
    run.add_argument("file", type=Path, metavar="FILE.ipynb|FILE.py")
    run.add_argument("-o", "--output", type=Path, help="write the executed notebook here instead of in place")
    run.set_defaults(command=_run)

    examine = commands.add_parser("doctor", help="look at this machine and say what is missing")
    examine.add_argument("--drift", action="store_true", help="also measure how far logprobs move with the way they are computed")
    examine.set_defaults(command=_doctor)

    native = commands.add_parser("native", help="build the native CPU step for this machine")
    native.set_defaults(command=_native)

    tune = commands.add_parser("tune", help="measure which block sizes of the GPU kernels are best for a model on this GPU, and keep them")
    tune.add_argument("model", nargs="?", default=store.SMOLLM2.name, help="default: %(default)s")
    tune.add_argument("--device", default="cuda", help="cuda or cuda:N (default: %(default)s)")
    tune.set_defaults(command=_tune)

    model = commands.add_parser("model", help="the model cache").add_subparsers(required=True, metavar="list|pull|rm")
    model.add_parser("list", help="what is here, and what could be").set_defaults(command=_model_list)
    pull = model.add_parser("pull", help="fetch a model, or check the one that is here")
    pull.set_defaults(command=_model_pull)
    remove = model.add_parser("rm", help="delete a model and what was made from it")
    remove.set_defaults(command=_model_rm)
    for command in (pull, remove):
        command.add_argument("name", help=f"{', '.join(store.BUILT_IN)}, or a hub id like org/name")
    return parser


# ---------------------------------------------------------------- notebooks and scripts


def _tour(options: argparse.Namespace) -> int:
    notebook = _read(options.notebook)
    with _Bar() as show:
        store.resolve(store.SMOLLM2.name, progress=show)
    n_cells = len(notebook.cells)
    failure = _execute(notebook, options.notebook, closing=("%sgl tree --text", "%sgl status"))
    closing = notebook.cells[n_cells:]
    del notebook.cells[n_cells:]
    _write(options.output, _as_html(notebook, options.notebook.stem))
    if failure is None:
        print("\n\n".join(_text(cell) for cell in closing))
    print(f"\nwrote {options.output}")
    if failure is not None:
        raise failure
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.file.suffix == ".py":
        return _run_script(options.file, options.script_args)
    notebook = _read(options.file)
    failure = _execute(notebook, options.file)
    output = options.output or options.file
    _write(output, _nbformat().writes(notebook))
    if failure is not None:
        raise failure
    print(f"wrote {output}")
    return 0


def _run_script(path: Path, args: list[str]) -> int:
    if not path.is_file():
        raise BadArgument(f"no script at {path}")
    sys.argv = [str(path), *args]
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        runpy.run_path(str(path), run_name="__main__")
    except Exception as error:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != str(path):
            frames = frames.tb_next
        traceback.print_exception(error.with_traceback(frames))
        return 1
    return 0


def _read(path: Path) -> Any:
    if path.suffix != ".ipynb":
        raise BadArgument(f"{path} is neither a notebook (.ipynb) nor a script (.py)")
    try:
        return _nbformat().read(path, as_version=4)
    except OSError as error:
        raise BadArgument(f"no notebook at {path}: {error.strerror}", hint="run this in the project's folder, or name a notebook") from None
    except Exception as error:  # a file that is no JSON, or no notebook: the reader has a type for each
        raise BadArgument(f"{path} cannot be read as a notebook: {error}") from None


def _execute(notebook: Any, path: Path, closing: Sequence[str] = ()) -> NotebookFailed | None:
    """Run all cells, and after them `closing` as cells of their own at the end; what went wrong, if anything did.

    The outputs are in the notebook in either case.
    """
    import nbclient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook.metadata.pop("widgets", None)
    notebook.cells += [_nbformat().v4.new_code_cell(source) for source in closing]
    n_code = sum(cell.cell_type == "code" for cell in notebook.cells)
    at = 0

    def started(cell: Any, cell_index: int) -> None:
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
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        on_cell_start=started,
    )
    try:
        client.execute()
    except CellExecutionError as error:
        return NotebookFailed(f"{path}, cell {at}: {error.ename}: {error.evalue}")
    except CellTimeoutError:
        return NotebookFailed(f"{path}, cell {at} ran for more than {CELL_TIMEOUT_S} s")
    except DeadKernelError:
        return NotebookFailed(f"{path}, cell {at}: the kernel died", hint="sgl-lab doctor looks at this machine")
    finally:
        print(file=sys.stderr)
    return None


def _nbformat() -> Any:
    import nbformat

    return nbformat  # untyped


def _as_html(notebook: Any, title: str) -> str:
    """One file that loads nothing from anywhere."""
    from nbconvert import HTMLExporter

    exporter: Any = HTMLExporter  # untyped
    page, _ = exporter(raw_template=PAGE, embed_images=True).from_notebook_node(notebook, {"metadata": {"name": title}})
    return str(page)


def _text(cell: Any) -> str:
    """The plain-text twin of what a cell showed."""
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs).rstrip()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


# ---------------------------------------------------------------- machine and models


def _doctor(options: argparse.Namespace) -> int:
    problems = 0
    for finding in doctor.examine():
        print(finding, flush=True)
        problems += finding.state == "problem"
    if options.drift and not problems:
        from .session import Lab

        with Lab() as lab:
            print(doctor.Finding("ok", "drift", str(lab.drift())))
    return 1 if problems else 0


def _native(options: argparse.Namespace) -> int:
    if reason := build.obstacle():
        print(f"no native CPU step: {reason}; models run on torch instead")
    else:
        print(build.build(store.cache_dir()))
    return 0


def _tune(options: argparse.Namespace) -> int:
    from .engine.model.place import find_place

    device = find_place(options.device).device
    if device.type == "cpu":
        raise BadArgument("the GPU kernels are tuned, and they do not run on device cpu")

    import torch

    from .engine.kernels.gpu import cases, tune, tuning
    from .engine.model.load import read_spec

    with _Bar() as show:
        spec = read_spec(store.resolve(options.model, progress=show), name=options.model, cache_dir=store.cache_dir(), progress=show)
    shape = cases.Shape(spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.hidden, spec.ffn, spec.vocab)
    file = tuning.file_of(store.cache_dir(), torch.cuda.get_device_name(device))
    with torch.cuda.device(device):
        found = tune.tune(cases.cases(shape, device), tune.cost_on_gpu, lambda line: print(line, flush=True))
    tuning.write(file, {**tuning.read(file), **found})
    print(file)
    return 0


def _model_list(options: argparse.Namespace) -> int:
    here = store.stored()
    for model in here:
        print(f"{model.name:<24}{_mib(model.n_bytes):>10}  {model.paths[0]}")
    for name in store.BUILT_IN.keys() - {model.name for model in here}:
        print(f"{name:<24}{'-':>10}  not fetched yet: sgl-lab model pull {name}")
    return 0


def _model_pull(options: argparse.Namespace) -> int:
    with _Bar() as show:
        path = store.pull(options.name, progress=show)
    print(path)
    return 0


def _model_rm(options: argparse.Namespace) -> int:
    with _Bar() as show:
        n_bytes = store.remove(options.name, progress=show)
    print(f"removed {options.name}: {_mib(n_bytes)} freed")
    return 0


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.1f} MiB"


class _Bar:
    """The store's progress as bars on stderr: one for each thing it does, gone when it is done."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> Progress:
        return self._show

    def __exit__(self, *error: object) -> None:
        self._close()

    def _show(self, done: int, total: int, text: str) -> None:
        from tqdm import tqdm

        if self._bar is None or self._bar.desc != text:
            self._close()
            if not total:
                print(text, file=sys.stderr)
                return
            self._bar = tqdm(total=total, unit="B", unit_scale=True, leave=False)
            self._bar.desc = text
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


if __name__ == "__main__":
    sys.exit(main())
