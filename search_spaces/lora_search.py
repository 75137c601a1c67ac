"""Which settings of a LoRA adapter learn best, and which of them matter?

A search, not a comparison: learning rate, rank, scaling, dropout, targets and init of a student are chosen by TPE from
what earlier points have come to, each judged by its held-out loss, the mean over its seeds. The test data choose
nothing. What it finds is a candidate; whether it beats the usual settings on fresh seeds is a comparison, which its
report writes down as a study: `sweep runs/reports/lora_search/best.py`.

Successive halving (ASHA) ends runs without prospect, each among the runs of its own init: an adapter that starts from
the teacher's factors is ahead of one that starts at random before either has learnt anything. `--prune none` does not.
"""

from __future__ import annotations

from operator import mul

from orchestrator.space import Choice, Float, Int, Prune, Search
from orchestrator.study import By, Computed, Study, repeats, two_digits
from search_spaces.scales import Scale
from search_spaces.target_study import TARGETS
from trainables.base import Scalar

SEEDS = 2


def build(scale: Scale) -> Study:
    """Return the study at one scale."""
    stages = scale.stages()
    targets = {"target_modules": By("targets", TARGETS)}
    settings = {**targets, "lora_alpha": Computed(mul, "alpha_over_rank", "student.rank")}
    rates = [rate for of_rank in scale.learning_rates.values() for rate in of_rank.values()]
    usual: dict[str, Scalar] = {
        "student.init": "random",
        "targets": "all-linear",
        "student.rank": scale.rank,
        "alpha_over_rank": 1,
        "student.learning_rate": scale.learning_rate("random", scale.rank),
        "student.lora_dropout": 0.0,
    }
    return Study(
        name="lora_search",
        description=str(__doc__).splitlines()[0],
        stages={
            **stages,
            "svd_export": stages["svd_export"].but(targets),
            "student": stages["student"].but(settings),
            "evaluate": stages["evaluate"].but(inputs={"subject": ("base_model", "teacher", "student")}),
        },
        axes={"student.seed": repeats(SEEDS)},
        search=Search(
            space={
                "student.init": Choice("random", "svd"),
                "targets": Choice(*TARGETS),
                "student.rank": Int(scale.ranks[0], scale.ranks[-1], log=True),
                "alpha_over_rank": Choice(0.5, 1, 2, 4),
                "student.learning_rate": Float(two_digits(min(rates) / 5), two_digits(max(rates) * 5), log=True),
                "student.lora_dropout": Float(0.0, 0.2),
            },
            points=40,
            usual=usual,
            arm="student.init",
            prune=Prune("asha", first=scale.training["eval_every"]),
        ),
        scale=scale.name,
        shape=scale.shape,
        notes=scale.notes(),
    )
