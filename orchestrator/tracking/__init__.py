"""Records and live metrics to MLflow: a view of the store that can always be rebuilt from it.

One parent run per study, one child per run id, found again by its tag and so never doubled; statuses true after any
crash; the step axis is the training step. There is one writer, on a thread of its own: the sweep never waits for
MLflow, whose import alone takes seconds, and does not fail because MLflow does.

The outbox is the store itself. Whatever a run measures is in its record once it has ended, so what a server lacks is
always known: the records whose mark (a child's tag `record`) it does not carry. While a server is away events wait in
a bounded queue; what is let go, or was not sent when the sweep ended, is completed from the records by the next
command. MLflow may have carried out a request whose answer was lost: before anything is sent after that, what is
there is looked up, and measurements go out again with the times they had.

    tracker.py      what a sweep tells
    sender.py       the thread that sends it; a server lost and found again
    experiment.py   how it is sent: the study's experiment, its parent and children
    child.py        one run of MLflow's: what it has, what waits for it
    finding.py      what is there already, and what is there twice
    trouble.py      which exceptions are worth another try
    client.py       where it goes: MLflow's client for a server, or a database of our own
    current.py      whether it has been told all: markers in the store, without mlflow
    content.py      what is said of a run: name, tags, params, metrics
    uploads.py      what is said of the study: tables, figures
"""

from orchestrator.tracking.client import prepare_database, reading_client, tracking_uri
from orchestrator.tracking.content import clean_params
from orchestrator.tracking.current import is_synced, was_cut
from orchestrator.tracking.tracker import Tracker

__all__ = ["Tracker", "clean_params", "is_synced", "prepare_database", "reading_client", "tracking_uri", "was_cut"]
