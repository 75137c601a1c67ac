import os
import shutil

import pytest

from cluster.local import LocalBackend
from orchestrator.changes import Changes
from orchestrator.decisions import changed_sources, decide
from orchestrator.fingerprints import FilePlanner
from orchestrator.identity import sha256_file
from orchestrator.planning import expand
from orchestrator.store import Store
from orchestrator.studies import load


class Silent:
    """An observer that only remembers."""

    def __init__(self):
        self.outcomes = []

    def started(self, run, attempt, host):
        pass

    def progressed(self, run, progress):
        pass

    def finished(self, outcome):
        self.outcomes.append(outcome)

    def planned(self):
        return []


SMALL = {
    "settings": (
        *("teacher.steps=3", "student.steps=3", "student.learning_rate=1e-3"),
        *("dataset.items=60", "dataset.validation=5", "dataset.test=5"),
    ),
    "axes": ("student.rank=2,4", "student.seed=1"),
}


def make_plan(store, **changes):
    merged = {key: SMALL.get(key, ()) + tuple(changes.get(key, ())) for key in {*SMALL, *changes}}
    return expand(load("smoke", Changes(scale="tiny", **merged)), FilePlanner(store))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store") / "runs")
    plan = make_plan(store)
    observer = Silent()
    LocalBackend().run(plan.runs, store, observer)
    assert {outcome.status for outcome in observer.outcomes} == {"done"}
    return store


@pytest.fixture
def store(finished, tmp_path):
    shutil.copytree(finished.root, tmp_path / "runs")
    return Store(tmp_path / "runs")


def reasons(store, plan):
    return {item.run.name: (item.action, item.reason) for item in decide(plan, store)}


def test_everything_that_is_finished_is_cached(store):
    assert {action for action, _ in reasons(store, make_plan(store)).values()} == {"cached"}


def test_an_empty_store_has_no_records(tmp_path):
    store = Store(tmp_path / "none")
    assert set(reasons(store, make_plan(store)).values()) == {("run", "no record")}


def test_a_miss_says_which_setting_changed(store):
    found = reasons(store, make_plan(store, settings=("student.lora_dropout=0.1",)))
    assert found["random r2 s1"] == ("run", "lora_dropout 0.0 -> 0.1")
    assert found["evaluate student random r2 s1"] == ("run", "another subject")
    assert found["teacher"][0] == "cached"


def test_a_miss_says_when_the_version_of_a_trainable_was_raised(store):
    path = next(store.artefacts.glob("student-*")) / "record.json"
    record = store.record(path.parent.name)
    path.write_text(record.model_copy(update={"version": 0}).model_dump_json())
    plan = make_plan(store, axes=("student.seed=7",))
    from orchestrator.decisions import why_missing

    run = next(run for run in plan.runs if run.name == f"{record.name.removesuffix('s1')}s7")
    old = store.record(record.id)
    assert why_missing(run, [old]) == "student version 0 -> 1, seed 1 -> 7"


def test_a_lost_input_is_made_again_only_when_something_missing_needs_it(store):
    teacher = next(run for run in make_plan(store).runs if run.stage == "teacher")
    (store.artefact(teacher.id) / "model.safetensors").unlink()
    assert reasons(store, make_plan(store))["teacher"][0] == "cached"
    found = reasons(store, make_plan(store, settings=("svd_export.rank=32",)))
    assert found["teacher"][0] == "run"
    assert "model.safetensors is missing" in found["teacher"][1]


def test_a_diverged_teacher_is_final_and_what_needs_it_is_skipped(store):
    plan = make_plan(store)
    teacher = plan.of_stage("teacher")[0]
    path = store.artefact(teacher.id) / "record.json"
    path.write_text(store.record(teacher.id).model_copy(update={"status": "diverged"}).model_dump_json())
    for run in plan.runs:
        if run.stage in ("svd_export", "student", "evaluate"):
            store.forget(run.id)
    found = reasons(store, plan)
    assert found["teacher"][0] == "cached"
    assert found["svd_export"][0] == "skipped"
    assert teacher.id in found["svd r2 s1"][1]
    assert found["random r2 s1"][0] == "run"


def test_an_unfinished_attempt_says_from_where_it_goes_on(store):
    plan = make_plan(store, settings=("teacher.seed=5",))
    teacher = plan.of_stage("teacher")[0]
    (store.begin(teacher.id).checkpoints / "step-20").mkdir()
    assert reasons(store, plan)["teacher"] == ("run", "goes on from step 20")


def test_a_changed_source_under_an_unchanged_version_is_a_warning(store):
    plan = make_plan(store)
    assert changed_sources(plan, store) == []
    teacher = plan.of_stage("teacher")[0]
    record = store.record(teacher.id)
    older = record.provenance.model_copy(update={"source": "0" * 16})
    changed = record.model_copy(update={"provenance": older})
    (store.artefact(teacher.id) / "record.json").write_text(changed.model_dump_json())
    (warning,) = changed_sources(plan, store)
    assert "teacher's source changed since 1 of these records" in warning


