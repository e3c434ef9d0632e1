"""Compiled constraints. Each is compiled once, on its caller's thread, and started once per sample.

Knows tokens and bytes; nothing of requests, steps or models. The parser underneath is llguidance's.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

from ..contracts.errors import BackendUnsupported, BadArgument
from ..contracts.params import MAX_SOURCE, Constraint
from ..contracts.patterns import python
from ..contracts.patterns.machine import Machine
from ..contracts.patterns.tree import Chain, Node, Text, chain, for_library
from . import completion
from .completion import LONGEST, Completions, Tokens
from .matcher import Matcher, Prototypes
from .schema import spelled

if TYPE_CHECKING:
    from llguidance import LLTokenizer

KEPT = 128
"""compiled constraints; the one used longest ago is forgotten first"""


class Spelling(completion.Spelling, Protocol):
    """The required interface of a tokenizer. `special_ids` are tokens that no text spells."""

    def encode(self, text: str) -> tuple[int, ...]: ...


class Compiled(NamedTuple):
    prototypes: Prototypes
    completion: Tokens | None
    """path from the beginning to a whole text"""
    machine: Machine | None
    """tree of the texts, if it is known"""


class Grammars:
    """May be used from any thread. With `jump`, tokens forced by a constraint are appended without
    a draw.
    """

    def __init__(self, spelling: Spelling, *, jump: bool = True) -> None:
        self._spelling = spelling
        self._jump = jump
        self._lock = threading.Lock()
        self._tokens: tuple[LLTokenizer, Completions] | None = None
        self._compiled: OrderedDict[Constraint, Compiled] = OrderedDict()
        self._compiling: WeakValueDictionary[Constraint, threading.Lock] = WeakValueDictionary()
        """held by the thread that compiles one; gone with the last thread that waits for it"""

    def start(self, constraint: Constraint, most: int | None = None, *, begun: Tokens = ()) -> Matcher:
        """A matcher after the first tokens of a text, `begun`, with at most `most` tokens after them;
        those of its seam are not counted.

        BadArgument or BackendUnsupported if there can be none, or if no text begins with these.
        """
        prototypes, path, machine = self.prepare(constraint)
        most = None if most is None else most + len(begun)
        if path is not None and most is not None and len(path) - self._n_inside(path, constraint.seam) > most:
            path = None
        tokenizer, completions = self._tokenizer()
        matcher = Matcher(prototypes, tokenizer, self._spelling.n_vocab, self._jump, completions, path, machine, constraint.seam)
        for n, token in enumerate(begun, 1):
            if not matcher.allows(token):
                words = self._spelling.token_bytes(token).decode(errors="replace")
                raise BadArgument(
                    f"token {n} of the text's beginning, {words!r:.40}, is not allowed by its {constraint.kind}",
                    hint="choose another token there",
                )
            if not matcher.keeps_completion(token, (most or LONGEST) - n):
                matcher.completion = None
            matcher.take(token)
        return matcher

    def allowed(self, constraint: Constraint, begun: Tokens, tokens: Tokens) -> tuple[bool, ...]:
        """Which of `tokens` may follow the first tokens of a text. Errors as of `start`."""
        return tuple(map(self.start(constraint, begun=begun).allows, tokens))

    def _n_inside(self, path: Tokens, seam: str) -> int:
        """How many of a path's first tokens spell only `seam`."""
        n_bytes, n = len(seam.encode()), 0
        while n < len(path) and n_bytes:
            n_bytes -= len(self._spelling.token_bytes(path[n]))
            if n_bytes < 0:
                break
            n += 1
        return n

    def prepare(self, constraint: Constraint) -> Compiled:
        """As `start`, for later."""
        if (known := self._known(constraint)) is not None:
            return known
        with self._lock:
            compiling = self._compiling.setdefault(constraint, threading.Lock())
        with compiling:  # the forks of a program ask for the same all at once
            if (known := self._known(constraint)) is not None:
                return known
            made = self._made(constraint)
            with self._lock:
                self._compiled[constraint] = made
                while len(self._compiled) > KEPT:
                    self._compiled.popitem(last=False)
        return made

    def _known(self, constraint: Constraint) -> Compiled | None:
        with self._lock:
            if (known := self._compiled.get(constraint)) is not None:
                self._compiled.move_to_end(constraint)
            return known

    def _made(self, constraint: Constraint) -> Compiled:
        kind, source = constraint.kind, constraint.source
        if len(source) > MAX_SOURCE:
            raise BadArgument(f"a {kind} of {len(source)} characters is too long", hint=f"at most {MAX_SOURCE} are taken")
        tokenizer, completions = self._tokenizer()
        try:
            grammar, tree, rules = _grammar(kind, source, constraint.lead)
            if constraint.seam:
                grammar = _after(constraint.seam, grammar)
                tree = tree and chain((Text(constraint.seam), tree))
        except RecursionError:
            raise BadArgument(f"the {kind} is nested too deeply, or too large") from None
        prototypes, error = Prototypes.of(tokenizer, grammar)
        if error.startswith("NoExtension"):
            raise BadArgument(f"no text can satisfy the {kind}")
        if error:
            raise BadArgument(f"the {kind} cannot be kept: {readable(error)}")
        machine = None if tree is None else Machine(tree, rules, completions.n_tokens)
        at = None if machine is None else (machine, machine.start, b"")
        path = completions.path(prototypes.first.deep_copy(), at, LONGEST)
        if path is None and prototypes.is_light:
            path = completions.path(prototypes.full().deep_copy(), at, LONGEST)
        return Compiled(prototypes, path, machine)

    def _tokenizer(self) -> tuple[LLTokenizer, Completions]:
        with self._lock:
            if self._tokens is None:
                self._tokens = _tokenizer(self._spelling), Completions(self._spelling)
            return self._tokens


