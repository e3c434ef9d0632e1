"""Goes on from any token of a run: another token, further texts, or another prompt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...contracts.errors import BadArgument
from ...contracts.events import Entry, ExplorationOpened, PromptPiece
from ...viz.draw import explore as draw
from ...viz.views.explore import ExploreView
from ...viz.views.inspection import Inspection, inspections
from ..explore import Explorer, cell_options, explorer_of, has_alternatives
from ..options import OptionError, nearest
from ..output import in_kernel
from ..printing import say
from ..session import Session
from ..shell import Shell
from .command import Command, Words, show
from .history import completions, is_called, names_of, run_and_name

if TYPE_CHECKING:
    from ...explore.exploration import Exploration
    from ...trace import Record


def _explore(shell: Shell, session: Session, words: Words) -> None:
    record, name = run_and_name(session, words)
    explorer = _shown(session, record, name)
    if explorer is None:
        one = _gen(record, name)
        lab = session.lab_of(record)
        if one is None or lab is None or not lab.is_open:
            _show_still(shell, words, record, one)
            return
        explorer = explorer_of(shell, session, lab, record, one)
    exploration = explorer.exploration
    _act(exploration, words)
    if "-o" in words.options:
        explorer.keep(_branch_of(exploration, words), words.options["-o"])
    if "--copy" in words.options:
        say(exploration.as_cell(_number(words, "--copy"), cell_options(exploration)))
        return
    session.last = exploration.record
    if "--text" in words.options or not in_kernel(shell):
        say(explorer.text())
    else:
        explorer.show()


def _shown(session: Session, record: Record, name: str | None) -> Explorer | None:
    """The open exploration that this record is of, if no other gen of it is named."""
    for each in session.explorers.values():
        if isinstance(each, Explorer) and each.exploration.record is record and not each.exploration.is_closed:
            return each if name in (None, each.exploration.name) else None
    return None


def _gen(record: Record, name: str | None) -> Inspection | None:
    """The gen that is meant: the last one with this name, or of all. None for an exploration."""
    if name is None and any(isinstance(entry.event, ExplorationOpened) for entry in record.entries):
        return None
    found = inspections(tuple(record.entries))
    chosen = [one for one in found if name is None or is_called(one, name)]
    if not found:
        raise OptionError(f"{record.title} sent no request to the model")
    if not chosen:
        raise nearest(str(name), names_of(found), f"gen or fork of {record.title}")
    gens = [one for one in chosen if one.kind == "gen"]
    if not gens:
        raise OptionError(f"{chosen[-1].title} is a {chosen[-1].kind}, which has no text of the model", hint="explore a gen")
    return gens[-1]


def _act(exploration: Exploration, words: Words) -> None:
    """Do what the options say: a branch, further texts, or an edit."""
    parent, options = _branch_of(exploration, words, default=0), words.options
    heat = _float(words, "--temperature")
    if "--max-tokens" in options:
        exploration.max_tokens = _number(words, "--max-tokens")
    if heat is not None and "--more" not in options:
        exploration.temperature = heat
    at = _number(words, "--at") if "--at" in options else None
    if "--token" in options:
        if at is None:
            raise OptionError("--token needs --at", hint="--at N is the token that it replaces, from 0")
        exploration.branch(parent, at, _token(exploration, parent, at, options["--token"]))
    elif "--more" in options:
        exploration.more(parent, at or 0, _number(words, "--more"), 1.0 if heat is None else heat)
    elif "--edit" in options:
        piece, equals, text = options["--edit"].partition("=")
        if not equals or not piece.isdecimal():
            raise OptionError("--edit takes PIECE=TEXT", hint="%sgl explore --text lists the pieces of the prompt")
        planned = exploration.edited(int(piece), text)
        say(f"{planned.n_cached:,} tokens of the new prompt are cached, {planned.n_computed:,} are computed")
        exploration.edit(int(piece), text)


def _token(exploration: Exploration, branch: int, at: int, word: str) -> int:
    """The token that a word names: one of the alternatives by its text or its rank (`#2`)."""
    cells = exploration.cells(branch)
    if not 0 <= at < len(cells):
        raise BadArgument(f"there is no token {at}: the answer has {len(cells)}")
    others = [token for token, _ in cells[at].top]
    spelled = {exploration.lab.spell(token): token for token in reversed(others)}
    if word.startswith("#") and word[1:].isdecimal() and 1 <= int(word[1:]) <= len(others):
        return others[int(word[1:]) - 1]
    for text, token in spelled.items():
        if word in (text, text.strip()):
            return token
    raise nearest(word, [text.strip() or text for text in spelled], f"alternative of token {at}")


def _branch_of(exploration: Exploration, words: Words, default: int | None = None) -> int:
    if "--branch" in words.options:
        return _number(words, "--branch")
    if default is not None:
        return default
    if not exploration.branches:
        raise OptionError("-o keeps a branch, and there is none yet", hint="--at 3 --token '#2' makes one")
    return max(exploration.branches)


def _number(words: Words, option: str) -> int:
    if not words.options[option].isdecimal():
        raise OptionError(f"{option} takes a whole number, not {words.options[option]!r:.40}")
    return int(words.options[option])


def _float(words: Words, option: str) -> float | None:
    if (word := words.options.get(option)) is None:
        return None
    try:
        return float(word)
    except ValueError:
        raise OptionError(f"{option} takes a number, not {word!r:.40}") from None


def _show_still(shell: Shell, words: Words, record: Record, one: Inspection | None) -> None:
    """What is recorded, without a model: an exploration, or an answer with its alternatives."""
    acting = [option for option in ("--token", "--more", "--edit", "-o", "--copy") if option in words.options]
    if acting:
        raise OptionError(f"{acting[0]} needs the model of {record.title}, which is gone", hint="run its cell again")
    view = ExploreView(record.spell)
    for entry in _opening(record, one):
        view.fold(entry)
    picture = view.full()
    show(shell, words, draw.html(picture), draw.text(picture), {"branches": len(draw.shown(picture))})
    if one is not None:
        say(f"the model of {record.title} is gone: nothing can go on from here until its cell runs again")


def _opening(record: Record, one: Inspection | None) -> Iterable[Entry]:
    """The events of a recorded exploration, or one that says what a gen was."""
    if one is None:
        return tuple(record.entries)
    answer = tuple(one.samples)
    if not has_alternatives(answer):
        raise OptionError(
            f"{record.title} was recorded without alternatives, and its model is gone",
            hint="run its cell again, with tokens among its --view",
        )
    pieces = (PromptPiece(0, len(one.prompt), "", "ids"),)
    return [Entry(0, 0, ExplorationOpened(record.run, record.title, one.title, one.prompt, pieces, answer))]


COMMANDS = {
    "explore": Command(
        _explore,
        "[RUN] [NAME] [--at N --token TEXT|#RANK | --more K | --edit PIECE=TEXT] [--branch N] [-o NAME] [--copy N] [--text]   "
        "go on from any token of a gen: with an alternative, with further texts, or after an edit of the prompt; "
        "live in a page, where clicks and keys do the same",
        2,
        {
            "--at": "the position of a token, from 0",
            "--token": "an alternative at --at: its text, or #2 for the second likeliest",
            "--more": "how many further texts to sample from --at on",
            "--edit": "PIECE=TEXT: another text for a piece of the prompt",
            "--branch": "the branch that is meant; the answer is 0",
            "--temperature": "of what is generated; 0 by default, 1 for --more",
            "--max-tokens": "a number of tokens",
            "-o": "a name for the state of the last branch, or of --branch",
            "--copy": "a branch, to print as a cell that says it again",
            "--text": "",
        },
        takes_runs=True,
        names_in=completions,
    )
}
