"""The student: a LoRA adapter on the frozen base model, from a chosen start.

The adapter is PEFT's, and so is what is saved: `PeftModel.from_pretrained(base, folder / "adapter")`. Only the
start is ours (`trainables/inits`), and all that follows is the same in every arm: data order, dropout, schedule. An
adapter whose start is subtracted from the base is saved at twice its rank, so that it, too, belongs on the base.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator

from trainables import inits
from trainables.base import Context, InputError, Metrics, Progress, Trainable
from trainables.training.config import TrainingConfig
from trainables.training.precision import pin_precision

if TYPE_CHECKING:
    from trainables.training.engine import Engine

HEAD = "lm_head"
"""The output head, where a checkpoint stores one of its own; tied to the embeddings it is no target."""


class StudentConfig(TrainingConfig):
    """A training run and its adapter, in PEFT's terms."""

    steps: int = Field(30, ge=0, description="optimiser steps; 0: the start itself is saved and tested")
    learning_rate: float = Field(1e-3, gt=0, description="peak of the schedule; each init has its own best value")
    init: str = Field("random", description="how the adapter starts: a file of trainables/inits")
    rank: int = Field(16, ge=1, description="rank of every update B A")
    lora_alpha: float | None = Field(None, gt=0, description="none: equal to the rank, a scaling of 1")
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    use_rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead of alpha / rank")
    target_modules: str | list[str] = Field(
        "all-linear", description="all-linear, names or ends of names in a list, or a regular expression, as in PEFT"
    )

    @field_validator("init")
    @classmethod
    def _is_known(cls, name: str) -> str:
        inits.find(name)
        return name

    @property
    def alpha(self) -> float:
        """The numerator of the adapter's scaling."""
        return self.rank if self.lora_alpha is None else self.lora_alpha

    def identity(self) -> dict[str, Any]:
        """Return what decides the result: alpha left out and alpha given as the rank are the same adapter."""
        return super().identity() | {"lora_alpha": float(self.alpha)}


def needs(config: StudentConfig) -> tuple[str, ...]:
    """Return the inputs that a student reads: the base model, the data, and what its init starts from."""
    return ("base_model", "dataset", *inits.find(config.init).needs)


def check(config: StudentConfig, inputs: Mapping[str, Path]) -> None:
    """Raise InputError if the targets match no layer of the base model, or one of them is too small for the rank."""
    if "base_model" not in inputs:
        return
    from trainables.checkpoint_files import read_headers
    from trainables.targets import check_targets, depth, is_target

    matrices = {
        name.removesuffix(".weight"): tensor.shape
        for name, tensor in read_headers(inputs["base_model"]).items()
        if name.endswith(".weight") and len(tensor.shape) == 2 and (depth(name) is not None or name == f"{HEAD}.weight")
    }
    check_targets(config.target_modules, matrices)
    targets = {name: min(shape) for name, shape in matrices.items() if is_target(name, config.target_modules, HEAD)}
    smallest = min(targets, key=lambda name: targets[name])
    if config.rank > targets[smallest]:
        shape = "x".join(map(str, matrices[smallest]))
        raise InputError(
            f"student rank {config.rank} is above the size of {smallest} ({shape}); use at most {targets[smallest]}, "
            "or take that layer out of target_modules"
        )


def run(config: StudentConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Train an adapter; leave it in `adapter/`, and the best one in `best/adapter/` if it is another."""
    from trainables.inits.parts.subtraction import settle
    from trainables.training.models import precast_frozen
    from trainables.training.session import open_session

    check(config, context.inputs)
    with open_session(config, context) as session:
        model = add_adapter(session.base, config)
        inits.find(config.init).start(model, config, context)
        settle(model, context, session.workers)
        trainable, total = model.get_nb_trainable_parameters()
        share = 100 * trainable / total
        context.log(f"trainable params: {trainable:,d} || all params: {total:,d} || trainable%: {share:.4f}")
        precast_frozen(model, config.precision)
        # What is trained is the model that the adapter sits in: PeftModel's own forward adds nothing for LoRA. The
        # init comes before `fit`, whose engine may take the adapter to pieces.
        return (yield from session.fit(model.get_base_model(), (trainable, total), partial(save_trained, model)))


def add_adapter(base: Any, config: StudentConfig) -> Any:
    """Return the base as a PeftModel with a new adapter: PEFT's default start under the run's seed."""
    import torch
    from peft import LoraConfig, get_peft_model

    from trainables.training.models import quiet

    adapter = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        target_modules=config.target_modules,
    )
    torch.manual_seed(config.seed)
    with quiet():
        return get_peft_model(base, adapter)


def save_trained(model: Any, engine: Engine, folder: Path) -> None:
    """Write the adapter that the engine has trained; all workers give their pieces, and the first one writes."""
    from trainables.linalg.adapter_factors import PREFIX

    weights = engine.trained_weights()
    if engine.workers.is_first:
        save_adapter(model, folder / "adapter", {f"{PREFIX}{name}": value for name, value in weights.items()})


def save_adapter(model: Any, folder: Path, weights: Mapping[str, Any] | None = None) -> None:
    """Write an adapter as PEFT does, without its model card, which would be a form to fill in.

    `weights` are those to write, by their names in the PeftModel; without them the model's own. A start that is
    subtracted goes with them (`inits/parts/subtraction.py`).
    """
    from trainables.inits.parts.subtraction import of_twice_the_rank, subtracted, with_start
    from trainables.linalg.adapter_factors import PREFIX
    from trainables.training.models import quiet

    (adapter,) = model.peft_config
    config = model.peft_config[adapter]
    if not isinstance(config.target_modules, str):  # a regular expression stays as it is
        config.target_modules = sorted(config.target_modules)  # PEFT's set would be in another order each time
    halves = {f"{PREFIX}{name}": half for name, half in subtracted(model).items()}
    if halves:
        weights = with_start(model.state_dict() if weights is None else weights, halves)
        model.peft_config[adapter] = of_twice_the_rank(config)
    try:
        with quiet():
            model.save_pretrained(folder, save_embedding_layers=False, state_dict=weights)
    finally:
        model.peft_config[adapter] = config
    (folder / "README.md").unlink(missing_ok=True)


def cost_s(config: StudentConfig) -> float:
    """Guess core-seconds: 0.15 s for each of a step's sequences, of some fifty tokens, in a model of 135 million."""
    return 5 + config.steps * config.batch_size * 0.15


TRAINABLE = Trainable(
    name="student",
    version=1,
    config=StudentConfig,
    run=run,
    roles=("base_model", "dataset", *inits.roles()),
    needs=needs,
    pin=pin_precision,
    check=check,
    cost_s=cost_s,
    plugins=lambda config: (f"inits/{config.init}.py",),
)
