"""A spectrum as a page of text, for a terminal of 110 columns.

It goes from what a reader must know before believing any number (how large the change is, whether it is more than
rounding noise) to how much each rank keeps, where, what no factor holds, and how sure the singular values are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from trainables.export.spectrum import (
    NEAR_NOISE,
    Excluded,
    FunctionalGain,
    LayerSpectrum,
    Spectrum,
    delta_norm,
    do_ranks_differ,
    energy,
    energy_at_most,
    error,
    gain_share,
    known_rank,
    mean_energy,
    rank_for,
    relative_delta,
    split_energy,
    uniform_rank,
)
from trainables.export.words import (
    LONGEST_NAME,
    WIDTH,
    counted,
    fitted,
    percent,
    rounded_up,
    short,
    shorten,
    times,
    two_digits,
)
from trainables.linalg.certificate import SMALL

SHARES = (0.5, 0.9, 0.95)
"""The energies whose smallest rank is told."""
MOST_RANKS = 4
"""How many ranks the table by part shows; layers.csv has all."""
UNCHANGED = "None of these layers changed: every factor is zero, and there is no energy to share out."
STORED = 2.0**-24
"""Relative rounding of singular values that are stored in fp32."""
LEFT = 14
"""Where the values of the head of the page begin."""


def report_text(
    spectrum: Spectrum,
    notes: Sequence[str] = (),
    gains: Sequence[FunctionalGain] = (),
    ranks: Mapping[str, int] | None = None,
) -> str:
    """Return the page: size, noise, energy by rank and by part, ranks per layer, function, what no factor holds."""
    sections = [[*_head(spectrum), *notes], list(_warning(spectrum))]
    if spectrum.delta_norm:
        sections += [list(_by_rank(spectrum)), list(_by_part(spectrum))]
        sections += [list(_split(spectrum, ranks)) if ranks and do_ranks_differ(spectrum.layers, ranks) else []]
    else:
        sections += [[UNCHANGED]]
    sections += [list(_function(gains)), list(_outside(spectrum))]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


# -- size, noise, certainty -------------------------------------------------------------------------------


def _head(spectrum: Spectrum) -> Iterator[str]:
    layers = spectrum.layers
    yield f"The change of {counted(layers, 'linear layer')}, {_triplets(layers)}"
    yield ""
    yield _line("size", f"||dW|| = {spectrum.delta_norm:.3g}, ||dW|| / ||W|| = {two_digits(spectrum.relative_delta)}")
    yield _line("outside", f"{percent(spectrum.outside_share)} of the model's ||dW||^2 lies outside these layers")
    unchanged = [layer for layer in layers if not layer.delta_norm]
    if unchanged:
        yield _line("unchanged", _first(unchanged, "did not change at all"))
    yield from _noise(spectrum)
    routes = ", ".join(f"{route} {count}" for route, count in spectrum.routes.items())
    yield _line("factorised", f"layers by route: {routes or 'none'}")
    for index, line in enumerate(_certainty(spectrum)):
        yield _line("" if index else "certified", line)


def _noise(spectrum: Spectrum) -> Iterator[str]:
    noise = spectrum.noise_norm
    if not noise or not spectrum.delta_norm:
        return
    ratios = [layer.delta_norm / layer.noise_norm for layer in spectrum.layers if layer.delta_norm and layer.noise_norm]
    yield _line(
        "noise",
        f"rounding alone gives {two_digits(noise)}; ||dW|| is {times(spectrum.delta_norm / noise)} that"
        + (f" ({times(min(ratios)).removesuffix(' times')} in the closest layer)" if len(ratios) > 1 else ""),
    )


def _warning(spectrum: Spectrum) -> Iterator[str]:
    near = spectrum.near_noise
    if not near:
        return
    above = statistics.median(layer.above_noise for layer in near)
    known = statistics.median(layer.known for layer in near)
    yield f"WARNING: the change of {len(near)} of {counted(spectrum.layers, 'layer')} is near its rounding noise"
    yield f"  ||dW|| is less than {NEAR_NOISE:g} times what storing the tuned weights in their dtype does by itself:"
    yield f"  {_names([layer.linear.name for layer in near])}"
    yield "  There the energies and ranks below are of the noise, which has full rank, and not of the training."
    yield f"  Singular values above the largest one expected of noise: {above:g} of {known:g} (median of these layers)."
    yield "  The way out: save the tuned checkpoint in fp32 (the trainer's own weights) and export again."


def _certainty(spectrum: Spectrum) -> Iterator[str]:
    if not any(layer.certificate.upper.any() for layer in spectrum.layers):
        yield "nothing to bound"
        return
    chance = spectrum.failure_probability
    bound = rounded_up(max(spectrum.bound, STORED))
    yield f"every kept singular value to {bound} of itself (one below {SMALL:.0%} of its layer's largest: to a tenth"
    yield "of that, relative to the largest)"
    if chance:
        yield f"chance that any bound is wrong, summed over layers: at most {rounded_up(chance)}"
    else:
        yield "no bound rests on chance"


# -- energy -----------------------------------------------------------------------------------------------


def _by_rank(spectrum: Spectrum) -> Iterator[str]:
    layers, known = spectrum.layers, known_rank(spectrum.layers, spectrum.rank)
    yield f"{'rank':>6}{'parameters':>12}{'energy':>10}{'error':>9}{'energy, mean over layers':>27}"
    for rank in spectrum.ranks:
        above, below = (">", "<") if rank > known else ("", "")
        pooled, mean = (f"{above}{value:.3f}" for value in (energy(layers, rank), mean_energy(layers, rank)))
        lost = f"{below}{error(layers, rank):.3f}"
        size = short(sum(layer.parameters(rank) for layer in layers))
        yield f"{rank:>6}{size:>12}{pooled:>10}{lost:>9}{mean:>27}"
    yield "energy: sum of kept sigma^2 / sum of ||dW||_F^2 over all layers (pooled);  error: sqrt(1 - energy)"
    if known < spectrum.rank:
        yield f"> and <: bounds, ?: cannot be told, as some layers have no more than {known} triplets computed"
    yield f"smallest uniform rank for a pooled energy of {', '.join(_reached(layers, spectrum.rank))}"


def _reached(layers: Sequence[LayerSpectrum], largest: int) -> Iterator[str]:
    """Yield "0.5: 3" for each share, then what is reached where the largest rank is not enough for some of them."""
    missed = False
    for share in SHARES:
        said = wanted_rank(layers, share, largest)
        missed = missed or not said.removeprefix("<= ").isdigit()
        yield f"{share:g}: {said}"
    if missed:
        yield f"as rank {largest} keeps {_lower(layers, largest)}"


def wanted_rank(layers: Sequence[LayerSpectrum], share: float, largest: int) -> str:
    """Return the smallest rank that keeps the share: "12"; "<= 12" or "?" where too few triplets are known; "> 64"."""
    rank = rank_for(layers, share, largest)
    if rank is None:
        return f"> {largest}" if energy_at_most(layers, largest) < share else "?"
    return f"<= {rank}" if rank > known_rank(layers, largest) else str(rank)


def _lower(layers: Sequence[LayerSpectrum], rank: int) -> str:
    """Return the energy at a rank, marked where it is a lower bound; four digits tell 0.9499 from 0.95."""
    return f"{'at least ' if rank > known_rank(layers, rank) else ''}{energy(layers, rank):.4f}"


def _by_part(spectrum: Spectrum) -> Iterator[str]:
    """Yield one table: a row per type, then attention against MLP, then thirds of the depth."""
    blocks = [list(_types(spectrum)), list(_groups(spectrum)), list(_thirds(spectrum))]
    ranks = spectrum.ranks[::-2][:MOST_RANKS][::-1]
    width = max(len(shorten(label, LONGEST_NAME)) for block in blocks for label, _ in [*block, ("part", [])])
    heads = "".join(f"{f'r={rank}':>8}" for rank in ranks)
    norms = f"{'layers':>7}{'||dW||/||W||':>14}{'of ||dW||^2':>13}"
    yield f"{'part':<{width}}{norms}{'energy':>8}{heads}{'r for 0.9':>11}"
    for index, block in enumerate(block for block in blocks if block):
        if index:
            yield ""
        for label, layers in block:
            yield f"{shorten(label, LONGEST_NAME):<{width}}{_part(spectrum, layers, ranks)}"


def _part(spectrum: Spectrum, layers: Sequence[LayerSpectrum], ranks: Sequence[int]) -> str:
    known = known_rank(layers, spectrum.rank)
    share = delta_norm(layers) ** 2 / spectrum.total if spectrum.total else 0.0
    kept = [f"{'>' if rank > known else ''}{energy(layers, rank):.3f}" for rank in ranks]
    energies = "".join(f"{value:>8}" for value in kept)
    wanted = wanted_rank(layers, 0.9, spectrum.rank) if delta_norm(layers) else "-"
    return f"{len(layers):>7}{two_digits(relative_delta(layers)):>14}{percent(share):>13}{'':8}{energies}{wanted:>11}"


def _types(spectrum: Spectrum) -> Iterator[tuple[str, list[LayerSpectrum]]]:
    for name in spectrum.types:
        yield name, spectrum.of_type(name)


def _groups(spectrum: Spectrum) -> Iterator[tuple[str, list[LayerSpectrum]]]:
    if len(spectrum.groups) > 1:
        for name in spectrum.groups:
            yield {"mlp": "MLP"}.get(name, name), spectrum.of_group(name)


def _thirds(spectrum: Spectrum) -> Iterator[tuple[str, list[LayerSpectrum]]]:
    depths = spectrum.depths
    if len(depths) < 2:
        return
    parts = min(3, len(depths))
    edges = [len(depths) * part // parts for part in range(parts + 1)]
    for start, end in pairwise(edges):
        first, last = depths[start], depths[end - 1]
        label = f"blocks {first} to {last}" if first < last else f"block {first}"
        yield label, [layer for layer in spectrum.layers if layer.depth is not None and first <= layer.depth <= last]
    rest = [layer for layer in spectrum.layers if layer.depth is None]
    if rest:
        yield "outside the blocks", rest


# -- ranks per layer --------------------------------------------------------------------------------------


def _split(spectrum: Spectrum, ranks: Mapping[str, int]) -> Iterator[str]:
    """Yield how the kept ranks are spread, and what a uniform rank of the same size would keep instead."""
    layers = spectrum.layers
    cost = sum(layer.parameters(ranks.get(layer.linear.name, 0)) for layer in layers)
    kept = split_energy(layers, ranks)
    lost = math.sqrt(max(0.0, 1 - kept))
    yield f"ranks per layer: {short(cost)} parameters keep an energy of {kept:.3f} (error {lost:.3f})"
    width = max(len(shorten(name, LONGEST_NAME)) for name in ["type", *spectrum.types])
    yield f"{'type':<{width}}{'layers':>8}{'min':>7}{'median':>8}{'max':>7}{'parameters':>13}{'energy':>9}"
    for name in spectrum.types:
        part = spectrum.of_type(name)
        own = [ranks.get(layer.linear.name, 0) for layer in part]
        size = short(sum(layer.parameters(rank) for layer, rank in zip(part, own, strict=True)))
        spread = f"{min(own):>7}{statistics.median(own):>8g}{max(own):>7}"
        yield f"{shorten(name, LONGEST_NAME):<{width}}{len(part):>8}{spread}{size:>13}{split_energy(part, ranks):>9.3f}"
    yield _uniform(layers, cost)


def _uniform(layers: Sequence[LayerSpectrum], cost: int) -> str:
    rank = uniform_rank(layers, cost)
    if not rank:
        return "a uniform rank of 1 would already have more parameters"
    size = short(sum(layer.parameters(rank) for layer in layers))
    low, high = energy(layers, rank), energy_at_most(layers, rank)
    kept = f"{low:.3f}" if high - low < 5e-4 else f"between {low:.3f} and {high:.3f}"
    return f"the largest uniform rank with no more parameters, {rank} ({size}), keeps {kept}"


# -- function ---------------------------------------------------------------------------------------------


def _function(gains: Sequence[FunctionalGain]) -> Iterator[str]:
    if not gains:
        return
    yield "function against energy: held-out loss (nats per token) with the change cut at a rank"
    width = max(len(gain.label) for gain in gains)
    has_shares = gain_share(gains, 0.0) is not None
    yield f"{'':<{width}}{'loss':>9}{'energy':>9}{'gain kept':>12}".rstrip()
    for gain in gains:
        share = gain_share(gains, gain.loss)
        kept = "" if gain.energy is None else f"{gain.energy:.3f}"
        yield f"{gain.label:<{width}}{gain.loss:>9.3f}{kept:>9}{'' if share is None else f'{share:.2f}':>12}".rstrip()
    yield from _understated(gains) if has_shares else _no_gain(gains)


def _understated(gains: Sequence[FunctionalGain]) -> Iterator[str]:
    """Yield what the comparison of function and energy says, at the rank where they differ most."""
    yield "gain kept: (base - loss) / (base - tuned); the tuned model also holds the change outside these layers"
    cut = [gain for gain in gains if gain.energy is not None]
    shares = {gain.label: (gain_share(gains, gain.loss) or 0.0, gain.energy or 0.0) for gain in cut}
    if not shares:
        return
    differences = {label: share - kept for label, (share, kept) in shares.items()}
    label = max(differences, key=lambda name: abs(differences[name]))
    share, kept = shares[label]
    if min(differences.values()) > 0:
        said = "energy understates function at every rank measured, most"
    elif max(differences.values()) < 0:
        said = "energy overstates function at every rank measured, most"
    else:
        said = "energy and function differ most"
    yield f"{said} at {label}: {kept:.0%} of the energy, {share:.0%} of the gain in loss"


def _no_gain(gains: Sequence[FunctionalGain]) -> Iterator[str]:
    losses = {gain.label: gain.loss for gain in gains}
    if {"base", "tuned"} <= set(losses):
        yield (
            f"the tuned model did not improve on the base here ({losses['tuned']:.3f} against {losses['base']:.3f}): "
            "there is no gain to keep"
        )


# -- outside ----------------------------------------------------------------------------------------------


def _outside(spectrum: Spectrum) -> Iterator[str]:
    """Yield what no factor holds, by reason, the largest share first."""
    changed = sorted((tensor for tensor in spectrum.excluded if tensor.delta_norm), key=lambda item: -item.delta_norm)
    if not changed:
        return
    yield "outside the factorised layers: an adapter on them cannot hold this part of ||dW||^2"
    reasons: dict[str, list[Excluded]] = {}
    for tensor in changed:
        reasons.setdefault(tensor.reason or "not factorised", []).append(tensor)
    shares = {name: sum(item.delta_norm**2 for item in found) / spectrum.total for name, found in reasons.items()}
    for reason in sorted(shares, key=lambda name: -shares[name]):
        names = [tensor.name for tensor in reasons[reason]]
        yield fitted(f"{percent(shares[reason]):>9}  {reason}: ", names)


# -- lines -----------------------------------------------------------------------------------------------


def _line(word: str, value: str) -> str:
    return f"{word:<{LEFT}}{value}"


def _triplets(layers: Sequence[LayerSpectrum]) -> str:
    known = {layer.known for layer in layers} or {0}
    number = str(max(known)) if len(known) == 1 else f"{min(known)} to {max(known)}"
    return f"{number} singular triplet{'' if number == '1' else 's'}{' each' if len(layers) > 1 else ''}"


def _first(layers: Sequence[LayerSpectrum], what: str) -> str:
    return fitted(f"{counted(layers, 'layer')} {what}: ", [layer.linear.name for layer in layers], WIDTH - LEFT)


def _names(names: Sequence[str]) -> str:
    return fitted("", names, WIDTH - 2)
