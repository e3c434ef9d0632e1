"""The tokens of one stream, and the text, turns and generations that they stand for.

Token ids are the state. Literal text is encoded when the model is about to see it, together with
all literal text and choices before it. If the result differs from the current tokens, there is a
seam, and the tokens from the first difference on are replaced. Generated text keeps its ids. These
may begin with the end of the preceding literal (`Piece.lead`), which the model generated again.

A chat template may rewrite any turn, so each time the whole conversation is compared with its last
rendering. Work in Python begins at the first difference: the tokens before it are kept, and the
cost of a turn is proportional to its new text.

This module knows no queue, thread or event. `changed` receives each placement.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby, takewhile

from ..contracts.errors import ProgramError
from ..contracts.port import Backend, Segment
from ..contracts.prefixes import n_common
from ..contracts.spans import OBJECT, Block
from .chat_template import Chat
from .history import History, Piece, Turn


@dataclass(frozen=True, slots=True)
class Healed:
    """A seam: the first `n` of the placed tokens spell again the text of the replaced tokens
    `before`.
    """

    n: int
    before: tuple[int, ...]


NOT_HEALED = Healed(0, ())


@dataclass(frozen=True, slots=True)
class Held:
    """Tokens at the end of a generation that begin a character. They are in no text yet, and a gen
    continues from them.
    """

    ids: tuple[int, ...] = ()
    lead: str = ""
    """as in a piece"""


@dataclass(frozen=True, slots=True)
class Frozen:
    """The end of text outside roles: everything before it is never rendered again."""

    n_pieces: int = 0
    n_turns: int = 0
    rendering: str = ""
    """the template's rendering of those turns"""


Changed = Callable[[int, Piece, Healed], None]
"""first position, the piece whose ids are there now (everything after it is removed), and the seam
at its beginning
"""

WINDOW = 64
"""tokens at the end of a long run that are encoded again with the following text; the first half of
them must not change
"""
LONG = 2048
"""characters of a run that is encoded as a whole"""
HELD = 4
"""tokens of which one character may consist"""
INCOMPLETE = "\ufffd"
TAIL = 17
"""tokens that may be healed, and one before them"""


def clip(pieces: Iterable[Piece], start: int, end: int | None = None) -> Iterator[Piece]:
    """Characters `start` to `end` of the pieces. A piece that is cut becomes literal text."""
    at = 0
    for piece in pieces:
        here = slice(max(start - at, 0), len(piece.text) if end is None else max(end - at, 0))
        text = piece.text[here]
        at += len(piece.text)
        if text and text == piece.text:
            yield piece
        elif text:
            yield Piece(text, role=piece.role, markup=piece.markup)


class Pieces:
    """Pieces in order, and how many characters and tokens stand before each."""

    def __init__(self) -> None:
        self._pieces: list[Piece] = []
        self._chars, self._ids, self._runs = [0], [0], [0]

    def copy(self) -> Pieces:
        made = Pieces()
        made._pieces, made._chars, made._ids, made._runs = self._pieces[:], self._chars[:], self._ids[:], self._runs[:]
        return made

    def __len__(self) -> int:
        return len(self._pieces)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def __reversed__(self) -> Iterator[Piece]:
        return reversed(self._pieces)

    def since(self, n: int) -> list[Piece]:
        """All but the first `n`."""
        return self._pieces[n:]

    def append(self, piece: Piece) -> None:
        self._pieces.append(piece)
        self._chars.append(self._chars[-1] + len(piece.text))
        self._ids.append(self._ids[-1] + len(piece.ids or ()))
        self._runs.append(len(self._pieces) if piece.fixed else self._runs[-1])

    def cut(self, n: int) -> list[Piece]:
        """Keep the first `n`; the others are returned."""
        taken = self._pieces[n:]
        del self._pieces[n:], self._chars[n + 1 :], self._ids[n + 1 :], self._runs[n + 1 :]
        return taken

    @property
    def run(self) -> int:
        """Index of the first piece of the literal run at the end."""
        return self._runs[-1]

    def n_chars(self, n: int) -> int:
        """Of the first `n` pieces."""
        return self._chars[n]

    def n_ids(self, n: int) -> int:
        """Of the first `n` pieces."""
        return self._ids[n]

    def from_char(self, at: int) -> Iterator[Piece]:
        """What stands after the first `at` characters."""
        n = self.n_within_chars(at)
        return clip(self._pieces[n:], at - self._chars[n])

    def n_within_chars(self, n_chars: int) -> int:
        """How many pieces end within the first `n_chars` characters."""
        return max(0, bisect_right(self._chars, n_chars) - 1)

    def n_within_ids(self, n_ids: int) -> int:
        """How many pieces end within the first `n_ids` tokens."""
        return max(0, bisect_right(self._ids, n_ids) - 1)


