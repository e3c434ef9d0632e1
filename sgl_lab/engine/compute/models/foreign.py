"""A decoder without a family here, computed by transformers over our paged cache.

Transformers lets a program supply the attention of its models. Ours writes keys and values to pages
and reads a row's context, as for any other model, so the radix cache, batches and views are the
same. What keeps more than keys and values between tokens is refused.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ....contracts.errors import BackendUnsupported, ModelError
from .adapters import Adapted
from .decoder import Attend, Embedded, capped
from .families import FAMILIES
from .spec import Attention, FeedForward, Layer, ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_NAME = "sgl_lab_paged"
_PROBE = 7
"""tokens that a model is tried with"""
_APART = 0.01
"""largest difference of a token computed alone and in its text, relative to its size"""
_current = threading.local()

_Attended = Callable[[int, Tensor, Tensor, Tensor, Attention], Tensor]
"""(layer, q [n, heads, dim], k, v, what transformers wants of it) -> [n, heads, dim]"""


def is_foreign(config: Mapping[str, object]) -> bool:
    """Whether it is a decoder that transformers knows and no family here computes."""
    names, kind = config.get("architectures"), config.get("model_type")
    if kind in {family.model_type for family in FAMILIES} or "auto_map" in config:
        return False
    if not isinstance(names, list) or not isinstance(kind, str):
        return False
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    return known is not None and names[:1] == [known]


def load_foreign(folder: Path, name: str, config: PreTrainedConfig, dtype: torch.dtype) -> ForeignDecoder:
    """ModelError for what cannot be loaded, and for what keeps more than keys and values."""
    from transformers import AutoModelForCausalLM

    _register()
    here = {"use_safetensors": True, "trust_remote_code": False, "local_files_only": True}
    with _readable(name):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, attn_implementation=_NAME, **here
        )
    return ForeignDecoder(model.train(False), name)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ImportError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{name}: transformers cannot load it: {reason:.300}") from None


def checked_config(folder: Path, name: str) -> PreTrainedConfig:
    """The configuration, before a weight is read. ModelError for what its attention interface does
    not compute, and for what cannot be cached by prefix.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    with _readable(name):
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    kind, made = config.model_type, AutoModelForCausalLM._model_mapping[type(config)]
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if getattr(made, "_is_stateful", False) or kinds:
        which = f" ({', '.join(sorted(kinds))})" if kinds else ""
        raise ModelError(
            f"{name} cannot be computed: {kind} has recurrent layers{which}, whose state cannot be cached by prefix",
            hint="use a model whose layers all attend",
        )
    if getattr(made, "_supports_attention_backend", False) is not True:
        raise ModelError(f"{name} cannot be computed: {kind} does not use transformers' attention interface")
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"{name} cannot be computed: quantised safetensors of {kind} are not supported; use the original weights")
    rope = getattr(config, "rope_parameters", None) or {}
    if isinstance(rope, dict) and rope.get("rope_type") in ("longrope", "dynamic"):
        raise ModelError(f"{name} cannot be computed: {kind} with {rope['rope_type']} positions, which change with the length of a text")
    return config


@cache
def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attention)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer: [1, heads, n, dim] in, [1, n, heads, dim] out."""
    if s_aux is not None:
        raise BackendUnsupported("attention sinks are not computed by the paged attention")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    kind = Attention(q.shape[1], k.shape[1], q.shape[2], None, scaling, sliding_window or None, softcap or None)
    attended: _Attended = _current.attended
    return attended(int(module.layer_idx), q, k, v, kind)[None], None  # type: ignore[arg-type]


@contextmanager
def _attending(attended: _Attended) -> Iterator[None]:
    _current.attended = attended
    try:
        yield
    finally:
        del _current.attended


class _Output:
    """What a body returns: hidden states [1, n, hidden], and nothing else under any name."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        return None


class _Given(nn.Module):
    """Stands for a model's body where only its head is computed."""

    def __init__(self, kept: nn.Module) -> None:
        super().__init__()
        self.__dict__["decoder"] = self
        self.__dict__["config"] = kept.config
        self.hidden = torch.empty(0)

    def forward(self, *_: object, **__: object) -> _Output:
        return _Output(self.hidden)


