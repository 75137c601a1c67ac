"""The persistent Optuna study of a study here, in a journal file: a view for Optuna's tools, made from the records.

A comparison's cells are written down as they are (`grid`). A search's trials are its points, in the order of asking,
with the same numbers: those that run are RUNNING, so that a dashboard that is open shows the search as it goes. Where
the journal holds anything else (a failed run that was made again well, a search whose file has gone, another metric)
the study in it is written anew. The journal has one writer, the driver, so that a file is enough.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from orchestrator.freshness import read_marker, record_states, write_marker
from orchestrator.plan import Plan
from orchestrator.search.grid import grid_trials
from orchestrator.search.points import points_of
from orchestrator.search.trials import trial_of
from orchestrator.store import Store
from orchestrator.study import Comparison, Study

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

Direction: TypeAlias = Literal["minimize", "maximize"]
MARKER = "optuna.json"


def journal_path(store: Store, views: Path | None = None) -> Path:
    """Return the journal's file: optuna.journal in the folder of views, the store by default."""
    return (views or store.root).absolute() / "optuna.journal"


def is_recorded(plan: Plan, store: Store, *, views: Path | None = None) -> bool:
    """Say whether the journal has been told of exactly these records; needs no optuna to know."""
    path = journal_path(store, views)
    return path.is_file() and read_marker(_marker(plan.study, store, path)) == _states(plan, store)


def record(plan: Plan, store: Store, *, views: Path | None = None) -> int:
    """Bring the persistent study up to date with the records; return how many trials were new.

    Of a comparison each outcome of a run enters once: a run that failed and was made again well enters again.
    """
    path, states = journal_path(store, views), _states(plan, store)
    path.parent.mkdir(parents=True, exist_ok=True)
    records = store.records(run.id for run in plan.runs)
    if plan.study.search is None:
        new = _add(plan.study, path, grid_trials(plan, records))
    else:
        names = {run.id: run.name for run in plan.runs}
        trials = [trial_of(point, plan.study.search, names) for point in points_of(plan, records)]
        new = _follow(plan.study, path, trials)
    write_marker(_marker(plan.study, store, path), states)
    return new


def open_study(study: Study, path: Path) -> optuna.Study:
    """Return the persistent study in a journal; makes it where there is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=study_name(study), storage=_storage(path), directions=_directions(study), load_if_exists=True
    )


def study_name(study: Study) -> str:
    """Return what a study is called in the journal."""
    return f"{study.name} {study.scale}".strip()


def _storage(path: Path) -> optuna.storages.JournalStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))


def _directions(study: Study) -> list[Direction]:
    if study.search is not None:
        return [objective.direction for objective in study.search.objectives]
    return ["maximize" if (study.comparison or Comparison()).higher_is_better else "minimize"]


def _add(about: Study, path: Path, trials: Sequence[FrozenTrial]) -> int:
    """Add what the study in the journal lacks; it is written anew where it has another metric, or other values."""
    study, metric = open_study(about, path), (about.comparison or Comparison()).metric
    known = {_outcome(trial): trial.values for trial in study.get_trials(deepcopy=False)}
    is_other = known and study.user_attrs.get("metric") != metric
    if is_other or _turned(study, about) or any(known.get(_outcome(one), one.values) != one.values for one in trials):
        study, known = _anew(about, path), {}
    study.set_user_attr("metric", metric)
    new = [trial for trial in trials if _outcome(trial) not in known]
    study.add_trials(new)
    return len(new)


def _outcome(trial: FrozenTrial) -> tuple[str, str]:
    return trial.user_attrs["run_id"], trial.state.name


def _turned(study: optuna.Study, about: Study) -> bool:
    """Say whether the study in the journal looks for the other direction."""
    return [one.name.lower() for one in study.directions] != _directions(about)


def _anew(about: Study, path: Path) -> optuna.Study:
    import optuna

    optuna.delete_study(study_name=study_name(about), storage=_storage(path))
    return open_study(about, path)


def _follow(about: Study, path: Path, trials: Sequence[FrozenTrial]) -> int:
    """Make the trials of the study in the journal those of a search, with as little writing as that takes."""
    study = open_study(about, path)
    if _turned(study, about) or not _agree(study, trials):
        study = _anew(about, path)
    known = study.get_trials(deepcopy=False)
    for before, now in zip(known, trials, strict=False):
        if before.state != now.state or before.intermediate_values != now.intermediate_values:
            _end(study, before, now)
    study.add_trials(trials[len(known) :])
    return len(trials) - len(known)


def _agree(study: optuna.Study, trials: Sequence[FrozenTrial]) -> bool:
    """Say whether the study's trials are these, at an earlier time."""
    known = study.get_trials(deepcopy=False)
    return len(known) <= len(trials) and all(
        (before.params, before.user_attrs.get("runs")) == (now.params, now.user_attrs["runs"])
        and (not before.state.is_finished() or (before.state, before.values) == (now.state, now.values))
        for before, now in zip(known, trials, strict=False)
    )


def _end(study: optuna.Study, before: FrozenTrial, now: FrozenTrial) -> None:
    """Bring a trial that was running up to date."""
    storage = study._storage
    if before.state.is_finished():
        return
    for step, value in now.intermediate_values.items():
        if before.intermediate_values.get(step) != value:
            storage.set_trial_intermediate_value(before._trial_id, step, value)
    for name, attribute in now.user_attrs.items():
        if before.user_attrs.get(name) != attribute:
            storage.set_trial_user_attr(before._trial_id, name, attribute)
    if now.state.is_finished():
        storage.set_trial_state_values(before._trial_id, now.state, now.values)


def _states(plan: Plan, store: Store) -> dict[str, str]:
    search = plan.study.search
    metrics = [one.metric for one in search.objectives] if search else [(plan.study.comparison or Comparison()).metric]
    judged = ", ".join(
        f"{metric} {direction}" for metric, direction in zip(metrics, _directions(plan.study), strict=True)
    )
    return record_states(plan, store) | {"points": str(len(plan.points)), "judged": judged}


def _marker(study: Study, store: Store, path: Path) -> Path:
    key = hashlib.sha256(json.dumps([str(path), study.name, study.scale]).encode()).hexdigest()[:12]
    return store.root / "tracked" / f"{study.name}-{key}.{MARKER}"
