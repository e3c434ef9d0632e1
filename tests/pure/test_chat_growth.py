"""A chat that grows: each turn costs what is new in it, and its tokens are those of the whole rendering."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sgl_lab.lang.surface as sgl
from sgl_lab.backends.local import LocalBackend
from sgl_lab.backends.scripted import ScriptedBackend
from sgl_lab.contracts.events import Event, StreamExtended
from sgl_lab.contracts.ids import ForkId
from sgl_lab.contracts.port import Message, Segment
from sgl_lab.contracts.prefixes import n_common, nearest
from sgl_lab.engine.text import sandbox
from sgl_lab.engine.text.chat import ChatTemplate
from sgl_lab.engine.text.specials import Prefix, Special, Specials
from sgl_lab.engine.text.tokenizer import Tokenizer
from sgl_lab.lang.chat_template import ChatTemplate as NamedTemplate
from sgl_lab.lang.chat_template import Renderer, get_chat_template
from sgl_lab.lang.history import Piece, Turn
from sgl_lab.lang.transcript import Pieces, Rendering, Transcript

from .driving import SOAK
from .language import watchdog  # noqa: F401
from .words import CHATML, lab

# ------------------------------------------------------------ what is kept of the last rendering

TRIMS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>{% endfor %}"
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('e')[-1] if m.role == 'assistant' and not loop.last else m.content }}<|im_end|>{% endfor %}"
)
LAST = "{% for m in messages %}<|im_start|>{{ m.content }}{% if loop.last %}<|im_end|>{% endif %}{% endfor %}"
COUNTS = "{{ messages | length }}:{% for m in messages %}{{ loop.index }}{{ m.content }}<|im_end|>{% endfor %}"
REPEATS = "{% for m in messages %}{{ m.content }}{{ m.content if loop.index % 3 == 0 else '' }}<|im_end|>{% endfor %}"
BRIEF = "be brief{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
TEMPLATES = {"chatml": CHATML, "trims": TRIMS, "thinks": THINKS, "last": LAST, "counts": COUNTS, "repeats": REPEATS, "brief": BRIEF}
WORDS = ["hot", " cold ", "\n", "the", "<|im_end|>", "", "é", "e", "x y"]


def forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nothing is kept from one rendering to the next."""
    follow = Rendering.follow

    def fresh(self: Rendering, segments: Sequence[Segment], turns: Sequence[Turn]) -> int:
        Rendering.__init__(self)
        return follow(self, segments, turns)

    monkeypatch.setattr(Rendering, "follow", fresh)
    monkeypatch.setattr(ChatTemplate, "_grown", lambda *_: None)
    monkeypatch.setattr("sgl_lab.engine.text.tokenizer.nearest", lambda *_: (0, None))
    monkeypatch.setattr("sgl_lab.lang.chat_template.nearest", lambda *_: (0, None))


def run_program(folder: Path, template: str, seed: int) -> tuple[list[list[Event]], list[Any]]:
    """A random program of turns, gens, choices, forks and joins: the events about each strand's tokens, its tokens and its text."""
    folder.mkdir(exist_ok=True)
    draw, events = random.Random(seed), list[Event]()
    backend = lab(folder, events.append, chat_template=template)
    roles = {"user": sgl.user, "assistant": sgl.assistant, "system": sgl.system}
    found: list[Any] = []

    def grow(s: Any, n: int) -> None:
        for _ in range(n):
            role = draw.choice(["user", "assistant", "user", "assistant", "system"])
            turn: Any = draw.choice(WORDS)
            for _ in range(draw.randrange(3)):
                kind = draw.randrange(4)
                choices = draw.sample(["hot", "cold", " the"], 2)
                part = draw.choice(WORDS) if kind < 2 else sgl.gen(max_tokens=3, seed=1) if kind == 2 else sgl.select(choices=choices)
                turn = turn + part
            s += roles[role](turn)
            if draw.random() < 0.2:
                found.append(s.text())

    @sgl.function
    def program(s: Any) -> None:
        grow(s, 6)
        forks = s.fork(2)
        for fork in forks:
            grow(fork, 2)
        forks.join("concate_and_append")
        grow(s, 4)
        found.extend((fork.token_ids(), fork.text()) for fork in forks)
        found.append((s.token_ids(), s.text(), s.messages()))

    state = program.run(backend=backend, temperature=0)
    found.append(state.error() and str(state.error()))
    backend._resident.close()
    extended = [event for event in events if isinstance(event, StreamExtended)]
    forks = sorted({event.fork for event in extended})
    return [[replace(event, fork=ForkId(0)) for event in extended if event.fork == fork] for fork in forks], found


