"""The import law of ARCHITECTURE.md: what a room may import, and what it must not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .imports import HELPERS, SOURCES, Import, all_imports, cycles, imports_in, imports_of, inside, module_name

MAY_IMPORT = {
    "contracts": set[str](),
    "trace": {"contracts"},
    "grammar": {"contracts"},
    "engine": {"contracts", "grammar"},
    "models": set[str](),
    "lang": {"contracts"},
    "backends": {"contracts", "lang", "engine"},
    "recorded": {"contracts", "trace", "lang"},
    "elsewhere": {"contracts", "trace", "lang", "recorded"},
    "session": {"contracts", "trace", "lang", "engine", "backends", "recorded"},
    "viz": {"contracts", "trace"},
    "labs": {"contracts", "lang", "engine", "backends", "recorded", "elsewhere", "session"},
    "runtime": {"contracts", "lang", "session"},
    "utils": {"contracts", "lang", "viz"},
    "global_config": {"lang"},
    "srt": {"lang"},
    "explore": {"contracts", "trace", "lang", "recorded", "viz"},
    "notebook": {"contracts", "trace"},
    "serve": {"contracts", "trace", "lang", "recorded", "session"},
    "workloads": {"contracts", "trace", "lang", "session", "serve"},
    "cli": {"contracts", "trace", "notebook", "lang", "engine", "backends", "session", "doctor", "serve", "workloads"},
    "doctor": {"contracts", "engine", "backends"},
    "magics": {
        *("contracts", "trace", "lang", "backends", "recorded", "elsewhere", "session", "labs", "viz", "doctor", "serve", "workloads"),
        *("explore",),
    },
}

INSIDE_ENGINE = {
    "plan": set[str](),
    "files": set[str](),
    "text": {"files"},
    "serving": {"serving.config", "serving.cache", "serving.scheduling", "plan", "text", "grammar"},
    "serving.config": set[str](),
    "serving.cache": set[str](),
    "serving.scheduling": {"serving.cache", "serving.config", "plan"},
    "compute.memory": set[str](),
    "compute.kernels": set[str](),
    "compute.vision": {"files"},
    "compute.models": {"compute.kernels", "compute.memory", "compute.vision", "files", "text"},
    "compute.runners": {"compute.models", "compute.kernels", "compute.memory", "plan"},
    "tools": {"serving", "plan"},
}
"""Its folders, and modules that are rooms of their own, among themselves; `grammar` is the room beside the engine."""

INSIDE_LANG = (
    "absent default finish global_config ids interrupts keywords location usage chat_template",
    "choices fetched images videos reasoning sampling schemas types form regex_of tools expressions serial",
    "variable history shared transcript ahead",
    "loop run strand",
    "work generation tokens conversation",
    "stream streams",
    "access shown tail group executor",
    "state",
    "beginning execution batch graph prefix program",
    "expect surface",
    "api ir interpreter backend",
)
"""Its layers, the lowest first: a module imports from its own layer and those below. The last are names of the original's."""

