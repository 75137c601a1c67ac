"""The need of any run of a plan, from its config, its place, the model's shape and the data's longest sequence.

Shape and sequences are read from the artefacts once they are there. Before, the shape is the study's or a local
folder's, and every sequence counts as long as the dataset allows, all of it predicted: an upper bound, and said so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.memory.need import GIB, Need, Parts, Phase
from orchestrator.memory.passes import Passes, Text
from orchestrator.memory.training import Trained, Training, frozen_weights
from orchestrator.plan import Plan, Run
from orchestrator.store import Store
from trainables import inits
from trainables.base import Place
from trainables.base_model import BaseModelConfig, kind_of
from trainables.base_models.shape import Shape, read_shape
from trainables.checkpoint_files import read_json
from trainables.data.config import DatasetConfig
from trainables.evaluate import EvaluateConfig
from trainables.ia3 import IA3Config
from trainables.student import StudentConfig
from trainables.teacher import TeacherConfig
from trainables.training.config import TrainingConfig

PROCESS, GPU_PROCESS = 0.5 * GIB, 2 * GIB
"""An interpreter with torch, transformers, PEFT and DeepSpeed (0.36 GiB measured); with CUDA's libraries, a guess."""
EXPORT_MATRICES = 6
"""Times its largest matrix in fp32 that an export holds for each layer in work (benchmarks/test_export_memory.py)."""


@dataclass(frozen=True)
class Facts:
    """What a need depends on beside config and place; None where it cannot be known yet."""

    shape: Shape | None
    text: Text | None


def facts_of(plan: Plan, run: Run, store: Store) -> Facts:
    """Return what is known of the model and the data that a run reads."""
    sources = run.inputs
    base = run
    while "base_model" in base.inputs:  # a teacher may start from another one
        base = plan[base.inputs["base_model"]]
    data = plan[sources["dataset"]] if "dataset" in sources else None
    return Facts(_shape(plan, base, store), None if data is None else _text(data, store))


def _shape(plan: Plan, base: Run, store: Store) -> Shape | None:
    if not isinstance(base.config, BaseModelConfig):
        return None
    if store.is_finished(base.id):
        return read_shape(store.artefact(base.id))
    if kind_of(base.config) == "folder":
        return read_shape(Path(base.config.source))
    return plan.study.shape


def _text(data: Run, store: Store) -> Text | None:
    facts = store.artefact(data.id) / "dataset.json"
    if store.is_finished(data.id) and facts.is_file():
        splits = read_json(facts).get("splits", {}).values()
        longest = max((int(split["longest"] or 0) for split in splits), default=0)
        tokens = sum(int(split["tokens"]) for split in splits)
        if longest and tokens:
            return Text(longest, sum(int(split["completion_tokens"]) for split in splits) / tokens, is_known=True)
    maximum = data.config.max_length if isinstance(data.config, DatasetConfig) else None
    return None if maximum is None else Text(maximum)


def need(run: Run, facts: Facts) -> Need | None:
    """Return what one worker of the run holds; None where model, data or trainable are not known well enough."""
    estimate = ESTIMATES.get(run.trainable)
    phases = None if estimate is None or facts.shape is None else estimate(run, facts.shape, facts.text)
    if phases is None:
        return None
    on_gpu = is_on_gpu(run.place)
    return Need(tuple(phases), on_gpu, run.place.workers, GPU_PROCESS if on_gpu else PROCESS)


def is_on_gpu(place: Place) -> bool:
    """Say whether a place computes on a GPU (as `trainables.training.models.device_of` decides)."""
    return place.device == "cuda" or (place.device == "auto" and place.gpus > 0)


def _teacher(run: Run, shape: Shape, text: Text | None) -> Iterable[Phase] | None:
    config = run.config
    if text is None or not isinstance(config, TeacherConfig):
        return None
    has_all = config.parameters == "all"
    elements = shape.parameters if has_all else shape.layers * shape.block_weights
    return _training(run, Trained(shape, elements, has_embeddings=has_all), text, config)


