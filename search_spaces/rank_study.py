"""Does a LoRA student learn better from the SVD of a teacher's change than from random, and at which rank?

One teacher, one export and, for every rank, the same seeds with both inits. Each arm chooses its own learning rate at
each rank, by validation loss on seeds that no verdict uses: the best rates of the two arms lie more than ten times
apart, and a comparison at one shared rate says nothing.

One teacher and one split are luck that all students share, and the verdict says so. Several of either are one option:

    --axis teacher.seed=1,2,3           three teachers; a random student is paired with the mean over them
    --axis dataset.split_seed=1,2,3     three splits, each with a teacher of its own; n counts splits

or one line of a study: `.with_setting("teacher", "seed", Axis("student.seed"))` gives every seed a teacher of its own.
"""

from __future__ import annotations

from orchestrator.study import Comparison, Study, repeats
from search_spaces.scales import Scale


def build(scale: Scale) -> Study:
    """Return the study at one scale."""
    return Study(
        name="rank_study",
        description=str(__doc__).splitlines()[0],
        stages=scale.stages(),
        axes={
            "student.rank": scale.ranks,
            "student.init": ("random", "svd"),
            "student.seed": repeats(scale.seeds),
        },
        comparison=Comparison(baseline="random", target_margin=scale.target_margin, margin=scale.margin),
        scale=scale.name,
        shape=scale.shape,
        notes=scale.notes(),
    )
