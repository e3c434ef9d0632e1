"""The tokenizer of a server's model, on this machine.

A program's state is token ids, so a server that generates for it needs no text, and the program needs
the server's tokenizer. That is a file of a few megabytes, without weights.
"""

from __future__ import annotations

from ...contracts.errors import ModelError, ModelMissing
from ...engine.files import store
from ...engine.text.found import tokenizer_at
from ...engine.text.tokenizer import Tokenizer


def tokenizer_of(names: tuple[str, ...]) -> Tokenizer:
    """The first that is found under one of these names: a folder, a .gguf file, a built-in name or
    a hub id.

    ModelMissing where none is here or can be fetched.
    """
    problems: list[ModelError] = []
    for name in dict.fromkeys(filter(None, names)):
        try:
            return tokenizer_at(store.tokenizer_files(name))
        except ModelError as error:
            problems.append(error)
    why = problems[0].message if problems else "the server does not name it"
    raise ModelMissing(
        f"the tokenizer of the server's model is not on this machine: {why}",
        hint="give RuntimeEndpoint(url, tokenizer=FOLDER_OR_HUB_ID), or use sgl.OpenAI(model, base_url=url + '/v1'), which needs none",
    )
