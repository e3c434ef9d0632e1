"""The kinds of models that see, by the `model_type` of their configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ....contracts.errors import ModelError
from ...files.weights import Checkpoint
from . import idefics, llava
from .sight import Encoder


class Parts(Protocol):
    """The vision half of a model's files."""

    n_bytes: int
    """of its weights in memory"""

    def read(self, encode: Callable[[str], Sequence[int]]) -> Encoder:
        """Read the weights. `encode` gives the text model's ids of markup."""


PARTS: dict[object, Callable[[Path, Mapping[str, object], int, Checkpoint], Parts]] = {
    **dict.fromkeys(llava.MODEL_TYPES, llava.Parts),
    **dict.fromkeys(idefics.MODEL_TYPES, idefics.Parts),
}


def sees(config: Mapping[str, object]) -> bool:
    return isinstance(kind := config.get("model_type"), str) and kind in PARTS


def parts_of(folder: Path, config: Mapping[str, object], hidden: int, checkpoint: Checkpoint) -> Parts:
    """Checks the vision half and takes its tensors out of `checkpoint`, which keeps the text model's under
    the names that they have alone. ModelMissing, ModelDamaged, ModelError.
    """
    return PARTS[config["model_type"]](folder, config, hidden, checkpoint)


def text_config(config: Mapping[str, object], architectures: Mapping[str, str], origin: str) -> dict[str, object]:
    """The configuration of the text model, with the architecture of its type."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise ModelError(f"{origin}: text_config must be an object, not {text!r:.60}")
    kind = text.get("model_type", "llama")
    if kind not in architectures:
        raise ModelError(f"{origin}: a text model of type {kind!r:.60} is not supported", hint="supported: " + ", ".join(architectures))
    made = text | {"model_type": kind, "architectures": [architectures[kind]]}
    return idefics.text_config(config, made, origin) if config.get("model_type") in idefics.MODEL_TYPES else made
