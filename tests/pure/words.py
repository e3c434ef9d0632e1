"""A small tokenizer of real words, trained when it is first asked for, over the hash model: seams happen at once."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from sgl_lab.backends.local import LocalBackend
from sgl_lab.contracts.capabilities import TOKEN_LEVEL
from sgl_lab.contracts.events import Emit, silent
from sgl_lab.contracts.port import ModelCard
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.serving.resident import Resident
from sgl_lab.engine.text.tokenizer import Tokenizer
from sgl_lab.engine.tools.fake import HashModel, HashRunner

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXTS = [
    "The capital of France is Paris. My name is John, and my friend's name is Joanna.\n\n",
    "Now, here is a list:\n1. One thing.\n2. Another thing!\n\n    if x:\n        return  y\n",
    "Fire is hot. Ice is cold. I need to use a calculator or a hammer.\n\nQuestion: what? Answer: yes, no.\n",
    "שלום עולם, מה שלומך היום? 你好，世界。今天天气很好。🙃 😀 🇫🇷 Größe, naïve café — ok…\n",
]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@cache
def trained(vocab: int = 640) -> str:
    """A `tokenizer.json`, as GPT-2's are."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    return tokenizer.to_str()


def words(folder: Path, *, bos: bool = False, chat_template: str = CHATML) -> Tokenizer:
    (folder / "tokenizer.json").write_text(trained())
    config = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "add_bos_token": bos, "chat_template": chat_template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer(folder, tokenizers.Tokenizer.from_str(trained()).get_vocab_size())


def lab(
    folder: Path,
    emit: Emit = silent,
    model: type[HashModel] = HashModel,
    *,
    chat_template: str = CHATML,
    context: int = 2048,
    n_pages: int = 512,
    **config: object,
) -> LocalBackend:
    """An engine whose next token is a hash of all that came before; to be closed with `_resident.close()`."""
    tokenizer = words(folder, chat_template=chat_template)
    settings = EngineConfig(n_pages=n_pages, page_size=4, step_tokens=96, **config)  # type: ignore[arg-type]  # a test's own
    runner = HashRunner(settings.n_pages, settings.page_size, model(tokenizer.n_vocab))
    engine = Engine(settings, runner, tokenizer, context=context, namespace=("words",), emit=emit)
    card = ModelCard("words", ("words",), context, tokenizer.n_vocab, "none", "none", replace(TOKEN_LEVEL, chat_template=True))
    return LocalBackend(Resident(engine), tokenizer, card, emit)
