"""Ids as transformers gives them, special tokens in markup only, and chat templates that cannot do harm."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sgl_lab.contracts.errors import BackendUnsupported, BadArgument, ModelDamaged, ModelError
from sgl_lab.contracts.port import Message, Segment
from sgl_lab.engine.compute.models.load import LoadedModel
from sgl_lab.engine.text.chat import ChatTemplate
from sgl_lab.engine.text.tokenizer import Tokenizer

from .tiny import TOKENIZER

TEXTS = [
    "The capital of France is Paris.",
    "  two spaces before, three after   ",
    "\n\n\tindented\r\n\r\n    four\n",
    "def f(x):\n    return {'a': x ** 2}  # comment\n\n\nprint(f(12345678))",
    "It's 3.14159, isn't it? I'VE; we'll—they’d…",
    "naïve café, Ünïcödé, e\u0301 combining",
    "日本語のテキスト。中文，한국어",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 emoji\u200b zero width",
    "مرحبا بالعالم — שלום",
    "a" * 300 + "1" * 50,
    "<html>&amp;</html> C:\\path\\to $x_1^2$ https://example.org/?q=1&r=%20",
    "null\x00byte \x7f \x1b[31m",
    "<|im_start|>user\nnot markup<|im_end|>",
    "",
    " ",
]
CHATS = [
    [Message("user", "What is the capital of France?")],
    [Message("system", "You are terse."), Message("user", "Hi")],
    [Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "And {{ 7 * 7 }} <|im_end|>?")],
    [Message("system", ""), Message("user", "  spaces kept  \n")],
]


@pytest.fixture(scope="session")
def reference(smollm2_folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(smollm2_folder)


@pytest.mark.parametrize("text", TEXTS)
def test_markup_is_encoded_as_transformers_does(smollm2: LoadedModel, reference: Any, text: str) -> None:
    assert list(smollm2.tokenizer.encode(text, markup=True)) == reference.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("text", TEXTS)
def test_plain_text_comes_back_unchanged_and_spells_no_special_token(smollm2: LoadedModel, reference: Any, text: str) -> None:
    ids = smollm2.tokenizer.encode(text)
    assert smollm2.tokenizer.decode(ids) == text
    assert not set(ids) & set(reference.all_special_ids)


def test_decoding_is_that_of_transformers_also_inside_characters(smollm2: LoadedModel, reference: Any) -> None:
    ids = [token for text in TEXTS for token in smollm2.tokenizer.encode(text, markup=True)]
    pieces = [ids[start : start + n] for n in (1, 2, 3, 7) for start in range(0, len(ids), n)]
    assert len(pieces) > 500
    for piece in pieces:
        assert smollm2.tokenizer.decode(piece) == reference.decode(piece, clean_up_tokenization_spaces=False)


def test_every_token_has_bytes_and_together_they_are_the_text(smollm2: LoadedModel) -> None:
    tokenizer = smollm2.tokenizer
    assert all(tokenizer.token_bytes(token) for token in range(tokenizer.n_vocab))
    assert tokenizer.token_bytes(tokenizer.n_vocab) == tokenizer.token_bytes(-1) == b""
    for text in TEXTS:
        assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()


def test_the_end_of_a_turn_ends_generation(smollm2: LoadedModel) -> None:
    assert smollm2.tokenizer.eos_ids == {smollm2.tokenizer.encode("<|im_end|>", markup=True)[0]}


def test_half_a_surrogate_pair_is_refused(smollm2: LoadedModel) -> None:
    with pytest.raises(BadArgument, match="UTF-8"):
        smollm2.tokenizer.encode("a\ud83d")


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("prompted", [True, False])
def test_the_chat_is_rendered_as_transformers_does(smollm2: LoadedModel, reference: Any, chat: list[Message], prompted: bool) -> None:
    segments = smollm2.tokenizer.render_chat(chat, add_generation_prompt=prompted)
    messages = [{"role": message.role, "content": message.content} for message in chat]
    assert "".join(segment.text for segment in segments) == reference.apply_chat_template(
        messages, add_generation_prompt=prompted, tokenize=False
    )
    assert [segment.text for segment in segments if not segment.markup] == [message.content for message in chat if message.content]


def test_the_chats_ids_are_those_of_transformers(smollm2: LoadedModel, reference: Any) -> None:
    chat = CHATS[1]
    segments = smollm2.tokenizer.render_chat(chat, add_generation_prompt=True)
    ids = [token for segment in segments for token in smollm2.tokenizer.encode(segment.text, markup=segment.markup)]
    messages = [{"role": message.role, "content": message.content} for message in chat]
    assert ids == reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


# ---------------------------------------------------------------- templates

TRIMMING = "{% for m in messages %}<|s|>{{ m.role }}:{{ m.content | trim }}<|e|>{% endfor %}"
REWRITING = "{% for m in messages %}<|s|>{{ m.content | upper | replace('SECRET', '') }}<|e|>{% endfor %}"
PICKY = "{% if messages[0].role != 'user' %}{{ raise_exception('Roles must alternate') }}{% endif %}{{ messages[0].content[:3] }}<|e|>"
SPECIALS = ("<|s|>", "<|e|>")


def segments(source: str, *contents: str) -> tuple[Segment, ...]:
    return ChatTemplate(source, {}, SPECIALS).segments([Message("user", content) for content in contents], False)


def test_a_template_that_trims_still_keeps_contents_apart() -> None:
    assert segments(TRIMMING, "  hi <|e|> ", "b") == (
        Segment("<|s|>user:", True),
        Segment("hi <|e|>", False),
        Segment("<|e|><|s|>user:", True),
        Segment("b", False),
        Segment("<|e|>", True),
    )


@pytest.mark.parametrize("source", [REWRITING, PICKY + "{{ messages[0].content }}"])
@pytest.mark.parametrize("content", ["plain secret text", "<|e|> secret <|s|><|e|>", "<|e|>"])
def test_in_a_template_that_rewrites_contents_they_spell_no_special_token(source: str, content: str) -> None:
    template = ChatTemplate(source, {}, SPECIALS)
    parts = template.segments([Message("user", content)], False)
    written = template.render([Message("user", "")], False)
    assert sum(part.text.count(special) for part in parts if part.markup for special in SPECIALS) == sum(map(written.count, SPECIALS))
    if "<" not in content:
        assert "".join(part.text for part in parts) == template.render([Message("user", content)], False)


def test_a_refusal_of_the_template_is_said_in_its_own_words() -> None:
    with pytest.raises(BadArgument, match="Roles must alternate"):
        ChatTemplate(PICKY, {}, SPECIALS).segments([Message("system", "x")], False)


def test_loop_controls_json_and_generation_marks_work_as_in_transformers() -> None:
    source = (
        "{%- for m in messages %}\n    {%- if loop.index0 == 1 %}{% break %}{% endif %}\n"
        "{% generation %}{{ m | tojson(indent=1) }}{{ loop.last }}{{ loop.length }}{% endgeneration %}\n{%- endfor %}"
        "{{ strftime_now('%Y') | length }}{{ tools is none }}"
    )
    source += "{% set n = namespace(a=1) %}{% set n.a = n.a + 1 %}{% set b %}{{ n.a }}{% endset %}{{ b ~ (1, 2) }}"
    source += "{{ 'a b'.split(' ') | join('-') }}{% macro f(x) %}<{{ x }}{{ caller() }}>{% endmacro %}{% call f(b) %}in{% endcall %}"
    text = ChatTemplate(source, {}, ()).render([Message("user", 'é"<'), Message("user", "b")], False)
    assert text == '{\n "role": "user",\n "content": "é\\"<"\n}False24True2(1, 2)a-b<2in>'


HOSTILE = {
    "escapes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "escapes through a filter": "{{ (''|attr('__class__')).__mro__[1] }}",
    "escapes through format": "{{ '{0.__class__}'.format(1) ~ cycler.__init__.__globals__ }}",
    "mutates": "{{ messages.append(1) }}",
    "loops for ever": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops without output": "{% for a in range(9999) %}{% for b in range(9999) %}{% set x = b %}{% endfor %}{% endfor %}",
    "recurses": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "branches": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "writes too much": "{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
    "repeats": "{{ 'x' * 10**10 }}",
    "repeats a list": "{{ ([0] * 1000000000) | length }}",
    "powers": "{{ 9 ** 9 ** 9 }}",
    "doubles": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x | length }}",
    "doubles a block": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
    "adds up": "{% set n = namespace(x=['a']) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "nests": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = [n.x, n.x, n.x] %}{% endfor %}{{ n.x }}",
    "nests in macros": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{{ " + "f(" * 60 + "'a'" + ")" * 60 + " }}",
    "replaces": "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "replaces by method": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "joins": "{{ range(99999) | list | join('b' * 99999) }}",
    "joins what comes one by one": "{{ range(99999) | map('string') | join('x' * 99999) }}",
    "joins what comes one by one by method": "{{ ('x' * 99999).join(range(99999) | map('string')) }}",
    "joins in a loop": "{% for a in [1] %}{{ ('x' * 99999).join(range(99999) | map('string')) }}{% endfor %}",
    "joins attributes": "{% set n = namespace(x='a' * 999999) %}{{ ([n] * 9999) | join('', attribute='x') }}",
    "sums lists": "{{ ([[0]] * 30000) | sum(start=[0] * 60000) }}",
    "multiplies": "{% set n = namespace(x=99) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "reads a long number": "{{ ('f' * 999999) | int(0, 16) % 7 }}",
    "rounds far": "{{ 1 | round(999999999, 'ceil') }}",
    "centres": "{{ 'a'.center(9999999999) }}",
    "indents": "{{ 'a\nb' | indent(9999999999) }}",
    "formats": "{{ '{:>9999999999}'.format(1) }}",
    "formats by argument": "{{ '{:>{}}'.format(1, 9999999999) }}",
    "folds": "{{ 'a' | center(9999999999) }}",
    "writes much JSON": "{{ [[[1]]] | tojson(indent=9999999999) }}",
    "pads": "{{ '%1000000000d' % 1 }}",
    "asks a long text again and again": "{% set s = 'a' * 250000 %}{% for i in range(9999) %}{{ s.isalpha() }}{% endfor %}",
    "reads a long text by filters": "{% set s = 'a ' * 99999 %}{% for i in range(9999) %}{{ s | wordcount }}{% endfor %}",
    "tests a long text": "{% set s = 'a' * 250000 %}{% for i in range(9999) %}{{ s is lower }}{% endfor %}",
    "searches a long text": "{% set s = 'a' * 250000 %}{% for i in range(9999) %}{{ 'b' in s }}{% endfor %}",
    "turns a long text round": "{% set s = 'a' * 250000 %}{% for i in range(9999) %}{% set x = s[::-1] %}{% endfor %}",
    "turns a long text round without a loop": "{% set s = 'a' * 250000 %}" + "{% set x = s[::-1] %}" * 2000,
    "takes a long text apart": "{% set s = 'a ' * 120000 %}{{ s.split() | length }}",
    "takes a long text apart by a filter": "{% set s = 'a' * 250000 %}{{ s | list | length }}",
    "takes a long text apart into lines": "{% set s = '\n' * 250000 %}{{ s.splitlines() | length }}",
    "asks for a long year": "{{ strftime_now('%999Y' * 40000) }}",
    "asks for a long date": "{{ strftime_now('%A' * 90000) }}",
    "makes bytes": "{% set b = 'a'.encode() %}{{ b.center(999999999) }}",
    "makes bytes of a number": "{{ (5).to_bytes(999999999, 'big') }}",
    "translates": "{{ ('a' * 200000).translate({97: 'x' * 200000}) }}",
    "formats many": "{{ ('{0:999}' * 30000).format(1) }}",
    "formats one many times": "{{ ('{0}' * 80000).format('x' * 99999) }}",
    "indents what is deep": "{% set n = namespace(x=[]) %}{% for i in range(60) %}{% set n.x = [n.x] %}{% endfor %}"
    "{{ n.x | tojson(indent=9) }}",
    "collects long texts": "{{ (['a\n' * 3000] * 20) | map('indent', 40) | list | length }}",
    "sorts long texts": "{{ (['a\n' * 3000] * 20) | map('indent', 40) | sort | length }}",
    "takes the largest of what comes one by one": "{{ range(99999) | map('string') | max }}",
    "is no template": "{% for %}",
    "divides by zero": "{{ 1 / 0 }}",
    "calls what is not there": "{{ nothing() }}",
}


def test_joining_adding_and_rounding_work_as_in_jinja2() -> None:
    source = "{{ messages | join(', ', attribute='content') }} {{ ', '.join(['a', 'b']) }} {{ [1, 2] | sum }} {{ 2.346 | round(2) }}"
    chat = [Message("user", "one"), Message("user", "two")]
    assert ChatTemplate(source, {}, ()).render(chat, False) == "one, two a, b 3 2.35"


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_template_is_refused_quickly(source: str) -> None:
    started = time.thread_time()
    with pytest.raises((ModelError, BadArgument)):
        segments(source, "hi")
    assert time.thread_time() - started < 2


LONG_ONLY = ("branches", "recurses", "loops", "nests", "doubles", "turns")
"""kinds that take time and no memory"""


@pytest.mark.parametrize("kind", [kind for kind in HOSTILE if kind.split()[0] not in LONG_ONLY])
def test_a_hostile_template_is_refused_before_it_takes_much_memory(kind: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((ModelError, BadArgument)):
            segments(HOSTILE[kind], "hi")
        _, n_most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n_most < 32 << 20


def test_a_template_too_long_to_be_compiled_in_time_is_refused() -> None:
    with pytest.raises(ModelError, match="characters"):
        segments("{{ 1 }}" * 100_000, "hi")


def test_what_a_template_is_given_raises_what_it_may_build() -> None:
    long = "many words " * 100_000
    assert segments("<|s|>{{ messages[0].content }}<|e|>", long)[1] == Segment(long, False)
    loud = ChatTemplate("{% for m in messages %}{{ m.content | trim | upper }}{% endfor %}", {}, ())
    assert len(loud.render([Message("user", long)] * 3, False)) == 3 * len(long.strip())
    with pytest.raises(ModelError, match="stopped"):
        segments("{{ messages[0].content * 50 }}", long)


# ---------------------------------------------------------------- conversations that grow

CHATML = "{% for m in messages %}{{ '<|s|>' + m['role'] + '\\n' + m['content'] + '<|e|>' }}{% endfor %}"
CHATML += "{% if add_generation_prompt %}<|s|>a{% endif %}"
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>' + system_message + '<</SYS>>' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '<|s|>[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' + content.strip() + '<|e|>' }}"
    "{% endif %}{% endfor %}"
)
LAST = "{% for m in messages %}{{ m.role }}{% if loop.last and add_generation_prompt %}!{% endif %}{{ m.content }}"
LAST += "{% if loop.nextitem %};{% endif %}{% endfor %}"
CONTENT = "{% for m in messages %}{{ m.content.split('</think>')[-1] if not loop.last else m.content }}<|e|>{% endfor %}"
GROWING = {"chatml": CHATML, "llama-2": LLAMA_2, "last": LAST, "thinking": CONTENT}
FAR = {
    "counts": "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}",
    "looks at the end": "{% for m in messages %}{% if messages[-1].role == 'user' %}?{% endif %}{{ m.content }}{% endfor %}",
    "counts all": "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "keeps a state": "{% set n = namespace(x=0) %}{% for m in messages %}{% set n.x = n.x + 1 %}{{ n.x }}{{ m.content }}{% endfor %}",
    "reminds now and then": "{% for m in messages %}{% if loop.index % 50 == 0 %}!{% endif %}{{ m.content }}{% endfor %}",
    "changes late": "{% for m in messages %}{% if loop.index0 > 40 %}!{% endif %}{{ m.content }}{% endfor %}",
    "joins": "{% set j = joiner(',') %}{% for m in messages %}{{ j() }}{{ m.content }}{% endfor %}",
    "cycles": "{% for m in messages %}{{ loop.cycle('a', 'b', 'c') }}{{ m.content }}{% endfor %}",
    "passes the loop on": "{% macro f(l) %}{{ l.index }}{% endmacro %}{% for m in messages %}{{ f(loop) }}{{ m.content }}{% endfor %}",
    "backwards": "{% for m in messages[::-1] %}{{ m.content }}{% endfor %}",
    "filters": "{% for m in messages if m.role == 'user' %}{{ loop.index0 % 2 }}{{ m.content }}{% endfor %}",
}


class Watched(ChatTemplate):
    """Counts the turns that it renders."""

    n_turns = 0

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        self.n_turns += len(messages)
        return super().render(messages, add_generation_prompt)


@pytest.mark.parametrize("source", [*GROWING.values(), *FAR.values()], ids=[*GROWING, *FAR])
def test_a_conversation_that_grows_forks_and_goes_back_is_rendered_as_if_it_were_new(source: str) -> None:
    draw = random.Random(4)
    template, variables = ChatTemplate(source, {}, SPECIALS), ("hi", " spaced ", "<|e|>", "a</think>b", "", "\n\n")
    chats = [[Message("system", "be brief")] * draw.randrange(2) for _ in range(3)]
    for _ in range(60):
        chat = draw.choice(chats)
        first = len(chat) > 0 and chat[0].role == "system"
        chat.append(Message("assistant" if (len(chat) - first) % 2 else "user", draw.choice(variables) + str(draw.randrange(9))))
        if draw.random() < 0.1:
            chats.append(chat[: draw.randrange(len(chat))] or chat[:1])
        opens = draw.random() < 0.5
        assert template.segments(chat, opens) == ChatTemplate(source, {}, SPECIALS).segments(chat, opens)


@pytest.mark.parametrize("kind", GROWING)
def test_each_turn_of_a_long_conversation_renders_a_few_turns(kind: str) -> None:
    template, chat, most = Watched(GROWING[kind], {}, SPECIALS), [Message("system", "be brief")], 0
    for n in range(200):
        chat.append(Message("user", f"question {n}"))
        template.n_turns = 0
        template.segments(chat, True)
        most = max(most, template.n_turns)
        chat.append(Message("assistant", f"answer {n}"))
    assert most <= 60


# ---------------------------------------------------------------- other tokenizers


def write(folder: Path, tokenizer: Any, config: dict[str, Any] | None = None) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}), encoding="utf-8")
    return folder


def sentencepiece(prefix: dict[str, Any] | None, pre: dict[str, Any] | None = None) -> dict[str, Any]:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "h", "i", "hi", "▁hi"]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": pieces[i], "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            for i in range(3)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [prefix, replace]} if prefix else None,
        "pre_tokenizer": pre,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "merges": [["h", "i"], ["▁", "hi"]],
        },
    }


PREPEND = {"type": "Prepend", "prepend": "▁"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}


@pytest.mark.parametrize("data", [sentencepiece(PREPEND), sentencepiece(None, METASPACE)], ids=["prepend", "metaspace"])
def test_a_sentencepiece_prompt_begins_as_transformers_begins_it(tmp_path: Path, data: dict[str, Any]) -> None:
    from transformers import PreTrainedTokenizerFast

    write(tmp_path, data, {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "<s>{{ messages[0].content }}</s>hi"})
    tokenizer = Tokenizer(tmp_path, 270)
    reference = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))  # type: ignore[no-untyped-call]
    for text in ("hi", " hi", "hi é hi", ""):
        ids = [token for segment in tokenizer.render_text(text) for token in tokenizer.encode(segment.text, markup=segment.markup)]
        assert ids == reference.encode(text)
    chat = tokenizer.render_chat([Message("user", "hi")], add_generation_prompt=False)
    ids = list(tokenizer.encode_all(chat))
    assert ids == reference.encode("<s>hi</s>hi", add_special_tokens=False)
    assert tokenizer.eos_ids == {2}


def test_sentencepiece_pieces_are_encoded_without_a_space_of_their_own(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write(tmp_path, sentencepiece(PREPEND)), 270)
    assert tokenizer.encode("hi") == (tokenizer.encode("hi hi")[0],)
    for text in ("hi", " hi  é</s>", "日"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("</s>") != tokenizer.encode("</s>", markup=True) == (2,)
    assert tokenizer.token_bytes(3 + 0xE6) == b"\xe6"


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write(tmp_path, TOKENIZER), 97)
    assert not tokenizer.has_chat_template
    with pytest.raises(BackendUnsupported, match="chat template"):
        tokenizer.render_chat([Message("user", "hi")], add_generation_prompt=True)
    assert tokenizer.render_text("hi") == (Segment("hi", False),)


def test_a_token_beyond_the_embedding_is_never_given(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write(tmp_path, TOKENIZER), 96)
    assert 96 not in tokenizer.encode("<|end|>", markup=True)
    with pytest.raises(ModelDamaged, match="beyond"):
        Tokenizer(tmp_path, 90)
