"""The page that goes with an exported adapter: what it is, how to load it, what it keeps and what it cannot hold.

Written for somebody who was not there, from what was measured and nothing else: no licence, no claim of quality.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trainables.export.adapter import AdapterOptions
from trainables.export.functional import EXPORTED
from trainables.export.reload import ReloadCheck
from trainables.export.spectrum import FunctionalGain, Spectrum, gain_share, split_energy
from trainables.export.words import percent, rounded_up, two_digits
from trainables.linalg.certificate import FLOOR, SMALL


@dataclass(frozen=True)
class Card:
    """What the page tells.

    `criterion` is the choice of ranks in words, `ranks` its outcome by layer, `parameters` the adapter's size.
    `gains` are held-out losses on `items` items of `data`, empty where none were measured; `notes` what else to
    know; `here` is what the adapter's own folder is called in the example.
    """

    base: str
    tuned: str
    criterion: str
    spectrum: Spectrum
    ranks: Mapping[str, int]
    parameters: int
    options: AdapterOptions
    check: ReloadCheck
    base_revision: str | None = None
    tuned_revision: str | None = None
    gains: Sequence[FunctionalGain] = ()
    data: str = ""
    items: int = 0
    notes: Sequence[str] = ()
    here: str = "."

    @property
    def energy(self) -> float:
        """The share of the chosen layers' ||dW||_F^2 that the adapter keeps."""
        return split_energy(self.spectrum.layers, self.ranks)


def model_card(card: Card) -> str:
    """Return the README.md of an adapter's folder: YAML front matter as the hub reads it, and the page."""
    return "\n".join(
        [*_front_matter(card), "", *_what(card), "", *_use(card), "", *_holds(card), "", *_lacks(card), ""]
    )


def said_ranks(ranks: Mapping[str, int]) -> str:
    """Return the ranks in a phrase: "16 in each of 210 layers", or their range and how many layers have none."""
    some = [rank for rank in ranks.values() if rank]
    if not some:
        return "none in any layer"
    low, high = min(some), max(some)
    text = f"{low} in each of {len(some)} layers"
    if low != high:
        text = f"{low} to {high} in {len(some)} layers (median {statistics.median(some):g})"
    none = len(ranks) - len(some)
    return text + (f", none in {none}" if none else "")


def _front_matter(card: Card) -> Iterator[str]:
    """Yield what the hub reads; JSON strings are YAML strings, whatever a path contains."""
    yield "---"
    yield f"base_model: {json.dumps(card.base, ensure_ascii=False)}"
    yield "library_name: peft"
    yield "pipeline_tag: text-generation"
    yield "tags:"
    of_hub = [f"base_model:adapter:{card.base}"] if card.base_revision else []
    for tag in (*of_hub, "lora", "svd", "transformers"):
        yield f"- {json.dumps(tag, ensure_ascii=False)}"
    yield "---"


def _what(card: Card) -> Iterator[str]:
    base, tuned = (_named(*pair) for pair in ((card.base, card.base_revision), (card.tuned, card.tuned_revision)))
    yield "# What fine-tuning changed, as a LoRA adapter"
    yield ""
    yield f"- base model: {base}"
    yield f"- tuned model: {tuned}"
    yield ""
    yield (
        "This adapter was not trained. It is the difference between the weights of the two models above (dW, tuned - "
        "base), cut to a low rank by singular value decomposition: in each linear layer the best approximation of that "
        "rank in the Frobenius norm. On the base model it stands in for the tuned one, as far as the figures below say."
    )
    yield from _noise(card.spectrum)


def _noise(spectrum: Spectrum) -> Iterator[str]:
    near = spectrum.near_noise
    if near:
        yield ""
        yield (
            f"> **Rounding noise.** In {len(near)} of {len(spectrum.layers)} layers the change is less than ten times "
            "what rounding the tuned weights to their stored precision produces alone. Part of what this adapter holds "
            "there is that noise, and the energies below are of it as much as of the learnt change. Checkpoints saved "
            "in float32 have no such floor."
        )


def _use(card: Card) -> Iterator[str]:
    revision = f", revision={json.dumps(card.base_revision)}" if card.base_revision else ""
    yield "## Use"
    yield ""
    yield "```python"
    yield "from peft import PeftModel"
    yield "from transformers import AutoModelForCausalLM"
    yield ""
    yield f"base = AutoModelForCausalLM.from_pretrained({json.dumps(card.base, ensure_ascii=False)}{revision})"
    yield f"model = PeftModel.from_pretrained(base, {json.dumps(card.here, ensure_ascii=False)})"
    yield "model = model.merge_and_unload()  # optional: one model without PEFT"
    yield "```"
    yield ""
    yield (
        f"{json.dumps(card.here, ensure_ascii=False)} is this folder. It is frozen when loaded; to train it further, "
        "give `is_trainable=True`."
    )


