"""What inits start from, made once for all tests: teachers, exact factors of their changes, a student of high rank."""

from __future__ import annotations

import copy
import functools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from tests.trainables.driver import execute
from tests.trainables.tiny_models import FAMILIES, base_model, dataset
from trainables import inits
from trainables.base import Context, Place
from trainables.linalg.factors import Factors, save_factors
from trainables.student import StudentConfig, add_adapter
from trainables.training.config import Precision
from trainables.training.evaluation import evaluate_loss
from trainables.training.examples import load_examples
from trainables.training.models import block_linears, load_model, precast_frozen

TEACHER = {"steps": 12, "batch_size": 8, "eval_every": 12, "precision": "fp32", "learning_rate": 5e-3}
TEACHER |= {"parameters": "linears"}
HIGH_RANK = {"rank": 12, "lora_alpha": 20.0, "use_rslora": True, "steps": 8, "batch_size": 8, "eval_every": 8}
HIGH_RANK |= {"precision": "fp32", "learning_rate": 2e-2}
SCALINGS: tuple[dict[str, Any], ...] = ({}, {"lora_alpha": 16.0}, {"lora_alpha": 3.0, "use_rslora": True})
"""alpha = r, alpha != r, rsLoRA."""


def cases(names: Sequence[str]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return each name with each family and each scaling once, paired otherwise from name to name (a Latin square).

    A layout and a scaling meet in one place only, `Adapted.set`; test_svd crosses all of them there.
    """
    return [
        (name, family, SCALINGS[(index + shift) % len(SCALINGS)])
        for index, name in enumerate(names)
        for shift, family in enumerate(FAMILIES)
    ]


@dataclass(frozen=True)
class Taught:
    """A linears-only teacher: the losses before and after, its folder, and that of the exact factors of its change."""

    before: float
    after: float
    teacher: Path
    export: Path


@functools.cache
def square_model(family: str) -> Path:
    """Return a tiny model all of whose linear layers have full rank 64: key and value heads are not grouped."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(tempfile.mkdtemp(prefix=f"square-{family}-"))
    shutil.copytree(base_model(family), folder, dirs_exist_ok=True)
    if family != "gpt2":
        config = AutoConfig.from_pretrained(folder, num_key_value_heads=4)
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@functools.cache
def loaded(folder: Path) -> Any:
    return load_model(folder)


def fresh(family: str) -> Any:
    """Return the base model, to be changed at will."""
    return copy.deepcopy(loaded(square_model(family)))


@functools.cache
def taught(family: str, *, wrong: bool = False) -> Taught:
    """Return a teacher of the data that the students see, or one of other data."""
    folder = Path(tempfile.mkdtemp(prefix=f"taught-{family}-"))
    inputs = given(family) | ({"dataset": dataset(30, 4, equal=True)} if wrong else {})
    metrics = execute("teacher", TEACHER, folder / "teacher", inputs=inputs).metrics
    factors = {
        name: Factors(*torch.linalg.svd(change, full_matrices=False))
        for name, change in changes(family, load_model(folder / "teacher")).items()
    }
    write_factors(folder, factors)
    return Taught(metrics["initial_eval_loss"], metrics["final_eval_loss"], folder / "teacher", folder)


def write_factors(folder: Path, factors: Mapping[str, Factors]) -> Path:
    folder.mkdir(exist_ok=True)
    shapes = {name: (len(found.u), found.vt.shape[1], found.rank) for name, found in factors.items()}
    save_factors(folder, shapes, factors.items())
    return folder


@functools.cache
def high_rank_student(family: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"high-rank-{family}-"))
    execute("student", HIGH_RANK, folder / "student", inputs=given(family))
    return folder / "student"


def given(family: str, **more: Path) -> dict[str, Path]:
    return {"base_model": square_model(family), "dataset": dataset(), **more}


def given_for(name: str, family: str) -> dict[str, Path]:
    """Return the inputs of a student with this init, those it reads."""
    made = {
        "svd_export": lambda: taught(family).export,
        "wrong_export": lambda: taught(family, wrong=True).export,
        "high_rank_student": lambda: high_rank_student(family),
    }
    return given(family, **{role: made[role]() for role in inits.find(name).needs})


def context_for(name: str, family: str, **more: Path) -> Context:
    nowhere = Path("nowhere")
    return Context("student-0", given_for(name, family) | more, nowhere, nowhere, Place())


def started(name: str, family: str, **settings: Any) -> Any:
    """Return the PeftModel of a student at step 0."""
    config = StudentConfig(init=name, **{"rank": 4, **settings})
    model = add_adapter(fresh(family), config)
    inits.find(name).start(model, config, context_for(name, family))
    return model


@functools.cache
def at_start(name: str, family: str, **settings: Any) -> Any:
    """Return the same to be looked at only: many tests share it."""
    return started(name, family, **settings)


def held_out_loss(model: Any, precision: Precision = "fp32") -> float:
    """Return the loss on the validation items in a precision, as the loop and `evaluate` measure it."""
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    precast_frozen(model, precision)
    examples = load_examples(dataset(), "validation")
    return evaluate_loss(model, examples, batch_size=32, precision=precision, device="cpu", pad_id=0).loss


def changes(family: str, tuned: Any) -> dict[str, Tensor]:
    """Return W_tuned - W_base of every linear layer in (out, in) orientation."""
    before = block_linears(loaded(square_model(family)))
    found = {name: layer.weight.detach() - before[name].weight.detach() for name, layer in block_linears(tuned).items()}
    return {name: change.T if family == "gpt2" else change for name, change in found.items()}


def truncated(family: str, tuned: Any, rank: int) -> Any:
    """Return the base with the best approximation of a tuned model's change added to its weights: no adapter, no init.

    numpy's LAPACK in fp64 is the reference.
    """
    import numpy as np

    model = fresh(family)
    layers = block_linears(model)
    for name, change in changes(family, tuned).items():
        u, s, vt = np.linalg.svd(change.double().numpy(), full_matrices=False)
        best = torch.from_numpy((u[:, :rank] * s[:rank]) @ vt[:rank])
        with torch.no_grad():
            layers[name].weight.add_(best.T if family == "gpt2" else best)
    return model


def merged(family: str, student: Path) -> Any:
    """Return the base with a student's adapter merged into it, by PEFT."""
    return PeftModel.from_pretrained(fresh(family), student / "adapter").merge_and_unload()
