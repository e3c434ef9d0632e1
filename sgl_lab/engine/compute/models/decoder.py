"""A decoder's forward pass over a flat batch of tokens, layer by layer as its spec lists them.

Rows of different requests follow one another. Only attention distinguishes them, and that is the
caller's part: `attend` writes keys and values and reads the context. Knows nothing of pages,
requests or sampling. Numerics follow transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as functional
from torch import Tensor

from ...files.weights import Read
from ..kernels.activations import ACTIVATIONS
from ..kernels.linear import Linear
from .adapters import Adapted, Group
from .mixture import Dense, Mixture
from .rotation import inverse_frequencies
from .spec import Activation, Attention, ModelSpec, Norm, Part

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [n, heads, dim], k [n, kv_heads, dim], v [n, kv_heads, dim]) -> [n, heads, dim]"""


class Embedded(NamedTuple):
    """Embeddings that are given, in the place of those of tokens."""

    at: Tensor
    """int64 [m]: where in the flat batch"""
    rows: Tensor
    """[m, hidden]"""


MakeLinear = Callable[[Sequence[str], Tensor | None], Linear]
"""(names of the weights that are stacked, bias) -> their linear"""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's weights."""

    rotary: int | None
    """which of the model's rotations turns q and k"""
    norms: Mapping[Norm, Tensor]
    qk_norms: tuple[Tensor, Tensor] | None
    qkv: Linear
    out: Linear
    feed_forward: Dense | Mixture

    @property
    def dense(self) -> list[Dense]:
        """Its feed-forwards, one or many."""
        one = self.feed_forward
        return [one] if isinstance(one, Dense) else one.experts + ([] if one.shared is None else [one.shared])


def stacked(
    spec: ModelSpec, index: int, parts: Sequence[Part], read: Callable[..., Tensor], expert: int | None = None
) -> tuple[list[str], Tensor | None]:
    """For a layer's linears that are multiplied as one: the names of their weights and, if one has
    a bias, the combined bias.
    """
    linears = {tensor.part: tensor for tensor in spec.layers[index].tensors(spec.hidden)}
    names = list(dict.fromkeys(spec.names.of(index, part, expert) for part in parts))
    biases = [linears[part].has_bias for part in parts]
    if all(biases):
        bias = read(*(f"{name}.bias" for name in names))
    elif any(biases):
        alone = [read(f"{spec.names.of(index, part)}.bias") if linears[part].has_bias else None for part in parts]
        like = next(bias for bias in alone if bias is not None)
        bias = torch.cat(
            [like.new_zeros(linears[part].shape[0]) if bias is None else bias for part, bias in zip(parts, alone, strict=True)]
        )
    else:
        bias = None
    return [f"{name}.weight" for name in names], bias


