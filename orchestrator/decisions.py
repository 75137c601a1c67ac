"""A plan against a store: what is cached, what will run, and why the rest is not cached.

A finished run stays finished whatever happens to its inputs. One whose own files are damaged is made again: sizes are
looked at always, contents where a run that is still missing reads them. Weights that are gone, as `store gc --weights`
leaves it, are made again only when a missing run needs them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Literal, TypeAlias

from orchestrator.fingerprints import Hashes
from orchestrator.gc import WEIGHTS
from orchestrator.identity import differences
from orchestrator.plan import Plan, Run
from orchestrator.record import Record
from orchestrator.store import ASIDE, MISSING, Store

Action: TypeAlias = Literal["cached", "run", "skipped"]
DAMAGED = "damaged: "
COMPARISONS = 20_000
"""Records looked at, over all missing runs, in search of the nearest one: keeps `plan` under a second."""


@dataclass(frozen=True)
class Decision:
    """What will happen with one run, and the reason to print beside it."""

    run: Run
    action: Action
    reason: str

    @property
    def is_damaged(self) -> bool:
        """Whether the run was finished, and is made again because of what has happened to its files."""
        return self.reason.startswith(DAMAGED)


def decide(plan: Plan, store: Store) -> list[Decision]:
    """Return one decision per run, in plan order."""
    records = store.records(run.id for run in plan.runs)
    finished = {run_id: record for run_id, record in records.items() if record.status in ("done", "diverged")}
    pruned = {run_id: record for run_id, record in records.items() if record.status == "pruned" and _prunes(plan)}
    lost = {run_id for run_id, record in finished.items() if record.status == "diverged"} | set(pruned)
    blocked = plan.dependants(lost) - set(finished)
    missing = {run.id for run in plan.runs if run.id not in finished} - blocked - set(pruned)
    again = damaged(plan, store, finished, missing)
    reasons = dict(_reasons(plan, store, missing - set(again), records))
    decisions = []
    for run in plan.runs:
        if run.id in again:
            decisions.append(Decision(run, "run", again[run.id]))
        elif run.id in finished:
            decisions.append(Decision(run, "cached", _saved(finished[run.id])))
        elif run.id in pruned:
            decisions.append(Decision(run, "cached", f"pruned: {pruned[run.id].error}"))
        elif run.id in blocked:
            cause = _first_lost(plan, run, lost)
            decisions.append(Decision(run, "skipped", f"needs {cause}, which {ENDED[records[cause].status]}"))
        else:
            decisions.append(Decision(run, "run", reasons[run.id]))
    return decisions


def to_run(decisions: Iterable[Decision]) -> list[Run]:
    """Return the runs that are to be executed."""
    return [item.run for item in decisions if item.action == "run"]


def damaged_among(decisions: Sequence[Decision]) -> list[str]:
    """Return the runs whose files are damaged."""
    return [item.run.id for item in decisions if item.is_damaged]


ENDED = {"diverged": "diverged", "pruned": "was pruned"}


def _prunes(plan: Plan) -> bool:
    """Say whether runs that were pruned stay as they are: in a search that prunes, and nowhere else."""
    return plan.study.search is not None and plan.study.search.prune is not None


def changed_sources(plan: Plan, store: Store) -> list[str]:
    """Return a warning for every trainable whose source changed under an unchanged version."""
    counts: Counter[str] = Counter()
    versions = {}
    for run in plan.runs:
        record = store.record(run.id)
        if record is not None and record.provenance.source not in ("", run.find_trainable().source_digest(run.config)):
            counts[run.trainable] += 1
            versions[run.trainable] = run.version
    return [
        f"{name}'s source changed since {count} of these records were made, and its version is still "
        f"{versions[name]}: raise it in trainables/{name}.py if results change"
        for name, count in counts.items()
    ]


def damaged(plan: Plan, store: Store, finished: Mapping[str, Record], missing: Iterable[str]) -> dict[str, str]:
    """Return the runs to make again because of what has happened to their files, with the reason.

    `finished` have a record that can be read, `missing` are those that will run.
    """
    hashes, whole, again = Hashes(store), set(finished), dict[str, str]()
    for run in plan.runs:
        flaws = _serious(store.flaws(run.id, record=finished.get(run.id)))
        if any(what != MISSING or not fnmatch(name, WEIGHTS) for name, what in flaws.items()):
            again[run.id] = _first(flaws)
    waiting = [*missing, *again]
    while waiting:
        for source in plan[waiting.pop()].inputs.values():
            if source in whole and source not in again:
                whole.discard(source)
                flaws = _serious(store.flaws(source, hashes.sha256, record=finished[source]))
                if flaws:
                    again[source] = _first(flaws)
                    waiting.append(source)
    hashes.save()
    return again


def _serious(flaws: Mapping[str, str]) -> dict[str, str]:
    return {name: what for name, what in flaws.items() if name not in ASIDE}


def _first(flaws: Mapping[str, str]) -> str:
    more = f" (and {len(flaws) - 1} more)" if len(flaws) > 1 else ""
    return DAMAGED + next(f"{name} {what}{more}" for name, what in flaws.items())


def _reasons(
    plan: Plan, store: Store, missing: Iterable[str], records: Mapping[str, Record]
) -> Iterator[tuple[str, str]]:
    missing = list(missing)
    if not missing:
        return
    stages = {plan[run_id].stage for run_id in missing}
    ids = [run_id for run_id in store.ids() if run_id.rpartition("-")[0] in stages]
    known: dict[str, list[Record]] = {}
    for record in store.records(ids[: max(50, COMPARISONS // len(missing))]).values():
        known.setdefault(record.stage, []).append(record)
    for run_id in missing:
        failed = records.get(run_id)
        if failed is not None and failed.status == "pruned":
            yield run_id, f"pruned in a search ({failed.error}), which is not finished; goes on"
        elif failed is not None:
            yield run_id, f"{failed.status} before (attempt {failed.provenance.attempt}); tried once more"
        elif (step := store.last_checkpoint(run_id)) is not None:
            yield run_id, f"goes on from step {step}"
        else:
            yield run_id, why_missing(plan[run_id], known.get(plan[run_id].stage, []))


def why_missing(run: Run, records: Sequence[Record]) -> str:
    """Return in what the run differs from the nearest record of its stage: "alpha 16 -> 32", or "no record"."""
    nearest = min((_difference(run, record) for record in records), key=len, default=[])
    return ", ".join(nearest) if 0 < len(nearest) <= 2 else "no record"


def _difference(run: Run, record: Record) -> list[str]:
    if record.trainable != run.trainable:
        return [f"{record.trainable} -> {run.trainable}"]
    version = [f"{run.stage} version {record.version} -> {run.version}"] if record.version != run.version else []
    inputs = [
        f"another {role}" for role in {*record.inputs, *run.inputs} if record.inputs.get(role) != run.inputs.get(role)
    ]
    return [*version, *differences(record.config, run.config.identity()), *sorted(inputs)]


def _saved(record: Record) -> str:
    if record.status == "diverged":
        return f"diverged: {record.error}; final, unless --retry diverged"
    return f"{record.provenance.seconds:.0f} s saved"


def _first_lost(plan: Plan, run: Run, lost: set[str]) -> str:
    return next(run_id for run_id in sorted(lost) if run.id in plan.dependants([run_id]))
