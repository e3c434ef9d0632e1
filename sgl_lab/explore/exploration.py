"""`Exploration`: a gen of a record, and branches from it.

It is a run of its own, recorded until `close`: each branch is a program on a stream of its own, and
an event says from where it left and what was done to it. So what it shows is a fold of events, and
its record is saved, frozen and replayed as any other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from ..contracts.conversation import takes_tokens
from ..contracts.errors import BadArgument, EngineStopped, ProgramError
from ..contracts.events import BranchChanged, Event, ExplorationOpened, RequestFinished, Sample, TokensSampled
from ..contracts.ids import ForkId, RequestId, RunId
from ..contracts.params import MAX_N, SamplingParams
from ..contracts.port import Allowing, Backend
from ..contracts.prefixes import n_common
from ..lang.chat_template import chat_of
from ..lang.expressions import Concat, Expr, Gen, RoleEnd, Text, TokenIds
from ..lang.sampling import given
from ..lang.state import ProgramState, start
from ..lang.surface import gen
from ..recorded import RecordedLab
from ..trace import Record
from ..viz.views.explore import ExplorePicture, ExploreView
from ..viz.views.inspection import STEP, Inspection, inspections
from ..viz.views.trie import Cell
from .asked import asked_of
from .copied import cell_of, is_written
from .prompt import prompt_of, role_after, saying

ALTERNATIVES = 8
"""likeliest tokens that are kept beside each one"""
LEAST = 16
"""tokens of a branch that leaves near the end of its parent"""
MAX_BYTES = 128 * 2**20
"""of a record; a larger exploration takes no more branches"""
NAME = "text"
"""of a branch's gen, if that which is explored has none"""


@dataclass(frozen=True, slots=True)
class Branch:
    """One way that the text goes on."""

    about: BranchChanged
    beginning: tuple[Expr, ...]
    """its program up to the gen"""
    gen: Gen
    state: ProgramState

    @property
    def number(self) -> int:
        return self.about.branch


@dataclass(frozen=True, slots=True)
class Edited:
    """A prompt with one piece edited, before anything runs."""

    beginning: tuple[Expr, ...]
    prompt: tuple[int, ...]
    n_same: int
    """leading tokens that the prompt before the edit has too"""
    n_cached: int
    """leading tokens that the cache has now; the others are computed"""

    @property
    def n_computed(self) -> int:
        return len(self.prompt) - self.n_cached


