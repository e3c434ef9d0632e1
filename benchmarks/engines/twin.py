"""Compares greedy tokens with plain torch: the same weights, the reference forward pass, the same
preceding tokens.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sgl_lab.contracts.ids import RequestId
from sgl_lab.contracts.params import Constraint
from sgl_lab.engine.compute.models.load import load_model
from sgl_lab.engine.compute.models.packed import PackedDecoder
from sgl_lab.engine.compute.runners.attention import PagedAttention
from sgl_lab.engine.compute.runners.batch import Batch
from sgl_lab.engine.compute.runners.kv import KvStore
from sgl_lab.engine.files import store
from sgl_lab.engine.plan import Plan, Row
from sgl_lab.grammar.grammars import Grammars

from .loads import Answer, Ids, common_prefix


@dataclass
class Agreement:
    n_tokens: int = 0
    n_same: int = 0
    gaps: list[float] = field(default_factory=list)
    """for each difference: how much likelier the twin's own choice is to the twin, in nats"""


class Twin:
    def __init__(self, name: str, dtype: str) -> None:
        loaded = load_model(store.resolve(name), name=name, device="cpu", dtype=dtype, native=True, cache_dir=store.cache_dir())
        packed = loaded.model
        self._model = packed.twin() if isinstance(packed, PackedDecoder) else packed
        self._kv_dtype = packed.dtype
        self._grammars = Grammars(loaded.tokenizer)
        self.weights_mib = loaded.n_bytes / 2**20

    @torch.inference_mode()
    def agreement(self, answers: list[Answer]) -> Agreement:
        """Compares token by token, each after its actual preceding tokens. Shared prefixes are
        computed once.
        """
        longest = max(len(one.prompt) + len(one.tokens) for one in answers)
        kv = KvStore(self._model.spec, longest, 1, device=self._model.device, dtype=self._kv_dtype)
        agreement, before = Agreement(), list[int]()
        for one in sorted(answers, key=lambda one: one.prompt):
            ids = (one.prompt + one.tokens)[:-1]
            n_known = min(len(common_prefix([before, ids])), len(one.prompt) - 1)
            scores = self._logprobs(ids, n_known, len(one.tokens), kv)
            if one.choices is not None:
                others = torch.ones(scores.shape[-1], dtype=torch.bool)
                others[one.choices] = False
                scores[:, others] = -torch.inf
            if one.regex is not None:
                scores.masked_fill_(~self._allowed(one.tokens, one.regex), -torch.inf)
            gaps = scores.amax(-1) - scores.gather(-1, torch.tensor(one.tokens)[:, None])[:, 0]
            agreement.n_tokens += len(one.tokens)
            agreement.n_same += int((gaps == 0).sum())
            agreement.gaps += gaps[gaps > 0].tolist()
            before = ids
        return agreement

    def _allowed(self, tokens: Ids, regex: str) -> Tensor:
        """The allowed tokens at each position of a text of that form, bool [tokens, vocab]; only
        the forced one where it is forced.
        """
        matcher = self._grammars.start(Constraint("regex", regex))
        (mask,) = matcher.masks(1)
        allowed = torch.zeros(len(tokens), self._model.spec.vocab, dtype=torch.bool)
        for row, token in zip(allowed, tokens, strict=True):
            if forced := matcher.forced():
                row[forced[0]] = True
            else:
                matcher.fill(())
                row |= torch.from_numpy(np.unpackbits(np.frombuffer(mask, np.uint8), count=len(row), bitorder="little")).bool()
            matcher.take(token)
        return allowed

    def _logprobs(self, ids: Ids, n_known: int, n_last: int, kv: KvStore) -> Tensor:
        """Logits after each of the last `n_last` of `ids`. Keys and values of the first `n_known`
        are in `kv` at their positions.
        """
        row = Row(RequestId(1), tuple(ids[n_known:]), n_known, array("i", range(len(ids))), None)
        batch = Batch.of(Plan(0, (row,)), 1, self._model.device, self._model.spec.kv_groups)
        hidden = self._model.forward(batch.ids, batch.positions, PagedAttention(self._model.spec, batch, kv))
        return self._model.logits(hidden[-n_last:]).log_softmax(-1)
