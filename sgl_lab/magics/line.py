"""`%sgl COMMAND`: the model, the state of the engine, and the pictures again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..viz.draw import asked as draw_asked
from ..viz.draw import html, stats, svg, text
from ..viz.draw.escape import Markup, joined
from ..viz.draw.numbers import counted
from ..viz.views.asked import asked
from .desk import Desk
from .options import OptionError, cell_help, nearest
from .show import Folded, Place, in_kernel, loading, tree_counts, tree_of

if TYPE_CHECKING:
    from ..session import Lab

Command = Callable[[Any, Desk, list[str]], None]


def run_line(shell: Any, desk: Desk, line: str) -> None:
    """Run one line command. OptionError with the nearest right word."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise OptionError(f"cannot read the command: {error}") from None
    name, rest = (words[0], words[1:]) if words else ("help", [])
    command = COMMANDS.get(name)
    if command is None:
        raise nearest(name, COMMANDS, "command")
    action, options, n_names, _ = command
    for word in rest:
        if word.startswith("-") and word not in options:
            raise nearest(word, options, "option") if options else OptionError(f"%sgl {name} takes no options, not {word!r}")
    names = [word for word in rest if word not in options]
    if len(names) > n_names:
        if n_names:
            raise OptionError(f"%sgl {name} takes one name", hint="a path with spaces goes into quotes")
        raise OptionError(f"%sgl {name} takes nothing more, not {names[0]!r}")
    with desk.interrupts.watched(""):
        action(shell, desk, rest)


def words() -> dict[str, tuple[str, ...]]:
    """Each command and what may follow it, for completion."""
    from ..labs import LABS
    from ..session import BUILT_IN

    models = dict.fromkeys((BUILT_IN, *(lab.model for lab in LABS.parked)))
    return {name: options for name, (_, options, _, _) in COMMANDS.items()} | {"model": tuple(models)}


def line_help() -> str:
    return "\n".join(["%sgl COMMAND", "", *(f"  {name:<12}{what}" for name, (_, _, _, what) in COMMANDS.items())])


# ---------------------------------------------------------------- commands


def _model(shell: Any, desk: Desk, rest: list[str]) -> None:
    from ..labs import LABS

    lab = _lab(shell, desk, rest[0] if rest else None)
    print(f"{_name(lab)}, context {lab.card.context:,} tokens, vocabulary {lab.card.vocab:,}")
    for parked in reversed(LABS.parked):
        print(f"parked: {_name(parked)}, {parked.n_bytes >> 20:,} MiB with its radix tree")
    if LABS.parked:
        print("%sgl model NAME goes back to one, with its tree as it was; %sgl free gives their memory back")


def _free(shell: Any, desk: Desk, rest: list[str]) -> None:
    from ..labs import LABS

    n_labs, n_bytes = len(LABS.parked), LABS.free()
    print(f"closed {counted(n_labs, 'parked model')}: {n_bytes >> 20:,} MiB freed" if n_labs else "no model is parked")


def _status(shell: Any, desk: Desk, rest: list[str]) -> None:
    lab = _lab(shell, desk)
    found, card = lab.stats(), lab.card
    used = found["pages_total"] - found["pages_free"]
    nodes = lab.snapshot().nodes
    counts = _token_counts(found)
    counts |= {"nodes": len(nodes), "tree_tokens": sum(len(node.tokens) for node in nodes)}
    share = f"{found['hit_rate']:.1%}  ({found['cached_tokens']:,} of {found['prompt_tokens']:,} prompt tokens came from the tree)"
    rows = [
        ("model", f"{card.name} · {card.device} · {card.dtype}"),
        ("hit rate", share),
        ("computed", f"{found['computed_tokens']:,} tokens, generated {found['generated_tokens']:,}, in {found['steps']:,} steps"),
        ("radix tree", f"{counts['nodes']:,} nodes, {counts['tree_tokens']:,} tokens, {found['evicted_tokens']:,} evicted"),
        ("cache", f"{used:,} of {found['pages_total']:,} pages in use"),
        ("requests", f"{found['requests_running']} running, {found['requests_waiting']} waiting"),
    ]
    plain = "\n".join(f"{name:<12}{value}" for name, value in rows)
    _show(shell, {"text/html": html.table(rows).source, "text/plain": plain}, counts)


def _stats(shell: Any, desk: Desk, rest: list[str]) -> None:
    lab = _lab(shell, desk)
    found, title = lab.stats(), f"{lab.card.name} · {lab.card.device} · {lab.card.dtype}"
    _show(shell, {"text/html": stats.html(title, found).source, "text/plain": stats.text(title, found)}, _token_counts(found))


