"""How much of what an (IA)^3 teacher has learnt can a LoRA of low rank hold, and does its SVD help as a start?

A teacher for those who lack the memory to train all weights: it learns a factor for each channel. Its change of the
weights has their rank, so that the energy at low rank is small; whether the function is, too, is the question.
"""

from __future__ import annotations

from orchestrator.study import Comparison, Stage, Study, repeats
from search_spaces.scales import Scale


def build(scale: Scale) -> Study:
    """Return the study at one scale."""
    stages = scale.stages()
    teacher = stages["teacher"]
    config = {**scale.training, "steps": scale.teacher["steps"], "seed": scale.teacher["seed"]}
    return Study(
        name="ia3_teacher",
        description=str(__doc__).splitlines()[0],
        stages={**stages, "teacher": Stage("ia3", config, teacher.inputs, teacher.place)},
        axes={
            "student.rank": scale.ranks,
            "student.init": ("random", "svd"),
            "student.seed": repeats(scale.seeds),
        },
        comparison=Comparison(baseline="random", target_margin=scale.target_margin, margin=scale.margin),
        scale=scale.name,
        shape=scale.shape,
        notes=(*scale.notes(), "the (IA)^3 teacher trains at the rate of its paper, 3e-3"),
    )
