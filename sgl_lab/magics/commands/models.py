"""Which model: show it, load another, give parked ones' memory back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...viz.draw.numbers import counted
from ..desk import Desk
from ..options import SETTINGS
from .command import Command, Words, memory_text, ready_lab

if TYPE_CHECKING:
    from ...session import Lab


DEVICE = SETTINGS["device"]


def _model(shell: Any, desk: Desk, words: Words) -> None:
    from ...labs import LABS

    device = words.options.get("--device")
    lab = ready_lab(shell, desk, words.name(), None if device is None else str(DEVICE.read(device, "--device")))
    print(f"{_name(lab)}, context {lab.card.context:,} tokens, vocabulary {lab.card.vocab:,}")
    print(memory_text(lab))
    for parked in reversed(LABS.parked):
        print(f"parked: {_name(parked)}, {parked.n_bytes >> 20:,} MiB with its radix tree")
    if LABS.parked:
        print("%sgl model NAME goes back to one, with its tree as it was; %sgl free gives their memory back")


def _free(shell: Any, desk: Desk, words: Words) -> None:
    from ...labs import LABS

    n_labs, n_bytes = len(LABS.parked), LABS.free()
    print(f"closed {counted(n_labs, 'parked model')}: {n_bytes >> 20:,} MiB freed" if n_labs else "no model is parked")


def _name(lab: Lab) -> str:
    return f"{lab.card.name} on {lab.card.device} in {lab.card.dtype}"


COMMANDS = {
    "model": Command(
        _model,
        "[NAME] [--device cpu|cuda|cuda:1]   show the model, or load another: built-in name, hub id, folder or .gguf file",
        1,
        {"--device": "cpu, cuda or cuda:1"},
    ),
    "free": Command(_free, "close the models that are parked: those used before, kept with their trees to go back to"),
}
