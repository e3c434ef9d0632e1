"""The specification of a model: a list of layers, each with its kinds of attention and
feed-forward, and what surrounds them.

Everything that computes a model reads this and not its configuration file: the executors
(`executors` declares the kinds of each), the loaders, and the KV store. `families` creates it.
Knows no torch and no weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ....contracts.errors import InvariantBroken

Norm = Literal["attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm"]
"""position of a norm: on the input of the attention or feed-forward, or on its output"""
Part = Literal[
    Norm, "q", "k", "v", "o", "q_norm", "k_norm", "gate", "up", "down", "router", "shared_router", "shared_gate", "shared_up", "shared_down"
]
"""a tensor of a layer"""
Projection = Literal["q", "k", "v", "o"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched to a longer context: `linear` divides all of them,
    `llama3` and `yarn` the slow ones, and `longrope` each by a divisor of its own.
    """

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192
    divisors: tuple[float, ...] = ()
    amplitude: float = 1.0
    is_truncated: bool = True
    """yarn: its ramp begins and ends at whole dimensions"""


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions on the first `dims` dimensions of each head."""

    theta: float
    dims: int
    scaling: RopeScaling | None = None

    @property
    def amplitude(self) -> float:
        """Factor of all cosines and sines."""
        return 1.0 if self.scaling is None else self.scaling.amplitude


@dataclass(frozen=True, slots=True)
class Attention:
    """Causal grouped-query attention."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    rotary: Rotary | None
    """None is no positions at all"""
    scale: float | None = None
    """of q times k; None is 1 / sqrt(head_dim)"""
    window: int | None = None
    """a token reads itself and the `window - 1` tokens before it; None is all of them"""
    softcap: float | None = None
    """scores become softcap * tanh(score / softcap)"""
    qk_norm: Literal["head", "whole"] | None = None
    """RMS norms of q and k before they turn: of each head by itself, or of all heads together"""
    biases: frozenset[Projection] = frozenset()


@dataclass(frozen=True, slots=True)
class Experts:
    """Of `count` feed-forwards, each token passes through the `top_k` that its router scores
    highest, weighted by their probabilities, and through a shared one, weighted by the sigmoid of a
    score of its own.
    """

    count: int
    top_k: int
    shared: int = 0
    """width of the shared expert; 0 without one"""
    is_normalised: bool = True
    """the weights of the chosen experts sum to 1"""


@dataclass(frozen=True, slots=True)
class FeedForward:
    """down(activation(gate x) * up x), or down(activation(up x)) if it is not gated."""

    width: int
    """width; of each expert if there are any"""
    activation: Activation = "silu"
    is_gated: bool = True
    has_bias: bool = False
    experts: Experts | None = None


class Tensor(NamedTuple):
    part: Part
    shape: tuple[int, ...]
    has_bias: bool = False
    expert: int | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    attention: Attention
    feed_forward: FeedForward
    norms: tuple[Norm, ...] = ("attention_norm", "mlp_norm")

    @property
    def vectors(self) -> tuple[Part, ...]:
        """What is no linear besides the norms: norms of q and k, routers."""
        experts = self.feed_forward.experts
        found: tuple[Part, ...] = ("q_norm", "k_norm") if self.attention.qk_norm else ()
        if experts is not None:
            found += ("router", "shared_router") if experts.shared else ("router",)
        return found

    def tensors(self, hidden: int) -> Iterator[Tensor]:
        attention, feed_forward = self.attention, self.feed_forward
        q, kv = attention.n_heads * attention.head_dim, attention.n_kv_heads * attention.head_dim
        for norm in self.norms:
            yield Tensor(norm, (hidden,))
        if attention.qk_norm is not None:
            is_whole = attention.qk_norm == "whole"
            yield Tensor("q_norm", (q if is_whole else attention.head_dim,))
            yield Tensor("k_norm", (kv if is_whole else attention.head_dim,))
        yield Tensor("q", (q, hidden), "q" in attention.biases)
        yield Tensor("k", (kv, hidden), "k" in attention.biases)
        yield Tensor("v", (kv, hidden), "v" in attention.biases)
        yield Tensor("o", (hidden, q), "o" in attention.biases)
        width, experts = feed_forward.width, feed_forward.experts
        if experts is not None:
            yield Tensor("router", (experts.count, hidden))
        for expert in range(experts.count) if experts else (None,):
            if feed_forward.is_gated:
                yield Tensor("gate", (width, hidden), feed_forward.has_bias, expert)
            yield Tensor("up", (width, hidden), feed_forward.has_bias, expert)
            yield Tensor("down", (hidden, width), feed_forward.has_bias, expert)
        if experts is not None and experts.shared:
            yield Tensor("shared_router", (1, hidden))
            yield Tensor("shared_gate", (experts.shared, hidden))
            yield Tensor("shared_up", (experts.shared, hidden))
            yield Tensor("shared_down", (hidden, experts.shared))