def _token_counts(found: Mapping[str, int]) -> dict[str, int]:
    """What comes out the same whenever a program is run again; how much is guessed in vain depends on who ran beside whom."""
    counts = {name: found[name] for name in ("prompt_tokens", "cached_tokens", "generated_tokens", "evicted_tokens")}
    return counts | {"computed_tokens": found["computed_tokens"] - found["rejected_tokens"]}


def _tree(shell: Any, desk: Desk, rest: list[str]) -> None:
    lab = _lab(shell, desk)
    nodes = tree_of(lab.snapshot(), lab.spell).full()
    _picture(shell, rest, svg.tree(nodes), text.tree(nodes), tree_counts(nodes))


def _timeline(shell: Any, desk: Desk, rest: list[str]) -> None:
    if desk.last is None:
        raise OptionError("nothing has run yet", hint="run a %%sgl cell first")
    bars = Folded(desk.last).lanes.full()
    _picture(shell, rest, svg.lanes(bars), text.lanes(bars), {"lanes": len(bars["lanes"])})


def _tokens(shell: Any, desk: Desk, rest: list[str]) -> None:
    """Of the last run: what the model saw and said, under a name or everywhere."""
    if desk.last is None:
        raise OptionError("nothing has run yet", hint="run a %%sgl cell first")
    found, names = asked(desk.last.entries), [word for word in rest if word != "--text"]
    chosen = [one for one in found if one.name == names[0]] if names else list(found)
    if not chosen:
        if names and found:
            raise nearest(names[0], {one.name: None for one in found}, "gen or select of the last run")
        raise OptionError("the last run asked the model nothing")
    spelled = desk.last.vocab

    def spell(token: int) -> str:
        return spelled.get(token) or f"<{token}>"

    plain = "\n\n".join(draw_asked.text(one, spell) for one in chosen)
    if "--text" in rest:
        print(plain)
        return
    counts = {"prompt_tokens": sum(len(one.prompt) for one in chosen), "completion_tokens": sum(len(one.samples) for one in chosen)}
    shown = joined([draw_asked.html(one, spell) for one in chosen])
    _show(shell, {"text/html": shown.source, "text/plain": plain}, counts)


def _stop(shell: Any, desk: Desk, rest: list[str]) -> None:
    from ..labs import LABS

    n_stopped = LABS.stop()
    print(f"stopped {counted(n_stopped, 'request')}" if n_stopped else "nothing is running")


def _help(shell: Any, desk: Desk, rest: list[str]) -> None:
    print(cell_help() + "\n\n" + line_help())


COMMANDS: dict[str, tuple[Command, tuple[str, ...], int, str]] = {
    "model": (_model, (), 1, "[NAME]     show the model, or load another: built-in name, hub id, folder or .gguf file"),
    "free": (_free, (), 0, "close the models that are parked: those used before, kept with their trees to go back to"),
    "status": (_status, (), 0, "hit rate, tokens, tree, pages"),
    "stats": (_stats, (), 0, "all that the engine counts: tokens, cache, requests, steps, and where the time went"),
    "tree": (_tree, ("--text",), 0, "[--text]   the radix tree as it is now"),
    "timeline": (_timeline, ("--text",), 0, "[--text]   the lanes of the last run"),
    "tokens": (_tokens, ("--text",), 1, "[NAME] [--text]   the tokens, with ids, that a gen or select of the last run saw and said"),
    "stop": (_stop, (), 0, "abort every request, also of programs that stream"),
    "help": (_help, (), 0, "this"),
}
"""What a command does, the options and how many names may follow it, and its line in the help."""


# ---------------------------------------------------------------- parts


def _name(lab: Lab) -> str:
    return f"{lab.card.name} on {lab.card.device} in {lab.card.dtype}"


def _lab(shell: Any, desk: Desk, model: str | None = None) -> Lab:
    with loading(Place(shell)) as report:
        return desk.ready_lab(report, model)


def _picture(shell: Any, rest: list[str], drawn: Markup, plain: str, counts: dict[str, int]) -> None:
    """The picture with its text twin, or with --text the twin alone."""
    if "--text" in rest:
        print(plain)
    else:
        _show(shell, {"text/html": html.picture(drawn, plain.split("\n", 1)[0]).source, "text/plain": plain}, counts)


def _show(shell: Any, bundle: dict[str, str], counts: dict[str, int]) -> None:
    if in_kernel(shell):
        Place(shell).show(bundle, {"sgl_lab": {"counts": counts}})
    else:
        print(bundle["text/plain"])