def test_weights_can_be_dropped_and_records_stay(store):
    from orchestrator.gc import collect, drop

    before = store.ids()
    found = collect(store, weights=True)
    assert found
    drop(found)
    assert store.ids() == before
    assert not list(store.root.rglob("*.safetensors"))
    assert {action for action, _ in reasons(store, make_plan(store)).values()} == {"cached"}


def damage(store, stage, name, harm):
    """Harm a file of the only run of a stage; return the run's id and the file."""
    (folder,) = store.artefacts.glob(f"{stage}-*")
    harm(folder / name)
    return folder.name


def flip(path):
    """Flip one bit, and leave size and times as they were."""
    about, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "harm", "reason"),
    [
        (
            "model.safetensors",
            lambda path: os.truncate(path, 12),
            "damaged: model.safetensors has 12 bytes instead of ",
        ),
        ("config.json", lambda path: path.unlink(), "damaged: config.json is missing"),
        ("record.json", lambda path: path.unlink(), "damaged: record.json is missing"),
        ("record.json", lambda path: os.truncate(path, 100), "damaged: record.json is no record"),
    ],
)
def test_a_damaged_artefact_is_made_again_and_what_was_made_from_it_stays(store, name, harm, reason):
    damage(store, "teacher", name, harm)
    found = reasons(store, make_plan(store))
    assert found["teacher"][0] == "run"
    assert found["teacher"][1].startswith(reason)
    assert {action for name, (action, _) in found.items() if name != "teacher"} == {"cached"}


def test_a_flipped_bit_is_found_where_a_missing_run_reads_it_and_the_file_is_read_only_once(store, monkeypatch):
    damage(store, "teacher", "model.safetensors", flip)
    assert reasons(store, make_plan(store))["teacher"][0] == "cached", "nobody reads it"
    plan = make_plan(store, settings=("svd_export.rank=32",))
    assert "model.safetensors has changed" in reasons(store, plan)["teacher"][1]
    monkeypatch.setattr("orchestrator.fingerprints.sha256_file", lambda path: pytest.fail(f"{path} is read again"))
    assert "model.safetensors has changed" in reasons(store, plan)["teacher"][1]


def test_a_log_is_no_result(store):
    damage(store, "teacher", "log.txt", lambda path: path.write_text("short"))
    damage(store, "teacher", "history.csv", lambda path: path.unlink())
    assert {action for action, _ in reasons(store, make_plan(store)).values()} == {"cached"}


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("model.safetensors", lambda path: os.truncate(path, 12)),
        ("model.safetensors", flip),
        ("record.json", lambda path: path.unlink()),
    ],
)
def test_the_same_command_names_the_damage_makes_it_again_and_leaves_the_rest(store, capsys, name, harm):
    from orchestrator.__main__ import main

    before = {path.name: store.flaws(path.name, sha256_file) for path in store.artefacts.iterdir()}
    times = {path.parent.name: path.stat().st_mtime_ns for path in store.artefacts.glob("*/record.json")}
    teacher = damage(store, "teacher", name, harm)
    words = [word for setting in SMALL["settings"] for word in ("--set", setting)]
    words += [word for axis in SMALL["axes"] for word in ("--axis", axis)]
    words += ["--set", "svd_export.rank=32", "--until", "svd_export", "--store", str(store.root)]
    assert main(["sweep", "smoke", "--local", *words]) == 0
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith(f"{teacher} (teacher) damaged: {name} ")]
    assert line.endswith("; made again")
    assert {run_id: store.flaws(run_id, sha256_file) for run_id in before} == before, "whole, all of them"
    after = {path.parent.name: path.stat().st_mtime_ns for path in store.artefacts.glob("*/record.json")}
    assert {run_id for run_id in times if after[run_id] != times[run_id]} == {teacher}
    assert main(["sweep", "smoke", "--local", *words]) == 0
    assert "nothing to execute" in capsys.readouterr().err


def test_a_run_does_not_read_what_was_damaged_after_the_sweep_began(store, capsys):
    plan = make_plan(store, settings=("svd_export.rank=32",))
    export = plan.of_stage("svd_export")[0]
    teacher = damage(store, "teacher", "model.safetensors", lambda path: os.truncate(path, 12))
    observer = Silent()
    LocalBackend().run([export], store, observer)
    (outcome,) = observer.outcomes
    assert outcome.status == "failed"
    assert f"its input {teacher}/model.safetensors has 12 bytes" in outcome.because
    assert reasons(store, plan)["teacher"][0] == "run"
