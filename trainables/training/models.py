"""Loading a model for training, and what decides its speed: threads, device, autocast, frozen weights.

Trained weights and their optimiser stay in fp32 whatever the precision; lower precision is autocast's.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables.base import InputError, Place
from trainables.base_models.libraries import quieten
from trainables.training.config import Precision

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def set_threads(place: Place) -> None:
    """Give torch as many threads as the place has CPUs: more of them fight for the same cores."""
    threads = max(1, int(place.cpus))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def device_of(place: Place) -> torch.device:
    """Return the device of the place; raises InputError if it asks for a GPU that is not there."""
    wanted = place.device if place.device != "auto" else "cuda" if place.gpus else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("the run was placed on a GPU and torch sees none; use --place STAGE.device=cpu")
    return torch.device(wanted)


def autocast(
    precision: Precision, device: torch.device, *, caches: bool = True
) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a forward pass runs in `precision`; raises InputError for fp16 on a CPU.

    `caches` keeps the cast weights until the pass is over, for those that are used more than once.
    """
    if precision == "auto":
        raise ValueError("precision 'auto' is resolved at planning")
    if precision == "fp32":
        return contextlib.nullcontext()
    if precision == "fp16" and device.type != "cuda":
        raise InputError("precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    return torch.autocast(device.type, DTYPES[precision], cache_enabled=caches)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and PEFT from writing progress bars, hints and warnings."""
    quieten()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load_model(folder: Path, *, precision: Precision = "fp32", device: torch.device | str = "cpu") -> Any:
    """Return the causal language model of a folder in fp32, in evaluation mode; runs none of the folder's code.

    `precision` is that of the forward passes to come (`autocast`); raises InputError if the device has none such.
    """
    from transformers import AutoModelForCausalLM

    autocast(precision, torch.device(device))
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa", use_safetensors=True, local_files_only=True
        )
    # A machine's path has no place in what is saved with the model.
    model.name_or_path = model.config.name_or_path = ""
    return model.to(device)


def save_activation_memory(model: Any) -> None:
    """Let the model compute its activations again on the way back instead of keeping them."""
    model.activation_checkpointing_enable({"use_reentrant": False})


def block_linears(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers (Linear and Conv1D) of the model's blocks by name: all but heads."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()  # type: ignore[operator]
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    return {name: module for name, module in linears.items() if module is not head}


def precast_frozen(model: nn.Module, precision: Precision) -> None:
    """Cast what autocast would cast again in each forward pass, the frozen linear weights, once and for all.

    The results are the same to the last bit. Embeddings and norms stay in fp32, as under autocast; a head that
    is tied to a frozen embedding gets a weight of its own.
    """
    from transformers.pytorch_utils import Conv1D

    if precision not in DTYPES:
        return
    dtype = DTYPES[precision]
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D):
            for name, parameter in list(module.named_parameters(recurse=False)):
                if not parameter.requires_grad:
                    setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
