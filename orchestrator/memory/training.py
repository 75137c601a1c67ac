"""Teacher and student in training: what each engine keeps of weights, gradients and optimiser.

P parameters, T trained ones, N workers; 4 bytes an element, for weights and AdamW's two moments are fp32 whatever the
precision (`trainables.training`). A student's frozen linear layers are cast once, to 2 bytes, with a head of their own.

    zero_stage   weights                gradients                  optimiser
    0            4P                     4T                         8T
    1            4P                     4T, 4T/N at the update     masters and moments, 12T/N
    2            4P                     4T/N twice, two buckets    12T/N
    3            4P/N, and gathered     4T/N twice, two buckets    12T/N

Gathered is what stage 3 has whole at a time: LIVE elements and the largest weight (`trainables.training.buckets`). With
`offload`, the optimiser and fp32 gradients are in the machine's memory: 20T/N in stage 3, 16T/N in stages 1 and 2.
Sources: DeepSpeed 0.19's stage_1_and_2.py and stage3.py (which means to share fp32 weights with their masters, and
compares a device with a string, so that it never does); Rajbhandari et al. (arXiv 1910.02054) for the idea.

Autocast keeps a 2-byte copy of each weight that it has cast until the pass is over; DeepSpeed's runs without that
cache, where autograd keeps the copies all the same. With gradient checkpointing they are one block's at a time on the
way back, and all only before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.memory.need import Parts, Phase
from orchestrator.memory.passes import Passes, Text
from trainables.base import Place
from trainables.base_models.shape import Shape
from trainables.training.buckets import LIVE, REPLICA_BUCKET, ZERO_BUCKET

HEAP = 0.4
"""Share that glibc's heap keeps on a CPU of what was freed: weights that stage 3 has cut to pieces, gradients.