def _holds(card: Card) -> Iterator[str]:
    spectrum = card.spectrum
    yield "## What it holds"
    yield ""
    yield "| | |"
    yield "|---|---|"
    rows = {
        "ranks chosen by": card.criterion,
        "ranks": said_ranks(card.ranks),
        "parameters": f"{card.parameters:,} ({percent(card.parameters / _own(spectrum))} of these layers' own)",
        "size of the change in these layers": f"‖dW‖ / ‖W‖ = {two_digits(spectrum.relative_delta)}",
        "energy kept (sum of kept σ² / ‖dW‖², layers pooled)": f"{card.energy:.3f}",
        "relative error (‖dW − BA‖ / ‖dW‖ = √(1 − energy))": f"{max(0.0, 1 - card.energy) ** 0.5:.3f}",
        "stored as": _stored(card.options),
        "singular values": _certainty(spectrum),
        "loaded again and compared": (
            f"its logits differ from those of base + truncated dW by {card.check.relative:.1e} of the change "
            f"(at most {card.check.tolerance:.1e} is rounding)"
        ),
    }
    yield from (f"| {name} | {value} |" for name, value in rows.items())
    if card.gains:
        yield ""
        yield from _gains(card)


def _gains(card: Card) -> Iterator[str]:
    """Yield the table of held-out losses, and the share of the improvement where there is one."""
    yield (
        f"Held-out loss (nats per completion token) on {card.items} items of {card.data}; the last column is the share "
        "of the tuned model's improvement on the base that is kept:"
    )
    yield ""
    yield "| model | loss | energy | of the improvement |"
    yield "|---|---|---|---|"
    for found in card.gains:
        share = gain_share(card.gains, found.loss)
        energy = "" if found.energy is None else f"{found.energy:.3f}"
        kept = "" if share is None else f"{100 * share:.0f} %"
        yield f"| {_label(found, card)} | {found.loss:.3f} | {energy} | {kept} |"
    if gain_share(card.gains, card.gains[0].loss) is None:
        yield ""
        yield "The tuned model is no better than the base on these items: there is no improvement to keep a share of."


def _label(found: FunctionalGain, card: Card) -> str:
    if found.label in ("base", "tuned"):
        return found.label
    is_this = found.label == EXPORTED or set(card.ranks.values()) == {found.rank}
    return "base + this adapter" if is_this else f"base + dW at {found.label}"


def _lacks(card: Card) -> Iterator[str]:
    spectrum = card.spectrum
    yield "## What it does not hold"
    yield ""
    yield (
        f"{percent(spectrum.outside_share)} of the whole model's ‖dW‖² lies in tensors outside these layers, where "
        "this adapter does nothing" + (_largest(spectrum) or ".")
    )
    for note in card.notes:
        said = note.removeprefix("note: ")
        yield ""
        yield f"{said[:1].upper()}{said[1:]}."


def _largest(spectrum: Spectrum) -> str:
    changed = sorted((tensor for tensor in spectrum.excluded if tensor.delta_norm), key=lambda item: -item.delta_norm)
    if not changed:
        return ""
    named = [item for item in changed[:3] if item.delta_norm**2 >= 0.001 * spectrum.total]
    if not named:
        return f", {len(changed)} of them."
    shares = (f"`{item.name}` {percent(item.delta_norm**2 / spectrum.total)}" for item in named)
    rest = len(changed) - len(named)
    return f": {', '.join(shares)}" + (f" and {rest} more." if rest else ".")


def _named(name: str, revision: str | None) -> str:
    return f"`{name}`" + (f", revision `{revision}`" if revision else "")


def _stored(options: AdapterOptions) -> str:
    halves = "A = √S Vᵀ, B = U √S" if options.balanced else "A = Vᵀ, B = U S"
    scaling = "alpha / √rank" if options.use_rslora else "alpha / rank"
    alpha = "alpha = rank" if options.lora_alpha is None else f"alpha = {options.lora_alpha:g}"
    divided = "" if options.lora_alpha is None and not options.use_rslora else ", by which B is divided"
    return f"{options.dtype}; {halves}; {alpha}, scaling {scaling}{divided}"


def _own(spectrum: Spectrum) -> int:
    return sum(layer.linear.out_features * layer.linear.in_features for layer in spectrum.layers)


def _certainty(spectrum: Spectrum) -> str:
    routes = ", ".join(f"{name} {count}" for name, count in spectrum.routes.items())
    chance, bound = spectrum.failure_probability, spectrum.bound
    if not bound:
        return f"exact (layers by algorithm: {routes})"
    sure = f", but for a chance of {rounded_up(chance)}" if chance else ""
    small = f"; those below {SMALL:.0%} of their layer's largest to {rounded_up(FLOOR * bound)} of the largest"
    return f"each certified to {rounded_up(bound)} of itself{small}{sure} (layers by algorithm: {routes})"
