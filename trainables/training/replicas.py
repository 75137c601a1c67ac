"""Plain data parallelism: every worker holds the whole model and sums the gradients with the others before a step.

This is what several workers do without a ZeRO stage. Its arithmetic, clipping, loss scale and checkpoints are those of
one process, so such a run can go on with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from trainables.training.buckets import REPLICA_BUCKET
from trainables.training.engine import ProcessEngine


class ReplicaEngine(ProcessEngine):
    """A process engine whose gradients are the sum over all workers'."""

    def step(self) -> float:
        """Sum the gradients over the workers, then clip and update as one process does."""
        gradients = [value.grad for value in self.parameters.values() if value.grad is not None]
        for bucket in buckets(gradients, REPLICA_BUCKET):
            together = self.workers.sum(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            parts = torch.split(together, [gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        return super().step()


def buckets(tensors: Sequence[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Yield the tensors in groups of at most `size` elements; a larger one is a group of its own."""
    bucket: list[Tensor] = []
    filled = 0
    for tensor in tensors:
        if bucket and filled + tensor.numel() > size:
            yield bucket
            bucket, filled = [], 0
        bucket.append(tensor)
        filled += tensor.numel()
    if bucket:
        yield bucket