class Decoder:
    """Weights on one device in one type, of a model that `executors.TORCH` computes. `read` returns
    tensors by their stored names. `linear`, if given, creates linears from some of them.
    """

    def __init__(
        self,
        spec: ModelSpec,
        read: Read,
        *,
        device: torch.device,
        dtype: torch.dtype,
        linear: MakeLinear | None = None,
        loaded: Callable[[int], None] = lambda n_layers: None,
    ) -> None:
        self.spec = spec
        self.device = device
        self.dtype = dtype

        def own(*names: str) -> Tensor:
            return read(*names, dtype=dtype).to(device)

        def norm(name: str) -> Tensor:
            if not spec.norm_offset:
                return own(name)
            return (read(name, dtype=torch.float32) + spec.norm_offset).to(device, dtype)

        make = linear or (lambda names, bias: Linear(own(*names), bias))

        def feed_forward(index: int) -> Dense | Mixture:
            kind = spec.layers[index].feed_forward
            active = _gated(kind.activation) if kind.is_gated else ACTIVATIONS[kind.activation]

            def dense(*parts: Part, down: Part, expert: int | None = None) -> Dense:
                up, last = (make(*stacked(spec, index, of, own, expert)) for of in (parts, (down,)))
                return Dense(up, last, active)

            ups: tuple[Part, ...] = ("gate", "up") if kind.is_gated else ("up",)
            if kind.experts is None:
                return dense(*ups, down="down")
            has_shared = kind.experts.shared > 0
            return Mixture(
                kind.experts,
                own(spec.names.of(index, "router") + ".weight"),
                [dense(*ups, down="down", expert=expert) for expert in range(kind.experts.count)],
                own(spec.names.of(index, "shared_router") + ".weight") if has_shared else None,
                dense("shared_gate", "shared_up", down="shared_down") if has_shared else None,
            )

        def layer(index: int) -> Layer:
            kind = spec.layers[index]

            def name(part: Part) -> str:
                return spec.names.of(index, part) + ".weight"

            def joined(*parts: Part) -> Linear:
                return make(*stacked(spec, index, parts, own))

            rotary = kind.attention.rotary
            made = Layer(
                rotary=None if rotary is None else rotaries.index(rotary),
                norms={part: norm(name(part)) for part in kind.norms},
                qk_norms=(norm(name("q_norm")), norm(name("k_norm"))) if kind.attention.qk_norm else None,
                qkv=joined("q", "k", "v"),
                out=joined("o"),
                feed_forward=feed_forward(index),
            )
            loaded(index + 1)
            return made

        rotaries = list(dict.fromkeys(kind.attention.rotary for kind in spec.layers if kind.attention.rotary is not None))
        with torch.inference_mode():
            # The largest weights first: temporary memory for them is freed before the others need
            # the room.
            self.head = make([spec.head_name], None)
            self.embedding = own(spec.embedding_name)
            self.layers = [layer(index) for index in range(len(spec.layers))]
            self.norm = norm(spec.norm_name)
            self.frequencies = [inverse_frequencies(rotary).to(device) for rotary in rotaries]
            self.amplitudes = [rotary.amplitude for rotary in rotaries]

    @property
    def n_bytes(self) -> int:
        """Of the weights."""
        dense = [one for layer in self.layers for one in layer.dense]
        linears = [linear for layer in self.layers for linear in (layer.qkv, layer.out)] + [x for one in dense for x in (one.up, one.down)]
        norms = [norm for layer in self.layers for norm in (*layer.norms.values(), *(layer.qk_norms or ()))]
        vectors = sum(int(x.nbytes) for x in (*norms, self.norm, self.embedding))
        return sum(linear.n_bytes for linear in (*linears, self.head)) + vectors

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        attend: Attend,
        embedded: Embedded | None = None,
        routed: list[Tensor] | None = None,
        adapted: Adapted | None = None,
    ) -> Tensor:
        """Hidden states [n, hidden] after the last layer, before the final norm. `ids` and
        `positions` are int64 [n].

        Where embeddings are given (`embedded`), the ids are not looked at but have to be those of
        tokens. `routed` receives the experts that were chosen, of each layer that has some int64
        [n, top_k]. `adapted` are the rows' adapters.
        """
        rotations = [self._rotation(positions, *turning) for turning in zip(self.frequencies, self.amplitudes, strict=True)]
        x = self.embedding[ids]
        if self.spec.embedding_scale != 1:
            x = x * torch.tensor(self.spec.embedding_scale, dtype=x.dtype)
        if embedded is not None:
            x = x.index_copy(0, embedded.at, embedded.rows.to(x.dtype))

        def normed(y: Tensor, norm: Norm) -> Tensor:
            weight = layer.norms.get(norm)
            return y if weight is None else self._rms(y, weight)

        def added(y: Tensor, norm: Norm) -> Tensor:
            y = normed(y, norm)
            return x + (y if self.spec.residual_scale == 1 else y * self.spec.residual_scale)

        def through(index: int, group: Group, linear: Linear, x: Tensor) -> Tensor:
            return linear(x) if adapted is None else adapted.through(index, group, linear, x)

        for index, (layer, kind) in enumerate(zip(self.layers, self.spec.layers, strict=True)):
            before = normed(x, "attention_norm")
            heads = through(index, "qkv", layer.qkv, before)
            rotation = None if layer.rotary is None else rotations[layer.rotary]
            mixed = attend(index, *self._split(heads, kind.attention, layer.qk_norms, rotation))
            mixed = mixed.reshape(len(ids), -1)
            x = added(through(index, "out", layer.out, mixed), "attention_out_norm")
            before, feed_forward = normed(x, "mlp_norm"), layer.feed_forward
            if isinstance(feed_forward, Dense):
                inside = feed_forward.active(through(index, "up", feed_forward.up, before))
                y = through(index, "down", feed_forward.down, inside)
            else:
                y = feed_forward(before, routed)
            x = added(y, "mlp_out_norm")
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [m, vocab] in float32 of the chosen rows of `forward`'s result."""
        logits = self.head(self._rms(hidden, self.norm)).float()
        if self.spec.logit_scale != 1:
            logits = logits * self.spec.logit_scale
        return logits if self.spec.logit_softcap is None else capped(logits, self.spec.logit_softcap)

    def _split(
        self, heads: Tensor, kind: Attention, norms: tuple[Tensor, Tensor] | None, rotation: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [n, heads of each, dim] from the output of a layer's linear."""
        n_q, n_kv, dim = kind.n_heads, kind.n_kv_heads, kind.head_dim
        if norms is not None:
            q, k, v = torch.split(heads, [n_q * dim, n_kv * dim, n_kv * dim], dim=-1)
            q, k = (self._rms(x.reshape(-1, len(weight)), weight).view(x.shape) for x, weight in zip((q, k), norms, strict=True))
            heads = torch.cat((q, k, v), dim=-1)
        heads = heads.view(len(heads), n_q + 2 * n_kv, dim)
        qk = heads[:, : n_q + n_kv]
        if rotation is not None:
            qk = _rotate(qk, *rotation)
        return qk[:, :n_q], qk[:, n_q:], heads[:, n_q + n_kv :]

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self.spec.norm_eps)

    def _rotation(self, positions: Tensor, frequencies: Tensor, amplitude: float) -> tuple[Tensor, Tensor]:
        """Cosines, and sines with the sign for the first half of the rotating dimensions, [n, 1,
        dims] each.
        """
        angles = torch.outer(positions.float(), frequencies)
        sin = angles.sin() * amplitude
        cos = torch.cat((angles, angles), dim=-1).cos() * amplitude
        return cos.to(self.dtype)[:, None], torch.cat((-sin, sin), dim=-1).to(self.dtype)[:, None]


def capped(x: Tensor, cap: float) -> Tensor:
    """Softly, to between -cap and cap."""
    return torch.tanh(x / cap) * cap


def _gated(activation: Activation) -> Callable[[Tensor], Tensor]:
    activate = ACTIVATIONS[activation]

    def active(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return activate(gate) * up

    return active


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of the two halves of each head's first dimensions (Su et al. 2021,
    arXiv:2104.09864).
    """
    dims = cos.shape[-1]
    if dims < heads.shape[-1]:
        return torch.cat((_rotate(heads[..., :dims], cos, sin), heads[..., dims:]), dim=-1)
    return torch.addcmul(heads * cos, heads.roll(dims // 2, dims=-1), sin)
