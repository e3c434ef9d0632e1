"""A model's tokenizer without its weights: of a folder, or out of a GGUF file's own metadata."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from ...contracts.errors import ModelDamaged
from ..files.gguf_file import GgufFile
from ..files.small import json_object, read_bytes, read_json
from .tokenizer import MAX_TOKENIZER, Tokenizer
from .vocab import tokenizer_files


def tokenizer_at(path: Path) -> Tokenizer:
    """ModelMissing, ModelDamaged, ModelError."""
    if path.is_dir():
        return Tokenizer(path, _n_vocab(path))
    gguf = GgufFile(path)
    embedding = gguf.tensors.get("token_embd.weight")
    tokens = gguf.metadata.get("tokenizer.ggml.tokens")
    n_vocab = embedding.shape[0] if embedding and embedding.shape else len(tokens) if isinstance(tokens, list) else 0
    with TemporaryDirectory(prefix="sgl-lab-") as place:
        folder = Path(place)
        for name, content in tokenizer_files(gguf.metadata, n_vocab, str(path)).items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return Tokenizer(folder, n_vocab)


def _n_vocab(folder: Path) -> int:
    """Rows of the embedding. Where the folder has a tokenizer alone, its own tokens are all."""
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    size = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    if type(size) is int and size > 0:
        return size
    path = folder / "tokenizer.json"
    data = json_object(read_bytes(path, most=MAX_TOKENIZER), str(path))
    try:
        vocab = data["model"]["vocab"]
        ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
        return 1 + max(map(int, (*ids, *(token["id"] for token in data.get("added_tokens") or ()))))
    except (KeyError, TypeError, ValueError):
        raise ModelDamaged(f"{path} has no vocabulary", hint="fetch it again") from None
