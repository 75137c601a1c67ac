"""Does a LoRA student learn better from the SVD of a teacher's change than from random, and at which rank?

One teacher, one export and, for every rank, the same seeds with both inits. Each arm chooses its own learning rate at
each rank, by validation loss on seeds that no verdict uses: the best rates of the two arms lie more than ten times
apart, and a comparison at one shared rate says nothing.
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
        comparison=Comparison(baseline="random", target_margin=scale.target_margin),
        scale=scale.name,
        shape=scale.shape,
        notes=(f"learning-rate grids lie around rates {scale.learning_rates_from}",),
    )
