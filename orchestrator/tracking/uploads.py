"""What MLflow is told of the study as a whole: tables and figures, on the parent run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.tracking.current import report_state


def upload_report(client: Any, parent: str, report: Path) -> None:
    """Put tables and figures on the parent run if they have changed; the links to artefacts stay where they are."""
    files = [path for path in report.glob("*") if path.is_file() and path.name != "state.json"]
    figures = [path for path in (report / "figures").glob("*") if path.is_file()]
    state = report_state(report)
    if client.get_run(parent).data.tags.get("report") == state:
        return
    for path in sorted(files):
        client.log_artifact(parent, str(path))
    for path in sorted(figures):
        client.log_artifact(parent, str(path), artifact_path="figures")
    client.set_tag(parent, "report", state)
