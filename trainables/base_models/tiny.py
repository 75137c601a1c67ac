"""Tiny models built in code, random weights and a tokenizer of their own: for tests, and to try things in seconds.

Three families, because what a LoRA meets differs between them: Qwen2 (biases on q, k and v), Llama with tied
embeddings, and GPT-2 (Conv1D, which stores its weight transposed, and fused attention).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

GENERATOR_VERSION = 1
"""Raise it when the weights or the tokenizer of any tiny model change: it is part of their identity."""

FAMILIES = ("gpt2", "llama", "qwen2")
HIDDEN, LAYERS, HEADS, POSITIONS = 64, 2, 4, 512
PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = "State the final answer to following arithmetic problem What is Question Answer Calculate"
"""Words that get a token of their own, so that the prompts of the arithmetic tasks stay short."""


def build(family: str, seed: int, folder: Path) -> None:
    """Write a tiny model of `family` with weights drawn from `seed`, and its tokenizer, as a Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer(family)
    config = _config(family, len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_tokenizer(family: str) -> Any:
    """Return a byte-level BPE tokenizer that knows every byte and the words above."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    vocabulary, merges = _vocabulary()
    options: dict[str, Any] = {
        "pad_token": PAD,
        "eos_token": END,
        "unk_token": END,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    if family == "qwen2":  # AutoTokenizer takes Qwen2Tokenizer for every Qwen2 model, whatever the folder says
        return Qwen2Tokenizer(vocab=vocabulary, merges=merges, **options)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (PAD, END, SYSTEM, USER, ASSISTANT)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return token ids and merges: specials, then the bytes, then the beginnings of every word, shortest first."""
    from tokenizers import pre_tokenizers

    tokens = [PAD, END, SYSTEM, USER, ASSISTANT, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = []
    for word in WORDS.split():
        for spelling in (word, f"Ġ{word}"):  # Ġ stands for the space before a word
            for end in range(1, len(spelling)):
                if spelling[: end + 1] not in vocabulary:
                    vocabulary[spelling[: end + 1]] = len(vocabulary)
                    merges.append((spelling[:end], spelling[end]))
    return vocabulary, merges


def _config(family: str, vocabulary: int, pad: int, end: int) -> Any:
    from transformers import GPT2Config, LlamaConfig, Qwen2Config

    common = {"vocab_size": vocabulary, "pad_token_id": pad, "eos_token_id": end, "bos_token_id": None}
    if family == "gpt2":
        sizes = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS}
        return GPT2Config(**common, **sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": LAYERS}
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS // 2, "max_position_embeddings": POSITIONS}
    if family == "llama":
        return LlamaConfig(**common, **sizes, **heads, tie_word_embeddings=True)
    return Qwen2Config(**common, **sizes, **heads, tie_word_embeddings=False)
