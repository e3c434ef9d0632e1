"""`%sgl COMMAND`: the model, the state of the engine, and the pictures again."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..viz.draw import html, svg, text
from .desk import Desk
from .options import OptionError, cell_help, nearest
from .show import Folded, Place, in_kernel, loading, tree_of

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
    action, options, _ = command
    for word in rest:
        if word.startswith("-") and word not in options:
            raise nearest(word, options, "option") if options else OptionError(f"%sgl {name} takes no options, not {word!r}")
    with desk.interrupts.watched(""):
        action(shell, desk, rest)


def words() -> dict[str, tuple[str, ...]]:
    """Each command and what may follow it, for completion."""
    from ..session import BUILT_IN

    return {name: options for name, (_, options, _) in COMMANDS.items()} | {"model": (BUILT_IN,)}


def line_help() -> str:
    return "\n".join(["%sgl COMMAND", "", *(f"  {name:<12}{what}" for name, (_, _, what) in COMMANDS.items())])


# ---------------------------------------------------------------- commands


def _model(shell: Any, desk: Desk, rest: list[str]) -> None:
    if len(rest) > 1:
        raise OptionError("%sgl model takes one name", hint="a path with spaces goes into quotes")
    lab = _lab(shell, desk, rest[0] if rest else None)
    card = lab.card
    print(f"{card.name} on {card.device} in {card.dtype}, context {card.context:,} tokens, vocabulary {card.vocab:,}")


def _status(shell: Any, desk: Desk, rest: list[str]) -> None:
    _none_expected("status", rest)
    lab = _lab(shell, desk)
    stats, card = lab.stats(), lab.card
    used = stats["pages_total"] - stats["pages_free"]
    nodes = lab.snapshot().nodes
    counts = {name: stats[name] for name in ("prompt_tokens", "cached_tokens", "computed_tokens", "generated_tokens", "evicted_tokens")}
    counts |= {"nodes": len(nodes), "tree_tokens": sum(len(node.tokens) for node in nodes)}
    share = f"{stats['hit_rate']:.1%}  ({stats['cached_tokens']:,} of {stats['prompt_tokens']:,} prompt tokens came from the tree)"
    rows = [
        ("model", f"{card.name} · {card.device} · {card.dtype}"),
        ("hit rate", share),
        ("computed", f"{stats['computed_tokens']:,} tokens, generated {stats['generated_tokens']:,}, in {stats['steps']:,} steps"),
        ("radix tree", f"{counts['nodes']:,} nodes, {counts['tree_tokens']:,} tokens, {stats['evicted_tokens']:,} evicted"),
        ("cache", f"{used:,} of {stats['pages_total']:,} pages in use"),
        ("requests", f"{stats['requests_running']} running, {stats['requests_waiting']} waiting"),
    ]
    plain = "\n".join(f"{name:<12}{value}" for name, value in rows)
    _show(shell, {"text/html": html.table(rows).source, "text/plain": plain}, counts)


def _tree(shell: Any, desk: Desk, rest: list[str]) -> None:
    _none_expected("tree", [word for word in rest if word != "--text"])
    lab = _lab(shell, desk)
    nodes = tree_of(lab.snapshot(), lab.spell).full()
    plain = text.tree(nodes)
    if "--text" in rest:
        print(plain)
        return
    counts = {"nodes": len(nodes["nodes"]), "tree_tokens": sum(row["n"] for row in nodes["nodes"])}
    _show(shell, {"text/html": html.picture(svg.tree(nodes), plain.split("\n", 1)[0]).source, "text/plain": plain}, counts)


def _timeline(shell: Any, desk: Desk, rest: list[str]) -> None:
    _none_expected("timeline", [word for word in rest if word != "--text"])
    if desk.last is None:
        raise OptionError("nothing has run yet", hint="run a %%sgl cell first")
    bars = Folded(desk.last).lanes.full()
    plain = text.lanes(bars)
    if "--text" in rest:
        print(plain)
        return
    picture = html.picture(svg.lanes(bars), plain.split("\n", 1)[0])
    _show(shell, {"text/html": picture.source, "text/plain": plain}, {"lanes": len(bars["lanes"])})


def _stop(shell: Any, desk: Desk, rest: list[str]) -> None:
    _none_expected("stop", rest)
    from ..session import current_lab

    lab = current_lab()
    n_stopped = lab.stop() if lab is not None else 0
    print(f"stopped {n_stopped} request{'' if n_stopped == 1 else 's'}" if n_stopped else "nothing is running")


def _help(shell: Any, desk: Desk, rest: list[str]) -> None:
    _none_expected("help", rest)
    print(cell_help() + "\n\n" + line_help())


COMMANDS: dict[str, tuple[Command, tuple[str, ...], str]] = {
    "model": (_model, (), "[NAME]     show the model, or load another: built-in name, hub id, folder or .gguf file"),
    "status": (_status, (), "hit rate, tokens, tree, pages"),
    "tree": (_tree, ("--text",), "[--text]   the radix tree as it is now"),
    "timeline": (_timeline, ("--text",), "[--text]   the lanes of the last run"),
    "stop": (_stop, (), "abort every request, also of programs that stream"),
    "help": (_help, (), "this"),
}


# ---------------------------------------------------------------- parts


def _lab(shell: Any, desk: Desk, model: str | None = None) -> Lab:
    with loading(Place(shell)) as report:
        return desk.ready_lab(report, model)


def _none_expected(name: str, rest: list[str]) -> None:
    if rest:
        raise OptionError(f"%sgl {name} takes nothing more, not {rest[0]!r}")


def _show(shell: Any, bundle: dict[str, str], counts: dict[str, int]) -> None:
    if in_kernel(shell):
        Place(shell).show(bundle, {"sgl_lab": {"counts": counts}})
    else:
        print(bundle["text/plain"])
