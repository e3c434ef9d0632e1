"""Converts the tokenizer of a GGUF file to the form of Hugging Face's `tokenizer.json`.

GGUF names the splitting of text before merging (`tokenizer.ggml.pre`) without defining it; the
definitions are here. Sentencepiece vocabularies have scores instead of merges.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...contracts.errors import ModelDamaged, ModelError

TURN_ENDS = frozenset({"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_turn|>", "<end_of_turn>", "<|end|>", "<|endofturn|>"})
"""Special tokens by which chat models end a turn, whatever their configuration calls end-of-sequence."""

_EXACT = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
"""How an added token is matched: as it is spelled."""

_CONTROL, _USER_DEFINED, _UNKNOWN, _BYTE = 3, 4, 2, 6
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2 = _BYTE_LEVEL | {"use_regex": True}
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _split(pattern: str) -> dict[str, object]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [cut, _BYTE_LEVEL]}


_DIGITS = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _GPT2]}
_PRE_TOKENIZERS: Mapping[str, Mapping[str, object]] = {
    **dict.fromkeys(("default", "gpt-2", "phi-2", "olmo", "mpt", "jais"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "codeshell", "command-r"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe", "dbrx"), _split(_LLAMA3)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _split(_QWEN2)),
}
_WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3"})
"""Vocabularies in which a word that is a token is taken whole, whatever its merges."""


def tokenizer_files(metadata: Mapping[str, object], n_vocab: int, origin: str) -> dict[str, dict[str, object]]:
    """`tokenizer.json`, `tokenizer_config.json` and `generation_config.json`. ModelError on an
    unknown tokenizer.
    """
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not 0 < len(tokens) <= n_vocab or len(set(tokens)) < len(tokens):
        raise ModelDamaged(f"{origin}: the vocabulary is missing, has a token twice, or is longer than the embedding ({n_vocab})")
    kinds = _numbers(metadata, "tokenizer.ggml.token_type", len(tokens), 1, origin)
    model = metadata.get("tokenizer.ggml.model")
    if model == "gpt2":
        tokenizer = _byte_level(metadata, tokens, origin)
    elif model == "llama":
        tokenizer = _sentencepiece(metadata, tokens, kinds, origin)
    else:
        raise ModelError(f"{origin}: tokenizer {model!r:.40} is not supported", hint="supported: gpt2 and llama")
    tokenizer["added_tokens"] = [
        _EXACT | {"id": i, "content": tokens[i], "special": kind != _USER_DEFINED}
        for i, kind in enumerate(kinds)
        if kind in (_CONTROL, _USER_DEFINED, _UNKNOWN) and tokens[i]
    ]
    named = {
        name: tokens[index]
        for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding"))
        if type(index := metadata.get(f"tokenizer.ggml.{key}_token_id")) is int and 0 <= index < len(tokens)
    }
    add_bos = metadata.get("tokenizer.ggml.add_bos_token", model == "llama" or metadata.get("tokenizer.ggml.pre") in _WHOLE_WORDS)
    if add_bos and "bos_token" in named:
        tokenizer["post_processor"] = _leading(named["bos_token"], tokens.index(named["bos_token"]))
    config = named | {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, "add_bos_token": bool(add_bos)}
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        config["chat_template"] = template
    ends = {metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")}
    ends |= {i for i, kind in enumerate(kinds) if kind == _CONTROL and tokens[i] in TURN_ENDS}
    generation = {"eos_token_id": sorted(i for i in ends if type(i) is int and 0 <= i < len(tokens))}
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config, "generation_config.json": generation}


def _numbers(metadata: Mapping[str, object], key: str, n: int, default: float, origin: str) -> list[float]:
    values = metadata.get(key)
    if values is None:
        return [default] * n
    if not isinstance(values, np.ndarray) or len(values) != n:
        raise ModelDamaged(f"{origin}: {key} does not have one number a token ({n})")
    return list(values.tolist())


def _tokenizer(model: Mapping[str, object], **parts: Mapping[str, object] | None) -> dict[str, object]:
    whole: dict[str, object] = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None}
    base = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    return whole | {"post_processor": None, "decoder": None} | parts | {"model": {**base, **model}}


def _byte_level(metadata: Mapping[str, object], tokens: list[str], origin: str) -> dict[str, object]:
    pre = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(pre, str) or pre not in _PRE_TOKENIZERS:
        raise ModelError(f"{origin}: pre-tokenizer {pre!r:.40} is not supported", hint="supported: " + ", ".join(_PRE_TOKENIZERS))
    merges = metadata.get("tokenizer.ggml.merges")
    if not isinstance(merges, list):
        raise ModelDamaged(f"{origin}: the merges are missing")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise ModelDamaged(f"{origin}: a merge is not two tokens")
    model = {
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": pre in _WHOLE_WORDS,
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": pairs,
    }
    normalizer = {"type": "NFC"} if _PRE_TOKENIZERS[pre] is _PRE_TOKENIZERS["qwen2"] else None
    return _tokenizer(model, normalizer=normalizer, pre_tokenizer=_PRE_TOKENIZERS[pre], decoder=_GPT2)


def _sentencepiece(metadata: Mapping[str, object], tokens: list[str], kinds: list[float], origin: str) -> dict[str, object]:
    scores = _numbers(metadata, "tokenizer.ggml.scores", len(tokens), 0.0, origin)
    vocab = {token: i for i, token in enumerate(tokens)}
    ordinary = {token for token, kind in zip(tokens, kinds, strict=True) if kind not in (_CONTROL, _UNKNOWN, _BYTE)}
    # Sentencepiece joins the pair whose union has the best score; of equal scores the pair with the
    # longer left side.
    ranked: list[tuple[float, int, int, tuple[str, str]]] = []
    for token in ordinary:
        for cut in range(1, min(len(token), 128)):
            left, right = token[:cut], token[cut:]
            if left in ordinary and right in ordinary:
                ranked.append((-scores[vocab[token]], -len(left), vocab[token], (left, right)))
    ranked.sort()
    steps = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, {"type": "Prepend", "prepend": "▁"})
    model = {
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "unk_token": next((token for token, kind in zip(tokens, kinds, strict=True) if kind == _UNKNOWN), None),
        "vocab": vocab,
        "merges": [pair for *_, pair in ranked],
    }
    decoder = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return _tokenizer(model, normalizer={"type": "Sequence", "normalizers": steps}, decoder={"type": "Sequence", "decoders": decoder})


def _leading(bos: str, index: int) -> dict[str, object]:
    """The post-processor that puts `bos` before a text."""
    first, text = {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {bos: {"id": bos, "ids": [index], "tokens": [bos]}},
    }
