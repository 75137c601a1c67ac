"""A teacher without full fine-tuning: the base plus the mean of what several LoRAs of high rank have learnt.

W = W_base + 1/k sum of s_i B_i A_i over k students that differ in their seeds. Each is trained with a LoRA's memory,
and the mean may have k times their rank. The report beside the model says how it was made, how alike its members are,
and what such a teacher cannot show that one of full fine-tuning can. What is left is a whole model in fp32, which
`svd_export` and `evaluate` take as they take any teacher.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.base import Config, Context, InputError, Metrics, Progress, Stopped, Trainable
from trainables.checkpoint_files import read_json
from trainables.teacher import NOT_COPIED, copy_companions

if TYPE_CHECKING:
    from trainables.synthesis.mean import Synthesis


class LoraMeanConfig(Config):
    """Nothing to set: the members decide all. Their rank (64 is usual) and their seeds are settings of their stage."""


def check(config: LoraMeanConfig, inputs: Mapping[str, Path]) -> None:
    """Raise InputError for a member that is no student, or members of different ranks."""
    folders = [folder for role, folder in inputs.items() if role.startswith("member_")]
    ranks = {}
    for folder in folders:
        settings = folder / "adapter" / "adapter_config.json"
        if not settings.is_file():
            raise InputError(f"{folder.name} is no student: a member of a mean has an adapter")
        ranks[folder.name] = read_json(settings).get("r")
    if len(set(ranks.values())) > 1:
        found = ", ".join(f"{name}: {rank}" for name, rank in ranks.items())
        raise InputError(f"the members of the mean have different ranks ({found}); let only their seeds differ")


def run(config: LoraMeanConfig, context: Context) -> Generator[Progress, None, Metrics]:
    """Compare the members layer by layer, write base + mean, and the report on how it was made."""
    from trainables.synthesis.mean import Synthesis, open_synthesis
    from trainables.synthesis.report import write_report
    from trainables.training.models import set_threads

    check(config, context.inputs)
    set_threads(context.place)
    opened = open_synthesis(context.inputs)
    total, layers = len(opened.targets), []
    yield Progress(0, total)
    for layer in opened.layers():
        layers.append(layer)
        yield Progress(len(layers), total)
        if context.stop_requested():
            raise Stopped("a synthesis starts again")
    found = Synthesis(layers, len(opened.members), opened.members[0].rank)
    opened.write_sum(context.output)
    write_companions(context.inputs["base_model"], context.output)
    context.log(write_report(context.output, found))
    return metrics(found)


def write_companions(base: Path, folder: Path) -> None:
    """Copy the base's config and what else is no weight; the config says that the weights are fp32."""
    copy_companions(base, folder, set(NOT_COPIED) - {"config.json", "generation_config.json"})
    settings = read_json(folder / "config.json")
    dtypes = {name: "float32" for name in ("dtype", "torch_dtype") if name in settings}
    (folder / "config.json").write_text(json.dumps({**settings, **dtypes}, indent=2) + "\n")


def metrics(found: Synthesis) -> Metrics:
    """Return what the record keeps: sizes, and how alike the members are."""
    from statistics import fmean

    overlaps = [value for layer in found.layers for value in layer.overlaps]
    return {
        "members": found.members,
        "member_rank": found.rank,
        "layers": len(found.layers),
        "delta_norm": found.delta_norm,
        "relative_delta": found.relative_delta,
        "member_delta_norm": fmean(found.member_norms),
        "kept_norm": found.kept,
        "member_cosine": fmean(found.cosines) if found.cosines else None,
        "member_overlap": fmean(overlaps) if overlaps else None,
        "member_overlap_chance": fmean(layer.chance for layer in found.layers),
        "effective_rank": fmean(layer.effective_rank for layer in found.layers),
        "member_effective_rank": fmean(layer.member_effective_rank for layer in found.layers),
    }


TRAINABLE = Trainable(
    name="lora_mean",
    version=1,
    config=LoraMeanConfig,
    run=run,
    roles=("base_model", "member"),
    check=check,
    cost_s=lambda config: 20.0,
)
