"""Commands for models: show, list, load another, free parked ones; and the check of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...elsewhere import BackendLab
from ...viz.draw import html
from ...viz.draw.numbers import counted
from ..options import SETTINGS
from ..printing import say
from ..session import Session
from ..shell import Shell
from .backends import tell
from .command import Command, Words, aligned, current_lab, engine_of, memory_text, ready_lab, show

if TYPE_CHECKING:
    from ...session import Lab


DEVICE = SETTINGS["device"]


def _model(shell: Shell, session: Session, words: Words) -> None:
    from ...labs import LABS

    device = words.options.get("--device")
    if words.name() is None and device is None and isinstance(current := current_lab(shell, session), BackendLab):
        tell(current)
        return
    if words.name() is not None:
        session.go_local()
    lab = ready_lab(shell, session, words.name(), None if device is None else str(DEVICE.read(device, "--device")))
    say(f"{_name(lab)}, context {lab.card.context:,} tokens, vocabulary {lab.card.vocab:,}")
    say(memory_text(lab))
    for parked in reversed(LABS.parked):
        say(f"parked: {_name(parked)}, {parked.n_bytes >> 20:,} MiB with its radix tree")
    if LABS.parked:
        say("%sgl model NAME switches back to a parked model and its tree; %sgl free frees the memory")


def _models(shell: Shell, session: Session, words: Words) -> None:
    """List the model in use, the parked ones, those in the model cache, and the built-in one even
    before it is fetched.
    """
    from ...labs import LABS
    from ...session import BUILT_IN

    labs = [(lab, "in use" if lab is LABS.current else "parked") for lab in (LABS.current, *reversed(LABS.parked)) if lab is not None]
    rows = [(lab.model, state, f"{lab.n_bytes >> 20:,}", f"in memory ({lab.card.device}), with its radix tree") for lab, state in labs]
    rows += [(model.name, "on disk", f"{model.n_bytes >> 20:,}", str(model.paths[0])) for model in LABS.stored()]
    if BUILT_IN not in [name for name, *_ in rows]:
        rows.append((BUILT_IN, "not fetched yet", "", "the first cell fetches it"))
    table = [("model", "state", "MiB", "where"), *rows]
    show(shell, words, html.grid(table), aligned(table), {"models": len(rows)})


def _doctor(shell: Shell, session: Session, words: Words) -> None:
    from ...doctor import examine

    for finding in examine():
        say(str(finding))


def _adapter(shell: Shell, session: Session, words: Words) -> None:
    """`adapter`, `adapter FOLDER` and `adapter FOLDER NAME`: show the loaded ones, or load one."""
    lab = engine_of(current_lab(shell, session), "%sgl adapter")
    if (folder := words.name()) is not None:
        name = lab.load_adapter(folder, words.name(1))
        say(f"adapter {name} is loaded: %%sgl --adapter {name}, gen(adapter={name!r})")
    elif lab.adapters:
        say(f"adapters: {', '.join(lab.adapters)}")
    else:
        say("no adapter is loaded: %sgl adapter FOLDER [NAME] loads one, as PEFT saves it")


def _free(shell: Shell, session: Session, words: Words) -> None:
    from ...labs import LABS

    n_labs, n_bytes = len(LABS.parked), LABS.free()
    say(f"closed {counted(n_labs, 'parked model')}: {n_bytes >> 20:,} MiB freed" if n_labs else "no model is parked")


def _name(lab: Lab) -> str:
    return f"{lab.card.name} on {lab.card.device} in {lab.card.dtype}"


COMMANDS = {
    "model": Command(
        _model,
        "[NAME] [--device cpu|cuda|cuda:1]   show the model, or load another one: built-in name, hub id, folder or .gguf file",
        1,
        {"--device": "cpu, cuda or cuda:1"},
    ),
    "models": Command(_models, "[--text]   list the models: in use, parked, on disk", options={"--text": ""}),
    "doctor": Command(_doctor, "check this machine and report what is missing"),
    "adapter": Command(_adapter, "[FOLDER] [NAME]   load a LoRA adapter in PEFT's layout, or list those that are loaded", 2),
    "free": Command(_free, "close the parked models: earlier models that are kept with their trees"),
}