class Rendering:
    """A conversation as a template renders it, in pieces. Content of a turn keeps its role and its
    generated ids.

    `follow` reads a rendering from the first segment on that differs from the last one's.
    """

    def __init__(self) -> None:
        self.pieces = Pieces()
        self._segments: Sequence[Segment] = ()
        self._marks: list[tuple[int, int, int]] = [(0, 0, 0)]
        """before each segment, and at the end: pieces so far, and the turn and the character of it
        up to which content was found"""
        self._strange: list[int] = []
        """segments of content that no turn holds"""
        self._n_turns = 0

    def copy(self) -> Rendering:
        made = Rendering()
        made.pieces, made._segments, made._n_turns = self.pieces.copy(), self._segments, self._n_turns
        made._marks, made._strange = self._marks[:], self._strange[:]
        return made

    def follow(self, segments: Sequence[Segment], turns: Sequence[Turn]) -> int:
        """Read `segments`, the rendering of `turns`. `turns` begin with the turns of the last call.
        Returns the number of unchanged characters.
        """
        n, new = n_common(self._segments, segments), turns[self._n_turns :]
        n = min((at for at in self._strange if at < n and any(segments[at].text in turn.content for turn in new)), default=n)
        self._strange = [at for at in self._strange if at < n]
        del self._marks[n + 1 :]
        n_pieces, last, at = self._marks[n]
        self.pieces.cut(n_pieces)
        n_same = self.pieces.n_chars(n_pieces)
        for index, segment in enumerate(segments[n:], n):
            parts: Iterable[Piece] = (Piece(segment.text, markup=segment.markup),)
            if not segment.markup:
                for candidate in range(last, len(turns)):
                    found = turns[candidate].content.find(segment.text, at if candidate == last else 0)
                    if found >= 0:
                        last, at = candidate, found + len(segment.text)
                        parts = clip(turns[last].parts, found, at)
                        break
                else:
                    self._strange.append(index)
            for piece in parts:
                self.pieces.append(piece)
            self._marks.append((len(self.pieces), last, at))
        self._segments, self._n_turns = segments, len(turns)
        return n_same