@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_are_those_of_the_whole_rendering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for seed in range(4 * SOAK):
        monkeypatch.undo()
        growing = run_program(tmp_path / "words", TEMPLATES[name], seed)
        forgetting(monkeypatch)
        assert growing == run_program(tmp_path / "words", TEMPLATES[name], seed), seed


def test_pieces_come_back_as_they_are_found_in_all_turns() -> None:
    """Contents that repeat, that a turn gets only later, and that no turn has: a rendering that is followed is one that is read anew."""
    draw = random.Random(3)
    for _ in range(300 * SOAK):
        texts = [draw.choice(["a", "ab", "b", "ba", ""]) for _ in range(10)]
        turns = [Turn("user", (_piece(text),)) for text in texts]
        grown = Rendering()
        for n in range(len(turns) + 1):
            shown = ["zz", *(text.strip("b") if draw.random() < 0.2 else text for text in texts[:n]), *draw.choice([[], ["b"], ["q"]])]
            segments = [Segment(text, False) for text in shown if text]
            before = [piece.text for piece in grown.pieces]
            n_same = grown.follow(segments, turns[:n])
            fresh = Rendering()
            fresh.follow(segments, turns[:n])
            assert list(grown.pieces) == list(fresh.pieces)
            assert "".join(before)[:n_same] == "".join(piece.text for piece in grown.pieces)[:n_same]


def _piece(text: str) -> Piece:
    return Piece(text, tuple(text.encode()), "generated", fixed=True)


@pytest.mark.parametrize("prefix", [None, Prefix(every=True, doubled=True), Prefix(every=False, doubled=False)])
def test_white_space_beside_special_tokens_is_settled_as_in_the_whole(prefix: Prefix | None) -> None:
    draw = random.Random(5)
    specials = Specials({"<l>": Special(1, takes_left=True), "<r>": Special(2, takes_right=True), "<s>": Special(3)})
    for _ in range(400 * SOAK):
        settled, segments = None, list[Segment]()
        for _ in range(6):
            del segments[draw.randrange(len(segments) + 1) :]
            for _ in range(draw.randrange(6)):
                segments.append(Segment("".join(draw.choices(["<l>", "<r>", "<s>", " ", "\n", "a", "<"], k=2)), draw.random() < 0.5))
            settled = specials.settled(tuple(segments), prefix, settled)
            assert settled.segments == specials.settled(tuple(segments), prefix).segments


@pytest.mark.parametrize("name", ["default", "chatml", "qwen", "llama-2-chat", "vicuna_v1.1", "gemma-it"])
def test_a_named_template_goes_on_from_what_it_rendered(name: str) -> None:
    draw, template = random.Random(7), get_chat_template(name)
    renderer, chats = Renderer(template), [list[Message]()]
    for _ in range(120):
        chat = draw.choice(chats)
        chat.append(Message(draw.choice(["user", "assistant", "user", "assistant", "system"]), draw.choice(WORDS)))
        if draw.random() < 0.2:
            chats.append(chat[: draw.randrange(len(chat))])
        opens = draw.random() < 0.5
        assert renderer(chat, opens) == template.render(chat, opens)


def test_how_far_sequences_agree() -> None:
    draw = random.Random(1)
    for _ in range(500):
        left, right = draw.choices("ab", k=draw.randrange(200)), draw.choices("ab", k=draw.randrange(200))
        right = left[: draw.randrange(200)] + right
        n = n_common(left, tuple(right))
        assert left[:n] == right[:n]
        assert n in (len(left), len(right)) or left[n] != right[n]
    assert nearest(["abx", "ab", "abc", "abcd"], str, "abcz") == (3, "abc")
    assert nearest(["ab", "abc"], str, "abcz") == (2, "ab")
    assert nearest(["x", "abcd", "ax"], str, "abcz") == (3, "abcd")
    assert nearest(["x"], str, "abc") == (0, None)


