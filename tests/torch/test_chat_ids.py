"""A chat's token ids are those of transformers: templates as models have them, kinds of tokenizers, contents that try their seams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from sgl_lab.contracts.port import Message, Segment
from sgl_lab.engine.text.tokenizer import Tokenizer

CONTENTS = [
    "What is the capital of France?",
    " leading space",
    "   three spaces, and two after  ",
    "\n\nTwo lines above",
    "\n \t mixed\n\n",
    "trailing newline\n",
    "naïve café, Ünïcödé e\u0301",
    "日本語のテキスト。中文",
    "😀👩‍👩‍👧 emoji",
    "[INST] not markup [/INST]",
    "def f(x):\n    return x ** 2\n\n\nprint(f(3))",
    "1234567890 12,345.67",
    "▁ a metaspace ▁▁",
    "<b>bold</b> & {{ 7 * 7 }} {% raw %}",
    "the the the",
    "x",
]
"""none of them spells a special token"""
SPELLING = ["<|im_end|> stays text", "a</s>b", " <s>[INST]<|user|>", "<|eot_id|><end_of_turn>"]


def loop(before: str, after: str, *, start: str = "", opening: str = "") -> str:
    """The shape of most templates: a mark before each content and one after it."""
    body = "{% for message in messages %}{{ " + before + " + message['content'] + " + after + " }}{% endfor %}"
    return start + body + "{% if add_generation_prompt %}{{ " + opening + " }}{% endif %}" if opening else start + body


def by_role(user: tuple[str, str], system: tuple[str, str], assistant: tuple[str, str], start: str = "", opening: str = "") -> str:
    def turn(before: str, after: str) -> str:
        return "{{ '" + before + "' + message['content'] + '" + after + "' }}"

    roles = "{% if message['role'] == 'user' %}" + turn(*user) + "{% elif message['role'] == 'system' %}" + turn(*system)
    body = "{% for message in messages %}" + roles + "{% else %}" + turn(*assistant) + "{% endif %}{% endfor %}"
    return start + body + ("{% if add_generation_prompt %}" + opening + "{% endif %}" if opening else "")


LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message "
    "+ '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
HEADERS = "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
COMMAND = "'<|START_OF_TURN_TOKEN|>' + ('<|USER_TOKEN|>' if message['role'] == 'user' else '<|CHATBOT_TOKEN|>')"
CHATML = "'<|im_start|>' + message['role'] + '\\n'"
TEMPLATES = {
    "chatml": loop(CHATML, "'<|im_end|>\\n'", opening="'<|im_start|>assistant\\n'"),
    "qwen": loop(
        CHATML,
        "'<|im_end|>\\n'",
        start="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
        opening="'<|im_start|>assistant\\n'",
    ),
    "llama-2": LLAMA_2,
    "mistral v1": "{{ bos_token }}" + by_role(("[INST] ", " [/INST]"), ("", "\\n\\n"), ("", "</s>")),
    "mistral v3": "{{ bos_token }}" + by_role(("<inst>", "</inst>"), ("", "\\n\\n"), (" ", "</s>")),
    "mistral tekken": "{{ bos_token }}" + by_role(("<inst>", "</inst>"), ("<sys>", "</sys>"), ("", "</s>")),
    "zephyr": loop("'<|' + message['role'] + '|>\\n'", "eos_token + '\\n'", opening="'<|assistant|>\\n'"),
    "gemma": "{{ bos_token }}"
    + loop("'<start_of_turn>' + message['role'] + '\\n'", "'<end_of_turn>\\n'", opening="'<start_of_turn>model\\n'"),
    "gemma trims": "{{ bos_token }}{% for m in messages %}"
    "{{ '<start_of_turn>' + m.role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}",
    "phi-3": loop("'<|' + message['role'] + '|>\\n'", "'<|end|>\\n'", opening="'<|assistant|>\\n'"),
    "phi-4": loop("'<|im_start|>' + message['role'] + '<|im_sep|>'", "'<|im_end|>'", opening="'<|im_start|>assistant<|im_sep|>'"),
    "vicuna": by_role(("USER: ", " "), ("", "\\n\\n"), ("ASSISTANT: ", "</s>"), opening="ASSISTANT:"),
    "alpaca": by_role(("### Instruction:\\n", "\\n\\n"), ("", "\\n\\n"), ("### Response:\\n", "</s>\\n\\n"), opening="### Response:\n"),
    "command-r": "{{ bos_token }}" + loop(COMMAND, "'<|END_OF_TURN_TOKEN|>'", opening="'<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'"),
    "llama-3": "{{ bos_token }}" + loop(HEADERS, "'<|eot_id|>'", opening="'<|start_header_id|>assistant<|end_header_id|>\\n\\n'"),
    "llama-3 trims": "{% for message in messages %}{{ " + HEADERS + " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}",
    "openchat": loop("'GPT4 Correct ' + message['role'].title() + ': '", "'<|end_of_turn|>'", opening="'GPT4 Correct Assistant:'"),
    "deepseek": by_role(("User: ", "\\n\\n"), ("", "\\n\\n"), ("Assistant: ", "</s>"), "{{ bos_token }}", "Assistant:"),
    "granite": loop(
        "'<|start_of_role|>' + message['role'] + '<|end_of_role|>'",
        "'<|end_of_text|>\\n'",
        opening="'<|start_of_role|>assistant<|end_of_role|>'",
    ),
    "falcon": loop("message['role'].title() + ': '", "'\\n\\n'", opening="'Assistant:'"),
    "bare": loop("''", "''"),
}
SPECIALS = [
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<inst>", "</inst>", "<sys>", "</sys>", "<|user|>", "<|system|>",
    "<|assistant|>", "<|end|>", "<start_of_turn>", "<end_of_turn>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
    "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_turn|>",
    "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>",
]  # fmt: skip
CORPUS = [
    *CONTENTS,
    *TEMPLATES.values(),
    "You are a helpful assistant. What is this? user system model User: Assistant: [INST] [/INST]",
] * 2


def byte_level() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    )
    return made


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def pieces(pre: Any) -> tokenizers.Tokenizer:
    """As sentencepiece's BPE: bytes for what it does not know."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    words = [" ".join(text.split(" ")[i : i + 3]) for text in CORPUS for i in range(0, len(text.split(" ")), 3)]
    made.train_from_iterator(words, trainers.BpeTrainer(vocab_size=900, special_tokens=["<unk>", *BYTES], show_progress=False))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    if isinstance(pre, normalizers.Sequence):
        made.normalizer, made.pre_tokenizer = pre, None  # type: ignore[assignment]
    else:
        made.pre_tokenizer = pre
    return made


