"""The views of a store as a sweep sees them: told what happens while it runs, completed when it ends.

MLflow, Optuna's study and the report can all be rebuilt from the records (contract C2). A view that is current
is not touched, and its libraries are not imported: a sweep that finds everything done answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from orchestrator import report
from orchestrator.plan import Plan, Run
from orchestrator.report.current import is_current
from orchestrator.search import add_records
from orchestrator.store import Store
from orchestrator.tracking import Tracker, is_synced
from trainables.base import Progress

from cluster.base import Outcome  # isort: skip


class Views:
    """MLflow, the Optuna journal and the report of one plan on one store."""

    def __init__(self, plan: Plan, store: Store, folder: Path) -> None:
        """Name the plan, the store, and the folder of mlflow.db and optuna.journal."""
        self.plan, self.store, self.folder = plan, store, folder
