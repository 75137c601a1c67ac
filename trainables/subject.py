"""What an evaluation tests: a whole model, a student or a truncated teacher, as the files of its folder say.

A change of low rank (a student's adapter, a truncated teacher) stays beside the weights, as it was trained, and is
not merged: dW is some thousandths of W, and W + dW in bf16 loses much of it. (SmolLM2, rank 16: the loss in bf16 was
.006 off that in fp32 beside the weights and .024 merged; in fp32 the two differ by 6e-7. Merged is 17 % faster.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from trainables.base import InputError, Scalar
from trainables.checkpoint_files import read_json
from trainables.training.config import Precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainables.linalg.factors import Factors

Kind: TypeAlias = Literal["whole", "student", "truncated"]


def kind_of(subject: Path) -> Kind:
    """Return what the folder is: `adapter/` makes a student, an export's factors a truncated teacher."""
    if (subject / "adapter" / "adapter_config.json").is_file():
        return "student"
    return "truncated" if (subject / "factors.safetensors").is_file() else "whole"


def check_rank(rank: int | None, subject: Path) -> None:
    """Raise InputError unless a truncated teacher has a rank that its export reaches, and others have none."""
    is_truncated = kind_of(subject) == "truncated"
    if is_truncated and rank is None:
        raise InputError(f"evaluate.rank is missing: a truncated teacher ({subject.name}) needs the rank to cut it at")
    if not is_truncated and rank is not None:
        raise InputError(f"evaluate.rank={rank} is for a truncated teacher; {subject.name} is none, leave it out")
    if is_truncated:
        exported = int(read_json(subject / "export.json")["rank"])
        if rank is not None and rank > exported:
            raise InputError(f"rank {rank} is above the {exported} that {subject.name} was exported at")


def load_subject(
    inputs: Mapping[str, Path], *, rank: int | None, precision: Precision, device: torch.device
) -> tuple[Any, dict[str, Scalar]]:
    """Return the model to test, frozen, and what is known of it beforehand: the energy that a truncated teacher keeps.

    `inputs` are `subject` and, for what belongs on it, `base_model`; `rank` is that of a truncated teacher.
    """
    from trainables.training.models import load_model, precast_frozen

    subject = inputs["subject"]
    kind = kind_of(subject)
    metrics: dict[str, Scalar] = {}
    model = load_model(subject if kind == "whole" else inputs["base_model"], precision=precision, device=device)
    if kind == "student":
        model = _with_adapter(model, subject / "adapter")
    elif kind == "truncated":
        assert rank is not None
        metrics["energy"] = _add_truncated(model, subject, rank)
    model.requires_grad_(False)
    precast_frozen(model, precision)
    return model.eval(), metrics


def _with_adapter(base: Any, adapter: Path) -> Any:
    from peft import PeftModel

    from trainables.training.models import quiet

    with quiet():
        wrapped = PeftModel.from_pretrained(base, adapter, torch_device=str(base.device))
    return wrapped.get_base_model()


def _add_truncated(model: Any, export: Path, rank: int) -> float:
    """Add the leading `rank` triplets of every factorised layer beside its weight; return the energy they keep."""
    from trainables.linalg.factors import load_factors

    kept = 0.0
    modules = dict(model.named_modules())
    for name, factors in load_factors(export).items():
        few = factors.truncated(min(rank, factors.rank))
        kept += float(few.s.double().square().sum())
        modules[name].register_forward_hook(_low_rank(few, model.device))
    total = float(read_json(export / "export.json")["delta_norm"]) ** 2
    return min(1.0, kept / total) if total else 1.0


def _low_rank(factors: Factors, device: torch.device) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
    """Return a hook that adds U diag(S) V^T x to a linear layer's output, in the order in which LoRA multiplies."""
    down, up = factors.vt.T.to(device), (factors.u * factors.s).T.to(device)

    def add(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + (inputs[0] @ down) @ up

    return add
