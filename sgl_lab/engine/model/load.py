"""From a path to a model that computes: convert if need be, check everything, then build or pack.

Everything that can be wrong with the files is found before the first weight is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ...contracts.errors import ModelError, ModelMissing
from ...contracts.ids import Namespace
from .fetch import Progress, unseen
from .gguf_file import GgufFile
from .llama import Llama
from .packed import KINDS, PackedLlama, pack_llama, unfit
from .spec import LlamaSpec, spec_from_config
from .tokenizer import Tokenizer
from .weights import Checkpoint, fingerprint, read_json

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    name: str
    spec: LlamaSpec
    model: Llama | PackedLlama
    tokenizer: Tokenizer
    device: str
    dtype: str
    namespace: Namespace
    """names the weights and their type: what KV may be shared under"""


def load_model(
    path: Path,
    *,
    name: str,
    device: str | None = None,
    dtype: str | None = None,
    native: bool = False,
    cache_dir: Path,
    progress: Progress = unseen,
) -> LoadedModel:
    """The model in a GGUF file or a folder of safetensors.

    device     None is the GPU if there is one, else the CPU
    dtype      float32, bfloat16, or on a CPU int8 or int4; None is bfloat16 on a GPU, float32 on a CPU
    native     whether the native step is there to compute it: bfloat16 on a CPU is then packed for it
    cache_dir  where a GGUF's unpacked weights are kept

    ModelMissing, ModelDamaged, ModelError.
    """
    place = _device(device)
    chosen = dtype or ("bfloat16" if place.type == "cuda" else "float32")
    if chosen not in _DTYPES | KINDS:
        raise ModelError(f"dtype {chosen!r} is not supported", hint="supported: " + ", ".join(_DTYPES | KINDS))
    if chosen not in _DTYPES and place.type != "cpu":
        raise ModelError(f"dtype {chosen} runs on a CPU only", hint="use bfloat16")
    folder = _folder(path, name, cache_dir, progress)
    spec = spec_from_config(read_json(folder / "config.json"), str(folder / "config.json"))
    checkpoint = Checkpoint(folder)
    checkpoint.check(spec.tensors())
    tokenizer = Tokenizer(folder, spec.vocab)
    total = spec.n_layers

    def loaded(n_layers: int) -> None:
        progress(n_layers, total, "loading weights")

    model: Llama | PackedLlama
    is_packed = chosen not in _DTYPES or (native and chosen == "bfloat16" and place.type == "cpu" and unfit(spec) is None)
    try:
        with checkpoint:
            if is_packed:
                model = pack_llama(spec, KINDS[chosen], checkpoint.read, None if path.is_dir() else GgufFile(path), loaded)
            else:
                model = Llama(spec, checkpoint.read, device=place, dtype=_DTYPES[chosen], loaded=loaded)
    except (torch.OutOfMemoryError, MemoryError):
        raise ModelError(f"{name} with {spec.n_params / 1e6:.0f}M parameters in {chosen} does not fit into the memory of {place}") from None
    return LoadedModel(name, spec, model, tokenizer, str(place), chosen, (name, fingerprint(checkpoint.files), chosen))


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"device {name!r} is unknown", hint="cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"device {name!r} is not supported", hint="cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs", hint="use device cpu")
    return device


def _folder(path: Path, name: str, cache_dir: Path, progress: Progress) -> Path:
    """The folder in the Hugging Face layout."""
    if path.is_dir():
        return path
    if not path.exists():
        raise ModelMissing(f"{path} does not exist")
    from .convert import convert

    return convert(path, name, cache_dir, progress)