@dataclass(frozen=True, slots=True)
class Names:
    """The names of the tensors in safetensors, by default those of a Llama. Parts that are stored
    as one have one name.
    """

    embedding: str = "model.embed_tokens"
    norm: str = "model.norm"
    head: str = "lm_head"
    layer: str = "model.layers.{}"
    attention_norm: str = "input_layernorm"
    attention_out_norm: str = "post_attention_layernorm"
    mlp_norm: str = "post_attention_layernorm"
    mlp_out_norm: str = "post_feedforward_layernorm"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    o: str = "self_attn.o_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    router: str = "mlp.gate"
    expert: str = "mlp.experts.{}"
    expert_gate: str = "gate_proj"
    expert_up: str = "up_proj"
    expert_down: str = "down_proj"
    shared_router: str = "mlp.shared_expert_gate"
    shared_gate: str = "mlp.shared_expert.gate_proj"
    shared_up: str = "mlp.shared_expert.up_proj"
    shared_down: str = "mlp.shared_expert.down_proj"

    def of(self, layer: int, part: Part, expert: int | None = None) -> str:
        """Without `.weight` or `.bias`."""
        inside = getattr(self, part) if expert is None else f"{self.expert.format(expert)}.{getattr(self, f'expert_{part}')}"
        return f"{self.layer.format(layer)}.{inside}"


class KvGroup(NamedTuple):
    """Layers whose keys and values have the same lifetime."""

    window: int | None
    """how many of a request's last positions the next token still reads, itself among them; None is all"""
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder: embedding, layers, norm, head."""

    layers: tuple[Layer, ...]
    hidden: int
    vocab: int
    context: int
    """longest sequence in tokens"""
    norm_eps: float
    tied: bool
    """the output head is the embedding"""
    norm_offset: float = 0.0
    """added to the stored weights of all RMS norms"""
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    """factor of the outputs of each attention and feed-forward"""
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    """logits become softcap * tanh(logit / softcap)"""
    names: Names = Names()

    @property
    def embedding_name(self) -> str:
        return self.names.embedding + ".weight"

    @property
    def head_name(self) -> str:
        """Of the weight that serves as the head."""
        return (self.names.embedding if self.tied else self.names.head) + ".weight"

    @property
    def norm_name(self) -> str:
        return self.names.norm + ".weight"

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a checkpoint."""
        shapes = {self.embedding_name: (self.vocab, self.hidden), self.norm_name: (self.hidden,)}
        shapes[self.head_name] = (self.vocab, self.hidden)
        for index, layer in enumerate(self.layers):
            mine: dict[str, tuple[int, ...]] = {}
            for part, shape, has_bias, expert in layer.tensors(self.hidden):
                name = self.names.of(index, part, expert)
                for stored, of_part in ((f"{name}.weight", shape), *([(f"{name}.bias", shape[:1])] if has_bias else [])):
                    mine[stored] = (mine.get(stored, (0,))[0] + of_part[0], *of_part[1:])
            shapes |= mine
        return shapes

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """Bytes of keys and values of one position over all layers."""
        return sum(2 * layer.attention.n_kv_heads * layer.attention.head_dim * itemsize for layer in self.layers)

    @property
    def kv_groups(self) -> tuple[KvGroup, ...]:
        windows = [layer.attention.window for layer in self.layers]
        return tuple(KvGroup(one, tuple(i for i, window in enumerate(windows) if window == one)) for one in dict.fromkeys(windows))

    @property
    def only(self) -> Layer:
        """The only kind of layer, for an executor that computes models with equal layers."""
        if len(set(self.layers)) != 1:
            raise InvariantBroken("the layers of this model are not all alike")
        return self.layers[0]

    @property
    def n_params(self) -> int:
        return sum(math.prod(shape) for shape in self.tensors().values())
