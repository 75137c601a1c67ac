"""The quality report of an export: a page of text, tables, facts for programs and figures, all from one spectrum.

export.json says what the numbers mean; the text and the figures draw on nothing that is not in a CSV beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainables.export.spectrum import NEAR_NOISE, FunctionalGain, Spectrum, split_energy
from trainables.export.spectrum_tables import write_depths, write_gains, write_layers, write_spectrum
from trainables.export.spectrum_text import report_text

DEFINITIONS = {
    "energy": "sum of the leading sigma^2 / ||dW||_F^2; pooled: sums over layers above and below; a lower bound where "
    "fewer triplets were computed than the rank asks for",
    "error": "||dW - dW_r||_F / ||dW||_F = sqrt(1 - energy)",
    "relative_delta": "||dW||_F / ||W||_F, W of the base",
    "noise_norm": "Frobenius norm that rounding alone gives dW, at the precision the tuned weight is stored in",
    "noise_sigma": "largest singular value expected of that noise, noise_norm (sqrt(out) + sqrt(in)) / sqrt(out in)",
    "near_noise": f"0 < ||dW||_F < {NEAR_NOISE:g} noise_norm: the numbers are of the noise, not of the training",
    "sigma": "singular value as stored, in fp32",
    "lower, upper": "certified bounds on the singular value of dW itself",
    "certified_bound": "largest relative error of a kept singular value, (upper - lower) / upper",
    "failure_probability": "chance that some bound is wrong, summed over layers; 0 if none rests on chance",
    "excluded": "share of the whole model's ||dW||_F^2, each tensor once",
    "gain_kept": "(base loss - loss) / (base loss - tuned loss)",
}


def write_report(
    folder: Path,
    spectrum: Spectrum,
    *,
    notes: Sequence[str] = (),
    gains: Sequence[FunctionalGain] = (),
    ranks: Mapping[str, int] | None = None,
) -> str:
    """Write report.txt, the tables, export.json, figure.png and figures/ into `folder`; return the text.

    `notes` are lines for the head of the text, `gains` the losses of the truncated model where data is given, and
    `ranks` the rank that each layer keeps, by name, where ranks differ.
    """
    from trainables.export.spectrum_figure import draw_all

    folder.mkdir(parents=True, exist_ok=True)
    write_layers(folder / "layers.csv", spectrum, ranks)
    write_spectrum(folder / "spectrum.csv", spectrum)
    write_depths(folder / "by_depth.csv", spectrum)
    if gains:
        write_gains(folder / "gains.csv", gains)
    draw_all(folder, spectrum, gains=gains, ranks=ranks)
    text = report_text(spectrum, notes, gains, ranks)
    (folder / "report.txt").write_text(text + "\n", encoding="utf-8")
    (folder / "export.json").write_text(json.dumps(facts(spectrum, notes, ranks), indent=1) + "\n", encoding="utf-8")
    return text


def facts(spectrum: Spectrum, notes: Sequence[str] = (), ranks: Mapping[str, int] | None = None) -> dict[str, object]:
    """Return what a program wants to know: rank, targets, metrics, and each excluded tensor's share of ||dW||^2."""
    total = spectrum.total or 1.0
    split = {} if ranks is None else {"ranks": dict(ranks), "energy_kept": split_energy(spectrum.layers, ranks)}
    return {
        "rank": spectrum.rank,
        "delta_norm": spectrum.delta_norm,
        "targets": [layer.linear.name for layer in spectrum.layers],
        **split,
        "metrics": spectrum.metrics(),
        "noise_norm": spectrum.noise_norm,
        "near_noise": [layer.linear.name for layer in spectrum.near_noise],
        "routes": spectrum.routes,
        "sigma": "singular value as stored, in fp32",
        "lower, upper": "certified bounds on the singular value of dW itself",
        "certified_bound": spectrum.bound,
        "failure_probability": spectrum.failure_probability,
        "excluded": {tensor.name: tensor.delta_norm**2 / total for tensor in spectrum.excluded},
        "reasons": {tensor.name: tensor.reason for tensor in spectrum.excluded if tensor.reason},
        "outside_share": spectrum.outside_share,
        "notes": list(notes),
        "definitions": DEFINITIONS,
    }
