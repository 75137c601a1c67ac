"""Pairs of tiny checkpoints whose difference is known, and their factors from torch alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from trainables.base_models import tiny
from trainables.linalg.factors import Factors
from trainables.targets import Linear, read_layout, select


@dataclass(frozen=True)
class Pair:
    """A base, a tuned model that differs from it in every tensor, and the full factors of each linear change."""

    base: Path
    tuned: Path
    linears: list[Linear]
    factors: dict[str, Factors]

    def ranks(self, *cycle: int) -> dict[str, int]:
        """Return ranks that go through `cycle` from layer to layer."""
        return {linear.name: linear.rank(cycle[i % len(cycle)]) for i, linear in enumerate(self.linears)}


def make_pair(folder: Path, family: str, *, blocks: int = 2, size: float = 0.02) -> Pair:
    """Build a tiny model of `blocks` blocks and one that differs by noise of this size, in fp32."""
    base, tuned = folder / "base", folder / "tuned"
    base.mkdir(parents=True)
    tiny.build(family, 0, base)
    if blocks != tiny.LAYERS:
        config = AutoConfig.from_pretrained(base)
        config.num_hidden_layers = blocks
        if hasattr(config, "layer_types"):
            config.layer_types = ["full_attention"] * blocks
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(base)
    shutil.copytree(base, tuned)
    draw = torch.Generator().manual_seed(3)
    stored = load_file(base / "model.safetensors")
    changed = {name: value + size * torch.randn(value.shape, generator=draw) for name, value in sorted(stored.items())}
    save_file(changed, tuned / "model.safetensors", {"format": "pt"})
    layout = read_layout(base)
    linears = select(layout, "all-linear")
    factors = {linear.name: _factors(linear, changed[linear.weight] - stored[linear.weight]) for linear in linears}
    return Pair(base, tuned, linears, factors)


def _factors(linear: Linear, delta: torch.Tensor) -> Factors:
    u, s, vt = torch.linalg.svd((delta.T if linear.is_transposed else delta).double(), full_matrices=False)
    return Factors(u.float(), s.float(), vt.float())


def records(path: Path, count: int = 12) -> Path:
    """Write questions and answers to a JSON file."""
    path.write_text(json.dumps([{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(count)]))
    return path
