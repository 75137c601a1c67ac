"""Activations of one pass through a decoder: what autograd keeps for the way back, and what a test needs at once.

Counted tensor by tensor for transformers' Llama and Qwen2 blocks under torch's autocast, in the manner of Korthikanti
et al. (arXiv 2205.05198, section 4), who count a GPT block in fp16. The residual stream is fp32 whatever the precision;
`half` is 2 bytes in bf16 and fp16 and 4 in fp32. h hidden, q and k the widths of queries and keys, i intermediate.

    kept per token and block       a trained weight                 under a LoRA
    two norms                      2 (4h input + 4h normalised)     2 (4h input)
    inputs of q, k, v, gate, up    fp32: 2 (4h); else 5 (2h)        the same, of the adapters
    attention                      half (3q + q out + q in o_proj)  the same
    MLP                            half (4i)                        the same
    plain attention kernel         2 (3q) + 8 x heads x length      bf16 on a CPU, up to 512 tokens (`forward.py`)

Keys and values count q each, for they are repeated for all heads before the kernel. A completion token's logits cost 12
bytes x vocabulary: log-softmax, the gradient of the loss, and that of the logits, in fp32. `SLACK` stands for what the
allocators leave between tensors and for the tensors that come and go (tests/benchmarks/test_memory.py compares).
"""

from __future__ import annotations

from dataclasses import dataclass

from trainables.base_models.shape import Shape

MAX_LOGITS = 2**26
"""Most logits that an evaluation holds at once (`trainables.training.evaluation`)."""
MAX_PLAIN_ATTENTION = 512
SLACK = 1.15


@dataclass(frozen=True)
class Text:
    """The sequences of a dataset: tokens of the longest, and the share of its tokens that are to be predicted.

    `is_known` is false before the data is made: then both are what the config allows at most.
    """

    longest: int
    share: float = 1.0
    is_known: bool = False

    @property
    def targets(self) -> float:
        """The tokens to predict of one sequence."""
        return self.longest * self.share


@dataclass(frozen=True)
class Passes:
    """The passes of one model: its shape, its precision, whether its weights are frozen, and where it runs."""

    shape: Shape
    is_half: bool
    is_frozen: bool
    is_on_gpu: bool

    @property
    def half(self) -> int:
        """Bytes of one element of what is computed in the run's precision."""
        return 2 if self.is_half else 4

    def block(self, text: Text) -> float:
        """Return the bytes that a block keeps of one token for the way back."""
        shape, half = self.shape, self.half
        queries = shape.heads * shape.head_size
        norms = 2 * shape.hidden * (4 if self.is_frozen else 8)
        inputs = 5 * 2 * shape.hidden if self.is_half else 2 * 4 * shape.hidden
        is_plain = self.is_half and not self.is_on_gpu and text.longest <= MAX_PLAIN_ATTENTION
        attention = half * 5 * queries + (6 * queries + 8 * shape.heads * text.longest if is_plain else 0)
        return norms + inputs + attention + half * (4 if shape.is_gated else 2) * shape.intermediate

    def kept(self, sequences: int, text: Text, *, checkpointing: bool) -> float:
        """Return the bytes of one pass there and back; with gradient checkpointing, block inputs and one whole block.

        A checkpointed block takes the kernel that keeps no attention weights.
        """
        tokens, shape = sequences * text.longest, self.shape
        if checkpointing:
            one = Passes(shape, self.is_half, self.is_frozen, is_on_gpu=True).block(text)
            return SLACK * tokens * (4 * shape.hidden * (shape.layers + 3) + 2 * one)
        return SLACK * tokens * (self.block(text) * shape.layers + 12 * shape.hidden)

    def logits(self, sequences: int, text: Text) -> float:
        """Return the bytes of the logits of one training pass."""
        return SLACK * 12 * self.shape.vocabulary * sequences * text.targets

    def tested(self, sequences: int, text: Text) -> float:
        """Return the bytes of one pass of an evaluation, without a way back: one block's, and the logits twice."""
        shape = self.shape
        targets = min(sequences * text.targets, max(MAX_LOGITS / shape.vocabulary, text.targets))
        block = 12 * shape.hidden + self.half * 4 * shape.intermediate
        return sequences * text.longest * block + (8 + (self.half if self.is_half else 0)) * shape.vocabulary * targets

    def generated(self, sequences: int, text: Text) -> float:
        """Return the bytes of generating answers: keys in fp32 (rotation is), values in the run's precision."""
        shape = self.shape
        positions = text.longest + text.targets
        cache = shape.layers * shape.kv_heads * shape.head_size * (4 + self.half) * positions
        block = 12 * shape.hidden + self.half * 4 * shape.intermediate
        return sequences * (cache + text.longest * block + 8 * shape.vocabulary)