def _student(run: Run, shape: Shape, text: Text | None) -> Iterable[Phase] | None:
    config = run.config
    if text is None or not isinstance(config, StudentConfig):
        return None
    adapter = shape.adapter(config.rank)
    beside = adapter if inits.find(config.init).is_subtracted else 0
    return _training(run, Trained(shape, adapter, adapter, has_embeddings=False, beside=beside), text, config)


def _ia3(run: Run, shape: Shape, text: Text | None) -> Iterable[Phase] | None:
    """A student with a factor for every channel at most, and the base once more, in which the factors are merged."""
    if text is None or not isinstance(run.config, IA3Config):
        return None
    factors = shape.layers * sum(out for out, _ in shape.linears)
    phases = _training(run, Trained(shape, factors, factors, has_embeddings=False), text, run.config)
    return (*phases, Phase("merge", host=Parts(weights=4.0 * shape.parameters)))


def _lora_mean(run: Run, shape: Shape, text: Text | None) -> Iterable[Phase]:
    """One layer: its weight, the sum, and the members' factors, in fp64 where they are decomposed."""
    largest = 4.0 * max(out * width for out, width in shape.linears)
    return (Phase("layer", Parts(weights=2 * largest, activations=(EXPORT_MATRICES - 2) * largest)),)


def _training(run: Run, trained: Trained, text: Text, config: TrainingConfig) -> Iterable[Phase]:
    is_half = config.precision != "fp32"
    return Training(trained, run.place, text, is_half, is_on_gpu(run.place), config.batch_size).phases()


def _evaluate(run: Run, shape: Shape, text: Text | None) -> Iterable[Phase] | None:
    if text is None or not isinstance(run.config, EvaluateConfig):
        return None
    is_half, on_gpu = run.config.precision != "fp32", is_on_gpu(run.place)
    passes, rows = Passes(shape, is_half, is_frozen=True, is_on_gpu=on_gpu), run.place.evaluation_batch_size
    loaded = Parts(weights=4.0 * shape.parameters)
    held = frozen_weights(shape, adapter=1, is_half=is_half)
    return (
        Phase("load", loaded, loaded if on_gpu else Parts()),
        Phase("test", Parts(weights=held, activations=passes.tested(rows, text))),
        Phase("answers", Parts(weights=held, activations=passes.generated(rows, text))),
        Phase("geometry", Parts(weights=held, activations=_compared(shape) if run.config.geometry else 0.0)),
    )


def _compared(shape: Shape) -> float:
    """Return the bytes of the largest layer's weight thrice and two changes; in fp64 two of these, and squares."""
    return max(36.0 * out * width + 24.0 * min(out, width) ** 2 for out, width in shape.linears)


def _svd_export(run: Run, shape: Shape, text: Text | None) -> Iterable[Phase]:
    on_gpu = is_on_gpu(run.place)
    largest = 4.0 * max(out * width for out, width in shape.linears)
    at_once = 1 if on_gpu else max(1, int(run.place.cpus))
    work = Parts(weights=3 * largest * at_once, activations=(EXPORT_MATRICES - 3) * largest * at_once)
    host = Parts(weights=3 * largest * max(1, int(run.place.gpus))) if on_gpu else Parts()
    return (Phase("layer", work, host),)


def _base_model(run: Run, shape: Shape, text: Text | None) -> Iterable[Phase]:
    """Files are copied; only the GGUF file of SmolLM2 is unpacked: as a model, its state dict, and one of its own."""
    is_unpacked = isinstance(run.config, BaseModelConfig) and kind_of(run.config) == "smollm2"
    return (Phase("unpack", Parts(weights=12.0 * shape.parameters if is_unpacked else 0.0)),)


def _dataset(run: Run, shape: Shape, text: Text | None) -> Iterable[Phase]:
    return (Phase("read"),)


ESTIMATES: Mapping[str, Callable[[Run, Shape, Text | None], Iterable[Phase] | None]] = {
    "base_model": _base_model,
    "dataset": _dataset,
    "teacher": _teacher,
    "svd_export": _svd_export,
    "student": _student,
    "ia3": _ia3,
    "lora_mean": _lora_mean,
    "evaluate": _evaluate,
}
"""By the trainable's name; others are not estimated."""
