"""One lab with a tiny model that speaks in roles, and one door to it, for all tests of the door."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgl_lab.serve import Door, serve
from sgl_lab.session import Lab

from ..torch.tiny import TOKENIZER, write_tiny

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_chatting(folder: Path) -> Path:
    """Random weights, a token for each byte, and the chat template of ChatML."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    vocab = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
    marks = {"<|im_start|>": 256, "<|im_end|>": 257}
    added = [TOKENIZER["added_tokens"][0] | {"id": id, "content": mark} for mark, id in marks.items()]
    write_tiny(folder, vocab_size=258, max_position_embeddings=4096)
    tokenizer = TOKENIZER | {"added_tokens": added, "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "eos_token": "<|im_end|>"}))
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chatting(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="session")
def lab(folder: Path) -> Iterator[Lab]:
    with Lab(folder, cache_tokens=64_000) as lab:
        yield lab


@pytest.fixture(scope="session")
def door(lab: Lab) -> Iterator[Door]:
    with serve(lab) as door:
        yield door


@pytest.fixture
def other_lab(folder: Path) -> Iterator[Lab]:
    """One that a test may close."""
    with Lab(folder, cache_tokens=4000) as lab:
        yield lab
