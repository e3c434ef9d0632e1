"""A lab over the hash model, and a run to explore."""

from __future__ import annotations

from dataclasses import replace

from sgl_lab.backends.local import LocalBackend
from sgl_lab.contracts.capabilities import TOKEN_LEVEL
from sgl_lab.contracts.events import Event
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import ModelCard
from sgl_lab.contracts.tree import TreeSnapshot
from sgl_lab.elsewhere import BackendLab
from sgl_lab.engine.plan import Sampling
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.resident import Resident
from sgl_lab.engine.tools.fake import ByteTokenizer, HashModel, HashRunner
from sgl_lab.lang.expressions import Expr
from sgl_lab.lang.state import start
from sgl_lab.trace import Record
from sgl_lab.viz.views.inspection import Inspection, inspections

SPACE = ("test",)


class Letters(HashModel):
    """Draws letters only, so that every answer is text."""

    def draw(self, context: tuple[int, ...], sampling: Sampling) -> int:
        return 97 + super().draw(context, sampling) % 26


class HashLab(BackendLab):
    """A lab whose engine has the hash model; a token is a byte."""

    def __init__(self) -> None:
        tokenizer = ByteTokenizer()
        config = EngineConfig(n_pages=4096, draft_tokens=0)
        engine = Engine(config, HashRunner(4096, 1, Letters()), tokenizer, context=2048, namespace=SPACE, emit=self._out)
        self.resident = Resident(engine, cursor=lambda: self.ring.cursor)
        can = replace(TOKEN_LEVEL, chat_template=True, deterministic=True)
        super().__init__(LocalBackend(self.resident, tokenizer, ModelCard("hash", SPACE, 2048, 260, "cpu", "none", can)), name="here")

    def _out(self, event: Event) -> None:
        self.emit(event)

    def snapshot(self) -> TreeSnapshot:
        return self.resident.snapshot()

    def spell(self, token: int) -> str:
        return ByteTokenizer().decode((token,))

    def close(self) -> None:
        self.resident.close()


def ran(lab: HashLab, *exprs: Expr, top: int = 4, title: str = "In[1]") -> tuple[Record, Inspection]:
    """A run of this program, and its last gen."""
    with lab.record(title) as record:
        state = start(lab.backend_for(), lab.emit, record.run, SamplingParams(logprobs=bool(top), top_logprobs=top))
        for expr in exprs:
            state += expr
        state.finish()
    return record, inspections(record.entries)[-1]
