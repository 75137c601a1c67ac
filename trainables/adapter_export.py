"""What a checkpoint learnt, as a PEFT adapter on the model it started from: for any two checkpoints of one model.

The ranks follow from the change itself (`trainables/export/ranks.py`). What is written is checked by reading it again,
and comes with a report, a page for strangers and, where data is given, the held-out loss that each rank reaches.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from trainables import dataset
from trainables.base import Config, Context, InputError, Metrics, Planner, Progress, Scalar, Stopped, Trainable
from trainables.checkpoint_files import TensorInfo, read_headers
from trainables.data.config import DatasetConfig
from trainables.export.misfit import unusable
from trainables.export.ranks import Criterion, parameters
from trainables.held_out import HeldOut, check_data, load_held_out
from trainables.targets import ALL_LINEAR, Linear, check_targets, choose, linear_shapes

if TYPE_CHECKING:
    from trainables.export.adapter import AdapterOptions
    from trainables.export.layer_files import LayerFiles
    from trainables.export.reload import ReloadCheck
    from trainables.export.spectrum import FunctionalGain, Spectrum

ROLES = {"base_model": "base", "teacher": "tuned model"}
"""The inputs, and what messages call them."""
ADAPTER, REPORT = "adapter", "report"
"""The folders of the output."""


class AdapterExportConfig(Config):
    """Which layers, how many triplets of each, how they are stored, and what they are measured on.

    `base_name`, `tuned_name` and the revisions are what the page and the adapter call the two models.
    """

    ranks: Criterion = Field(description="rank, energy, error or parameters: how each layer's rank is chosen")
    target_modules: str | list[str] = Field(ALL_LINEAR, description="as PEFT reads it: all-linear, regex or names")
    layers: list[list[str]] = Field(
        default_factory=list,
        description="of these, the layers with one of each list's depths, types, names or globs; none: all",
    )
    lora_alpha: float | None = Field(None, gt=0, description="none: each layer's rank, a scaling of 1")
    use_rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead of alpha / rank")
    balanced: bool = Field(False, description="A = sqrt(S) V^T, B = U sqrt(S) instead of A = V^T, B = U S")
    dtype: Literal["fp32", "bf16"] = Field("fp32", description="of the adapter's tensors")
    data: DatasetConfig | None = Field(None, description="items to measure the held-out loss on; none: not measured")
    data_items: int = Field(200, ge=1, description="at most so many of them, from the first on")
    base_name: str = ""
    tuned_name: str = ""
    base_revision: str | None = None
    tuned_revision: str | None = None

    def identity(self) -> dict[str, Any]:
        """Return what decides the result: the data by its content, the models not by what they are called."""
        names = {"base_name", "tuned_name", "base_revision", "tuned_revision"}
        values = {name: value for name, value in super().identity().items() if name not in names}
        return values | {"data": None if self.data is None else self.data.identity()}

    @property
    def options(self) -> AdapterOptions:
        """How the adapter is stored."""
        from trainables.export.adapter import AdapterOptions

        return AdapterOptions(self.lora_alpha, self.use_rslora, self.balanced, self.dtype)


def pin(config: AdapterExportConfig, planner: Planner) -> AdapterExportConfig:
    """Return the config with its data made absolute and found; raises InputError if there is none."""
    if config.data is None:
        return config
    folder = planner.directory() / Path(config.data.source).expanduser()
    if folder.is_dir():
        source = {"source": str(folder.absolute()), "pinned": planner.fingerprint(folder)}
        return config.model_copy(update={"data": config.data.model_copy(update=source)})
    return config.model_copy(update={"data": dataset.pin(config.data, planner)})


def check(config: AdapterExportConfig, inputs: Mapping[str, Path]) -> None:
    """Raise InputError for what can be told without a model: choice of layers, a budget too small, unusable files."""
    headers = {role: read_headers(inputs[role]) for role in ROLES if role in inputs}
    for role, found in headers.items():
        useless = unusable(found, ROLES[role], inputs[role])
        if useless:
            raise InputError(useless)
    if "base_model" in headers:
        targets = _targets_of_header(config, headers["base_model"])
        config.ranks.first(targets)
    if config.data is not None:
        check_data(config.data)


def _targets_of_header(config: AdapterExportConfig, headers: Mapping[str, TensorInfo]) -> list[Linear]:
    shapes = linear_shapes(headers)
    check_targets(config.target_modules, shapes)
    return choose([Linear(name, shape[0], shape[1]) for name, shape in shapes.items()], config.layers)


def run(config: AdapterExportConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Factorise layer by layer; then write the adapter, load it again, measure it, and write report and page."""
    from trainables.base_models.libraries import quieten
    from trainables.export.attempt import factorised, opened
    from trainables.export.spectrum import Spectrum
    from trainables.training.models import set_threads

    quieten()
    check(config, context.inputs)
    set_threads(context.place)
    held_out = None
    if config.data is not None:
        held_out = load_held_out(config.data, config.data_items, context.inputs["base_model"])
    context.log("comparing the two models")
    pair = opened(context, ROLES, config.target_modules, config.layers)
    pair.check_changed()
    if held_out is not None:
        held_out.check_vocabularies(pair)
    for note in pair.notes:
        context.log(note)
    found = yield from factorised(context, pair, config.ranks)
    done, ranks = len(found.layers), config.ranks.split(found.layers)
    spectrum = Spectrum(found.layers, found.excluded, max(1, *ranks.values()))
    steps = _finish(config, context, Export(spectrum, found.files, ranks, found.notes, held_out))
    while True:
        if context.stop_requested():
            raise Stopped(f"all {done} layers are kept; the next attempt goes on from there")
        try:
            progress = next(steps)
        except StopIteration as end:
            return dict(end.value)
        yield progress


