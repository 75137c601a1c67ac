"""Does the scaling of the adapter, lora_alpha / rank or rsLoRA's, decide whether the SVD start helps?

At a middle and the largest rank, with a learning rate of its own for every arm at every scaling: B of the SVD start is
divided by the scaling, so that only the steps differ, not the start. rsLoRA scales by alpha / sqrt(rank), here with
alpha = rank: by sqrt(rank), which at rank 4 is what 2r does. Runs on any layout: `--set base_model.source=tiny-gpt2`.
"""

from __future__ import annotations

from functools import partial
from operator import mul

from orchestrator.study import By, Comparison, Computed, Study, repeats
from search_spaces.scales import Scale

ALPHA = {
    "r/2": Computed(partial(mul, 0.5), "student.rank"),
    "r": None,
    "2r": Computed(partial(mul, 2.0), "student.rank"),
    "rsLoRA": None,
}
"""What lora_alpha is; None is the rank."""


def build(scale: Scale) -> Study:
    """Return the study at one scale."""
    stages = scale.stages()
    settings = {"lora_alpha": By("alpha", ALPHA), "use_rslora": By("alpha", rsLoRA=True, otherwise=False)}
    return Study(
        name="alpha_study",
        description=str(__doc__).splitlines()[0],
        stages={**stages, "student": stages["student"].but(settings)},
        axes={
            "student.rank": (scale.rank, scale.ranks[-1]),
            "alpha": tuple(ALPHA),
            "student.init": ("random", "svd"),
            "student.seed": repeats(scale.seeds),
        },
        comparison=Comparison(baseline="random", target_margin=scale.target_margin, margin=scale.margin),
        scale=scale.name,
        shape=scale.shape,
        notes=scale.notes(),
    )