def _grammar(kind: str, source: str, lead: str) -> tuple[str, Node | None, Mapping[str, Node]]:
    """The constraint in the library's form; and the tree of its texts with the rules that it names,
    if it is known.
    """
    from llguidance import LLMatcher

    from .limits import check_lark

    match kind:
        case "regex":
            tree = python.read(source)
            if lead:
                tree = Chain((python.read(lead), tree))
            return LLMatcher.grammar_from_regex(for_library(tree)), tree, {}
        case "grammar":
            check_lark(source)
            return LLMatcher.grammar_from_lark(_led(source, lead)), None, {}
        case _:
            grammar, tree, rules = spelled(source)
            return _led(grammar, lead), Chain((python.read(lead), tree)) if lead else tree, rules


def _led(grammar: str, lead: str) -> str:
    """The Lark grammar of a text that `lead` matches, and then one of `grammar`."""
    if not lead:
        return grammar
    inner = grammar.removeprefix("%llguidance {}")
    return f"%llguidance {{}}\nstart: LEAD text\nLEAD: /{for_library(python.read(lead))}/\ntext: %lark {{\n{inner}\n}}\n"


def _after(seam: str, grammar: str) -> str:
    """The grammar of the same texts with `seam` before them."""
    parts = json.loads(grammar)["grammars"] if grammar.startswith('{"grammars"') else [{"lark_grammar": grammar}]
    first = {key: value for key, value in parts[0].items() if value is not None} | {"name": "text"}
    return json.dumps({"grammars": [{"lark_grammar": f"start: {json.dumps(seam)} @text"}, first, *parts[1:]]})


def readable(error: str) -> str:
    """The library's error message in one line: the problem and its position."""
    lines = [line.strip() for line in error.splitlines()]
    return "; ".join(line for line in lines if line and not set(line) <= set("^ |"))[:300]


class _Adapter:
    """A tokenizer as the library wants to see it."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, spelling: Spelling) -> None:
        special = spelling.special_ids
        self.eos_token_id = min(spelling.eos_ids)
        self.tokens = [
            spelling.token_bytes(token) or (f"<|{token}|>".encode() if token in special else b"") for token in range(spelling.n_vocab)
        ]
        self.special_token_ids = sorted(special)
        self._encode = spelling.encode

    def __call__(self, text: str) -> Sequence[int]:
        return list(self._encode(text))


def _tokenizer(spelling: Spelling) -> LLTokenizer:
    try:
        from llguidance import LLTokenizer
    except ImportError:
        raise BackendUnsupported("constraints need llguidance, which is not installed", hint="pip install llguidance") from None
    if not spelling.eos_ids:
        raise BackendUnsupported("this model has no token that ends a text, which a constraint needs")
    adapter: Any = _Adapter(spelling)
    return LLTokenizer(adapter, n_vocab=spelling.n_vocab, eos_token=sorted(spelling.eos_ids))
