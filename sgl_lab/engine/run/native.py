"""Computes a plan with the native step: one call that walks through the whole model, without the GIL.

What is left to Python is a step's outline (a few numbers a row; contexts are passed as addresses) and
the sampling of rows that are not plainly greedy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from weakref import ref

import numpy as np
import numpy.typing as npt
import torch

from ...contracts.errors import InvariantBroken, RequestFailed
from ..kernels.native import build
from ..kernels.native.pack import Kind
from ..model.llama import inverse_frequencies
from ..model.packed import PackedLlama
from ..plan.plan import Draw, Plan, Row, RowOutput, Sampling
from .kv import KvStore
from .runner import SCORED_AT_ONCE, row_outputs
from .sampler import sample

CHOICE = np.dtype([("token", np.int32), ("logit", np.float32), ("log_total", np.float32)])


@dataclass(frozen=True, slots=True)
class _Results:
    """Of some tokens of a step: float32 [n, vocab], and of each its likeliest token with logit and logsumexp."""

    logits: npt.NDArray[np.float32]
    choices: npt.NDArray[np.void]


class _Underway:
    """A step that was started. It keeps what the step reads and writes, and ends it should nobody ask for the outputs."""

    def __init__(self, finish: Callable[[], None], outputs: Callable[[], tuple[RowOutput, ...]], kept: object) -> None:
        self._finish: Callable[[], None] | None = finish
        self._outputs = outputs
        self._kept = kept

    def __call__(self) -> tuple[RowOutput, ...]:
        self.finish()
        return self._outputs()

    def finish(self) -> None:
        if self._finish is not None:
            self._finish()
            self._finish = None

    def __del__(self) -> None:
        self.finish()


class NativeRunner:
    """`plan.Runner`, and `Launching`, over packed weights: `n_pages` pages of `page_size` tokens in bf16. OutOfMemory if they do not fit.

    A row's logits depend on its own tokens alone, bit for bit: not on the batch, the chunks or the pages.
    """

    is_exact = True

    def __init__(self, library: ctypes.CDLL, model: PackedLlama, n_pages: int, page_size: int = 1, *, threads: int | None = None) -> None:
        self.page_size = page_size
        self.kv = KvStore(model.spec, n_pages, page_size, device=model.device, dtype=model.dtype)
        self._library = library
        self._model = model
        self._frequencies = inverse_frequencies(model.spec).contiguous()
        self._step: int | None = library.sgl_new(self._described(), threads or torch.get_num_threads())
        self._underway: ref[_Underway] | None = None

    def _described(self) -> build.Model:
        """The model as addresses; all of them belong to tensors that this object keeps."""
        spec, weights, vectors = self._model.spec, self._model.weights, self._model.vectors

        def layer(index: int) -> build.Layer:
            prefix = f"model.layers.{index}"
            return build.Layer(
                vectors[f"{prefix}.input_layernorm.weight"].data_ptr(),
                vectors[f"{prefix}.post_attention_layernorm.weight"].data_ptr(),
                weights[f"{prefix}.self_attn.q_proj.weight"].pointer(),
                weights[f"{prefix}.self_attn.o_proj.weight"].pointer(),
                weights[f"{prefix}.mlp.gate_proj.weight"].pointer(),
                weights[f"{prefix}.mlp.down_proj.weight"].pointer(),
                build.Pages(self.kv.keys[index].data_ptr(), self.kv.values[index].data_ptr()),
            )

        embedding = weights["model.embed_tokens.weight"].pointer()
        return build.Model(
            spec.n_layers,
            spec.hidden,
            spec.ffn,
            spec.n_heads,
            spec.n_kv_heads,
            spec.head_dim,
            spec.vocab,
            self.page_size,
            spec.norm_eps,
            self._model.kind is Kind.BF16,
            self._frequencies.data_ptr(),
            vectors["model.norm.weight"].data_ptr(),
            embedding,
            embedding if spec.tied else weights["lm_head.weight"].pointer(),
            (build.Layer * spec.n_layers)(*map(layer, range(spec.n_layers))),
        )

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        return self.start(plan)()

    def start(self, plan: Plan) -> Callable[[], tuple[RowOutput, ...]]:
        """The other threads set to work; the call that comes back joins them. InvariantBroken while the last one is still to come."""
        if self._underway is not None and self._underway() is not None:
            raise InvariantBroken(f"step {plan.step} starts before the results of the one before are taken")
        rows = plan.rows
        ends = np.cumsum([len(row.tokens) for row in rows], dtype=np.int32)
        wanted = np.array(
            [flat for row, end in zip(rows, ends.tolist(), strict=True) for flat in range(end - len(row.samplings), end)], np.int32
        )
        tokens = np.fromiter((token for row in rows for token in row.tokens), np.int32, int(ends[-1]))
        offsets = np.concatenate((np.zeros(1, np.int32), ends))
        starts = np.array([row.start for row in rows], np.int32)
        pages = np.array([row.pages.buffer_info()[0] for row in rows], np.uint64)
        described = build.Rows(len(rows), len(tokens), tokens.ctypes.data, offsets.ctypes.data, starts.ctypes.data, pages.ctypes.data)
        results, target = self._results(wanted)

        def outputs() -> tuple[RowOutput, ...]:
            draws = _draws(results, [sampling for row in rows for sampling in row.samplings])
            return row_outputs(rows, draws, self._scores(rows, ends))

        underway = _Underway(self._finish, outputs, (tokens, offsets, starts, pages, wanted))
        self._underway = ref(underway)
        self._library.sgl_start(self._step, described, target)
        return underway

    def _finish(self) -> None:
        self._library.sgl_finish(self._step)
        self._underway = None

    def _results(self, wanted: npt.NDArray[np.int32]) -> tuple[_Results, build.Wanted]:
        """Room for the logits of some tokens of a step, and how the native side is told of it; `wanted` must live as long."""
        results = _Results(np.empty((len(wanted), self._model.spec.vocab), np.float32), np.empty(len(wanted), CHOICE))
        return results, build.Wanted(len(wanted), wanted.ctypes.data, results.logits.ctypes.data, results.choices.ctypes.data)

    def _scores(self, rows: Sequence[Row], ends: npt.NDArray[np.int32]) -> Iterator[tuple[float, ...]]:
        """Logprobs of each position's candidate tokens, position after position."""
        flats = [flat for row, end in zip(rows, ends.tolist(), strict=True) for flat in range(end - len(row.targets), end)]
        targets = [candidates for row in rows for candidates in row.targets]
        for first in range(0, len(flats), SCORED_AT_ONCE):
            last = first + SCORED_AT_ONCE
            wanted = np.array(flats[first:last], np.int32)
            results, target = self._results(wanted)
            self._library.sgl_logits(self._step, target)
            totals = results.choices["log_total"]
            for line, candidates in enumerate(targets[first:last]):
                yield tuple((results.logits[line, list(candidates)] - totals[line]).tolist())

    def copy_page(self, source: int, target: int) -> None:
        with torch.inference_mode():
            self.kv.copy_page(source, target)

    def close(self) -> None:
        if self._underway is not None and (underway := self._underway()) is not None:
            underway.finish()
        if self._step is not None:
            self._library.sgl_delete(self._step)
            self._step = None
        self.kv.release()
        del self._model


def _draws(results: _Results, samplings: Sequence[Sampling]) -> list[Draw | RequestFailed]:
    """Plainly greedy rows take the native choice; the others are sampled together."""
    choices = results.choices
    logprobs = (choices["logit"] - choices["log_total"]).tolist()
    likeliest = zip(choices["token"].tolist(), logprobs, strict=True)
    draws: list[Draw | RequestFailed] = [Draw(token, logprob, ()) for token, logprob in likeliest]
    finite = np.isfinite(choices["log_total"])
    others = [i for i, sampling in enumerate(samplings) if not (finite[i] and _is_plain(sampling))]
    if others:
        for i, draw in zip(others, sample(torch.from_numpy(results.logits[others]), [samplings[i] for i in others]), strict=True):
            draws[i] = draw
    return draws


def _is_plain(sampling: Sampling) -> bool:
    """Whether the likeliest token is all that is asked for."""
    params = sampling.params
    shaped = sampling.banned or params.logit_bias or params.frequency_penalty or params.presence_penalty or params.repetition_penalty != 1
    return params.temperature == 0 and not shaped and not params.top_logprobs