@dataclass(frozen=True)
class Export:
    """What is known once the layers are factorised."""

    spectrum: Spectrum
    files: LayerFiles
    ranks: Mapping[str, int]
    notes: Sequence[str]
    held_out: HeldOut | None


def _finish(config: AdapterExportConfig, context: Context, export: Export) -> Generator[Progress, None, Metrics]:
    """Write everything else; every yield is a point to stop at. Measuring losses counts anew, from 0."""
    from trainables.export.adapter import write_adapter
    from trainables.export.reload import check_reload
    from trainables.export.spectrum_report import write_report
    from trainables.training.models import device_of

    base, folder = context.inputs["base_model"], context.output / ADAPTER
    spectrum, ranks = export.spectrum, export.ranks
    done = Progress(len(spectrum.layers), len(spectrum.layers))
    context.log(f"writing the adapter: {config.ranks.said}")
    size = write_adapter(
        folder,
        base,
        export.files,
        ranks,
        options=config.options,
        base_name=config.base_name or str(base),
        base_revision=config.base_revision,
    )
    yield done
    context.log("loading it again, to compare logits")
    linears = [layer.linear for layer in spectrum.layers]
    device = device_of(context.place)
    checked = check_reload(base, folder, export.files, ranks, linears, dtype=config.dtype, device=device)
    yield done
    gains = yield from _gains(config, context, export)
    context.log("writing the report")
    (context.output / REPORT).mkdir(exist_ok=True)
    context.log(write_report(context.output / REPORT, spectrum, notes=export.notes, gains=gains, ranks=ranks))
    _write_card(config, context, export, size, checked, gains)
    return _metrics(export, size, checked, gains)


def _gains(
    config: AdapterExportConfig, context: Context, export: Export
) -> Generator[Progress, None, list[FunctionalGain]]:
    """Return the losses of base, tuned and the ranks whose triplets are all known; none without data."""
    from trainables.export.functional import functional_gains
    from trainables.export.spectrum import known_rank
    from trainables.training.models import device_of

    if export.held_out is None:
        return []
    layers, chosen = export.spectrum.layers, set(export.ranks.values())
    known = known_rank(layers, export.spectrum.rank)
    return (
        yield from functional_gains(
            context.inputs["base_model"],
            context.inputs["teacher"],
            export.files,
            layers,
            [rank for rank in export.spectrum.ranks if rank <= known],
            export.held_out.examples,
            chosen=export.ranks if len(chosen) > 1 else None,
            pad_id=export.held_out.pad_id,
            batch_size=context.place.evaluation_batch_size,
            device=device_of(context.place),
            log=context.log,
        )
    )


def _write_card(
    config: AdapterExportConfig,
    context: Context,
    export: Export,
    size: int,
    checked: ReloadCheck,
    gains: Sequence[FunctionalGain],
) -> None:
    from trainables.export.model_card import Card, model_card

    card = Card(
        base=config.base_name or str(context.inputs["base_model"]),
        tuned=config.tuned_name or str(context.inputs["teacher"]),
        criterion=config.ranks.said,
        spectrum=export.spectrum,
        ranks=export.ranks,
        parameters=size,
        options=config.options,
        check=checked,
        base_revision=config.base_revision,
        tuned_revision=config.tuned_revision,
        gains=gains,
        data=export.held_out.name if export.held_out else "",
        items=len(export.held_out.examples) if export.held_out else 0,
        notes=export.notes,
    )
    (context.output / ADAPTER / "README.md").write_text(model_card(card), encoding="utf-8")


def _metrics(export: Export, size: int, checked: ReloadCheck, gains: Sequence[FunctionalGain]) -> dict[str, Scalar]:
    """Return the spectrum's metrics and the adapter's: what it keeps, its size and ranks, the check, the losses."""
    from trainables.export.spectrum import gain_share, split_energy

    layers, ranks = export.spectrum.layers, [rank for rank in export.ranks.values() if rank]
    assert parameters(layers, export.ranks) == size, "the adapter has another size than its ranks"
    kept = split_energy(layers, export.ranks)
    found: dict[str, Scalar] = {
        **export.spectrum.metrics(),
        "energy": kept,
        "error": max(0.0, 1 - kept) ** 0.5,
        "parameters": size,
        "layer_parameters": sum(layer.linear.out_features * layer.linear.in_features for layer in layers),
        "smallest_rank": min(ranks),
        "largest_rank": max(ranks),
        "layers_adapted": len(ranks),
        "reload_difference": checked.relative,
        "reload_tolerance": checked.tolerance,
    }
    if gains:
        last = gains[-2]
        found |= {f"loss_{gains[0].label}": gains[0].loss, "loss_adapter": last.loss, "loss_tuned": gains[-1].loss}
        found["functional_gain"] = gain_share(gains, last.loss)
    return found


def visible_gpus() -> int:
    """Return the number of GPUs that torch sees."""
    import torch

    return torch.cuda.device_count()


TRAINABLE = Trainable(
    name="adapter_export",
    version=1,
    config=AdapterExportConfig,
    run=run,
    roles=tuple(ROLES),
    pin=pin,
    check=check,
    cost_s=lambda config: 30.0,
)
