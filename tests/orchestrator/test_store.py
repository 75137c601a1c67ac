import os
import signal
import subprocess
import sys
import time

import pytest

from orchestrator.errors import StoreError
from orchestrator.identity import sha256_file
from orchestrator.record import Provenance, Record, columns
from orchestrator.store import Store, Superseded

RUN = "student-0123456789ab"


def make_record(run_id=RUN, status="done", **changes):
    provenance = Provenance(
        started="2026-01-01T00:00:00",
        finished="2026-01-01T00:00:01",
        seconds=1.0,
        attempt=1,
        host="here",
        device="cpu",
        place={},
    )
    fields = {
        "id": run_id,
        "name": "random r4 s1",
        "stage": "student",
        "trainable": "student",
        "version": 1,
        "config": {"rank": 4},
        "settings": {"rank": 4},
        "inputs": {},
        "status": status,
        "provenance": provenance,
    }
    return Record(**{**fields, **changes})


def finish(store, run_id=RUN, **changes):
    attempt = store.begin(run_id)
    (attempt.output / "weights.txt").write_text("0.5")
    return store.commit(attempt, make_record(run_id, **changes))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs")


def test_looking_at_a_store_that_is_not_there_creates_nothing(store):
    assert store.ids() == []
    assert store.record(RUN) is None
    assert store.holder() is None
    assert not store.root.exists()


def test_a_commit_makes_record_and_files_appear_and_leaves_no_work(store):
    attempt = store.begin(RUN)
    (attempt.output / "weights.txt").write_text("0.5")
    assert not store.is_finished(RUN)
    store.commit(attempt, make_record(history=columns([{"step": 0, "eval_loss": 2.0}, {"step": 1, "loss": 1.5}])))
    record = store.record(RUN)
    assert record.status == "done"
    assert set(record.files) == {"weights.txt", "history.csv"}
    assert list(record.history_rows()) == [{"step": 0, "eval_loss": 2.0}, {"step": 1, "loss": 1.5}]
    assert not (store.work / RUN).exists()
    assert store.flaws(RUN, sha256_file) == {}


def test_only_the_newest_attempt_may_commit(store):
    first = store.begin(RUN)
    second = store.begin(RUN)
    with pytest.raises(Superseded):
        store.commit(first, make_record())
    with pytest.raises(Superseded):
        store.fail(first, make_record(status="failed"))
    assert store.commit(second, make_record()).status == "done"


def test_a_finished_run_cannot_be_overwritten(store):
    late = store.begin(RUN)
    store.artefacts.mkdir(exist_ok=True)
    late.output.rename(store.artefacts / RUN)
    (store.artefacts / RUN / "record.json").write_text(make_record().model_dump_json())
    late.output.mkdir()
    with pytest.raises(Superseded):
        store.commit(late, make_record(error="late"))
    assert store.record(RUN).error is None


def test_the_next_attempt_resumes_from_the_newest_checkpoint_of_any_earlier_one(store):
    for step in (10, 20):
        (store.begin(RUN).checkpoints / f"step-{step}").mkdir()
    (store.begin(RUN).checkpoints / ".step-30.partial").mkdir()
    assert store.last_checkpoint(RUN) == 20
    assert store.begin(RUN).resume_from.name == "step-20"


def test_a_failure_keeps_log_and_record_and_the_next_attempt_has_the_next_number(store):
    attempt = store.begin(RUN)
    (attempt.output / "log.txt").write_text("it broke")
    folder = store.fail(attempt, make_record(status="failed", error="ValueError: it broke"))
    assert (folder / "log.txt").read_text() == "it broke"
    assert store.record(RUN).status == "failed"
    assert store.failed_ids() == [RUN]
    assert store.begin(RUN).number == 2


def test_a_finished_run_is_no_failure_any_more(store):
    store.fail(store.begin(RUN), make_record(status="failed"))
    finish(store)
    assert store.failed_ids() == []
    assert store.record(RUN).status == "done"


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_text("0.50"), "4 bytes instead of 3"),
        (lambda path: path.write_text("0.6"), "has changed"),
    ],
)
def test_damage_is_found_and_named(store, harm, complaint):
    finish(store)
    harm(store.artefact(RUN) / "weights.txt")
    assert complaint in store.flaws(RUN, sha256_file)["weights.txt"]


