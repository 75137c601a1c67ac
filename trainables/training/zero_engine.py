"""DeepSpeed's ZeRO behind the loop: optimiser, gradients (stage 2) and weights (stage 3) divided among the workers.

The weights stay in fp32 and a pass runs under torch's autocast, as in one process, and not in DeepSpeed's own half
precision: a run's numbers must not depend on where it executes. DeepSpeed averages gradients over workers; a loss is
multiplied by their number, so that what is clipped and applied is the gradient of the global batch's mean. The update
is torch's AdamW: DeepSpeed's own is compiled for most of a minute first.

Checkpoints are ours as well (`shards`): DeepSpeed's are pickles, which execute what they hold when they are loaded.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.base import Place
from trainables.base_models.libraries import quieten
from trainables.training.batches import Batch
from trainables.training.buckets import LIVE, ZERO_BUCKET
from trainables.training.config import Precision, TrainingConfig
from trainables.training.engine import MOMENTS, OPTIMIZER, STATE, Compute, adamw, load_schedule, make_scheduler
from trainables.training.loss_scale import LossScale
from trainables.training.models import autocast
from trainables.training.random_state import load_random_states, save_random_states
from trainables.training.shards import WEIGHTS, Shards, save_shard
from trainables.training.workers import Workers
from trainables.training.zero_layout import flat_tensors, fragments, refresh_weights

OPTIMIZERS = {1: "DeepSpeedZeroOptimizer", 2: "DeepSpeedZeroOptimizer", 3: "DeepSpeedZeroOptimizer_Stage3"}


class ZeroEngine:
    """An engine for one or several workers under ZeRO stage 1, 2 or 3; torch.distributed must be up (`workers.join`).

    From the moment it exists, stage 3 has the model's parameters in pieces: what writes into them (an adapter's init)
    has to come before.
    """

    passes_meet = True

    def __init__(self, model: Any, config: TrainingConfig, *, steps: int, workers: Workers, place: Place) -> None:
        """Train every parameter of `model` that requires a gradient, for `steps` updates, as the place says."""
        self.model, self.workers, self.device = model, workers, workers.device
        self.stage = place.zero_stage
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.optimizer = adamw(self.parameters.values(), config)
        self.scheduler = make_scheduler(self.optimizer, config, steps)
        self.scale = LossScale() if config.precision == "fp16" else None
        root = _Root(model, config.precision, self.device)
        settings = deepspeed_settings(place, config, hidden_size=model.config.get_text_config().hidden_size)
        self.zero = start_deepspeed(root, self.optimizer, settings, workers)
        self._check(settings)
        rank = workers.rank
        self.fragments = list(fragments(self.zero.optimizer, self.parameters, self.stage, rank))

    def _check(self, settings: dict[str, Any]) -> None:
        """Raise RuntimeError unless DeepSpeed does what was asked: it, or what wraps it, can fall back silently."""
        found = (type(self.zero.optimizer).__name__, int(self.zero.zero_optimization_stage()), self.zero.dp_world_size)
        wanted = (OPTIMIZERS[self.stage], settings["zero_optimization"]["stage"], self.workers.size)
        if found != wanted:
            raise RuntimeError(f"DeepSpeed started as {found} instead of {wanted} (optimiser, stage, workers)")

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return float(self.scheduler.get_last_lr()[0])

    def forward(self, compute: Compute, batch: Batch) -> Tensor:
        """Return `compute(model, batch)` in the run's precision; all workers have to make the same passes."""
        result: Tensor = self.zero(compute, batch)
        return result

    def backward(self, loss: Tensor, *, is_last: bool = True) -> None:
        """Add the gradient of `loss` to those of this step."""
        self.zero.set_gradient_accumulation_boundary(is_last)
        if self.scale is not None:
            self.zero.optimizer.override_loss_scale(self.scale.value)
        self.zero.backward(loss * self.workers.size)

    def step(self) -> float:
        """Clip, update, advance the schedule; return the norm that the whole gradient had before clipping.

        A gradient that is not finite changes no weight, and its norm is returned as infinite.
        """
        self.zero.step()
        norm = float(self.zero.get_global_grad_norm())
        if self.scale is not None:
            self.scale.update(overflowed=not math.isfinite(norm))
        self.scheduler.step()
        return norm

    def forget_gradients(self) -> None:
        """Drop what `backward` has added up since the last step."""
        self.zero.optimizer.zero_grad(set_to_none=True)

    def save(self, folder: Path) -> None:
        """Write this worker's shard and random number generators; rank 0 adds schedule and loss scale."""
        pieces = {f"weight:{part.name}": part.of(part.flat) for part in self.fragments}
        for key in MOMENTS if self.updates else ():
            pieces |= {f"{key}:{part.name}": part.of(self._state(part.flat)[key]) for part in self.fragments}
        starts = {part.name: part.start for part in self.fragments}
        save_shard(folder, self.workers.rank, pieces, starts)
        save_random_states(folder, self.workers.rank, self.device)
        if self.workers.is_first:
            state = {"scheduler": self.scheduler.state_dict(), "scaler": self._scaler_state(), "updates": self.updates}
            (folder / STATE).write_text(json.dumps(state))

    def load(self, folder: Path) -> None:
        """Go on from what any engine saved, of any number of workers and any stage."""
        state = json.loads((folder / STATE).read_text())
        saved = _Whole(folder) if (folder / WEIGHTS).exists() else Shards(folder)
        if saved.names() != self.parameters.keys():
            raise ValueError(f"{folder} holds the weights of another model")
        updates = state.get("updates", getattr(saved, "updates", 0))
        for part in self.fragments:
            part.of(part.flat).copy_(saved.part("weight", part.name, part.start, part.end))
        if updates:
            self._load_moments(saved, updates)
        refresh_weights(self.zero.optimizer, self.stage)
        load_random_states(folder, self.workers.rank, self.device)
        load_schedule(self.scheduler, self.optimizer, state["scheduler"])
        if self.scale is not None:
            self.scale = LossScale(state["scaler"]["scale"], state["scaler"]["_growth_tracker"])

    @property
    def updates(self) -> int:
        """The number of updates that AdamW has made."""
        flat = flat_tensors(self.zero.optimizer, self.stage)[0]
        return int(self._state(flat).get("step", 0))

    def _state(self, flat: nn.Parameter) -> dict[str, Tensor]:
        return dict(self.optimizer.state.get(flat, {}))

    def _load_moments(self, saved: Shards | _Whole, updates: int) -> None:
        for flat in flat_tensors(self.zero.optimizer, self.stage):
            step = torch.tensor(float(updates), device=flat.device)
            self.optimizer.state[flat] = {"step": step} | {key: torch.zeros_like(flat.detach()) for key in MOMENTS}
        for part in self.fragments:
            for key in MOMENTS:
                part.of(self._state(part.flat)[key]).copy_(saved.part(key, part.name, part.start, part.end))

    def _scaler_state(self) -> dict[str, float]:
        """Return the loss scale in the words of torch's GradScaler, for an engine that has one."""
        if self.scale is None:
            return {}
        words = {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
        return {"scale": self.scale.value, "_growth_tracker": self.scale.good, **words}

    def trained_weights(self) -> dict[str, Tensor]:
        """Return the trained weights by name, on the CPU; empty on all workers but the first."""
        return self._gathered(self.parameters)

    def all_weights(self) -> dict[str, Tensor]:
        """Return the model's state dict, on the CPU; empty on all workers but the first."""
        state = self._gathered(dict(self.model.named_parameters(remove_duplicate=False)))
        if self.workers.is_first:
            state |= {name: value for name, value in self.model.state_dict().items() if name not in state}
        return state

    def _gathered(self, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """Return whole parameters, one gathered at a time; tied ones stay one tensor."""
        from deepspeed.runtime.zero import GatheredParameters

        seen: dict[int, Tensor] = {}
        for value in parameters.values():
            if id(value) in seen:
                continue
            with GatheredParameters([value], enabled=self.stage == 3):
                seen[id(value)] = value.detach().cpu().clone() if self.workers.is_first else torch.empty(0)
        return {name: seen[id(value)] for name, value in parameters.items()} if self.workers.is_first else {}

    def save_weights(self, path: Path) -> None:
        """Write the trained weights, whole, to a safetensors file; rank 0 writes, all return once it is there."""
        weights = self.trained_weights()
        if self.workers.is_first:
            save_file(weights, path)
        self.workers.meet()

    def load_weights(self, path: Path) -> None:
        """Put back what `save_weights` wrote; raises ValueError if it is from another model."""
        weights = load_file(path)
        if weights.keys() != self.parameters.keys():
            raise ValueError(f"{path} holds the weights of another model")
        for part in self.fragments:
            part.of(part.flat).copy_(weights[part.name].view(-1)[part.start : part.end])
        refresh_weights(self.zero.optimizer, self.stage)


class _Root(nn.Module):
    """What DeepSpeed takes for the model: any computation on ours, with autocast inside of DeepSpeed's own forward."""

    def __init__(self, model: nn.Module, precision: Precision, device: torch.device) -> None:
        super().__init__()
        self.model, self.precision, self.device = model, precision, device

    def forward(self, compute: Compute, batch: Batch) -> Tensor:
        # Autocast's cache would keep a half-precision copy of every weight that stage 3 has just gathered.
        with autocast(self.precision, self.device, caches=False):
            return compute(self.model, batch)


class _Whole:
    """The checkpoint of an engine that holds its weights whole, read like shards."""

    def __init__(self, folder: Path) -> None:
        self.weights, self.moments = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)
        steps = [int(tensor) for key, tensor in self.moments.items() if key.startswith("step:")]
        self.updates = steps[0] if steps else 0

    def names(self) -> set[str]:
        return set(self.weights)

    def part(self, kind: str, name: str, start: int, end: int) -> Tensor:
        tensor = self.weights[name] if kind == "weight" else self.moments[f"{kind}:{name}"]
        return tensor.view(-1)[start:end]


def deepspeed_settings(place: Place, config: TrainingConfig, *, hidden_size: int) -> dict[str, Any]:
    """Return DeepSpeed's settings: ours leave it nothing to decide about batches, precision and optimiser."""
    zero: dict[str, Any] = {
        "stage": place.zero_stage,
        "reduce_bucket_size": ZERO_BUCKET,
        "allgather_bucket_size": ZERO_BUCKET,
        "stage3_prefetch_bucket_size": min(ZERO_BUCKET, LIVE),
        "stage3_max_live_parameters": LIVE,
        "stage3_max_reuse_distance": LIVE,
        "stage3_param_persistence_threshold": 10 * hidden_size,  # norms and biases, as transformers sets it
    }
    if place.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": place.device != "cpu" and place.gpus > 0}
    return {
        "train_micro_batch_size_per_gpu": 1,  # the loop counts for itself, and says which pass is a step's last
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm or 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def start_deepspeed(root: nn.Module, optimizer: Any, settings: dict[str, Any], workers: Workers) -> Any:
    """Return DeepSpeed's engine on the process group that is up, without its words on the terminal."""
    os.environ.setdefault("DS_ACCELERATOR", workers.device.type)
    os.environ.setdefault("LOCAL_RANK", "0")  # a worker sees its own GPU only
    quieten()
    import deepspeed

    # Compiled at first use, for 39 s where there is a g++ and fatally where there is none; gloo does as well.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if settings["zero_optimization"]["stage"] == 3:
        # Here and not in `initialize`, which would move the whole model to the device first.
        for buffer in root.buffers():
            buffer.data = buffer.data.to(workers.device)
        deepspeed.zero.Init(module=root, config_dict_or_path=settings, dtype=torch.float32)
    engine, _, _, _ = deepspeed.initialize(model=root, optimizer=optimizer, config=settings, dist_init_required=False)
    return engine