class ForeignDecoder:
    """Computes as `Decoder` does, by a model of transformers. `spec` has what its layers' attention
    and its cache need.
    """

    def __init__(self, model: PreTrainedModel, name: str) -> None:
        self._model = model
        self._body: nn.Module = model.base_model
        self._given = _Given(self._body)
        self._head = copy.copy(model)
        self._head._modules = model._modules | {model.base_model_prefix: self._given}
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self.spec = _tried(self, name)

    @property
    def n_bytes(self) -> int:
        return sum(weight.nbytes for weight in self._model.parameters())

    @property
    def config(self) -> PreTrainedConfig:
        return self._model.config

    @property
    def vocab(self) -> int:
        return int(self.config.vocab_size)

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        attend: Attend,
        embedded: Embedded | None = None,
        routed: list[Tensor] | None = None,
        adapted: Adapted | None = None,
    ) -> Tensor:
        """As `Decoder.forward`, but after the last norm."""
        return self._hidden(ids, positions, lambda layer, q, k, v, _: attend(layer, q, k, v))

    def _hidden(self, ids: Tensor, positions: Tensor, attended: _Attended) -> Tensor:
        with _attending(attended):
            found: Tensor = self._body(input_ids=ids[None], position_ids=positions[None], use_cache=False)[0][0]
            return found

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [m, vocab] in float32 of the chosen rows of `forward`'s result."""
        self._given.hidden = hidden[None]
        found: Tensor = self._head(input_ids=torch.zeros((1, len(hidden)), dtype=torch.int64, device=hidden.device), use_cache=False).logits
        return found[0].float()


def _tried(model: ForeignDecoder, name: str) -> ModelSpec:
    """What each layer's attention is, learnt from a short text; ModelError unless its last token
    comes out the same alone, with nothing but the keys and values of those before it.
    """
    config, kinds = model.config, dict[int, Attention]()
    cached: dict[int, tuple[Tensor, Tensor]] = {}

    def whole(layer: int, q: Tensor, k: Tensor, v: Tensor, kind: Attention) -> Tensor:
        if v.shape != k.shape or q.shape[2] != k.shape[2] or layer in kinds:
            raise ModelError(f"{name} cannot be computed: the attention of {config.model_type} has keys and values of other shapes")
        kinds[layer], cached[layer] = kind, (k, v)
        return _plain(q, k, v, kind)

    def last(layer: int, q: Tensor, k: Tensor, v: Tensor, kind: Attention) -> Tensor:
        before = cached[layer]
        return _plain(q, torch.cat((before[0][:-1], k)), torch.cat((before[1][:-1], v)), kind)

    ids = torch.arange(_PROBE, device=model.device) * 37 % model.vocab
    positions = torch.arange(_PROBE, device=model.device)
    with torch.inference_mode():
        in_text = model._hidden(ids, positions, whole)
        n_layers = int(config.num_hidden_layers)
        if sorted(kinds) != list(range(n_layers)):
            raise ModelError(f"{name} cannot be computed: only {len(kinds)} of {n_layers} layers of {config.model_type} attend")
        alone = model._hidden(ids[-1:], positions[-1:], last)
        apart = float((alone[0] - in_text[-1]).norm() / in_text[-1].norm())
    if not apart < _APART:
        raise ModelError(f"{name} cannot be computed: {config.model_type} keeps more than keys and values between tokens")
    layers = tuple(Layer(kinds[index], FeedForward(1)) for index in range(n_layers))
    context = getattr(config, "max_position_embeddings", None)
    return ModelSpec(layers, int(config.hidden_size), model.vocab, context if type(context) is int and context > 0 else 2048, 1e-5, True)


def _plain(q: Tensor, k: Tensor, v: Tensor, kind: Attention) -> Tensor:
    """The last queries over all keys, causal, without a window (`_PROBE` tokens are within any)."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
    if kind.softcap is None:
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=kind.scale, enable_gqa=True)[0].transpose(0, 1)
    k, v = (x.repeat_interleave(kind.n_heads // kind.n_kv_heads, dim=1) for x in (k, v))
    scores = capped(q @ k.transpose(-1, -2) * (kind.head_dim**-0.5 if kind.scale is None else kind.scale), kind.softcap)
    return (scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v)[0].transpose(0, 1)
