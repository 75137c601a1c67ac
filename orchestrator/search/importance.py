"""How much each axis of a search matters, by Optuna."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.search.points import Point
from orchestrator.search.trials import trial_for_sampler
from orchestrator.space import Search


def importances(search: Search, points: Sequence[Point]) -> dict[str, float]:
    """Return the share of the first objective's variance that each axis explains (fANOVA), largest first.

    An axis that only some points have is left out: what it explains cannot be told from whether it is there.
    """
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=[one.direction for one in search.objectives])
    study.add_trials([trial_for_sampler(point, search) for point in points])
    shared = [axis for axis in search.space if all(axis in point.at for point in points)]
    varied = [axis for axis in shared if len({point.at[axis] for point in points}) > 1]
    if not varied:
        return {}
    return get_param_importances(
        study,
        evaluator=FanovaImportanceEvaluator(seed=search.seed),
        params=varied,
        target=lambda trial: float(trial.values[0]),
    )
