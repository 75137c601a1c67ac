"""Tiny models of architectures that store their weights in special ways, saved by transformers itself."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.trainables.tiny_models import FAMILIES, base_model

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
ARCHITECTURES = (*FAMILIES, "phi3", "qwen2_moe", "mixtral", "bert", "opt")


@functools.cache
def architecture(name: str, **changes: Any) -> Path:
    """Return the folder of a tiny model with random weights, built once for all tests of this process."""
    from transformers import AutoModelForCausalLM

    if name in FAMILIES and not changes:
        return base_model(name)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(_config(name, changes)).save_pretrained(folder)
    return folder


def _config(name: str, changes: dict[str, Any]) -> Any:
    import transformers

    grouped = {"num_key_value_heads": 2}
    experts = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 24, "num_experts": 4}
    classes: dict[str, tuple[Any, dict[str, Any]]] = {
        "llama": (transformers.LlamaConfig, grouped),
        "qwen2": (transformers.Qwen2Config, grouped),
        "phi3": (transformers.Phi3Config, grouped),
        "qwen2_moe": (transformers.Qwen2MoeConfig, grouped | experts | {"mlp_only_layers": [0]}),
        "mixtral": (transformers.MixtralConfig, grouped | {"num_local_experts": 4}),
        "bert": (transformers.BertConfig, {"is_decoder": True}),
        "opt": (transformers.OPTConfig, {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    }
    kind, more = classes[name]
    return kind(**SIZES | more | changes)
