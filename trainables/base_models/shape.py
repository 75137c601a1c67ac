"""A model's shape: the handful of numbers that decide its size, known from its config alone, without weights or torch.

Covers decoders with one kind of block: attention (heads may share keys and values) and an MLP, gated or not. What has
experts or another kind of block has no shape here, and whoever asks has to say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from trainables.checkpoint_files import read_json

Biases: TypeAlias = Literal["none", "qkv", "all"]
SPARSE = ("num_experts", "num_local_experts", "n_routed_experts")
"""Settings of models whose MLPs are choices of experts."""
UNGATED = {"gpt2", "gpt_neox", "opt", "phi"}
"""Model types whose MLP is up, activation, down, without a gate."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder, by the names of its config; `positions` counts learned position embeddings."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    is_head_tied: bool
    biases: Biases = "none"
    is_gated: bool = True
    positions: int = 0

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """The (out, in) of one block's linear layers: q, k, v, o, then the MLP's."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = ((queries, self.hidden), (keys, self.hidden), (keys, self.hidden), (self.hidden, queries))
        up = ((self.intermediate, self.hidden),) * (2 if self.is_gated else 1)
        return (*attention, *up, (self.hidden, self.intermediate))

    @property
    def block_weights(self) -> int:
        """Elements of one block's linear weights, biases left out."""
        return sum(out * width for out, width in self.linears)

    @property
    def embeddings(self) -> int:
        """Elements of the token embeddings."""
        return self.vocabulary * self.hidden

    @property
    def head(self) -> int:
        """Elements of the output head's own weight; 0 if it is tied to the embeddings."""
        return 0 if self.is_head_tied else self.embeddings

    @property
    def parameters(self) -> int:
        """Elements of all weights."""
        vectors = {
            "none": 0,
            "qkv": sum(out for out, _ in self.linears[:3]),
            "all": sum(out for out, _ in self.linears),
        }
        norm = (2 if self.biases == "all" else 1) * self.hidden
        blocks = self.layers * (self.block_weights + vectors[self.biases] + 2 * norm)
        return self.embeddings + self.head + blocks + norm + self.positions * self.hidden

    def adapter(self, rank: int) -> int:
        """Return the elements of a LoRA of this rank on every linear layer of the blocks."""
        return self.layers * sum(min(rank, out, width) * (out + width) for out, width in self.linears)


def read_shape(folder: Path) -> Shape | None:
    """Return the shape of the model in a Hugging Face folder; None if it has no config or one of another kind."""
    path = folder / "config.json"
    return of_config(read_json(path)) if path.is_file() else None


def of_config(config: Mapping[str, Any]) -> Shape | None:
    """Return the shape that a model's config describes; None for one of another kind."""
    config = config.get("text_config", config)
    if any(config.get(name) for name in SPARSE):
        return None
    try:
        return _gpt2(config) if "n_embd" in config else _llama(config)
    except KeyError:
        return None


def _llama(config: Mapping[str, Any]) -> Shape:
    heads, kind = int(config["num_attention_heads"]), str(config.get("model_type", ""))
    hidden = int(config["hidden_size"])
    is_gated = kind not in UNGATED
    return Shape(
        layers=int(config["num_hidden_layers"]),
        hidden=hidden,
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_size=int(config.get("head_dim") or hidden // heads),
        intermediate=int(config["intermediate_size"]),
        vocabulary=int(config["vocab_size"]),
        is_head_tied=bool(config.get("tie_word_embeddings", False)),
        biases="qkv" if kind == "qwen2" or config.get("attention_bias") else "none" if is_gated else "all",
        is_gated=is_gated,
    )


def _gpt2(config: Mapping[str, Any]) -> Shape:
    hidden, heads = int(config["n_embd"]), int(config["n_head"])
    return Shape(
        layers=int(config["n_layer"]),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_size=hidden // heads,
        intermediate=int(config.get("n_inner") or 4 * hidden),
        vocabulary=int(config["vocab_size"]),
        is_head_tied=bool(config.get("tie_word_embeddings", True)),
        biases="all",
        is_gated=False,
        positions=int(config["n_positions"]),
    )


TINY_QWEN2 = Shape(
    layers=2,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_size=16,
    intermediate=128,
    vocabulary=397,
    is_head_tied=False,
    biases="qkv",
)
"""Built in `tiny`."""

SMOLLM2_135M = Shape(
    layers=30,
    hidden=576,
    heads=9,
    kv_heads=3,
    head_size=64,
    intermediate=1536,
    vocabulary=49152,
    is_head_tied=True,
)
"""HuggingFaceTB/SmolLM2-135M-Instruct, config.json."""

QWEN_MATH_1_5B = Shape(
    layers=28,
    hidden=1536,
    heads=12,
    kv_heads=2,
    head_size=128,
    intermediate=8960,
    vocabulary=151936,
    is_head_tied=True,
    biases="qkv",
)
"""Qwen/Qwen2.5-Math-1.5B, config.json."""

QWEN_MATH_7B = Shape(
    layers=28,
    hidden=3584,
    heads=28,
    kv_heads=4,
    head_size=128,
    intermediate=18944,
    vocabulary=152064,
    is_head_tied=False,
    biases="qkv",
)
"""Qwen/Qwen2.5-Math-7B, config.json."""
