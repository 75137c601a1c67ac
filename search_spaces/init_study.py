"""Which start serves a LoRA student best, and what is it in the SVD of a teacher's change that helps?

Every init at one rank, each with a learning rate of its own, and arms that separate causes; all of them against random
on the same replicates:

    zero_step         svd, not trained: what the start alone gives
    compute_matched   random, trained on for what the teacher's training cost as well
    unseen            svd, trained on the half of the data that the teacher never saw

The teacher and all other arms see the other half. wrong_teacher starts from a teacher of another task, lora_squeeze
from a LoRA of high rank; each of these was trained for the teacher's steps. A reference, and no arm, is the teacher
trained on for as many steps as a student.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from orchestrator.study import By, Comparison, Computed, Stage, Study, repeats
from search_spaces.scales import Scale

INITS = (
    *("random", "svd", "svd_balanced", "svd_subtracted", "subspace_only", "spectrum_random"),
    *("pissa", "lora_squeeze", "wrong_teacher"),
)
ARMS = {**{init: init for init in INITS}, "zero_step": "svd", "compute_matched": "random", "unseen": "svd"}
"""Each arm's init."""


def build(scale: Scale) -> Study:
    """Return the study at one scale."""
    return Study(
        name="init_study",
        description=str(__doc__).splitlines()[0],
        stages=stages(scale),
        axes={"student.rank": (scale.rank,), "arm": tuple(ARMS), "student.seed": repeats(scale.seeds)},
        comparison=Comparison(arm="arm", baseline="random", target_margin=scale.target_margin, margin=scale.margin),
        scale=scale.name,
        shape=scale.shape,
        notes=(*scale.notes(), compute_note(scale)),
    )


def compute_note(scale: Scale) -> str:
    """Return how many steps compute_matched trains for, and why."""
    own, whole = scale.student["steps"], scale.compute_matched_steps(scale.rank)
    cost = f"{whole - own} that cost as many FLOPs as the teacher's {scale.teacher['steps']} (Kaplan et al. 2020)"
    return f"compute_matched trains for {whole} steps: {own} as the others do, and {cost}"


def stages(scale: Scale) -> dict[str, Stage]:
    """Return the stages of every study, with what the further inits read and what the further arms change."""
    usual = scale.stages("teacher_continued", "wrong_teacher", "high_rank_student")
    dataset, teacher, export, student = (usual[name] for name in ("dataset", "teacher", "svd_export", "student"))
    grids = {arm: Computed(partial(scale.grid, init), "student.rank") for arm, init in ARMS.items()}
    steps = {"zero_step": 0, "compute_matched": Computed(scale.compute_matched_steps, "student.rank")}
    rate = scale.selected(By("arm", grids))
    return {
        **usual,
        "dataset": dataset.but({"part": "first"}),
        "unseen_dataset": replace(dataset.but({"part": "second"}), follows="dataset"),
        "wrong_dataset": Stage("dataset", scale.wrong_dataset, dataset.inputs, dataset.place),
        "wrong_teacher": replace(teacher.but(inputs={"dataset": "wrong_dataset"}), follows="teacher"),
        "wrong_export": export.but(inputs={"teacher": "wrong_teacher"}),
        "high_rank_student": scale.high_rank_student(),
        "teacher_continued": teacher.but({"steps": scale.student["steps"]}, {"base_model": "teacher"}),
        "student": student.but(
            {
                "init": By("arm", ARMS),
                "steps": By("arm", steps, otherwise=scale.student["steps"]),
                "learning_rate": By("arm", zero_step=scale.learning_rate("svd", scale.rank), otherwise=rate),
            },
            {
                "dataset": By("arm", unseen="unseen_dataset", otherwise="dataset"),
                "wrong_export": "wrong_export",
                "high_rank_student": "high_rank_student",
            },
        ),
    }