NOTEBOOK = {"IPython", "ipywidgets", "anywidget", "ipykernel"}
HEAVY = {"torch", "numpy", "transformers"}
MUST_NOT_LOAD = {
    "contracts": HEAVY | NOTEBOOK,
    "trace": HEAVY | NOTEBOOK,
    "engine": NOTEBOOK | {"sgl_lab.lang", "sgl_lab.trace"},
    "grammar": {"torch", "transformers", "sgl_lab.engine"} | NOTEBOOK,
    "engine.plan": HEAVY,
    "engine.serving": HEAVY | {"llguidance"},
    "engine.text": {"torch", "transformers"},
    "engine.tools.simulate": HEAVY,
    "engine.files.store": HEAVY | {"huggingface_hub"},
    "lang": {"torch", "transformers", "sgl_lab.engine"} | NOTEBOOK,
    "backends": NOTEBOOK,
    "recorded": {"torch", "transformers", "sgl_lab.engine", "sgl_lab.viz"} | NOTEBOOK,
    "elsewhere": {"torch", "transformers", "sgl_lab.engine", "sgl_lab.viz"} | NOTEBOOK,
    "session": NOTEBOOK | {"sgl_lab.viz"},
    "labs": NOTEBOOK | {"sgl_lab.viz"},
    "runtime": NOTEBOOK | {"sgl_lab.viz"},
    "utils": {"torch", "transformers", "sgl_lab.engine"} | NOTEBOOK,
    "global_config": {"torch", "sgl_lab.engine"} | NOTEBOOK,
    "srt": {"torch", "sgl_lab.engine"} | NOTEBOOK,
    "viz": {"torch", "transformers", "sgl_lab.engine", "sgl_lab.lang"},
    "notebook": HEAVY | NOTEBOOK,
    "explore": {"torch", "transformers", "sgl_lab.engine"} | NOTEBOOK,
    "serve": NOTEBOOK | {"sgl_lab.viz"},
    "cli": {"IPython", "torch"},
    "models": NOTEBOOK | {"sgl_lab.engine", "sgl_lab.lang"},
    "doctor": HEAVY | NOTEBOOK,
    "magics": {"torch", "transformers"},
}


def room_of(module: str) -> str | None:
    """The room of a module of ours; None for the package's own front and for other people's modules."""
    parts = module.split(".")
    return parts[1] if parts[0] == "sgl_lab" and len(parts) > 1 else None


def engine_room_of(module: str) -> str | None:
    """The innermost room of the engine's that a module is in; `grammar` for that room's; None for all others."""
    if inside(module, "sgl_lab.grammar"):
        return "grammar"
    rooms = [room for room in INSIDE_ENGINE if inside(module, f"sgl_lab.engine.{room}")]
    return max(rooms, key=len, default=None)


def test_every_room_has_a_row_in_the_law() -> None:
    rooms = {room_of(module_name(path)) for path in SOURCES} - {None}
    assert rooms <= MAY_IMPORT.keys()


def test_a_room_imports_only_what_the_law_allows() -> None:
    ours = [found for found in all_imports() if room_of(found.by) and inside(found.of, "sgl_lab")]
    assert ours
    assert not [str(found) for found in ours if (of := room_of(found.of)) != (by := room_of(found.by)) and of not in MAY_IMPORT[str(by)]]


def test_no_module_imports_one_that_imports_it() -> None:
    modules = list(map(module_name, (*SOURCES, *HELPERS)))
    assert len(modules) > 300
    assert cycles(modules, [*all_imports(), *imports_of(HELPERS)]) == []


def test_a_cycle_is_found_through_functions_type_checking_and_packages() -> None:
    source = {
        "sgl_lab.a": "def late():\n    from .b import name",
        "sgl_lab.b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import c",
        "sgl_lab.c": "import sgl_lab.a\nfrom .d import e",
        "sgl_lab.d": "from ..sgl_lab.d import own",
        "sgl_lab.d.e": "from .. import d",
    }
    found = [each for name, text in source.items() for each in imports_in(text, name, is_package=name == "sgl_lab.d")]
    three, two = ["sgl_lab.a", "sgl_lab.b", "sgl_lab.c"], ["sgl_lab.d", "sgl_lab.d.e"]
    assert cycles(source, found) == [three]
    assert cycles(source, [*found, Import("sgl_lab.d", 1, "sgl_lab.d.e")]) == [three, two]


def test_only_the_local_backend_knows_the_engine_and_sglangs_its_texts() -> None:
    knowing = {(found.by, found.of) for found in all_imports() if room_of(found.by) == "backends" and room_of(found.of) == "engine"}
    others = {(by, of) for by, of in knowing if by != "sgl_lab.backends.local"}
    assert others < knowing
    may = ("sgl_lab.engine.text", "sgl_lab.engine.files")
    assert not [pair for pair in others if not (inside(pair[0], "sgl_lab.backends.sglang") and any(inside(pair[1], room) for room in may))]