Measured on SmolLM2, whose tensors are smaller than the 32 MiB from which glibc gives memory back at once.
"""


@dataclass(frozen=True)
class Trained:
    """What is trained of a model: all of it, its blocks' linear layers, or an adapter of so many elements.

    `beside` elements are kept frozen beside it in fp32, whole on each worker: a start that is subtracted again.
    """

    shape: Shape
    elements: float
    adapter: int = 0
    has_embeddings: bool = True
    beside: int = 0


@dataclass(frozen=True)
class Training:
    """One worker of a run in training; `batch` sequences make a step, over all workers."""

    trained: Trained
    place: Place
    text: Text
    is_half: bool
    is_on_gpu: bool
    batch: int

    @property
    def passes(self) -> Passes:
        """The passes through the model."""
        return Passes(self.trained.shape, self.is_half, bool(self.trained.adapter), self.is_on_gpu)

    @property
    def share(self) -> int:
        """Sequences of a step that one worker sees."""
        return -(-self.batch // self.place.workers)

    @property
    def micro_batch(self) -> int:
        """Sequences in one pass."""
        return min(self.place.per_device_batch_size or self.share, self.share)

    @property
    def loaded(self) -> float:
        """Bytes of the weights as they are loaded, in fp32."""
        return 4.0 * self.trained.shape.parameters

    @property
    def weights(self) -> float:
        """Bytes of the whole model in training."""
        return frozen_weights(self.trained.shape, self.trained.adapter, self.is_half)

    def phases(self) -> Iterator[Phase]:
        """Yield the phases of the run: loading, a pass, the end of its way back, an evaluation, a checkpoint."""
        stage = self.place.zero_stage
        added = 4.0 * (self.trained.adapter + self.trained.beside)
        on_device = Parts() if stage == 3 else Parts(weights=self.loaded + added)
        yield Phase("load", on_device, Parts(weights=self.loaded) if self.is_on_gpu or stage == 3 else Parts())
        held, offloaded = self.held(), self.offloaded()
        gradients, whole = self.gradients(), self.whole_gradients()
        freed = 0.0 if stage or self.is_on_gpu else HEAP * gradients
        first = freed + (gradients if stage in (2, 3) or self.share > self.micro_batch else 0.0)
        yield Phase("pass", held + Parts(gradients=first, activations=self.activations()), offloaded)
        yield Phase("update", held + Parts(gradients=freed + gradients + whole), offloaded)
        yield Phase("test", held + Parts(activations=self.tested()), offloaded)
        yield Phase("save", held, offloaded + self.written())

    def held(self) -> Parts:
        """Return what stays on the device from step to step."""
        stage, workers, trained = self.place.zero_stage, self.place.workers, self.trained.elements
        optimiser = 8 * trained if stage == 0 else 12 * trained / workers
        weights = self.weights / workers + self.gathered() if stage == 3 else self.weights
        if stage == 3 and not self.is_on_gpu:
            weights += HEAP * self.loaded
        weights += 4.0 * self.trained.beside
        return Parts(weights=weights, optimiser=0.0 if self.place.offload and stage else optimiser)

    def gathered(self) -> float:
        """Return the bytes of weights that stage 3 has whole beside its own pieces."""
        return min(self.weights, 4 * LIVE + 4 * self.trained.shape.embeddings)

    def offloaded(self) -> Parts:
        """Return what offloading keeps in the machine's memory: masters, moments and gradients."""
        stage, each = self.place.zero_stage, self.trained.elements / self.place.workers
        if not (self.place.offload and stage):
            return Parts()
        return Parts(gradients=(8 if stage == 3 else 4) * each, optimiser=12 * each)

    def gradients(self) -> float:
        """Return the bytes of the gradients that stay on the device until the update."""
        stage, trained, workers = self.place.zero_stage, self.trained.elements, self.place.workers
        if stage in (0, 1):
            return 4 * trained
        return 8 * ZERO_BUCKET if self.place.offload else 4 * trained / workers + 8 * ZERO_BUCKET

    def whole_gradients(self) -> float:
        """Return what the end of the way back and the update take: the largest gradient again, sums and copies."""
        stage, trained, workers = self.place.zero_stage, self.trained.elements, self.place.workers
        largest = 4 * self.trained.shape.embeddings if self.trained.has_embeddings else 0
        if stage == 0:
            return largest if workers == 1 else max(2 * largest, 8 * REPLICA_BUCKET)
        return largest + (0.0 if self.place.offload else 4 * trained / workers)

    def activations(self) -> float:
        """Return the bytes of one pass there and back, with the logits and autocast's copies of the weights."""
        checkpointing = self.place.gradient_checkpointing
        kept = self.passes.kept(self.micro_batch, self.text, checkpointing=checkpointing)
        logits = self.passes.logits(self.micro_batch, self.text)
        if not checkpointing:
            return kept + logits + self.casts()
        return kept + max(logits, logits * 2 / 3 + self.casts())

    def casts(self) -> float:
        """Return the bytes of autocast's copies of trained linear weights, head included."""
        shape = self.trained.shape
        if not self.is_half or self.trained.adapter:
            return 0.0
        blocks = 1 if self.place.zero_stage and self.place.gradient_checkpointing else shape.layers
        return 2.0 * (blocks * shape.block_weights + shape.embeddings)

    def tested(self) -> float:
        """Return the bytes of an evaluation's pass."""
        casts = 0.0 if self.place.zero_stage else self.casts()
        return self.passes.tested(self.place.evaluation_batch_size, self.text) + casts

    def written(self) -> Parts:
        """Return what saving copies to the machine's memory: a GPU's tensors; with ZeRO the weights, gathered."""
        trained = self.trained.elements
        copied = self.is_on_gpu and not (self.place.zero_stage and self.place.offload)
        moments = 8 * trained / (self.place.workers if self.place.zero_stage else 1) if copied else 0.0
        return Parts(weights=4 * trained if self.is_on_gpu or self.place.zero_stage else 0.0, optimiser=moments)


def frozen_weights(shape: Shape, adapter: int, is_half: bool) -> float:
    """Return the bytes of a model in fp32, or, under an adapter, of its frozen layers as autocast wants them."""
    if not adapter or not is_half:
        return 4.0 * (shape.parameters + adapter)
    linears = shape.layers * shape.block_weights + shape.head
    return 4.0 * (shape.parameters - linears + adapter) + 2.0 * (shape.layers * shape.block_weights + shape.embeddings)
