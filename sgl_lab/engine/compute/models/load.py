"""From a path to a model that computes: check everything, then build or pack.

Everything that can be wrong with the files is found before the first weight is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from ....contracts.errors import DeviceUnfit, ModelError, ModelMissing, OutOfMemory
from ....contracts.ids import Namespace
from ....contracts.near import did_you_mean
from ...files.fetch import Progress, unseen
from ...files.gguf_file import GgufFile
from ...files.small import read_json
from ...files.weights import Checkpoint, Read, fingerprint
from ...text.tokenizer import Files, Tokenizer
from ...text.vocab import tokenizer_files
from ..kernels.gpu import tuning
from ..kernels.native import build
from ..memory import demand, mib
from ..vision import kinds
from ..vision.sight import Sight
from . import kept
from .architectures import config_from_gguf
from .decoder import Decoder
from .devices import find_device
from .executors import GPU, NATIVE, PACKED_GPU, TORCH, fitted, unfit
from .families import FAMILIES, spec_from_config
from .foreign import ForeignDecoder, checked_config, is_foreign, load_foreign
from .gguf_weights import GgufWeights
from .grouped import kept_dtype
from .packed import KINDS, PackedDecoder, pack_decoder
from .quantised import KEY, Quantised, scheme_of
from .spec import ModelSpec

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 34 / 32, "int4": 20 / 32}
"""bytes per weight, including its share of the data of a group of 32"""
_SMALL = 64 << 20
"""bytes of a model that is fast enough anyway"""
_PICTURES = "pictures are embedded blocks, which the native step does not compute"


class CacheSize(NamedTuple):
    """The size of a KV cache that was asked for, in tokens or in MiB; 0 if none was."""

    tokens: int = 0
    mib: int = 0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    name: str
    spec: ModelSpec
    model: Decoder | PackedDecoder | ForeignDecoder
    tokenizer: Tokenizer
    device: str
    dtype: str
    namespace: Namespace
    """identifies the weights and their type: KV may be shared only within it"""
    n_bytes: int
    """of the weights in memory, nearly"""
    remark: str | None = None
    """what was chosen for this CPU and costs speed or exactness, and how to choose otherwise"""
    sight: Sight | None = None
    """of a model that sees pictures"""


def load_model(
    path: Path,
    *,
    name: str,
    device: str | None = None,
    dtype: str | None = None,
    native: bool = False,
    cache_dir: Path,
    cache: CacheSize = CacheSize(),  # noqa: B008  # a constant
    progress: Progress = unseen,
) -> LoadedModel:
    """Loads the model in a GGUF file or a folder of safetensors.

    device     None is the GPU if there is one, otherwise the CPU
    dtype      float32, bfloat16, int8 or int4. None is bfloat16 on a GPU. On a CPU, None keeps the
               type of the file's weights (a GGUF's own 4 or 8 bits, otherwise bfloat16) if the
               native step computes them, and is float32 on torch. A model that a CPU without
               bfloat16 instructions reads slowly is rounded to int8
    native     whether the native step is available: bfloat16 on a CPU is then packed for it
    cache_dir  where measured block sizes of GPU kernels, and packed weights of a GGUF, are kept
    cache      the KV cache that a CPU must have room for beside the weights, if a size was asked for

    ModelMissing, ModelDamaged, ModelError, DeviceUnfit, OutOfMemory.
    """
    target = find_device(device).device
    if dtype is not None and dtype not in _DTYPES | KINDS:
        raise ModelError(f"dtype {dtype!r} is not supported", hint=did_you_mean(dtype, _DTYPES | KINDS))
    if path.is_dir() and not kinds.sees(config := read_json(path / "config.json")) and is_foreign(config):
        return _foreign(path, config, name, target, dtype)
    place = None
    if target.type == "cpu" and native and dtype not in _DTYPES and path.is_file():
        place = kept.place(path, dtype, cache_dir)
        if (found := kept.find(place)) is not None and (loaded_model := _from_kept(found, path, name, dtype, cache)) is not None:
            return loaded_model
    with _source(path) as source:
        spec, read, seeing = source.spec, source.read, source.seeing
        gguf = None if dtype in _DTYPES else source.gguf
        obstacle = (_PICTURES if seeing else unfit(spec, NATIVE)) if target.type == "cpu" and native else None
        packs = target.type == "cpu" and native and obstacle is None
        chosen = dtype or ("bfloat16" if target.type == "cuda" else _native_dtype(_kept_dtype(source), spec) if packs else "float32")
        is_packed = chosen not in _DTYPES or (packs and chosen == "bfloat16")
        executor = (PACKED_GPU if is_packed else GPU) if target.type == "cuda" else NATIVE if is_packed else TORCH
        spec = fitted(spec, executor, name)
        n_bytes = _weight_bytes(spec, chosen, is_packed, target) + (seeing.n_bytes if seeing else 0)
        what, hint = _described(name, spec, chosen), _smaller(spec, chosen, target, packs)
        if target.type == "cpu":
            _demand(n_bytes, what, hint, spec, chosen, cache)
        if target.type == "cuda":
            tuning.use(tuning.file_of(cache_dir, torch.cuda.get_device_name(target)))
        total = len(spec.layers)

        def loaded(n_layers: int) -> None:
            progress(n_layers, total, "loading weights")

        model: Decoder | PackedDecoder
        try:
            if is_packed and target.type == "cuda":
                from .device_packed import packed_on_device  # loads Triton

                model = packed_on_device(spec, KINDS[chosen], read, gguf, target, loaded=loaded)
            elif is_packed:
                model = pack_decoder(spec, KINDS[chosen], read, gguf, loaded)
                if place is not None and source.described is not None:
                    progress(0, 0, "keeping the packed weights")
                    kept.keep(place, model, source.config, source.described, chosen)
            else:
                model = Decoder(spec, read, device=target, dtype=_DTYPES[chosen], loaded=loaded)
        except (torch.OutOfMemoryError, MemoryError):
            raise OutOfMemory(f"{what} needs {mib(n_bytes)}, more than {target} has left", hint=hint) from None
        remark = f"torch computes {name}, several times slower: {obstacle}" if obstacle and dtype is None and n_bytes > _SMALL else None
        remark = remark or (_rounded(name, chosen, _kept_dtype(source)) if packs and dtype is None else None)
        namespace = (name, fingerprint(source.files), chosen)
        sight = Sight(seeing.read(partial(source.tokenizer.encode, markup=True)), " ".join(namespace)) if seeing else None
        return LoadedModel(name, spec, model, source.tokenizer, str(target), chosen, namespace, n_bytes, remark, sight)


def _kept_dtype(source: _Source) -> str:
    return "int4" if isinstance(source.read, Quantised) else kept_dtype(source.gguf, source.spec)


def _foreign(path: Path, config: Mapping[str, object], name: str, target: torch.device, dtype: str | None) -> LoadedModel:
    """A decoder without a family here."""
    kind = config.get("model_type")
    if target.type != "cpu":
        raise DeviceUnfit(f"{name} cannot be computed on {target}: there is no family for {kind} here", hint="use device cpu")
    chosen = dtype or "float32"
    if chosen not in _DTYPES:
        raise ModelError(f"{name} cannot be loaded in {chosen}: transformers computes {kind} in float32 or bfloat16")
    theirs = checked_config(path, name)
    with Checkpoint(path) as checkpoint:
        files = checkpoint.files
    n_file = sum(file.stat().st_size for file in files)
    is_wide = (config.get("dtype") or config.get("torch_dtype")) in (None, "float32")
    n_bytes = int(n_file * _WEIGHT_BYTES[chosen] / (4 if is_wide else 2))
    demand(n_bytes, f"{name} in {chosen}", hint="choose a smaller model")  # its cache is checked when it is made
    model = load_foreign(path, name, theirs, _DTYPES[chosen])
    namespace = (name, fingerprint(files), chosen)
    remark = f"transformers computes {name}, several times slower: there is no family for {kind} here"
    tokenizer = Tokenizer(path, model.spec.vocab)
    return LoadedModel(name, model.spec, model, tokenizer, str(target), chosen, namespace, model.n_bytes, remark)


def _from_kept(found: kept.Kept, path: Path, name: str, dtype: str | None, cache: CacheSize) -> LoadedModel | None:
    """Of a GGUF whose packed weights were kept; None if they are damaged."""
    spec, cpu = fitted(spec_from_config(found.config, str(path)), NATIVE, name), torch.device("cpu")
    n_bytes = _weight_bytes(spec, found.dtype, True, cpu)
    _demand(n_bytes, _described(name, spec, found.dtype), _smaller(spec, found.dtype, cpu, True), spec, found.dtype, cache)
    model = found.read(spec, KINDS[found.dtype])
    if model is None:
        return None
    namespace = (name, fingerprint([path]), found.dtype)
    return LoadedModel(name, spec, model, Tokenizer(found.files, spec.vocab), "cpu", found.dtype, namespace, n_bytes)


def _checked(folder: Path) -> tuple[ModelSpec, Checkpoint | Quantised, kinds.Parts | None]:
    """The model that the folder's configuration and its tensors describe together, and the parts of
    one that sees.

    As in transformers, a stored head beside the embedding that it should be tied to is a separate
    one if the two differ, and serves as both if it is stored alone.
    """
    config, origin = read_json(folder / "config.json"), str(folder / "config.json")
    sees = kinds.sees(config)
    text = kinds.text_config(config, {family.model_type: family.architecture for family in FAMILIES}, origin) if sees else config
    scheme = scheme_of(config, origin)
    if sees and scheme is not None:
        raise ModelError(f"{origin}: a model that sees is not read with quantised weights", hint="use the original weights")
    text = text if scheme is None else {key: value for key, value in text.items() if key != KEY}
    spec = spec_from_config(text, origin)
    if (folder / "adapter_config.json").exists():
        hint = "load the model that it was made for, then the adapter: `lab.load_adapter(folder)`"
        raise ModelError(f"{folder} has an adapter_config.json: an adapter is not a model", hint=hint)
    checkpoint = Checkpoint(folder, numbers=scheme is not None)
    seeing = kinds.parts_of(folder, config, spec.hidden, checkpoint) if sees else None
    apart = replace(spec, tied=False)
    if scheme is not None:
        spec = apart if apart.head_name in checkpoint else spec
        numbers = Quantised(checkpoint, scheme, spec.tensors())
        checkpoint.check(numbers.unstored)
        return spec, numbers, None
    embedding, head = apart.embedding_name, apart.head_name
    if spec.tied and head in checkpoint and embedding not in checkpoint:
        checkpoint.rename(head, embedding)
    if not (spec.tied and head in checkpoint):
        checkpoint.check(spec.tensors())
        return spec, checkpoint, seeing
    checkpoint.check(apart.tensors())
    with checkpoint:
        return (spec if checkpoint.equal(embedding, head) else apart), checkpoint, seeing


def read_spec(path: Path) -> ModelSpec:
    """The description of the model in a GGUF file or a folder, without its weights."""
    return _checked(path)[0] if path.is_dir() else spec_from_config(config_from_gguf(GgufFile(path)), str(path))


def _described(name: str, spec: ModelSpec, dtype: str) -> str:
    return f"{name} with {spec.n_params / 1e6:,.0f}M parameters in {dtype}"


def _smaller(spec: ModelSpec, dtype: str, target: torch.device, packs: bool) -> str:
    """The way out where the weights are too large."""
    order = tuple(_WEIGHT_BYTES)
    kinds = order[order.index(dtype) + 1 :] if packs or target.type == "cuda" else _DTYPES if dtype == "float32" else ()
    needs = [f"{kind} needs {mib(_weight_bytes(spec, kind, kind in KINDS, target))}" for kind in kinds if kind != dtype]
    return f"choose a smaller dtype ({', '.join(needs)}) or a smaller model" if needs else "choose a smaller model"


def _demand(n_bytes: int, what: str, hint: str, spec: ModelSpec, dtype: str, cache: CacheSize) -> None:
    """OutOfMemory unless a CPU has room for weights of that size and the cache."""
    of_token = spec.kv_bytes_per_token((torch.float32 if dtype == "float32" else torch.bfloat16).itemsize)
    n_tokens = cache.tokens or (cache.mib << 20) // of_token
    if n_tokens:
        demand(n_tokens * of_token, f"a cache of {n_tokens:,} tokens", hint="use a smaller cache_tokens or cache_mib")
        what, hint = f"{what} ({mib(n_bytes)}) with a cache of {n_tokens:,} tokens", f"{hint}, or a smaller cache"
    demand(n_bytes + n_tokens * of_token, what, hint=hint)


def _native_dtype(stored: str, spec: ModelSpec) -> str:
    """The type of weights that the file stores so: the fastest on this CPU whose rounding is small."""
    is_slow = stored == "bfloat16" and not build.has_bfloat16()
    return "int8" if is_slow and spec.n_params * _WEIGHT_BYTES[stored] > _SMALL else stored


def _rounded(name: str, chosen: str, stored: str) -> str | None:
    if chosen == stored:
        return None
    return f"{name} is rounded to {chosen}: this CPU has no bfloat16 instructions, so {stored} is slower; dtype={stored!r} keeps it"


def _weight_bytes(spec: ModelSpec, dtype: str, is_packed: bool, target: torch.device) -> int:
    """On a CPU, a packed embedding that is also the head is stored once. On a GPU it is stored in
    bfloat16, beside a packed head.
    """
    one_end = spec.vocab * spec.hidden
    n_layers = spec.n_params - one_end * (1 if spec.tied else 2)
    head = _WEIGHT_BYTES["int8" if dtype == "int4" else dtype]
    if is_packed and target.type == "cuda":
        ends = one_end * (head + _WEIGHT_BYTES["bfloat16"])
    else:
        ends = one_end * head * (1 if spec.tied and is_packed else 2)
    return int(n_layers * _WEIGHT_BYTES[dtype] + ends)


@dataclass(frozen=True, slots=True)
class _Source:
    spec: ModelSpec
    tokenizer: Tokenizer
    read: Read
    files: list[Path]
    gguf: GgufFile | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    """of a GGUF"""
    described: Files | None = None
    """the tokenizer of a GGUF"""
    seeing: kinds.Parts | None = None


@contextmanager
def _source(path: Path) -> Iterator[_Source]:
    """The model at `path`, checked, its files open."""
    if path.is_dir():
        spec, checkpoint, seeing = _checked(path)
        tokenizer = Tokenizer(path, spec.vocab)
        with checkpoint:
            read = checkpoint if isinstance(checkpoint, Quantised) else checkpoint.read
            yield _Source(spec, tokenizer, read, checkpoint.files, seeing=seeing)
        return
    if not path.exists():
        raise ModelMissing(f"{path} does not exist")
    gguf = GgufFile(path)
    config = config_from_gguf(gguf)
    spec = spec_from_config(config, str(path))
    weights = GgufWeights(gguf, spec)
    described = Files.made({"config.json": config} | tokenizer_files(gguf.metadata, spec.vocab, str(path)), str(path))
    yield _Source(spec, Tokenizer(described, spec.vocab), weights.read, [path], gguf, config, described)
