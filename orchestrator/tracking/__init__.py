"""Records and live metrics to MLflow: a view of the store that can always be rebuilt from it.

One parent run per study, one child per run id, found again by its tag and so never doubled; statuses true after any
crash; the step axis is the training step. There is one writer, on a thread of its own: the sweep never waits for
MLflow, whose import alone takes seconds, and does not fail because MLflow does. What could not be written is
completed from the records by the next command.

    tracker.py      what a sweep tells: a queue, and the thread that takes from it
    experiment.py   how it is sent: the study's experiment, its parent and children
    client.py       where it goes: MLflow's client, our own database
    current.py      whether it has been told all: markers in the store, without mlflow
    content.py      what is said of a run: name, tags, params, metrics
    uploads.py      what is said of the study: tables, figures
"""

from orchestrator.tracking.client import reading_client, tracking_uri
from orchestrator.tracking.content import clean_params
from orchestrator.tracking.current import is_synced
from orchestrator.tracking.tracker import Tracker

__all__ = ["Tracker", "clean_params", "is_synced", "reading_client", "tracking_uri"]
