"""One run by what a person calls it: its id, a unique beginning of the id, or its readable name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from orchestrator.errors import UnknownName, UserError
from orchestrator.plan import Plan
from orchestrator.store import RUN_ID, Store


def find_run(text: str, store: Store, plan: Plan | None = None) -> str:
    """Return a run's id; raises UserError if none or several fit. A plan's runs come before the store's."""
    if RUN_ID.fullmatch(text) and store.artefact(text).is_dir():
        return text
    names = {} if plan is None else {run.id: run.name for run in plan.runs}
    if plan is None:
        names = {run_id: record.name for run_id, record in store.records([*store.ids(), *store.failed_ids()]).items()}
    return matching(text, names, f"{store.root}" if plan is None else f"the plan of {plan.study.name}")


def matching(text: str, names: Mapping[str, str], where: str) -> str:
    """Return the one id among `names` (id to readable name) that `text` means; raises UserError if none or several."""
    exact = [run_id for run_id, name in names.items() if text in (run_id, name)]
    found = exact or [
        run_id for run_id in names if run_id.startswith(text) or run_id.rpartition("-")[2].startswith(text)
    ]
    if not found:
        near = difflib.get_close_matches(text, sorted(names.values()), n=1)
        examples = [*near, *sorted(names.values())[:20]]
        raise UnknownName(f"no run {text!r} in {where}", examples, text, "Runs, for example")
    if len(found) > 1:
        raise UserError(f"{text!r} is {len(found)} runs: {', '.join(sorted(found)[:4])}, ...; give more of the id")
    return found[0]