# ------------------------------------------------------------ what a turn costs


class Costs:
    """Counts, by turn, what is gone through again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now: Counter[str] = Counter()
        counted = [
            (sandbox, "render", "rendered", lambda args, result: len(result)),
            (Tokenizer, "encode", "encoded", lambda args, result: len(args[1])),
            (Pieces, "append", "attributed", lambda args, result: 1),
            (Renderer, "__call__", "rendered", lambda args, result: 0),
            (NamedTemplate, "around", "rendered", lambda args, result: 10),
        ]
        for owner, name, what, cost in counted:
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name), what, cost))

    def _counted(self, function: Callable[..., Any], what: str, cost: Callable[[Any, Any], int]) -> Callable[..., Any]:
        def counted(*args: Any, **named: Any) -> Any:
            result = function(*args, **named)
            self.now[what] += cost(args, result)
            return result

        return counted


@pytest.fixture(params=[CHATML, TRIMS, BRIEF], ids=["chatml", "trims", "brief"])
def words_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalBackend]:
    made = lab(tmp_path, chat_template=request.param, context=60_000, n_pages=16_000)
    yield made
    made._resident.close()


def turns_of(s: Any, n: int, costs: Costs) -> list[Counter[str]]:
    found = []
    for turn in range(n):
        costs.now.clear()
        s += sgl.user(f"And {turn}? ") + sgl.assistant(sgl.gen(f"a{turn}", max_tokens=4))
        s.sync()
        found.append(Counter(costs.now))
    return found


def test_a_turn_of_a_long_chat_costs_what_is_new_in_it(words_backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    costs, found = Costs(monkeypatch), list[Counter[str]]()

    @sgl.function
    def program(s: Any) -> None:
        s += sgl.system("Be brief.")
        found.extend(turns_of(s, 120, costs))

    program.run(backend=words_backend, temperature=0).sync()
    early, late = found[20:40], found[-20:]
    for what in ("rendered", "encoded", "attributed"):
        most = max(cost[what] for cost in early)
        assert 0 < max(cost[what] for cost in late) <= most * 1.5 + 50, what


@pytest.mark.parametrize("name", ["chatml", "qwen", "llama-2-chat"])
def test_a_turn_by_a_named_template_costs_what_is_new_in_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ScriptedBackend, "encode_all", lambda self, segments: (7,) * sum(len(text) for text, _ in segments))
    costs, backend = Costs(monkeypatch), ScriptedBackend("yes", chat_template=name)
    s = sgl.start(backend)
    found = turns_of(s, 60, costs)
    early, late = found[10:20], found[-10:]
    for what in ("rendered", "attributed"):
        assert 0 < max(cost[what] for cost in late) <= max(cost[what] for cost in early), what
    backend.close()


def test_a_long_text_without_gens_is_encoded_from_its_end_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = lab(tmp_path, context=60_000, n_pages=16_000)
    costs, found = Costs(monkeypatch), list[Counter[str]]()

    @sgl.function
    def program(s: Any) -> None:
        for turn in range(150):
            costs.now.clear()
            s += "The capital of France is Paris. " + sgl.select(f"a{turn}", ["hot", "cold"])
            s.sync()
            found.append(Counter(costs.now))

    program.run(backend=backend).sync()
    for what in ("encoded", "attributed"):
        assert max(cost[what] for cost in found[-20:]) <= max(cost[what] for cost in found[80:100]) + 40, what
    backend._resident.close()


def test_transcripts_of_forks_share_nothing_that_changes() -> None:
    backend = ScriptedBackend(["one", "two", "three", "four"])
    s = sgl.start(backend)
    s += sgl.user("Q") + sgl.assistant(sgl.gen("a"))
    forks = s.fork(2)
    for fork in forks:
        fork += sgl.user("R") + sgl.assistant(sgl.gen("b"))
    s += sgl.user("S") + sgl.assistant(sgl.gen("c"))
    s.sync()
    transcripts: list[Transcript] = [each._stream.transcript for each in (s, *forks)]
    for each, transcript in zip((s, *forks), transcripts, strict=True):
        each.sync()
        assert each.text() == "".join(segment.text for segment in backend.render_chat(transcript.messages, add_generation_prompt=False))
    backend.close()
