"""Which part of each parameter a worker updates under ZeRO, and where in DeepSpeed's buffers it lies.

DeepSpeed keeps a worker's part of the fp32 weights in a few flat tensors. In stages 1 and 2 all parameters of a group
are joined and cut into equal parts; in stage 3 each parameter is cut by itself, the last part filled up with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Fragment:
    """Elements `start` to `end` of a parameter, which are those from `offset` on of the flat tensor `flat`."""

    name: str
    start: int
    end: int
    flat: nn.Parameter
    offset: int

    def of(self, flat: Tensor) -> Tensor:
        """Return this fragment's view of the flat tensor, or of a moment of the same layout."""
        return flat.detach()[self.offset : self.offset + self.end - self.start]


def flat_tensors(optimizer: Any, stage: int) -> list[nn.Parameter]:
    """Return the flat fp32 tensors that this worker's AdamW updates."""
    return list(optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups)


def fragments(optimizer: Any, parameters: Mapping[str, nn.Parameter], stage: int, rank: int) -> Iterator[Fragment]:
    """Yield what this worker updates of the named parameters; `optimizer` is DeepSpeed's, of ZeRO `stage`."""
    flat = flat_tensors(optimizer, stage)
    for name, parameter in parameters.items():
        found = _cut_by_itself(optimizer, parameter, rank) if stage == 3 else _cut_together(parameter)
        if found is not None:
            group, offset, start, end = found
            yield Fragment(name, start, end, flat[group], offset)


def _cut_by_itself(optimizer: Any, parameter: Any, rank: int) -> tuple[int, int, int, int] | None:
    group, offset, length = optimizer.grad_position[optimizer.get_param_id(parameter)]
    start, end = rank * length, min((rank + 1) * length, parameter.ds_numel)
    return (group, offset, start, end) if start < end else None


def _cut_together(parameter: Any) -> tuple[int, int, int, int] | None:
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    start, length = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
    return mapping.param_group_index, mapping.hp_fragment_address.start, start, start + length


def refresh_weights(optimizer: Any, stage: int) -> None:
    """Let the model see what was written into the flat tensors; all workers meet here."""
    if stage < 3:
        optimizer.update_lp_params()
        return
    optimizer._partition_all_parameters()
    for group in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
