"""One forward pass, no dearer than a completion loss needs.

Only the positions that predict a completion token go through the language-model head: the head of a small
model is a fifth of its work, and most positions are prompt.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from trainables.training.batches import Batch

PACKABLE = {"gpt2", "llama", "qwen2"}
"""Architectures whose tokens meet in attention only, tested to give the same losses packed and padded."""
MAX_MATH_ATTENTION = 512


def target_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits (targets, vocabulary) of the batch's completion tokens, in fp32.

    The hidden states are thinned out on their way into the head, so whatever an architecture does to its
    logits afterwards (scaling, capping) still happens.
    """

    def thin_out(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = inputs
        return (hidden.flatten(0, 1).index_select(0, batch.sources).unsqueeze(0), *rest)

    handle = model.get_output_embeddings().register_forward_pre_hook(thin_out)  # type: ignore[operator]
    try:
        with attention_kernel(model, batch.input_ids):
            output = model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                use_cache=False,
            )
    finally:
        handle.remove()
    logits: Tensor = output.logits.squeeze(0)
    return logits.float()


def summed_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy summed over the batch's completion tokens, in nats."""
    return nn.functional.cross_entropy(target_logits(model, batch), batch.targets, reduction="sum")


def attention_kernel(model: Any, input_ids: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Return the context with the fastest attention for training on `input_ids`.

    torch 2.13's flash attention in bf16 on a CPU takes 11 ms to go back through 8 x 9 heads x 50 tokens, the
    plain one 3 ms; in fp32 and forwards flash is as fast or faster, and its memory grows linearly. Gradient
    checkpointing computes a block again after this context has ended, and must meet the same kernel there.
    """
    is_short = input_ids.shape[1] <= MAX_MATH_ATTENTION and not model.is_activation_checkpointing
    if input_ids.device.type == "cpu" and is_short and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def can_pack(model: nn.Module, device: torch.device) -> bool:
    """Say whether packed batches give the same losses here: known architecture, full attention, no active dropout.

    Only asked for on CPUs; a GPU has cores for the padded batch and better kernels for it.
    """
    config: Any = model.config
    if device.type != "cpu" or config.model_type not in PACKABLE or config._attn_implementation != "sdpa":
        return False
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return False
    if not model.training:
        return True
    dropouts = any(module.p > 0 for module in model.modules() if isinstance(module, nn.Dropout))
    return not dropouts and not getattr(config, "attention_dropout", 0.0)