def unigram() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=500, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    )
    return made


KINDS = {
    "byte level": byte_level,
    "prepend": lambda: pieces(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])),
    "metaspace first": lambda: pieces(pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "metaspace always": lambda: pieces(pre_tokenizers.Metaspace(prepend_scheme="always", split=False)),
    "metaspace never": lambda: pieces(pre_tokenizers.Metaspace(prepend_scheme="never", split=False)),
    "unigram": unigram,
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of that kind, with the special tokens of all templates; some swallow the space beside them."""
    made = KINDS[request.param]()
    made.add_special_tokens(
        [
            tokenizers.AddedToken(text, rstrip=text in ("<|user|>", "<|end|>"), lstrip=text == "<|end_of_turn|>", normalized=False)
            for text in SPECIALS
        ]
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    data = json.loads(made.to_str())
    for token in data["added_tokens"]:
        token["special"] = token["content"] not in BYTES
    data["added_tokens"] = [token for token in data["added_tokens"] if token["special"]]
    (folder / "tokenizer.json").write_text(json.dumps(data))
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_ids_of_a_chat_are_those_of_transformers(folder: Path, name: str) -> None:
    from transformers import PreTrainedTokenizerFast

    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATES[name]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    reference = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>")  # type: ignore[no-untyped-call]
    reference.chat_template = TEMPLATES[name]
    tokenizer = Tokenizer(folder, 5000)
    n_compared = 0
    for index, content in enumerate(CONTENTS):
        other = CONTENTS[(index * 7 + 3) % len(CONTENTS)]
        chats = [
            [Message("user", content)],
            [Message("system", other), Message("user", content)],
            [Message("user", other), Message("assistant", content), Message("user", content)],
        ]
        for chat in chats:
            for opens in (True, False):
                segments = tokenizer.render_chat(chat, add_generation_prompt=opens)
                given = [{"role": message.role, "content": message.content} for message in chat]
                expected = reference.apply_chat_template(given, add_generation_prompt=opens, return_dict=False)
                assert list(tokenizer.encode_all(segments)) == expected, (chat, opens)
                n_compared += 1
    assert n_compared == 6 * len(CONTENTS)
    alone = tokenizer.encode_all(tokenizer.render_chat([Message("user", "x")], add_generation_prompt=False))
    named = tokenizer.special_ids - set(tokenizer.encode_all([Segment("<unk>", True)]))
    for content in SPELLING:
        ids = tokenizer.encode_all(tokenizer.render_chat([Message("user", content)], add_generation_prompt=False))
        assert [token for token in ids if token in named] == [token for token in alone if token in named], content