class Transcript(History):
    """A history with its tokens. Not thread-safe: the run's lock guards it."""

    def __init__(self, backend: Backend, chat: Chat, changed: Changed) -> None:
        super().__init__(chat)
        self.ids: list[int] = []
        self.blocks: tuple[Block, ...] = ()
        """those that were embedded, each once"""
        self.n_rewritten = 0
        """tokens that were removed because the template rendered something else later"""
        self.n_healed = 0
        """tokens that were replaced by others with the same text, at seams"""
        self._backend = backend
        self._changed = changed
        self._placed = Pieces()
        self._rendering = Rendering()
        self._n_agreed = 0
        """characters of the rendering that are known to be placed"""
        self._loose = ""
        self._frozen = Frozen()
        self._n_lead = 0
        self._held = Held()

    def fork(self, changed: Changed) -> Transcript:
        """A separate transcript that starts with the current content."""
        child = Transcript(self._backend, self._chat, changed)
        child.go_on_from(self)
        for name in ("ids", "_placed", "_rendering"):
            setattr(child, name, getattr(self, name).copy())
        for name in ("n_rewritten", "n_healed", "_loose", "_frozen", "_n_lead", "_n_agreed", "_held", "blocks"):
            setattr(child, name, getattr(self, name))
        return child

    # ------------------------------------------------------------ appending

    def say(self, text: str) -> None:
        if text:
            self.let_go()
        if not self._open:
            self._leave_roles()
            self._loose += text
        super().say(text)

    def embed(self, block: Block) -> None:
        self.let_go()
        self.blocks = tuple(dict.fromkeys((*self.blocks, block)))
        if self._open:
            super().embed(block)
            return
        self._leave_roles()
        if self._loose:
            self._place_loose()
        elif not self.ids:
            self._extend_run([Piece(segment.text, markup=segment.markup) for segment in self._backend.render_text("")])
            self._n_lead = len(self.seen())
        self._place_said(Piece(OBJECT, block.ids, "block", fixed=True, block=block))
        self._frozen = replace(self._frozen, n_pieces=len(self._placed))
        super().embed(block)

    def place(self, ids: tuple[int, ...]) -> None:
        """Tokens by their ids. Those that begin a character at the end are held for a gen that
        completes it.
        """
        self.let_go()
        if self._open:
            self.settle()
        else:
            self._leave_roles()
            if self._loose:
                self._place_loose()
        if n := self._n_whole(ids):
            piece = Piece(self._backend.decode(ids[:n]), ids[:n], "text", self.role, fixed=True, special=True)
            self.take(piece, ids[n:])
        self._held = Held(ids[n:])

    def _n_whole(self, ids: tuple[int, ...]) -> int:
        """How many of the tokens stand before an incomplete character at their end."""
        for n in range(len(ids), max(len(ids) - HELD, -1), -1):
            if not self._backend.decode(ids[:n]).endswith(INCOMPLETE):
                return n
        return len(ids)

    def begin(self, role: str) -> None:
        self.let_go()
        if self._loose:
            self._place_loose()
        super().begin(role)

    def end(self) -> None:
        self.let_go()
        super().end()

    def take(self, piece: Piece, held: tuple[int, ...] = ()) -> None:
        """The text that the model generated or chose after `settle`. `held` are tokens after it
        that end inside a character; if it has no lead of its own, `piece.lead` is theirs.
        """
        piece = replace(piece, role=self.role)
        self._held = Held(held, "" if piece.ids else piece.lead) if held else Held()
        if not piece.fixed:
            self._extend_run([piece])
        elif piece.ids:
            piece = self._place_said(piece)
        if not self._open:
            self._frozen = replace(self._frozen, n_pieces=len(self._placed))
        self._add(piece)

    def hold(self, ids: tuple[int, ...]) -> None:
        """The next gen's text begins with these tokens."""
        self._held = Held((*self._held.ids, *ids), self._held.lead)

    def let_go(self) -> None:
        """The following text does not continue an incomplete character."""
        self._held = Held()

    # ------------------------------------------------------------ reading

    def seen(self) -> str:
        """The text of the current tokens, without a leading BOS."""
        return "".join(piece.text for piece in self._placed)[self._n_lead :]

    def certain(self) -> str:
        """Like `seen`, including literal text without tokens. Text inside roles is missing, because
        a template may still change it.
        """
        return self.seen() + ("" if self._in_roles else self._loose)

    def text(self) -> str:
        """All text, including the template's and text that no model has seen yet."""
        if not self._in_roles:
            return self.seen() + self._loose
        tail, frozen = self._layout(), self._frozen
        before = self.seen()[: self._placed.n_chars(frozen.n_pieces) - self._n_lead]
        return before + "".join(piece.text for piece in (*self._rendering.pieces.from_char(len(frozen.rendering)), *tail))

    def spelled(self, ids: Sequence[int]) -> str:
        """The text of tokens, including special ones."""
        return self._backend.decode(ids)

    # ------------------------------------------------------------ where a gen or a select starts

    @property
    def held(self) -> Held:
        """The incomplete character at the end of `prompt`."""
        return self._held

    def prompt(self) -> tuple[int, ...]:
        """Where a gen starts, after `settle`: `ids`, and the held tokens after them."""
        return (*self.ids[: len(self.ids) - self._n_spelling(self._held.lead)], *self._held.ids)

    def n_open(self) -> int:
        """How many of the last tokens a gen may generate again: tokens of the program's own text,
        if it ends in white space or inside a word.
        """
        text = ""
        for piece in reversed(self._placed):
            if piece.kind != "text" or piece.markup or piece.fixed or len(text) > TAIL * 16:
                break
            text = piece.text + text
        return 0 if self._held.ids else n_open(self._backend, text, self.ids[-TAIL:])

    def with_choices(self, choices: Sequence[str]) -> tuple[int, tuple[tuple[int, ...], ...]] | None:
        """Every choice encoded together with the text before it: the position of the first
        difference from the current tokens, and the tokens of each choice from there on. None if
        there is no text before it.
        """
        encoded = [self._encoded([Piece(choice)]) for choice in choices]
        n_same = min(at + n_common(ids, self.ids[at:]) for at, ids in encoded)
        if not n_same:
            return None
        return n_same, tuple((*self.ids[n_same:at], *ids[max(0, n_same - at) :]) for at, ids in encoded)

    # ------------------------------------------------------------ from text to tokens

    def settle(self, *, to_generate: bool = False) -> None:
        """Update `ids`, so that they are the prompt of what follows."""
        if self._in_roles and not (to_generate and not self._open):
            self._reconcile(self._layout())
            return
        self._leave_roles()
        if self._loose or (to_generate and not self.ids):
            self._place_loose()

    @property
    def _in_roles(self) -> bool:
        """Whether there are turns, placed or pending, after the last text outside roles."""
        return len(self._turns) > self._frozen.n_turns

    def _leave_roles(self) -> None:
        if self._in_roles:
            self._reconcile(self._layout())
            rendering = "".join(piece.text for piece in self._rendering.pieces)
            self._frozen = Frozen(len(self._placed), len(self._turns), rendering)

    def _place_loose(self) -> None:
        text, self._loose = self._loose, ""
        if self.ids:
            self._extend_run([Piece(text)])
        else:
            segments = self._backend.render_text(text) if text else self._backend.render_start()
            if not segments:
                raise ProgramError("there is no text to continue, and this model has no token that begins a text", hint=_SAY_SOMETHING)
            self._extend_run([Piece(segment.text, markup=segment.markup) for segment in segments])
            self._n_lead = len(self.seen()) - len(text)
        self._frozen = replace(self._frozen, n_pieces=len(self._placed))

    def _layout(self) -> tuple[Piece, ...]:
        """Render the closed turns and the beginning of an open one. Returns the tail that follows
        them.
        """
        segments, tail = self._rendered()
        turns = self._turns[: len(self._messages)]
        self._n_agreed = min(self._n_agreed, self._rendering.follow(segments, turns))
        frozen = self._frozen.rendering
        if self._n_agreed < len(frozen) and not "".join(segment.text for segment in segments).startswith(frozen):
            raise ProgramError("the chat template rewrites turns in front of text outside all roles", hint="keep all text inside roles")
        if self.blocks and _blocks(self._rendering.pieces) != _blocks(part for turn in turns for part in turn.parts):
            raise ProgramError(
                "the chat template leaves out an embedded block, such as an image, or rewrites what stands beside it",
                hint="keep blocks outside roles, or use a template that shows every turn as it is",
            )
        return tail

    def _reconcile(self, tail: tuple[Piece, ...]) -> None:
        """Place the rendering and `tail` after the frozen part. Tokens before the first difference
        are kept.
        """
        frozen, placed = self._frozen, self._placed
        before = len(frozen.rendering) - placed.n_chars(frozen.n_pieces)  # from characters that are placed to those of the rendering
        n_kept = max(frozen.n_pieces, placed.n_within_chars(self._n_agreed - before))
        start = at = placed.n_chars(n_kept) + before
        self._n_agreed = 0
        pieces = [*self._rendering.pieces.from_char(start), *tail]
        text = "".join(piece.text for piece in pieces)
        sources = "".join(_source(piece) * len(piece.text) for piece in pieces)
        starts = accumulate((len(piece.text) for piece in pieces), initial=0)
        blocks = dict(zip(starts, (piece.block for piece in pieces), strict=False)) if self.blocks else {}
        cut: Piece | None = None
        for piece in placed.since(n_kept):
            here, end = at - start, at - start + len(piece.text)
            # Generated text may by now be content or text of the template, for example a space.
            is_free = piece.kind not in ("text", "block") and BLOCK not in sources[here:end]
            same_source = is_free or sources[here:end] == _source(piece) * (end - here)
            if not (same_source and text.startswith(piece.text, here) and (piece.block is None or piece.block == blocks.get(here))):
                cut = self._beginning(piece, text[here:]) if piece.fixed and piece.block is None else None
                break
            n_kept, at = n_kept + 1, start + end
        n_before = len(self.ids)
        is_cut = bool(placed.cut(n_kept))
        del self.ids[placed.n_ids(n_kept) :]
        if cut:
            placed.append(cut)
            self.ids += cut.ids or ()
            at += len(cut.text)
        n_stand = len(self.ids)
        self.n_rewritten += n_before - n_stand
        groups = [(fixed, list(group)) for fixed, group in groupby(clip(pieces, at - start), key=lambda piece: piece.fixed)]
        if is_cut and not (groups and not groups[0][0]):
            groups.insert(0, (False, []))  # a removed token may have shared text with the remaining ones
        for fixed, group in groups:
            if fixed:
                for piece in group:
                    self._place_said(piece)
            else:
                self._extend_run(joined(group))
        if len(self.ids) == n_stand < n_before:
            self._changed(n_stand, Piece("", (), "trim"), NOT_HEALED)
        self._n_agreed = self._rendering.pieces.n_chars(len(self._rendering.pieces))

    def _beginning(self, piece: Piece, text: str) -> Piece | None:
        """As many tokens of a generated piece as `text` still begins with."""
        limit = len(piece.lead) + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(piece.text, text, strict=False)))
        for n in range(len(piece.ids or ()) - 1, 0, -1) if limit else ():
            ids = (piece.ids or ())[:n]
            spelled = self._backend.decode(ids, special=piece.special)
            if len(piece.lead) <= len(spelled) <= limit and (piece.lead + piece.text).startswith(spelled):
                return replace(piece, text=spelled[len(piece.lead) :], ids=ids)
        return None

    def _place_said(self, piece: Piece) -> Piece:
        """Put a generation at the end, replacing the tokens whose text it generates again. Returns
        it as placed.
        """
        ids, lead = piece.ids or (), piece.lead
        n_back = self._n_spelling(lead)
        if lead and not n_back:  # it was generated after other tokens than the current ones
            ids, lead = self._backend.encode(piece.text), ""
        before = tuple(self.ids[len(self.ids) - n_back :])
        n_same = n_common(ids, before)
        if n_same:
            ids, before = ids[n_same:], before[n_same:]
            lead = self._backend.decode(before)
        self._drop(len(before))
        placed = replace(piece, ids=ids, lead=lead)
        start = len(self.ids)
        self._placed.append(placed)
        self.ids += ids
        self.n_healed += len(before)
        self._changed(start, placed, Healed(self._n_covering(ids, len(lead)), before))
        return placed

    def _drop(self, n: int) -> None:
        """Remove the last `n` tokens. The text and the pieces remain."""
        del self.ids[len(self.ids) - n :]
        for piece in self._placed.cut(self._placed.n_within_ids(len(self.ids))):
            n_left = len(self.ids) - self._placed.n_ids(len(self._placed))
            self._placed.append(replace(piece, ids=(piece.ids or ())[:n_left]))

    def _n_spelling(self, text: str) -> int:
        """How many of the last tokens spell `text`, with which the tokens end; 0 if no number of
        them does.
        """
        for n in range(1, TAIL) if text else ():
            if n > len(self.ids) or self.ids[-n] < 0:
                break
            spelled = self._backend.decode(self.ids[-n:])
            if spelled == text:
                return n
            if len(spelled) > len(text) + 3:
                break
        return 0

    def _extend_run(self, pieces: Iterable[Piece]) -> None:
        """Put literals at the end, encoded together with the preceding ones. Existing tokens are
        kept up to the first difference.
        """
        new = [piece for piece in pieces if piece.text]
        at, ids = self._encoded(new)
        n_same = at + n_common(ids, self.ids[at:])
        ids, before = ids[n_same - at :], tuple(self.ids[n_same:])
        n_spelling = self._n_covering(ids, len(self._backend.decode(before))) if before else 0
        self.n_healed += len(before)
        self.ids[n_same:] = ids
        # From the first changed piece on, a token belongs to the piece in which it ends.
        first = self._placed.n_within_ids(n_same)
        reached = [*self._placed.cut(first), *new]
        start = done = self._placed.n_ids(first)
        n_chars, rest = 0, self.ids[start:]
        ends = self._ends(rest) if len(reached) > 1 else []
        n_more = max(0, sum(len(piece.text) for piece in reached) - ends[-1]) if ends else 0
        for index, piece in enumerate(reached, 1):
            n_chars += len(piece.text)
            begin, done = done, max(done, start + bisect_right(ends, n_chars - n_more)) if index < len(reached) else len(self.ids)
            placed = replace(piece, ids=tuple(self.ids[begin:done]))
            self._placed.append(placed)
            changed = max(begin, n_same)
            if changed < done:
                n = min(n_spelling, done - changed)
                healed = Healed(n, before) if n else NOT_HEALED
                n_spelling, before = n_spelling - n, ()
                self._changed(changed, replace(placed, ids=tuple(self.ids[changed:done])), healed)

    def _encoded(self, new: Sequence[Piece]) -> tuple[int, tuple[int, ...]]:
        """Encode the literal run at the end, followed by `new`. Returns the first position at which
        tokens may differ from the current ones, and the tokens from there on.
        """
        placed, first = self._placed, self._placed.run
        start, end = placed.n_ids(first), placed.n_chars(len(placed))
        if end - placed.n_chars(first) > LONG and len(self.ids) - start > WINDOW:
            tail = tuple(self.ids[-WINDOW:])
            seen = self._backend.decode(tail)
            pieces = list(placed.from_char(max(placed.n_chars(first), end - len(seen))))
            if "".join(piece.text for piece in pieces) == seen:
                ids = self._backend.encode_all([Segment(piece.text, piece.markup) for piece in (*pieces, *new)])
                if ids[: WINDOW // 2] == tail[: WINDOW // 2]:
                    return len(self.ids) - WINDOW, ids
        return start, self._backend.encode_all([Segment(piece.text, piece.markup) for piece in (*placed.since(first), *new)])

    def _n_covering(self, ids: Sequence[int], n_chars: int) -> int:
        """How many of the first tokens contain the first `n_chars` characters."""
        if not n_chars:
            return 0
        return min(len(ids), bisect_left(range(len(ids) + 1), n_chars, key=lambda n: len(self._backend.decode(ids[:n]))))

    def _ends(self, ids: Sequence[int]) -> list[int]:
        """After each token, the number of characters so far; an incomplete one counts."""
        ends: list[int] = []
        n_whole, first = 0, 0
        for n in range(1, len(ids) + 1):
            text = self._backend.decode(ids[first:n])
            ends.append(n_whole + len(text))
            if not text.endswith("\ufffd") or n - first > 8:
                n_whole, first = ends[-1], n
        return ends


MARKUP, LITERAL, BLOCK = "1", "0", "2"
"""the origin of a character of a rendering"""


def _blocks(pieces: Iterable[Piece]) -> list[Block]:
    return [piece.block for piece in pieces if piece.block is not None]


def _source(piece: Piece) -> str:
    return BLOCK if piece.block is not None else MARKUP if piece.markup else LITERAL


_SAY_SOMETHING = 'append some text first: s += "..."'


def n_open(backend: Backend, text: str, ids: Sequence[int]) -> int:
    """How many of the last of `ids`, which end with literal `text`, a gen may generate again."""
    if not text or not (text[-1].isspace() or text[-1].isalnum()):
        return 0
    last = next((n for n, token in enumerate(reversed(ids)) if token < 0), len(ids))  # a block is not healed
    n = backend.n_open(ids[len(ids) - last :])
    while n and not text.endswith(backend.decode(ids[-n:])):
        n -= 1
    return n


def likely_seam(backend: Backend, text: str) -> str:
    """The text that a gen after literal `text` may generate again, determined without the preceding
    text.
    """
    ids = backend.encode(text[-TAIL * 16 :])[-TAIL:]
    n = n_open(backend, text, ids)
    return backend.decode(ids[-n:]) if n else ""


def joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Joins neighbouring literals of one source."""
    for _, group in groupby(pieces, key=lambda piece: (piece.kind, piece.markup, piece.role)):
        members = list(group)
        yield replace(members[0], text="".join(member.text for member in members))
