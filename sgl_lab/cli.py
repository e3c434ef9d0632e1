"""The `sgl-lab` command: tour, run, serve, bench, doctor, native, tune, model.

Prints results on stdout and one-line errors on stderr. The exit code is 0, 1 (failure) or 2 (wrong
usage); 130 or 143 after a signal. IPython is loaded only when a notebook is run.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from . import doctor, notebook
from .contracts.errors import BadArgument, SglError
from .contracts.policies import EVICTIONS, SCHEDULES
from .engine.compute.kernels.native import build
from .engine.files import store
from .engine.files.fetch import Progress
from .trace.files import check_ours, write_whole

if TYPE_CHECKING:
    from tqdm import tqdm

FIRST_NOTEBOOK = Path("notebooks/01_first_cell.ipynb")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    runs_script = words[:1] == ["run"] and words[1:2] != [] and words[1].endswith(".py")
    words, script_args = (words[:2], words[2:]) if runs_script else (words, [])
    options = _parser().parse_args(words, argparse.Namespace(script_args=script_args))
    try:
        return int(options.command(options))
    except SglError as error:
        print(f"sgl-lab: {error}", file=sys.stderr)
        if isinstance(error, notebook.NotebookStopped):
            if error.is_stuck:
                os._exit(error.exit_code)
            return error.exit_code
        return 2 if isinstance(error, BadArgument) else 1
    except KeyboardInterrupt:
        print("sgl-lab: stopped", file=sys.stderr)
        return 130
    # `sgl-lab ... | head`: the reader is gone, and closing stdout must not fail either
    except BrokenPipeError:
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

    run = commands.add_parser("run", help="run a notebook (outputs are saved in it) or a script (further arguments go to sys.argv)")
    run.add_argument("file", type=Path, metavar="FILE.ipynb|FILE.py")
    run.add_argument("-o", "--output", type=Path, help="write the executed notebook here instead of in place")
    for command in (tour, run):
        command.add_argument("--force", action="store_true", help="overwrite an output file that sgl-lab did not write")
    run.set_defaults(command=_run)

    examine = commands.add_parser("doctor", help="check this machine and report what is missing")
    examine.add_argument("--drift", action="store_true", help="also measure how far logprobs drift with the way they are computed")
    examine.set_defaults(command=_doctor)

    serve = commands.add_parser("serve", help="load a model and serve it on loopback: the APIs of OpenAI, Anthropic and SGLang")
    serve.add_argument("model", nargs="?", default=store.SMOLLM2.name, help="default: %(default)s")
    serve.add_argument("--port", type=int, default=0, help="default: a free one")
    serve.add_argument("--device", help="cpu, cuda, cuda:N (default: the best)")
    serve.add_argument("--cache-tokens", type=int, help="size of the cache")
    serve.add_argument("--token-file", type=Path, help="a file that holds the token (default: a random token)")
    serve.add_argument("--kv-events", action="store_true", help="also publish the radix tree over ZMQ, without a token")
    serve.set_defaults(command=_serve)

    bench = commands.add_parser("bench", help="run the workloads of the paper and print what they took")
    bench.add_argument("names", nargs="*", metavar="NAME", help="workloads, or all (without a name: list them)")
    bench.add_argument("--data", type=Path, help="a folder of data (default: the sample that comes with the package)")
    bench.add_argument("-n", type=int, help="items of each workload (default: all)")
    bench.add_argument("--model", default=store.SMOLLM2.name, help="default: %(default)s")
    bench.add_argument("--device", help="cpu, cuda, cuda:N (default: the best)")
    bench.add_argument("--dtype", help="float32, bfloat16, int8 or int4")
    bench.add_argument("--parallel", type=int, default=16, help="programs that run at once (default: %(default)s)")
    bench.add_argument("--cache-tokens", type=int, help="size of the cache")
    bench.add_argument("--schedule", choices=SCHEDULES, default="lpm", help="default: %(default)s")
    bench.add_argument("--evict", choices=EVICTIONS, default="lru", help="default: %(default)s")
    bench.add_argument("--no-cache", action="store_true", help="compute every prompt whole")
    bench.add_argument("--no-fork-hint", action="store_true", help="start the children of a fork without their parent's prefix")
    bench.add_argument("--deterministic", action="store_true", help="the same tokens whatever is cached")
    bench.add_argument("--ablate", action="store_true", help="leave out one thing at a time, for one workload")
    bench.add_argument("-o", "--output", type=Path, help="write the results here, as JSON")
    bench.add_argument("--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="compare two results, item by item")
    bench.set_defaults(command=_bench)

    native = commands.add_parser("native", help="build the native CPU step for this machine")
    native.set_defaults(command=_native)

    tune = commands.add_parser("tune", help="measure which block sizes of the GPU kernels are best for a model on this GPU, and store them")
    tune.add_argument("model", nargs="?", default=store.SMOLLM2.name, help="default: %(default)s")
    tune.add_argument("--device", default="cuda", help="cuda or cuda:N (default: %(default)s)")
    tune.set_defaults(command=_tune)

    model = commands.add_parser("model", help="the model cache").add_subparsers(required=True, metavar="list|pull|rm")
    model.add_parser("list", help="list the models in the cache, and those that can be fetched").set_defaults(command=_model_list)
    pull = model.add_parser("pull", help="fetch a model, or check an existing one")
    pull.set_defaults(command=_model_pull)
    upcycle = model.add_parser("upcycle", help="make a mixture of experts (Mixtral) out of a dense Llama")
    upcycle.add_argument("--experts", type=int, default=4, help="of each layer; default: %(default)s")
    upcycle.add_argument("--active", type=int, default=2, help="experts that a token takes; default: %(default)s")
    upcycle.add_argument("--noise", type=float, default=0.02, help="what is added to each, relative to its weights; default: %(default)s")
    upcycle.add_argument("--seed", type=int, default=0)
    upcycle.add_argument("-o", "--output", type=Path, help="the folder; default: in the cache, under the model's name and -Nx")
    upcycle.set_defaults(command=_model_upcycle)
    remove = model.add_parser("rm", help="delete a model and the files derived from it")
    remove.set_defaults(command=_model_rm)
    for command in (pull, upcycle, remove):
        command.add_argument("name", help=f"{', '.join(store.BUILT_IN)}, or a hub id like org/name")
    return parser


# ---------------------------------------------------------------- notebooks and scripts


def _tour(options: argparse.Namespace) -> int:
    book = notebook.read(options.notebook)
    if not options.force:
        check_ours(options.output, notebook.MARK)
    with _Bar() as show:
        store.resolve(store.SMOLLM2.name, progress=show)
    n_cells = len(book.cells)
    failure = notebook.execute(book, options.notebook, closing=("%sgl tree --text", "%sgl status"))
    closing = book.cells[n_cells:]
    del book.cells[n_cells:]
    _write(options.output, notebook.as_html(book, options.notebook.stem))
    if failure is None:
        print("\n\n".join(notebook.text_of(cell) for cell in closing))
    _say_written(options.output)
    if failure is not None:
        raise failure
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.file.suffix == ".py":
        return _run_script(options.file, options.script_args)
    book = notebook.read(options.file)
    output = options.output or options.file
    if not (output.exists() and output.samefile(options.file)):
        if not options.force:
            notebook.check_output(output)
        book.metadata["sgl_lab"] = {"ran": notebook.sources_of(book.cells)}
    failure = notebook.execute(book, options.file)
    _write(output, notebook.written(book))
    if failure is not None:
        raise failure
    _say_written(output)
    return 0


def _say_written(path: Path) -> None:
    """Report a written file on stderr, because the file itself may have gone to stdout."""
    print(f"wrote {path}", file=sys.stdout if path.is_file() else sys.stderr)


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


def _write(path: Path, text: str) -> None:
    with suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.write(text))


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


def _serve(options: argparse.Namespace) -> int:
    import signal
    import threading

    from .serve import serve
    from .session import Lab

    token = None
    if options.token_file is not None:
        try:
            token = options.token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadArgument(f"cannot read the token: {error}") from None
    stopped = threading.Event()
    with _Bar() as show:
        lab = Lab(options.model, device=options.device, cache_tokens=options.cache_tokens, progress=show)
    with lab, serve(lab, port=options.port, token=token, kv_events=options.kv_events) as door:
        print(f"{door.help()}\nCtrl-C closes it", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: stopped.set())
        with suppress(KeyboardInterrupt):
            while door.is_open and not stopped.wait(0.5):
                pass
    return 0


def _bench(options: argparse.Namespace) -> int:
    from .workloads.bench import Setup
    from .workloads.catalogue import WORKLOADS
    from .workloads.data import Data
    from .workloads.results import Results, average, compared, text
    from .workloads.suite import measure

    if options.compare:
        for found in compared(*map(Results.read, options.compare)):
            print(found.words())
        return 0
    if not options.names:
        for workload in WORKLOADS.values():
            print(f"{workload.name:<17}{workload.title:<22}{workload.about}")
        return 0
    setup = Setup(
        options.model,
        options.device,
        options.dtype,
        options.parallel,
        options.schedule,
        options.evict,
        "none" if options.no_cache else "prefix",
        options.cache_tokens,
        hint=not options.no_fork_hint,
        deterministic=options.deterministic,
    )
    with _Bar() as show:
        results = measure(options.names, Data(options.data), setup, options.n, ablated=options.ablate, notify=show)
    if results.outcomes:
        print(text(results.outcomes))
        if not options.ablate and (words := average(results.outcomes)):
            print(words)
    problems = [f"{name} was left out: {reason}" for name, reason in results.left_out.items()]
    problems += [f"{name}, item {line}" for name, outcome in results.outcomes.items() for line in outcome.failed]
    for problem in problems:
        print(problem, file=sys.stderr)
    if options.output:
        results.write(options.output)
        _say_written(options.output)
    return 1 if any(outcome.failed for outcome in results.outcomes.values()) else 0


def _native(options: argparse.Namespace) -> int:
    if (reason := build.obstacle()) and build.built(store.cache_dir()) is None:
        print(f"no native CPU step: {reason}; models run on torch instead")
    else:
        print(build.build(store.cache_dir()))
    return 0


def _tune(options: argparse.Namespace) -> int:
    from .engine.compute.models.devices import find_device

    device = find_device(options.device).device
    if device.type == "cpu":
        raise BadArgument("only GPU kernels are tuned, and they do not run on device cpu")

    import torch

    from .engine.compute.kernels.gpu import cases, tune, tuning
    from .engine.compute.models.executors import GPU, fitted
    from .engine.compute.models.load import read_spec

    with _Bar() as show:
        spec = read_spec(store.resolve(options.model, progress=show))
    layer = fitted(spec, GPU, options.model).layers[0]
    kind = layer.attention
    shape = cases.Shape(kind.n_heads, kind.n_kv_heads, kind.head_dim, spec.hidden, layer.feed_forward.width, spec.vocab)
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
    for name, path in store.PACKAGED.items():
        print(f"{name:<24}{_mib(sum(file.stat().st_size for file in path.iterdir())):>10}  {path}")
    for name in sorted(store.BUILT_IN.keys() - {model.name for model in here}):
        print(f"{name:<24}{'-':>10}  not fetched yet: sgl-lab model pull {name}")
    return 0


def _model_pull(options: argparse.Namespace) -> int:
    with _Bar() as show:
        path = store.pull(options.name, progress=show)
    print(path)
    return 0


def _model_upcycle(options: argparse.Namespace) -> int:
    from .engine.compute.models.convert import convert
    from .engine.compute.models.upcycle import upcycle

    name = f"{Path(options.name).name.removesuffix('.gguf')}-{options.experts}x"
    target = options.output or store.own(name)
    with _Bar() as show:
        path = store.resolve(options.name, progress=show)
        folder = path if path.is_dir() else convert(path, options.name, store.cache_dir(), show)
        upcycle(folder, target, experts=options.experts, active=options.active, noise=options.noise, seed=options.seed, progress=show)
    print(f"{target}\nload it with: %sgl model {options.output or name}")
    return 0


def _model_rm(options: argparse.Namespace) -> int:
    with _Bar() as show:
        n_bytes = store.remove(options.name, progress=show)
    print(f"removed {options.name}: {_mib(n_bytes)} freed")
    return 0


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.1f} MiB"


class _Bar:
    """The store's progress as bars on stderr: one for each task, removed when the task is done."""

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
            is_bytes = total >= 1 << 12
            self._bar = tqdm(total=total, unit="B" if is_bytes else "", unit_scale=is_bytes, leave=False)
            self._bar.desc = text
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


if __name__ == "__main__":
    sys.exit(main())
