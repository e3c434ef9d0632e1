"""Text to token ids and back, from a folder's `tokenizer.json`.

It differs from a plain tokenizer in two ways. Special tokens are recognised in markup only, so text
that spells one stays text. A space that a sentencepiece tokenizer would put before every text is
added once, at the start of a prompt, so pieces can be encoded separately. Imports neither torch nor
transformers.
"""

from __future__ import annotations

import json
import secrets
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, cast

import tokenizers

from ...contracts.errors import BackendUnsupported, BadArgument, ModelDamaged, ModelError
from ...contracts.port import Message, ReasoningMarks, Segment
from ...contracts.prefixes import nearest
from ...contracts.spans import text_of
from ...contracts.tools import ToolStyle
from ..files.small import json_object, read_bytes, read_json
from .chat import ChatTemplate
from .reasoning_marks import reasoning_marks_of
from .specials import Prefix, Settled, Special, Specials
from .tool_style import tool_style_of
from .vocab import TURN_ENDS

MAX_TOKENIZER = 64 << 20
_MAX_SETTLED = 32
"""renderings that are kept for continuation"""


class Files(NamedTuple):
    """What describes a tokenizer."""

    origin: str
    """where it is, for errors"""
    text: bytes
    """`tokenizer.json`"""
    config: Mapping[str, object]
    """`tokenizer_config.json`"""
    ends: Sequence[int]
    """end-of-sequence ids that other files name"""
    template: str | None

    @classmethod
    def read(cls, folder: Path) -> Files:
        """ModelMissing, ModelDamaged."""
        path, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
        text, config = read_bytes(path, most=MAX_TOKENIZER), read_json(settings) if settings.exists() else {}
        named = [read_json(other) for name in ("config.json", "generation_config.json") if (other := folder / name).exists()]
        return cls(str(path), text, config, [index for one in named for index in _ids(one)], _template(folder, config))

    @classmethod
    def made(cls, files: Mapping[str, Mapping[str, object]], origin: str) -> Files:
        """Of files that were never written."""
        text, config = json.dumps(files["tokenizer.json"], ensure_ascii=False).encode(), files["tokenizer_config.json"]
        return cls(origin, text, config, [index for one in files.values() for index in _ids(one)], _template(None, config))