def test_every_module_of_the_engine_is_in_a_room_of_its_law() -> None:
    files = {path: module_name(path) for path in SOURCES if inside(module_name(path), "sgl_lab.engine")}
    assert not [name for path, name in files.items() if path.name != "__init__.py" and engine_room_of(name) is None]


def test_a_room_of_the_engine_imports_only_what_its_law_allows() -> None:
    between = [
        (found, by, of)
        for found in all_imports()
        if inside(found.by, "sgl_lab.engine") and (by := engine_room_of(found.by)) and (of := engine_room_of(found.of)) and by != of
    ]
    assert between
    assert not [str(found) for found, by, of in between if not any(inside(of, room) for room in INSIDE_ENGINE[by])]


def test_a_layer_of_the_language_imports_only_from_those_below() -> None:
    layers = {f"sgl_lab.lang.{name}": number for number, names in enumerate(INSIDE_LANG) for name in names.split()}
    layer_of = {name: layers.get(".".join(name.split(".")[:3])) for name in map(module_name, SOURCES) if inside(name, "sgl_lab.lang")}
    assert [name for name, layer in layer_of.items() if layer is None] == ["sgl_lab.lang"]
    upwards = [
        found
        for found in all_imports()
        if (by := layer_of.get(found.by)) is not None
        and (of := next((layers[name] for name in layers if inside(found.of, name)), None)) is not None
        and of > by
    ]
    assert not list(map(str, upwards))


@pytest.mark.parametrize("room", MUST_NOT_LOAD)
def test_nothing_in_a_room_names_what_it_must_not_load(room: str) -> None:
    named = [found for found in all_imports() if inside(found.by, f"sgl_lab.{room}") and not allowed_late(found)]
    assert not [str(found) for found in named for forbidden in MUST_NOT_LOAD[room] if inside(found.of, forbidden)]


def allowed_late(found: Import) -> bool:
    """Imports that the law lets happen, inside a function, when the thing is really used."""
    return found.by == "sgl_lab.engine.files.store" or room_of(found.by) in ("cli", "doctor", "magics")


def test_contracts_and_trace_need_the_standard_library_only() -> None:
    foreign = [found for found in all_imports() if room_of(found.by) in ("contracts", "trace") and not inside(found.of, "sgl_lab")]
    assert foreign
    assert not [str(found) for found in foreign if found.of.partition(".")[0] not in sys.stdlib_module_names]


@pytest.mark.parametrize("room", MUST_NOT_LOAD)
def test_loading_a_room_does_not_load_what_it_must_not(room: str) -> None:
    modules = [name for name in map(module_name, SOURCES) if inside(name, f"sgl_lab.{room}")]
    assert modules
    script = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert not [name for name in loaded for forbidden in MUST_NOT_LOAD[room] if inside(name, forbidden)]


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = "import sys, sgl_lab; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not [name for name in loaded if name.partition(".")[0] in HEAVY | NOTEBOOK]


def test_the_reader_sees_every_kind_of_import() -> None:
    source = """
import a.b, c
from typing import TYPE_CHECKING
from . import sibling
from ..lang import surface
if TYPE_CHECKING:
    from ...viz.draw import svg
def late():
    import torch
    from ..engine.model import store
"""
    seen = {found.of for found in imports_in(source, "sgl_lab.magics.deep.cell", is_package=False)}
    assert seen == {
        "a.b", "c", "typing.TYPE_CHECKING", "sgl_lab.magics.deep.sibling", "sgl_lab.magics.lang.surface", "sgl_lab.viz.draw.svg",
        "torch", "sgl_lab.magics.engine.model.store",
    }  # fmt: skip
    assert [found.of for found in imports_in("from .a import b", "sgl_lab.lang", is_package=True)] == ["sgl_lab.lang.a.b"]
