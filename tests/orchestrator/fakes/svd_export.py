"""An export with a spectrum per layer, decaying as a power; energies follow from it."""

from __future__ import annotations

import csv
from collections.abc import Generator

from trainables.base import Config, Context, Metrics, Progress, Trainable

TYPES = {
    "q_proj": 0.9,
    "k_proj": 1.0,
    "v_proj": 0.7,
    "o_proj": 0.7,
    "gate_proj": 0.6,
    "up_proj": 0.55,
    "down_proj": 0.5,
}


class ExportConfig(Config):
    rank: int
    targets: str = "all-linear"


def run(config: ExportConfig, context: Context) -> Generator[Progress, None, Metrics]:
    with (context.output / "spectrum.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["layer", "type", "index", "sigma"])
        for depth in range(3):
            for kind, decay in TYPES.items():
                rows = ((f"layers.{depth}.{kind}", kind, i, (0.02 + 0.005 * depth) * i**-decay) for i in range(1, 65))
                writer.writerows(rows)
    yield Progress(1, 1)
    ranks = [2**k for k in range(config.rank.bit_length())]
    energies = {f"energy_{rank}": 1 - 0.6 * rank**-0.65 for rank in ranks}
    return {**energies, "layers": 21, "delta_norm": 1.3, "outside_share": 0.22}


TRAINABLE = Trainable(name="svd_export", version=1, config=ExportConfig, run=run, roles=("base_model", "teacher"))
