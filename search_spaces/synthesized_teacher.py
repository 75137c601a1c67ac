"""Can the mean of a few LoRAs of high rank stand in for a teacher that there is no memory to train?

Four steps: LoRAs of high rank are trained from random starts; their mean is the teacher, whose change is factorised;
students start from its SVD; they are compared with students that start at random. No step needs more memory than a LoRA
does. More LoRAs in the mean: `--axis member.seed=201,202,203,204,205`.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.study import Collected, Comparison, Stage, Study, repeats
from search_spaces.scales import Scale

MEMBERS = (201, 202, 203)
"""Seeds of the LoRAs: none that students have."""


def build(scale: Scale) -> Study:
    """Return the study at one scale."""
    stages = scale.stages("member")
    mean = Stage("lora_mean", {}, {"base_model": "base_model", "member": Collected("member", over="member.seed")})
    stages |= {"member": scale.high_rank_student(), "teacher": replace(mean, place=stages["svd_export"].place)}
    return Study(
        name="synthesized_teacher",
        description=str(__doc__).splitlines()[0],
        stages=stages,
        axes={
            "member.seed": MEMBERS,
            "student.rank": scale.ranks,
            "student.init": ("random", "svd"),
            "student.seed": repeats(scale.seeds),
        },
        comparison=Comparison(baseline="random", target_margin=scale.target_margin, margin=scale.margin),
        scale=scale.name,
        shape=scale.shape,
        notes=scale.notes(),
    )