class Tokenizer:
    """The tokenizer of a model whose embedding has `n_vocab` rows, in a folder or already read.
    ModelMissing, ModelDamaged, ModelError.
    """

    def __init__(self, source: Path | Files, n_vocab: int) -> None:
        files = source if isinstance(source, Files) else Files.read(source)
        path, text, config, ends, template = files
        data = json_object(text, path)
        self.n_vocab = n_vocab
        self._prefix = _take_prefix(data)
        added = data.get("added_tokens") or []
        try:
            # Some fine-tunes name added tokens that their embedding has no row for.
            data["added_tokens"] = [token for token in added if _below(token["id"], n_vocab)]
            special = [token for token in data["added_tokens"] if token["special"]]
            specials = {token["content"]: token["id"] for token in special}
            self._specials = Specials(
                {token["content"]: Special(token["id"], bool(token.get("lstrip")), bool(token.get("rstrip"))) for token in special}
            )
            if self._prefix or len(data["added_tokens"]) < len(added):
                text = json.dumps(data, ensure_ascii=False).encode()
            vocab = data["model"]["vocab"]
            ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
            if not all(_below(index, n_vocab) for index in ids):
                raise ValueError(f"it has tokens beyond the model's vocabulary of {n_vocab}")
            self._tokenizer = _built(text)
            self._plain = _without_specials(data, specials) or self._tokenizer
            """for text, which spells no special token; the setting stays, so that threads encode
            without a lock
            """
            leading = self._leading()
            self._plain.encode_special_tokens = True
            self._added: dict[int, str] = {index: token.content for index, token in self._tokenizer.get_added_tokens_decoder().items()}
            self.special_ids = frozenset(index for index in specials.values() if index in self._added)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelDamaged(f"{path} is not a usable tokenizer: {error}", hint="fetch the model again") from None
        kinds = {step.get("type") for step in _steps(data.get("decoder"))}
        if not kinds & {"ByteLevel", "ByteFallback", "Metaspace"}:
            raise ModelError(f"{path}: only byte-level and sentencepiece tokenizers are supported")
        self._byte_level = "ByteLevel" in kinds
        self._bytes: dict[int, bytes] = {}
        named = {name: _content(config.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
        variables = {name: text for name, text in named.items() if text is not None}
        self._bos = variables.get("bos_token", "") if config.get("add_bos_token") is True else ""
        if leading:
            self._bos = "".join(self._added.get(index, "") for index in leading)
        self.eos_ids = frozenset(
            index
            for index in (
                *ends,
                self._tokenizer.token_to_id(variables.get("eos_token", "")),
                *(index for text, index in specials.items() if text in TURN_ENDS),
            )
            if _below(index, n_vocab)
        )
        self._chat = None if template is None else ChatTemplate(template, variables, list(specials))
        self._settled: deque[Settled] = deque(maxlen=_MAX_SETTLED)
        self._start = _start(specials, variables, self._bos, template or "")

    @property
    def has_chat_template(self) -> bool:
        return self._chat is not None

    @cached_property
    def tool_style(self) -> ToolStyle | None:
        """How the chat template describes tools, if it does so at the end of the system turn."""
        return None if self._chat is None else tool_style_of(self._chat)

    @cached_property
    def reasoning_marks(self) -> ReasoningMarks | None:
        """What the model writes around its reasoning, if its chat template or an added token says so."""
        return reasoning_marks_of(self._chat, self._added.values())

    def encode(self, text: str, *, markup: bool = False) -> tuple[int, ...]:
        """Token ids of `text` as a piece of a longer text: no BOS, no space before it. Special
        tokens only in markup.
        """
        if markup:
            return self.encode_all(self._specials.settled((Segment(text, True),), None).segments)
        try:
            return tuple(self._plain.encode(text, add_special_tokens=False).ids)
        except (UnicodeEncodeError, TypeError):
            raise BadArgument("the text has characters that UTF-8 cannot hold (half a surrogate pair)") from None

    def encode_all(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        """Token ids of several pieces as one text, split only at the special tokens of markup."""
        ids: list[int] = []
        for text, special in self._specials.runs(segments):
            ids += self.encode(text) if special is None else (special,)
        return tuple(ids)

    def _leading(self) -> list[int]:
        """The text before every text that is encoded for the model."""
        for text in ("a", "0", " ", "."):
            bare, whole = self._tokenizer.encode(text, add_special_tokens=False).ids, self._tokenizer.encode(text).ids
            starts = range(len(whole) - len(bare) + 1) if bare else ()
            if (start := next((n for n in starts if whole[n : n + len(bare)] == bare), None)) is not None:
                return list(whole[:start])
        return []

    def decode(self, ids: Iterable[int], *, special: bool = True) -> str:
        """Text of `ids`, with or without special tokens. Bytes that are not UTF-8 become U+FFFD; no
        character goes on behind a special token.
        """
        if special:
            return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")
        runs = groupby(ids, key=lambda token: token in self.special_ids or token in self.eos_ids)
        shown = (b"".join(map(self.token_bytes, run)) for is_hidden, run in runs if not is_hidden)
        return "".join(data.decode("utf-8", errors="replace") for data in shown)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token, or a position of a block, stands for; none for ids without a token."""
        known = self._bytes.get(token)
        if known is None:
            if token < 0:
                return text_of(token).encode()
            known = self._bytes[token] = self._spelled(token)
        return known

    def _spelled(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.id_to_token(token) if 0 <= token < self.n_vocab else None
        if piece is None:
            return b""
        if self._byte_level:
            return b"".join(bytes((_BYTE_OF[char],)) if char in _BYTE_OF else char.encode() for char in piece)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes.fromhex(piece[3:5])
        return piece.replace("▁", " ").encode()

    def render_text(self, text: str) -> tuple[Segment, ...]:
        """The text before a prompt without roles (a BOS if the model uses one), then the text."""
        segments = (Segment(self._bos, True), Segment(self._prefix.before(text) if self._prefix else text, False))
        return tuple(segment for segment in segments if segment.text)

    def render_start(self) -> tuple[Segment, ...]:
        """The text before a text that the model begins itself: BOS, or the separator of texts in
        its training.
        """
        return (Segment(self._start, True),) if self._start else ()

    def render_chat(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> tuple[Segment, ...]:
        """The chat template over `messages`. BackendUnsupported without one; BadArgument if the
        template refuses them.
        """
        if self._chat is None:
            raise BackendUnsupported("this model has no chat template", hint="use plain text without roles, or an instruct model")
        segments = self._chat.segments(messages, add_generation_prompt)
        _, earlier = nearest(reversed(tuple(self._settled)), attrgetter("given"), segments)
        settled = self._specials.settled(segments, self._prefix, earlier)
        self._settled.append(settled)
        return settled.segments


def _without_specials(data: dict[str, Any], specials: Mapping[str, int]) -> tokenizers.Tokenizer | None:
    """A tokenizer that cannot produce special tokens from text; a unigram has them among its
    pieces.
    """
    model = data["model"]
    if model.get("type") != "Unigram":
        return None
    secret = secrets.token_hex(8)
    hidden = [
        [f"\U0010fffd{secret}{index}" if piece in specials and index != model.get("unk_id") else piece, score]
        for index, (piece, score) in enumerate(model["vocab"])
    ]
    added = [token for token in data["added_tokens"] if not token["special"]]
    return _built(json.dumps(data | {"model": model | {"vocab": hidden}, "added_tokens": added}, ensure_ascii=False).encode())


def _start(specials: Mapping[str, int], named: Mapping[str, str], bos: str, template: str) -> str:
    """The token before a text: BOS, unless turns begin with it; otherwise the one that ends a text."""
    bos = bos or named.get("bos_token", "")
    end = named.get("eos_token", "")
    marks_turns = bos in template and "bos_token" not in template if bos else False
    candidates = ("" if marks_turns else bos, "<|endoftext|>", "" if end in TURN_ENDS else end, bos)
    return next((token for token in candidates if token in specials), "")


def _built(text: bytes) -> tokenizers.Tokenizer:
    try:
        built = tokenizers.Tokenizer.from_buffer(text)
    except BaseException as error:
        # A panic of the Rust side is a BaseException of its own.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ValueError(str(error)) from None
        raise
    built.no_truncation()
    built.no_padding()
    return built


def _steps(component: object) -> list[dict[str, object]]:
    """The parts of a normalizer, pre-tokenizer or decoder, a sequence opened."""
    if not isinstance(component, dict):
        return []
    for key in ("normalizers", "pretokenizers", "decoders"):
        if isinstance(parts := component.get(key), list):
            return [part for part in parts if isinstance(part, dict)]
    return [component]


def _take_prefix(data: dict[str, object]) -> Prefix | None:
    """Remove the rule "a space before text" from a `tokenizer.json`, in any spelling. Returns it."""
    prefix = None
    steps = _steps(data.get("normalizer"))
    if any(step.get("type") == "Prepend" for step in steps):
        prefix = Prefix(every=True, doubled=True)
        data["normalizer"] = {"type": "Sequence", "normalizers": [step for step in steps if step.get("type") != "Prepend"]}
    for step in _steps(data.get("pre_tokenizer")):
        if step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            prefix = Prefix(every=step.get("prepend_scheme") != "first", doubled=False)
            step["prepend_scheme"] = "never"
        if step.get("type") == "ByteLevel" and step.get("add_prefix_space"):
            prefix = Prefix(every=True, doubled=False)
            step["add_prefix_space"] = False
    return prefix


def _below(index: object, n_vocab: int) -> bool:
    return type(index) is int and 0 <= index < n_vocab


def _content(token: object) -> str | None:
    """A special token in a configuration is a string, or an object with its content."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _ids(config: Mapping[str, object]) -> list[int]:
    """The end-of-sequence ids that a configuration names."""
    value = config.get("eos_token_id")
    return cast(list[int], value if isinstance(value, list) else [] if value is None else [value])


def _template(folder: Path | None, config: Mapping[str, object]) -> str | None:
    path = None if folder is None else folder / "chat_template.jinja"
    try:
        if path is not None and path.exists() and path.stat().st_size <= 1 << 20:
            return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelDamaged(f"cannot read {path}: {error}") from None
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _byte_table() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    table |= {chr(256 + n): byte for n, byte in enumerate(byte for byte in range(256) if byte not in printable)}
    return table


_BYTE_OF = _byte_table()
