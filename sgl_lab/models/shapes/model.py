"""The untrained model and its tokenizer: a LLaVA of transformers, about 1.3 million parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from .questions import every_text
from .scenes import SIDE

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

PAD, IMAGE, USER, ASSISTANT, END = SPECIALS = ("<|pad|>", "<image>", "<|user|>", "<|assistant|>", "<|end|>")
PATCH = 16
N_PATCHES = (SIDE // PATCH) ** 2
CONTEXT = 1024


def tokenizer() -> Tokenizer:
    """Words of the questions and answers are one token each; all else is spelled in bytes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=1,
        show_progress=False,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    made.train_from_iterator(every_text(), trainer)
    return made


def untrained(words: Tokenizer) -> LlavaForConditionalGeneration:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    id_of = SPECIALS.index
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=128,
    )
    text = LlamaConfig(
        vocab_size=words.get_vocab_size(),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=None,
        eos_token_id=id_of(END),
        pad_token_id=id_of(PAD),
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=id_of(IMAGE),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=N_PATCHES,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    made: LlavaForConditionalGeneration = LlavaForConditionalGeneration(config)
    return made
