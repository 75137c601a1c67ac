"""Does the whole pipeline work on this machine? A tiny model, seconds; its numbers mean nothing."""

from __future__ import annotations

from orchestrator.study import Comparison, Study, repeats
from search_spaces.scales import Scale

DEFAULT_SCALE = "tiny"


def build(scale: Scale) -> Study:
    """Return the smallest study with every kind of run: two ranks, two inits, two seeds; grids that do not grow."""
    return Study(
        name="smoke",
        description=str(__doc__).splitlines()[0],
        stages=scale.stages(),
        axes={
            "student.rank": scale.ranks[:2],
            "student.init": ("random", "svd"),
            "student.seed": repeats(2),
        },
        comparison=Comparison(baseline="random", target_margin=scale.target_margin),
        scale=scale.name,
        shape=scale.shape,
    ).with_setting("student", "learning_rate", scale.selected_rate(widenings=0))