@pytest.mark.parametrize("name", ["../x", "student", "student-12", "student-0123456789AB", "a/b-0123456789ab", ""])
def test_what_is_not_a_run_id_never_becomes_a_path(store, name):
    with pytest.raises(StoreError, match="not a run id"):
        store.artefact(name)


@pytest.mark.parametrize(("text", "complaint"), [("{", "is no record"), (None, "is missing")])
def test_a_damaged_record_is_none_and_is_named(store, text, complaint):
    finish(store)
    path = store.artefact(RUN) / "record.json"
    path.unlink() if text is None else path.write_text(text)
    assert store.record(RUN) is None
    assert complaint in store.flaws(RUN)["record.json"]


def test_contents_are_read_only_of_files_touched_since_the_record(store):
    finish(store)
    path = store.artefact(RUN) / "weights.txt"
    about = path.stat()
    path.write_text("0.6")
    assert "has changed" in store.altered(RUN)["weights.txt"]
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert store.altered(RUN) == {}, "a bit that flips on the disk leaves no trace but in the hash"
    assert "has changed" in store.flaws(RUN, sha256_file)["weights.txt"]


FREEZE = """
import os, signal, sys
from pathlib import Path
from orchestrator.store import Store, Superseded
from tests.orchestrator.test_store import RUN, make_record

def freeze(event, arguments):  # called by the interpreter just before it asks the system to rename
    if event == "os.rename" and Path(arguments[1]).parent.name == "artefacts":
        os.kill(os.getpid(), signal.SIGSTOP)

store = Store(Path(sys.argv[1]))
attempt = store.begin(RUN)
(attempt.output / "weights.txt").write_text("of the first")
sys.addaudithook(freeze)
try:
    store.commit(attempt, make_record())
    print("committed")
except Superseded:
    print("superseded")
"""


@pytest.mark.parametrize("is_over", [False, True], ids=["the successor runs", "the successor has finished"])
def test_a_worker_frozen_between_its_last_look_and_the_rename_commits_nothing(store, is_over):
    with subprocess.Popen([sys.executable, "-c", FREEZE, str(store.root)], stdout=subprocess.PIPE, text=True) as frozen:
        os.waitpid(frozen.pid, os.WUNTRACED)
        second = store.begin(RUN)
        assert second.number == 2
        (second.output / "weights.txt").write_text("of the second")
        if is_over:
            store.commit(second, make_record())
        frozen.send_signal(signal.SIGCONT)
        assert frozen.communicate()[0] == "superseded\n"
        assert store.is_finished(RUN) == is_over
    if not is_over:
        store.commit(second, make_record())
    assert (store.artefact(RUN) / "weights.txt").read_text() == "of the second"
    assert not (store.work / RUN).exists()


def test_a_store_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--store DIR"):
        Store(tmp_path / "file" / "runs").begin(RUN)


HOLD = """
import sys, time
from pathlib import Path
from orchestrator.store import Store
with Store(Path(sys.argv[1])).lock("sweep held"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_driver_is_told_who_holds_the_store_until_the_first_is_gone_even_by_kill(store):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(store.root)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(StoreError, match=rf"in use by pid {process.pid} .*sweep held.*--wait"),
            store.lock("second"),
        ):
            pass
        assert f"pid {process.pid}" in store.holder()
    finally:
        process.kill()
        process.wait()
    with store.lock("second"):
        assert os.getpid() > 0
    assert store.holder() is None


def test_a_waiting_driver_gets_the_store_when_it_is_free(store):
    code = HOLD.replace("sleep(60)", "sleep(1)")
    with subprocess.Popen([sys.executable, "-c", code, str(store.root)], stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        told, begun = [], time.monotonic()
        with store.lock("second", wait=True, waiting=told.append):
            assert time.monotonic() - begun > 0.3
    assert "sweep held" in told[0]
