"""A model without weights, whose next token is a hash of all the KV that it reads.

One wrong page, one stale slot, one token too many or too few in the context, and it generates
another token. `HashRunner` reads through pages as a real runner does; `HashModel.reply` is its slow
twin without pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...contracts.errors import BackendUnsupported, ConstraintFailed, InvariantBroken
from ...contracts.params import SamplingParams
from ...contracts.port import Message, Segment
from ...contracts.spans import Block, text_of
from ..plan import Draw, Plan, Row, RowOutput, Sampling, Score, Top, output_of


def _kv(token: int, position: int, before: int) -> int:
    return hash((token, position, before))


class HashModel:
    """The next token, given the KV of everything before it."""

    def __init__(self, n_vocab: int = 260) -> None:
        self.n_vocab = n_vocab

    def draw(self, context: tuple[int, ...], sampling: Sampling) -> int:
        if sampling.params.temperature > 0:
            token = hash((context, sampling.seed, sampling.position)) % self.n_vocab
        else:
            token = hash(context) % self.n_vocab
        mask, banned = sampling.mask, sampling.banned
        candidate: int
        for candidate in (*range(token, self.n_vocab), *range(token)) if banned or mask is not None else (token,):
            if candidate not in banned and (mask is None or mask[candidate // 32] >> candidate % 32 & 1):
                return candidate
        raise ConstraintFailed("no token may be drawn")

    def logprob(self, context: tuple[int, ...], token: int) -> float:
        return -(hash((context, token)) % 10_000) / 1000

    def context(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The KV that `tokens` leave behind."""
        context: list[int] = []
        for position, token in enumerate(tokens):
            context.append(_kv(token, position, context[-1] if context else 0))
        return tuple(context)

    def reply(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        seed: int,
        n: int,
        banned: Sequence[int] = (),
        mask_after: Callable[[Sequence[int]], tuple[memoryview, ...] | None] = lambda generated: (),
    ) -> list[int]:
        """The `n` tokens that follow `prompt`; `banned` are not drawn before min_tokens. None for a
        mask ends it earlier.
        """
        generated: list[int] = []
        for position in range(n):
            masks = mask_after(generated)
            if masks is None:
                break
            sampling = Sampling(params, seed, position, prompt, generated, tuple(banned), masks=masks)
            generated.append(self.draw(self.context([*prompt, *generated]), sampling))
        return generated


class HashRunner:
    """A `Runner` over a pool of slots. Reading a slot that was never written is a fault of the caller."""

    is_exact = True

    def __init__(self, n_pages: int, page_size: int, model: HashModel | None = None) -> None:
        self.model = model or HashModel()
        self._size = page_size
        self._slots: list[int | None] = [None] * (n_pages * page_size)

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        plan.before_draws()
        return tuple(self._run(row) for row in plan.rows)

    def copy_page(self, source: int, target: int) -> None:
        n = self._size
        self._slots[target * n : target * n + n] = self._slots[source * n : source * n + n]

    def close(self) -> None:
        self._slots = []

    def check_block(self, block: Block) -> None:
        """Any will do: what the next token is depends on its ids alone."""

    def _run(self, row: Row) -> RowOutput:
        n = self._size
        slots = [page * n + i for page in row.pages for i in range(n)]
        end = row.start + len(row.tokens)
        context = [self._read(row, slot) for slot in slots[: row.start]]
        for position, token in enumerate(row.tokens, row.start):
            context.append(_kv(token, position, context[-1] if context else 0))
            self._slots[slots[position]] = context[-1]
        first = end - len(row.targets)
        scored = tuple(self._score(tuple(context[: first + i + 1]), *target) for i, target in enumerate(row.scored))
        samplings = row.samplings
        return output_of(row, lambda n: self._draw(tuple(context[: end - row.n_drafts + n]), samplings[n]), scored)

    def _draw(self, context: tuple[int, ...], sampling: Sampling) -> Draw | Exception:
        try:
            token = self.model.draw(context, sampling)
        except ConstraintFailed as error:
            return error
        return Draw(token, self.model.logprob(context, token), self._top(context, sampling.params.top_logprobs))

    def _score(self, context: tuple[int, ...], wanted: tuple[int, ...], n_top: int) -> Score:
        return Score(tuple(self.model.logprob(context, token) for token in wanted), self._top(context, n_top))

    def _top(self, context: tuple[int, ...], n: int) -> Top:
        ranked = sorted(((-self.model.logprob(context, t), t) for t in range(self.model.n_vocab)) if n else ())
        return tuple((t, -cost) for cost, t in ranked[:n])

    def _read(self, row: Row, slot: int) -> int:
        value = self._slots[slot]
        if value is None:
            raise InvariantBroken(f"request {row.request} reads slot {slot}, which was never written")
        return value


class ByteTokenizer:
    """256 bytes, one end of sequence, and a mark for each role: enough to run programs on `HashRunner`."""

    SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
    n_vocab = 256 + len(SPECIAL)
    eos_ids = frozenset({256})
    special_ids = frozenset(range(256, n_vocab))
    has_chat_template = True

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        ids: list[int] = []
        while text:
            mark = next((mark for mark in self.SPECIAL if markup and text.startswith(mark)), None)
            if mark is not None:
                ids.append(256 + self.SPECIAL.index(mark))
                text = text[len(mark) :]
            else:
                ids.extend(text[0].encode("utf-8", "surrogatepass"))
                text = text[1:]
        return tuple(ids)

    def encode_all(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        return tuple(id for text, markup in segments for id in self.encode(text, markup=markup))

    def decode(self, ids: Sequence[int], *, special: bool = True) -> str:
        spelled = (self.SPECIAL[i - 256].encode() * special if i >= 256 else self.token_bytes(i) for i in ids)
        return b"".join(spelled).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        if token < 0:
            return text_of(token).encode()
        return bytes([token]) if token < 256 else b""

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        segments: list[Segment] = []
        for message in messages:
            if f"<|{message.role}|>" not in self.SPECIAL:
                raise BackendUnsupported(f"the template has no role {message.role!r}")
            segments += [Segment(f"<|{message.role}|>", True), Segment(message.content, False), Segment("<|end|>", True)]
        return (*segments, Segment("<|assistant|>", True)) if add_generation_prompt else tuple(segments)

    def render_text(self, text: str) -> tuple[Segment, ...]:
        return (Segment(text, False),)

    def render_start(self) -> tuple[Segment, ...]:
        return (Segment("<|end|>", True),)