class Exploration:
    """Branches from one gen.

    lab          where it runs: the model of the record
    record       the run, finished or running
    inspection   the gen, of `inspections(record.entries)`
    temperature  of branches from an alternative and of edits; 0 takes the likeliest tokens
    max_tokens   of a branch; None is what remains of the gen's own limit, at least 16
    check        called while something is waited for; it may raise

    BadArgument for a select, for a gen of an engine that takes no token ids, and for a prompt with
    images. Of a gen that was recorded without alternatives, they are computed now.

    Methods may be called from any thread, one after the other. Errors of the engine reach the
    caller; the branch remains with what it has.
    """

    def __init__(
        self,
        lab: RecordedLab,
        record: Record,
        inspection: Inspection,
        *,
        temperature: float = 0.0,
        max_tokens: int | None = None,
        seed: int = 0,
        check: Callable[[], None] | None = None,
    ) -> None:
        backend = backend_of(lab)
        if inspection.kind != "gen":
            raise BadArgument(f"{inspection.title} is a {inspection.kind}, which has no text of the model", hint="explore a gen")
        if backend is None:
            raise BadArgument(f"{lab.title} takes no token ids, and a branch is made of them", hint="%sgl backend local")
        if any(token < 0 for token in inspection.prompt):
            raise BadArgument(f"the prompt of {inspection.title} has images or text pieces", hint="explore a gen whose prompt is text")
        self.lab, self.temperature, self.max_tokens, self.seed, self.check = lab, temperature, max_tokens, seed, check
        self.title = f"explore {record.title}{STEP}{inspection.title}"
        self.name = inspection.name if not inspection.name.startswith("#") else NAME
        self.of = record
        self._backend = backend
        self._lock = threading.RLock()
        self._undo: list[tuple[BranchChanged, ...]] = []
        self.branches: dict[int, Branch] = {}
        self._saying = saying(tuple(record.entries), inspection.request, backend)
        self._asked = asked_of(record, inspection.request)
        self.n_asked = 0
        """tokens for which alternatives were computed anew"""
        self._n_read = 0
        self.is_closed = False
        self._ended = ExitStack()
        source = f"# explored: {record.title}, {inspection.title}"
        self.record: Record = self._ended.enter_context(lab.record(f"explore {record.title}", source, is_guest=True))
        self._view = ExploreView(lab.spell, self.record.run)
        try:
            self._open(inspection)
        except BaseException:
            self.close()
            raise

    @property
    def run(self) -> RunId:
        return self.record.run

    def close(self) -> None:
        """End the recording. Branches that run are stopped, and nothing more can be done to any."""
        self.is_closed = True
        for branch in self.branches.values():
            branch.state.cancel()
        self._ended.close()

    # ------------------------------------------------------------ branches

    def branch(self, parent: int, at: int, token: int) -> Branch:
        """The text of `parent` (0: the explored answer) up to its token `at`, then `token`, and on
        from there. One token of the prompt is computed, if the rest is still cached.
        """
        cells = self._cells(parent)
        if not 0 <= at <= len(cells):
            raise BadArgument(f"there is no token {at}: the answer has {len(cells)}", hint=f"0 to {len(cells)}")
        if not 0 <= token < self.lab.card.vocab:
            raise BadArgument(f"{self.lab.card.name} has no token {token}", hint=f"0 to {self.lab.card.vocab - 1:,}")
        if self.refused(parent, at, (token,)):
            raise BadArgument(f"{self.lab.spell(token)!r:.40} {self.why_refused}", hint="choose another token")
        forced = (*(cell.token for cell in cells[:at]), token)
        return self._run(parent, "token", [forced], self.temperature)[0]

    def refused(self, parent: int, at: int, tokens: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Those of `tokens` that the constraint of the gen does not allow in the place of token `at`
        of `parent`; of the recorded alternatives there, if no tokens are given.
        """
        cells, form = self._cells(parent), self._asked.form
        if form is None or not isinstance(self._backend, Allowing):
            return ()
        tokens = tokens or tuple(token for cell in cells[at : at + 1] for token, _ in cell.top)
        allowed = self._backend.allowed(form.constraint, tuple(cell.token for cell in cells[:at]), tokens)
        return tuple(token for token, is_allowed in zip(tokens, allowed, strict=True) if not is_allowed)

    @property
    def why_refused(self) -> str:
        return f"is not allowed there by the {self._asked.form_kind} of {self.name}"

    def more(self, parent: int, at: int, k: int, temperature: float = 1.0) -> list[Branch]:
        """`k` further continuations of `parent` before its token `at`, sampled together."""
        cells = self._cells(parent)
        if not 0 <= at <= len(cells):
            raise BadArgument(f"there is no token {at}: the answer has {len(cells)}", hint=f"0 to {len(cells)}")
        if type(k) is not int or not 1 <= k <= MAX_N:
            raise BadArgument(f"the number of continuations is {k!r:.20}", hint=f"1 to {MAX_N}")
        forced = tuple(cell.token for cell in cells[:at])
        return self._run(parent, "more", [forced] * k, temperature)

    def edited(self, piece: int, text: str) -> Edited:
        """What an edit of a literal piece of the prompt would leave cached, and what it would compute."""
        places = dict(self._saying.literals)
        if piece not in places:
            raise BadArgument(
                f"piece {piece} of the prompt is no text of the program", hint=f"one of {', '.join(map(str, places)) or 'none'}"
            )
        beginning = list(self._saying.beginning)
        beginning[places[piece]] = Text(text)
        prompt = prompt_of(self._backend, beginning)
        n_cached = self.lab.snapshot().n_cached(self.lab.card.namespace, prompt)
        return Edited(tuple(beginning), prompt, n_common(prompt, self._saying.prompt), min(n_cached, len(prompt) - 1))

    def edit(self, piece: int, text: str) -> Branch:
        """Run the edited prompt."""
        return self._run(0, "edit", [()], self.temperature, self.edited(piece, text).beginning, piece, text)[0]

    def stop(self) -> None:
        """Stop the branches that run. What they have so far is kept."""
        for branch in tuple(self.branches.values()):
            branch.state.cancel()

    # ------------------------------------------------------------ what becomes of a branch

    def rename(self, branch: int, label: str) -> None:
        if not label.strip():
            raise BadArgument("a branch needs a name of at least one letter")
        self._set(branch, label=label.strip()[:60])

    def pin(self, branch: int, *, is_pinned: bool = True) -> None:
        """Pinned branches come first."""
        self._set(branch, is_pinned=is_pinned)

    def delete(self, branch: int) -> None:
        """Take it out of the picture; `undo` brings it back."""
        self._set(branch, is_deleted=True)

    def undo(self) -> bool:
        """Take back the last change, or the last branches. Returns whether there was one."""
        self._check_open()
        with self._lock:
            if not self._undo:
                return False
            for about in self._undo.pop():
                self._put(about)
            return True

    def as_cell(self, branch: int, options: str = "") -> str:
        """The text of a cell that says exactly this branch. `options` are put on its first line.

        Where one program always gives the same tokens, the cell forces what the branch forced and
        generates the rest again; elsewhere it forces all of it.
        """
        found = self._branch(branch)
        drawn = tuple(cell.token for cell in self._cells(branch)[len(found.about.forced) :])
        is_repeated = self.lab.card.capabilities.deterministic or not drawn
        again = found.gen if is_repeated and is_written(found.gen) else TokenIds((*found.gen.begins, *drawn))
        return cell_of((*found.beginning, again), found.about, options)

    # ------------------------------------------------------------ reading

    def cells(self, branch: int) -> Sequence[Cell]:
        """The tokens of a branch's answer, with their alternatives; of 0, those of the explored one."""
        return self._cells(branch)

    def text(self, branch: int) -> str:
        """The answer of a branch."""
        return self._backend.decode([cell.token for cell in self._cells(branch)], special=False)

    def picture(self) -> ExplorePicture:
        with self._lock:
            self._read()
            return self._view.full()

    @property
    def n_branches(self) -> int:
        """Those that are not deleted."""
        return sum(not branch.about.is_deleted for branch in self.branches.values())

    # ------------------------------------------------------------ inside

    def _check_open(self) -> None:
        if self.is_closed:
            raise ProgramError("this exploration is closed", hint="explore the run again")

    def _read(self) -> None:
        """Fold the events since the last call."""
        for entry in self.record.entries[self._n_read :]:
            self._view.fold(entry)
            self._n_read += 1

    def _cells(self, branch: int) -> Sequence[Cell]:
        if branch:
            self._branch(branch)
        with self._lock:
            self._read()
            return self._view.cells(branch)

    def _branch(self, number: int) -> Branch:
        if number not in self.branches:
            raise BadArgument(f"there is no branch {number}", hint=f"1 to {len(self.branches)}" if self.branches else "make one first")
        return self.branches[number]

    def _run(
        self,
        parent: int,
        how: str,
        forced: Sequence[tuple[int, ...]],
        temperature: float,
        beginning: tuple[Expr, ...] | None = None,
        piece: int | None = None,
        text: str = "",
    ) -> list[Branch]:
        """Run branches together: one for each text that is forced."""
        self._check_open()
        if not self.lab.is_open:
            raise EngineStopped("the model of this exploration is gone", hint="load it, and explore the run again")
        if self.record.n_bytes > MAX_BYTES:
            raise ProgramError("the record of this exploration is full", hint="explore a branch that you keep, in a new one")
        if beginning is None:  # a branch of an edited prompt has that prompt
            beginning = self._branch(parent).beginning if parent else self._saying.beginning
            beginning = tuple(beginning[: self._n_prompt(parent)])
        made = [self._begin(parent, how, ids, temperature, beginning, piece, text) for ids in forced]
        with self._lock:
            self._undo.append(tuple(replace(branch.about, is_deleted=True) for branch in made))
        with self._backend.at_once():
            for branch in made:
                branch.state.append_expression(Concat((*branch.beginning, branch.gen, *_ending(branch.beginning))))
        try:
            for branch in made:
                branch.state.finish()
        except BaseException:
            for branch in made:
                branch.state.cancel()
            raise
        finally:
            self.record.end(self.lab.spell)
        return made

    def _begin(
        self, parent: int, how: str, forced: tuple[int, ...], temperature: float, beginning: tuple[Expr, ...], piece: int | None, text: str
    ) -> Branch:
        with self._lock:
            number = len(self.branches) + 1
            seed = self.seed + number if temperature else None
            state = start(self._backend, self.lab.emit, self.run, _DEFAULTS, f"branch {number}", check=self.check)
            about = BranchChanged(
                *(self.run, number, ForkId(state._stream.id), parent, how, forced, f"branch {number}", False, False),
                *(float(temperature), seed, piece, text),
            )
            asked = self._asked
            most = self.max_tokens or max(LEAST if asked.form is None else 1, asked.limit - len(forced))
            room = self.lab.card.context - len(self._saying.prompt) - len(forced) - 1
            stop = (*asked.stop, *(() if role_after(beginning) else chat_of(self._backend, self.lab.card).stop))
            sampled = {"max_tokens": max(1, min(most, room)), "temperature": temperature, "seed": seed, "stop": stop or None}
            begins = forced if asked.form is not None or asked.stop else ()
            generates = Gen(self.name, tuple(given(sampled).items()), asked.form, heal=False, begins=begins)
            placed = [TokenIds(forced)] if forced and not begins else []
            branch = Branch(about, (*beginning, *placed), generates, state)
            self.branches[number] = branch
            self.lab.emit(about)
            return branch

    def _n_prompt(self, parent: int) -> int:
        """How many parts of a branch's program stand before its answer."""
        if not parent:
            return len(self._saying.beginning)
        found = self._branch(parent)
        return len(found.beginning) - bool(found.about.forced and not found.gen.begins)

    def _set(self, branch: int, **changes: object) -> None:
        self._check_open()
        with self._lock:
            before = self._branch(branch).about
            after = replace(before, **changes)  # type: ignore[arg-type]  # fields of the event
            if after != before:
                self._undo.append((before,))
                self._put(after)

    def _put(self, about: BranchChanged) -> None:
        self.branches[about.branch] = replace(self.branches[about.branch], about=about)
        self.lab.emit(about)

    def _open(self, one: Inspection) -> None:
        """Emit what the gen has. If it runs, and gets tokens meanwhile, once more."""
        runs, since = not one.reason, 0
        while True:
            if runs:
                entries = tuple(self.of.entries)
                one, since = next(each for each in inspections(entries) if each.request == one.request), len(entries)
            answer = tuple(one.samples)
            if answer and one.reason and not any(sample.top for sample in answer):
                answer = self._asked_anew(answer)
            still = None if one.reason else one.request
            self.lab.emit(ExplorationOpened(self.run, self.of.title, one.title, self._saying.prompt, self._saying.pieces, answer, still))
            opened = next(entry.seq for entry in reversed(self.record.entries) if isinstance(entry.event, ExplorationOpened))
            if still is None or not any(entry.seq < opened and _is_of(entry.event, still) for entry in tuple(self.of.entries[since:])):
                return

    def _asked_anew(self, answer: tuple[Sample, ...]) -> tuple[Sample, ...]:
        """The recorded answer, with the alternatives to its tokens as one request computes them."""
        state = start(self._backend, self.lab.emit, self.run, label="alternatives", check=self.check)
        prompt = self._saying.prompt
        asks = gen(NAME, max_tokens=0, return_logprob=True, logprob_start_len=len(prompt), top_logprobs_num=ALTERNATIVES, heal=False)
        state.append_expression(Concat((TokenIds((*prompt, *(sample.token for sample in answer))), asks)))
        state.finish()
        meta = state.get_meta_info(NAME)
        found = list(zip(meta["input_token_logprobs"], meta["input_top_logprobs"], strict=True))[-len(answer) :]
        self.n_asked = len(answer)
        return tuple(
            sample._replace(logprob=own[0], top=tuple((token, logprob) for logprob, token, _ in top or ()))
            for sample, (own, top) in zip(answer, found, strict=True)
        )


def _is_of(event: Event, request: RequestId) -> bool:
    """Whether the event changes the answer of this request."""
    if isinstance(event, TokensSampled):
        return any(sample.request == request for sample in event.samples)
    return isinstance(event, RequestFinished) and event.request == request


_DEFAULTS = SamplingParams(**given({"top_logprobs_num": ALTERNATIVES}))


def _ending(beginning: Sequence[Expr]) -> list[Expr]:
    """The end of the turn that is open after them."""
    role = role_after(beginning)
    return [RoleEnd(role)] if role else []


def backend_of(lab: RecordedLab) -> Backend | None:
    """Its backend, if that takes token ids and scores a prompt, which branches need."""
    backend = lab.backend_for()
    return backend if takes_tokens(backend) and lab.card.capabilities.prompt_logprobs else None
