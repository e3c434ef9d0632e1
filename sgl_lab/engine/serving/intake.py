"""Turns jobs into request groups, or refuses them at once if they can never run.

Knows the vocabulary, the context and the total room, but not what runs: everything here may be
called from any thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

from ...contracts.errors import BackendUnsupported, BadArgument, CacheFull, PromptTooLong
from ...contracts.ids import Namespace
from ...contracts.near import did_you_mean
from ...contracts.params import Constraint
from ...contracts.port import GenJob, GenListener, ScoreJob, ScoreListener, WarmJob, WarmListener
from ...contracts.spans import Block, blocks_in, has_blocks
from ...grammar.grammars import Grammars
from ..plan import Adapting, Embedding
from ..text.seam import Spellings
from .cache.pins import Pins
from .config import EngineConfig
from .gen_group import GenGroup
from .group import RequestGroup, Vocabulary
from .scheduling.request import ADAPTER, Request
from .score_group import ScoreGroup
from .warm_group import PinGroup, WarmGroup

F = TypeVar("F", bound=RequestGroup)


class Intake:
    def __init__(
        self,
        config: EngineConfig,
        vocabulary: Vocabulary,
        context: int,
        namespace: Namespace,
        exact_namespace: Namespace,
        pins: Pins,
        grammars: Grammars,
        clock: Callable[[], float],
        embedding: Embedding | None = None,
        adapting: Adapting | None = None,
    ) -> None:
        """`embedding` is the runner, where it knows of blocks; `adapting` where it knows of adapters."""
        self._config = config
        self._vocabulary = vocabulary
        self._context = context
        self._namespaces = {False: namespace, True: exact_namespace}
        self._pins = pins
        self._grammars = grammars
        self.spellings = Spellings(vocabulary)
        self._clock = clock
        self._embedding = embedding
        self._adapting = adapting
        self._seeds = random.Random(config.seed)

    def gen(self, job: GenJob, listener: GenListener, *, exact: bool = False) -> GenGroup:
        """The requests of a gen, to be given to `Engine.add`. BadArgument, BackendUnsupported,
        PromptTooLong or CacheFull if they can never run.

        A constraint that was not prepared is so now, and raises what `prepare` does. `exact`: the
        same tokens and bitwise the same logprobs, whatever is cached and whatever runs beside it.
        """
        params, n_prompt = job.params, len(job.prompt)
        self._check_prompt("the prompt", job.prompt, job.blocks)
        if not 0 <= job.heal < n_prompt or not 0 <= job.begun < n_prompt or (job.heal and job.begun):
            raise BadArgument(f"of {n_prompt} tokens {job.heal} cannot be healed, nor {job.begun} begin the text", hint="fewer than all")
        if n_text := job.heal or job.begun:
            self._check_known("the end of the prompt", job.prompt[n_prompt - n_text :])
        self._check_known("logit_bias", [token for token, _ in params.logit_bias])
        self._check_known("stop_token_ids", params.stop_token_ids)
        self._check_context(n_prompt, max(1, params.min_tokens))
        room = self._context - n_prompt
        namespace = self._namespace(params.adapter, exact=exact)
        n_pages = self._config.n_pages - self._pins.n_pages + self._pins.n_shared(namespace, job.prompt[:-1])
        in_pages = n_pages * self._config.page_size + 1 - n_prompt
        limit = max(1, params.min_tokens, min(room, in_pages)) if params.max_tokens is None else min(params.max_tokens, room)
        most = max(limit, min(room, in_pages))
        seed = params.seed if params.seed is not None else self._seeds.getrandbits(63)
        now = self._clock()
        spellings = self.spellings if job.heal else None
        return self._fitting(GenGroup(job, listener, self._vocabulary, self._grammars, spellings, namespace, limit, most, seed, now))

    def prepare(self, constraint: Constraint) -> None:
        """Compile it ahead, so that the first `gen` with it does not wait. BadArgument or
        BackendUnsupported if it is not supported.
        """
        self._grammars.prepare(constraint)

    def n_shortest(self, constraint: Constraint) -> int | None:
        """Tokens of the constraint's shortest known text; None if none is known. Errors as of `prepare`."""
        path = self._grammars.prepare(constraint)[1]
        return None if path is None else len(path)

    def allowed(self, constraint: Constraint, begun: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[bool, ...]:
        """Which of `tokens` may follow the first tokens of a text of this constraint."""
        self._check_known("the beginning", begun)
        return self._grammars.allowed(constraint, begun, tokens)

    def score(self, job: ScoreJob, listener: ScoreListener, *, exact: bool = False) -> ScoreGroup:
        """As `gen`, for a score."""
        if not job.choices:
            raise BadArgument("there are no choices to score", hint="give at least one")
        self._check_prompt("the prompt", job.prompt, job.blocks)
        for i, choice in enumerate(job.choices):
            self._check_tokens(f"choice {i}", choice)
        self._check_context(len(job.prompt), max(map(len, job.choices)))
        return self._fitting(ScoreGroup(job, listener, self._namespace(job.adapter, exact=exact), self._clock()))

    def warm(self, job: WarmJob, listener: WarmListener, *, exact: bool = False) -> WarmGroup:
        """As `gen`, for a warm."""
        self._check_prompt("the prompt", job.prompt, job.blocks)
        self._check_context(len(job.prompt), 0)
        return self._fitting(WarmGroup(job, listener, self._namespace(job.adapter, exact=exact), self._config.page_size, self._clock()))

    def pin(self, job: WarmJob, listener: WarmListener, *, exact: bool = False) -> PinGroup:
        """As `warm`; when it is computed, the whole pages of the prompt are pinned until
        `Engine.unpin(group.handle)`.

        CacheFull reaches the listener if a request that was accepted before would then have too
        little room.
        """
        self._check_prompt("the prefix", job.prompt, job.blocks)
        self._check_context(len(job.prompt), 0)
        size = self._config.page_size
        if len(job.prompt) < size:
            raise BadArgument(f"a prefix of {len(job.prompt)} tokens is shorter than a page of {size}", hint="pin a longer one")
        return self._fitting(PinGroup(job, listener, self._namespace(job.adapter, exact=exact), size, self._clock()))

    def refusal(self, request: Request) -> CacheFull | None:
        """The error if `request` could not run even alone. Pinned pages help it as far as they are
        its own prefix, and otherwise reduce its room.
        """
        size, n_pages, n_pinned = self._config.page_size, self._config.n_pages, self._pins.n_pages
        n_shared = self._pins.n_shared(request.namespace, request.prompt[: request.first_needed])
        need = self._config.pages_for(request.n_most) - n_shared
        if need <= n_pages - n_pinned:
            return None
        pinned = f", of which {n_pinned} are pinned" if n_pinned else ""
        return CacheFull(
            f"the request needs {need} pages of {size} tokens, the pool has {n_pages}{pinned}",
            hint=f"shorten the prompt, lower max_tokens, {'unpin something, ' if pinned else ''}or start the lab with a larger cache",
        )

    def _namespace(self, adapter: str | None, *, exact: bool) -> Namespace:
        """Of KV that is computed with an adapter. BadArgument if it is not loaded."""
        if adapter is None:
            return self._namespaces[exact]
        if self._adapting is None:
            raise BackendUnsupported("adapters are not computed here", hint="use device cpu")
        key = self._adapting.adapters.get(adapter)
        if key is None:
            known = self._adapting.adapters
            hint = did_you_mean(adapter, known) if known else "load it: `lab.load_adapter(folder, name)` or `%sgl adapter FOLDER NAME`"
            raise BadArgument(f"no adapter {adapter!r:.80} is loaded", hint=hint)
        return (*self._namespaces[exact], ADAPTER + key)

    def _fitting(self, group: F) -> F:
        for request in group.requests:
            if error := self.refusal(request):
                raise error
        return group

    def _check_prompt(self, what: str, tokens: tuple[int, ...], blocks: tuple[Block, ...]) -> None:
        if not blocks or not has_blocks(tokens):
            self._check_tokens(what, tokens)
            return
        self._check_known(what, [token for token in tokens if token >= 0])
        given = {block.content: block for block in blocks}
        try:
            needed = {given[place.content] for _, _, place in blocks_in(tokens)}
        except (KeyError, ValueError):
            raise BadArgument(f"{what} has positions of a block that the job does not bring", hint="give the job its blocks") from None
        if self._embedding is None:
            raise BackendUnsupported("embedded blocks, such as images, are not computed here", hint="leave them out of the prompt")
        for block in needed:
            self._embedding.check_block(block)

    def _check_tokens(self, what: str, tokens: tuple[int, ...]) -> None:
        if not tokens:
            raise BadArgument(f"{what} is empty", hint="give at least one token of text")
        self._check_known(what, tokens)

    def _check_known(self, what: str, tokens: tuple[int, ...] | list[int]) -> None:
        n_vocab = self._vocabulary.n_vocab
        if tokens and (min(tokens) < 0 or max(tokens) >= n_vocab):
            raise BadArgument(f"{what} has a token outside the vocabulary of {n_vocab}", hint="encode it with this backend's own tokenizer")

    def _check_context(self, n_prompt: int, n_more: int) -> None:
        if n_prompt + n_more > self._context:
            more = f" and {n_more} more" if n_more else ""
            over = n_prompt + n_more - self._context
            wish = f", or lower min_tokens to {n_more - over}" if n_more > over else ""
            raise PromptTooLong(
                f"a prompt of {n_prompt} tokens{more} does not fit the context of {self._context}",
                hint=f"shorten the prompt by {over} tokens{wish}",
            )
