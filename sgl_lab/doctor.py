"""Checks whether this machine is fit to run the lab. Prints one finding per line, and a hint for
each problem.

It only looks and reports: it changes nothing and fetches nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from .backends.names import KNOWN
from .engine.compute.kernels.native import build
from .engine.files import store

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = {"jupyterlab": (4, 2), "ipykernel": (6, 29), "ipywidgets": (8, 1), "anywidget": (0, 9, 13), "jinja2": (3, 1, 6)}
"""Packages that the notebook side needs, with their minimum versions."""


@dataclass(frozen=True, slots=True)
class Finding:
    state: str
    """ok, - (missing, but only some features need it) or problem"""
    subject: str
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.state:<8}{self.subject:<14}{self.text}" + (f" ({self.hint})" if self.hint else "")


TORCH_DETERMINISM = Finding("ok", "determinism", "on request: --deterministic, at a third to five sixths of the speed")


def examine() -> Iterator[Finding]:
    """All findings, cheapest first."""
    yield _python()
    yield from _packages()
    native = _native()
    yield from _torch(native)
    yield native
    yield _triton()
    yield _program("browser", BROWSERS, "only the project's own browser tests need one: install chromium")
    yield _program("graphviz", ("dot",), "only exports to SVG need dot: install graphviz")
    yield from _models()
    yield from _backends()


def _backends() -> Iterator[Finding]:
    """Of each backend elsewhere: its SDK, and whether a key is set. No key is shown."""
    for name, known in KNOWN.items():
        if not known.sdk and not known.keys:
            continue
        if not known.is_installed:
            yield Finding("-", name, f"{known.sdk} is not installed", known.install)
        elif known.keys and not (found := known.keys_set()):
            yield Finding("-", name, "no key in the environment", f"set {' or '.join(known.keys)}, or enter it: %sgl key {name}")
        else:
            yield Finding("ok", name, f"{found[0]} is set" if known.keys else f"{known.sdk} is installed")


def _python() -> Finding:
    return Finding("ok", "python", f"{platform.python_version()} at {sys.executable}")


def _packages() -> Iterator[Finding]:
    for name, least in PACKAGES.items():
        wanted = ".".join(map(str, least))
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding("problem", name, "not installed", f"pip install '{name}>={wanted}'")
            continue
        if tuple(int(part) for part in version.split(".")[: len(least)] if part.isdigit()) < least:
            yield Finding("problem", name, version, f"pip install '{name}>={wanted}'")
        else:
            yield Finding("ok", name, version)


def _torch(native: Finding) -> Iterator[Finding]:
    """torch, the devices that it finds, and what a lab uses by default."""
    try:
        import torch
    except ImportError as error:
        yield Finding("problem", "torch", str(error), "pip install 'torch>=2.11'")
        return
    yield Finding("ok", "torch", torch.__version__)
    yield Finding("ok", "cpu", f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} of {os.cpu_count()} cores")
    from .engine.compute.models.devices import find_device, memory_of, unfit_gpu

    for index in range(torch.cuda.device_count()):
        if reason := unfit_gpu(index):
            yield Finding("-", f"gpu {index}", reason, "models run elsewhere")
        else:
            memory = memory_of(torch.device("cuda", index))
            yield Finding("ok", f"gpu {index}", f"{memory.device}, {(memory.free or 0) / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free")
    found = find_device(None)
    if found.device.type == "cuda":
        yield Finding("ok", "models run", f"on {found.device} in bfloat16")
        yield TORCH_DETERMINISM
        return
    if not torch.cuda.device_count():
        yield Finding("-", "gpu", "none that torch can use", "models run on the CPU")
    if native.state == "ok":
        yield Finding("ok", "models run", "on the native step: a GGUF in its own 4 or 8 bits, others in bfloat16")
        yield Finding("ok", "determinism", "bitwise equal results, however a request is computed, on CPUs with the same instructions")
    else:
        yield Finding("ok", "models run", "on torch in float32, several times slower than on the native step")
        yield TORCH_DETERMINISM


def _native() -> Finding:
    """The native step in C++, which is used if it is built."""
    path = build.built(store.cache_dir())
    if path is not None and (instructions := build.instructions(path)):
        return Finding("ok", "native step", f"{instructions}, {path}")
    return Finding("-", "native step", build.obstacle() or "not built", build.advice() or "models run on torch instead")


def _triton() -> Finding:
    try:
        return Finding("ok", "triton", metadata.version("triton"))
    except metadata.PackageNotFoundError:
        return Finding("-", "triton", "not installed", "only a GPU needs it")


def _program(subject: str, names: tuple[str, ...], hint: str) -> Finding:
    found = next((path for name in names if (path := shutil.which(name))), None)
    return Finding("ok", subject, found) if found else Finding("-", subject, f"no {' or '.join(names)} on PATH", hint)


def _models() -> Iterator[Finding]:
    cache = store.cache_dir()
    existing = next(folder for folder in (cache, *cache.parents) if os.path.exists(folder))
    if (reason := store.unwritable()) is not None:
        hint = "existing models run; for others set SGL_LAB_CACHE to a writable folder"
        yield Finding("problem", "model cache", reason, hint)
    elif (free := shutil.disk_usage(existing).free) < 2**30:
        yield Finding("problem", "model cache", f"{cache} has {free / 2**20:.0f} MiB left", "free some space, or set SGL_LAB_CACHE")
    else:
        yield Finding("ok", "model cache", f"{cache}, {free / 2**30:.0f} GiB free")
    for name, model in store.BUILT_IN.items():
        if model.is_here():
            yield Finding("ok", name, str(model.path))
        else:
            how = "the first cell fetches it, or: " if model is store.SMOLLM2 else ""
            yield Finding("-", name, "not fetched yet", f"{how}sgl-lab model pull {name}")
