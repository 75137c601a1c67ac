"""What is left beside a synthesised teacher: a page of text, a table of layers, a figure of three questions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from trainables.export.spectrum_tables import write_csv
from trainables.export.words import percent, two_digits
from trainables.synthesis.figure import draw
from trainables.synthesis.mean import DIRECTIONS, LayerMean, Synthesis

TEXT, TABLE = "synthesis.txt", "synthesis.csv"
CANNOT_SHOW = (
    "Its change has at most {rank} dimensions per layer (members times rank): that a change is of low rank, or how "
    "fast its spectrum decays beyond that, is built in here and no finding.",
    "Each member was trained as a LoRA: what a LoRA cannot learn, or learns otherwise (intruder dimensions, arXiv "
    "2410.21228), is missing from the teacher as it is from the students, which favours them.",
    "Embeddings, norms, biases and an untied head are the base's: how much of full fine-tuning's change lies there "
    "cannot be seen.",
    "No run has trained it: it has no loss curve, and its loss is only known once it is evaluated. Where the members "
    "lie in different basins, the mean may be worse than each of them.",
    "Averaging shrinks what the seeds do not share: a smaller norm than the members' is no sign of less training.",
)


def write_report(folder: Path, found: Synthesis) -> str:
    """Write synthesis.txt, synthesis.csv and figures/; return the text."""
    text = "\n".join(_wrapped(_lines(found))) + "\n"
    (folder / TEXT).write_text(text, encoding="utf-8")
    write_csv(folder / TABLE, HEAD, [_row(layer) for layer in found.layers])
    draw(folder, found)
    return text


def _lines(found: Synthesis) -> Iterator[str]:
    cosines = found.cosines
    yield f"The base plus the mean of {found.members} LoRAs of rank {found.rank}, on {len(found.layers)} linear layers"
    yield ""
    yield f"change        ||dW||/||W|| = {two_digits(found.relative_delta)}, ||dW|| = {found.delta_norm:.4g}"
    norms = ", ".join(f"{norm:.4g}" for norm in found.member_norms)
    yield f"members       ||dW|| = {norms}"
    if found.kept is not None:
        alone = percent(1 / math.sqrt(found.members))
        yield f"kept          {percent(found.kept)} of a member's norm (root mean square; {alone} if unrelated)"
    if cosines:
        yield (
            f"alike         cosine between two members' changes {fmean(cosines):.3f} "
            f"({min(cosines):.3f} to {max(cosines):.3f} over {len(cosines)} pairs; 0 if unrelated)"
        )
    few = min(DIRECTIONS, found.rank)
    yield f"subspaces     of two members' {few} leading left directions, mean squared cosine by layer type:"
    for kind in found.types:
        layers = found.of_type(kind)
        yield f"              {kind:<22} {_overlap(layers)}, by chance {fmean(layer.chance for layer in layers):.3f}"
    whole = fmean(layer.effective_rank for layer in found.layers)
    member = fmean(layer.member_effective_rank for layer in found.layers)
    yield f"dimensions    effective rank {whole:.1f} of the mean, {member:.1f} of a member (exp of the values' entropy)"
    yield ""
    yield "What this teacher cannot show against one of full fine-tuning:"
    for line in CANNOT_SHOW:
        yield "- " + line.format(rank=found.members * found.rank)


def _overlap(layers: Sequence[LayerMean]) -> str:
    values = [value for layer in layers for value in layer.overlaps]
    return f"{fmean(values):.3f}" if values else "none: a member left them alone"


def _wrapped(lines: Iterator[str]) -> Iterator[str]:
    import textwrap

    for line in lines:
        yield from textwrap.wrap(line, 110, subsequent_indent="  ", drop_whitespace=True) or [""]


HEAD = (
    "layer", "type", "norm", "weight_norm", "mean_member_norm", "member_overlap", "overlap_chance", "effective_rank",
    "member_effective_rank",
)  # fmt: skip


def _row(layer: LayerMean) -> list[object]:
    from trainables.synthesis.mean import norm

    overlaps = fmean(layer.overlaps) if layer.overlaps else None
    norms = [norm(values) for values in layer.members]
    return [
        layer.linear.name,
        layer.type,
        layer.norm,
        layer.weight_norm,
        fmean(norms),
        overlaps,
        layer.chance,
        layer.effective_rank,
        layer.member_effective_rank,
    ]
