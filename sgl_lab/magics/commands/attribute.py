"""Which pieces of a prompt made the model answer so, and where a token's attention lay."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...contracts.port import ScoreJob
from ...viz.draw import attention as draw_attention
from ...viz.draw import blame as draw_blame
from ...viz.explain.attention import attention
from ...viz.explain.attribution.blame import blame
from ...viz.explain.attribution.pieces import KINDS, pieces
from ...viz.views.asked import Asked, asked
from ...viz.views.inspection import inspections
from ..options import OptionError, nearest
from ..session import Session
from ..shell import Shell
from .command import Command, Words, show
from .history import completions, is_called, names_of

if TYPE_CHECKING:
    from ...session import Lab
    from ...trace import Record

_RANGE = re.compile(r"(\d+)(?:\.\.(\d+))?")


def _blame(shell: Shell, session: Session, words: Words) -> None:
    """`blame NAME`: score the answer NAME after ablated prompts."""
    by = words.options.get("--by", KINDS[0])
    if by not in KINDS:
        raise nearest(by, KINDS, "piece after --by")
    seed = words.options.get("--seed", "0")
    if not re.fullmatch(r"\d{1,9}", seed):
        raise OptionError(f"--seed cannot be {seed!r:.60}", hint="it takes a whole number, 0 or more")
    record, lab, one = _answer(session, words, "%sgl blame")
    of = None
    if (wanted := words.options.get("--of")) is not None:
        if one.shown.kind == "select":
            raise OptionError("--of is for the tokens of a gen", hint=f"{one.title} is a select, which is explained as a whole")
        of = _tokens(wanted, one, lab.spell, "--of")
    adapter, blocks = lab.adapter_of(record.namespaces.get(one.shown.request, ())), lab.blocks_of(one.ids)

    def job(prompt: tuple[int, ...], choices: tuple[tuple[int, ...], ...]) -> ScoreJob:
        return ScoreJob(prompt, choices, blocks=blocks, adapter=adapter)

    parts = pieces(one.prompt, by, lab.spell)
    found = blame(one, parts, lab.score, by=by, of=of, seed=int(seed), job=job)
    session.blamed[record.run, one.title] = found
    counts = {"pieces": len(parts), "scored": found.n_scored, "naive_tokens": found.n_naive}
    show(shell, words, draw_blame.html(found, lab.spell), draw_blame.text(found, lab.spell), counts)


def _attention(shell: Shell, session: Session, words: Words) -> None:
    """`attention NAME [TOKEN]`: recompute where the attention lay that drew a token of the answer."""
    record, lab, one = _answer(session, words, "%sgl attention")
    at = 0 if words.name(1) is None else _tokens(str(words.name(1)), one, lab.spell, "TOKEN")[0]
    if lab.adapter_of(record.namespaces.get(one.shown.request, ())) is not None:
        raise OptionError(f"{one.title} was answered with an adapter, whose attention is not read", hint="run it without the adapter")
    layer, head = (_number(words, flag) for flag in ("--layer", "--head"))
    if head is not None and layer is None:
        raise OptionError("--head is that of a layer", hint="give --layer too")
    weights = lab.attention((*one.ids, *one.answer[:at]))
    for flag, number, most in (("--layer", layer, len(weights)), ("--head", head, len(weights[0]))):
        if number is not None and number >= most:
            raise OptionError(f"{flag} {number} is not in {lab.card.name}", hint=f"give a number from 0 to {most - 1}")
    found = attention(one.title, one.ids, one.answer, at, weights, layer=layer, head=head)
    known = session.blamed.get((record.run, one.title))
    page, plain = draw_attention.html(found, lab.spell, known), draw_attention.text(found, lab.spell, known)
    show(shell, words, page, plain, {"tokens": len(found.ids), "layers": len(weights), "heads": len(weights[0])})


def _answer(session: Session, words: Words, what: str) -> tuple[Record, Lab, Asked]:
    """The answer that the words name, in the last run or that of --run, and the lab that gave it.
    OptionError if there is none, or if its model is gone.
    """
    record = session.run(words.options.get("--run"))
    found = inspections(record.entries)
    if not found:
        raise OptionError(f"{record.title} sent no request to the model", hint="run a %%sgl cell first, or name a run: --run RUN")
    name = words.name()
    named = [one for one in found if name is None or is_called(one, name)]
    if not named:
        raise nearest(str(name), names_of(found), f"gen, select or fork of {record.title}")
    lab = _lab(session, record, what)
    answered = asked(record.entries, _specials(lab))
    requests = {one.request for one in named}
    chosen = [one for one in answered if one.shown.request in requests]
    if not chosen:
        raise OptionError(f"no answer of {named[-1].title} is recorded", hint="it failed, was stopped, or generated no token")
    if len(chosen) > 1 and name is not None:
        titles = ", ".join(f'"{one.title}"' for one in chosen[:6])
        raise OptionError(f"{name!r} names {len(chosen)} answers", hint=f"name one of them: {titles}")
    return record, lab, chosen[-1]


def _lab(session: Session, record: Record, what: str) -> Lab:
    from ...session import Lab

    lab = session.lab_of(record) or session.lab_with(record.namespace)
    if lab is None or not lab.is_open:
        raise OptionError(f"the model of {record.title} is gone, and {what} scores with it", hint="load it, run the cell again")
    if not isinstance(lab, Lab):
        raise OptionError(f"{what} needs the engine in this kernel, and {record.title} ran on {lab.title}", hint="%sgl backend local")
    return lab


def _specials(lab: Lab) -> Callable[[int], bool]:
    """Whether a token is one that text never contains."""
    known: dict[int, bool] = {}

    def is_special(token: int) -> bool:
        if token not in known:
            decode = lab.backend.decode
            known[token] = token >= 0 and not decode((token,), special=False) and bool(decode((token,)))
        return known[token]

    return is_special


def _tokens(word: str, one: Asked, spell: Callable[[int], str], what: str) -> tuple[int, int]:
    """The tokens of the answer that `3`, `3..7` (both included) or a text in it stands for, as
    beginning and end.
    """
    n = len(one.answer)
    if (found := _RANGE.fullmatch(word)) and (first := int(found[1])) <= (last := int(found[2] or found[1])) < n:
        return first, last + 1
    texts = [spell(token) for token in one.answer]
    start = "".join(texts).find(word)
    if start < 0 or not word:
        hint = f"give a place from 0 to {n - 1}, a range such as 0..{n - 1}, or a text that is in it"
        raise OptionError(f"{what} {word!r:.60} is not in the answer of {one.title}", hint=hint)
    ends = [sum(map(len, texts[: at + 1])) for at in range(n)]
    return next(at for at, end in enumerate(ends) if end > start), next(at for at, end in enumerate(ends) if end >= start + len(word)) + 1


def _number(words: Words, flag: str) -> int | None:
    word = words.options.get(flag)
    if word is None:
        return None
    if not re.fullmatch(r"\d{1,6}", word):
        raise OptionError(f"{flag} cannot be {word!r:.60}", hint="it takes a whole number, 0 or more")
    return int(word)


def _named(session: Session, before: Sequence[str]) -> tuple[str, ...]:
    return () if before else completions(session, before)


_RUN = {"--run": "RUN", "--text": ""}

COMMANDS = {
    "blame": Command(
        _blame,
        f"NAME [--by {'|'.join(KINDS)}] [--of TOKENS] [--seed N] [--run RUN] [--text]   which pieces of the prompt made it answer "
        "NAME so: the answer scored after prompts without them",
        1,
        {"--by": "|".join(KINDS), "--of": "a place, a range such as 0..3, or a text in the answer", "--seed": "N", **_RUN},
        names_in=_named,
        after=lambda session: {"--by": KINDS, "--run": session.run_names()},
    ),
    "attention": Command(
        _attention,
        "NAME [TOKEN] [--layer N] [--head N] [--run RUN] [--text]   where the attention lay that drew a token of the answer NAME: "
        "its place or a text in it",
        2,
        {"--layer": "the number of a layer", "--head": "the number of a head", **_RUN},
        names_in=_named,
        after=lambda session: {"--run": session.run_names()},
    ),
}
