"""What a user can do wrong: one line, the way out, exit code 2, before any training, nothing half written."""

import json
import re

import pytest

from orchestrator.__main__ import main

RECORDS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(81)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def data(text, name="train.json"):
    """Return a set-up that writes a data file."""
    return lambda folder: write(folder / name, text)


def lines(change):
    """Return 81 JSON lines of which the 14th is changed."""
    rows = [json.dumps(record) for record in RECORDS]
    rows[13] = change(RECORDS[13])
    return "\n".join(rows)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Return a small model in a folder of its own, as transformers saves it."""
    from trainables.base_models.tiny import build

    folder = tmp_path_factory.mktemp("model") / "tiny"
    folder.mkdir()
    build("llama", 0, folder)
    return folder


def of_model(change):
    """Return a set-up that copies the model and harms it."""

    def harm(folder, model):
        import shutil

        shutil.copytree(model, folder / "base")
        change(folder / "base")

    harm.needs_model = True
    return harm


def nothing(folder):
    pass


def cut(path):
    path.write_bytes(path.read_bytes()[:1000])


def pickled(base):
    (base / "model.safetensors").rename(base / "pytorch_model.bin")


def rewritten(change):
    """Return what writes a model's weights again as `change` makes them of the tensors by name."""

    def write_again(base):
        from safetensors.torch import load_file, save_file

        path = base / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return write_again


def scattered(tensors):
    return {name: tensor.new_empty(0) for name, tensor in tensors.items()}


def quantised(tensors):
    return {name.replace("proj.weight", "proj.qweight"): tensor for name, tensor in tensors.items()}


scatter, quantise = rewritten(scattered), rewritten(quantised)
FILE = ["--set", "dataset.source=train.json"]
BASE = ["--set", "base_model.source=./base"]
EXPORT = ["export", "--base", "./base", "--tuned", "./base", "--out", "out"]
MISTAKES = {
    "unknown verb": (nothing, ["swep", "smoke"], "did you mean 'sweep'?"),
    "no study": (nothing, ["sweep"], "required: study"),
    "unknown study": (nothing, ["sweep", "rank_stdy"], "Did you mean 'rank_study'? Known: alpha_study"),
    "unknown option": (nothing, ["sweep", "smoke", "--colour"], "unrecognized arguments: --colour"),
    "unknown scale": (nothing, ["sweep", "smoke", "--scale", "laptp"], "Did you mean 'laptop'?"),
    "unknown stage": (nothing, ["sweep", "smoke", "--set", "studnt.steps=3"], "Did you mean 'student'?"),
    "unknown setting": (nothing, ["sweep", "smoke", "--set", "student.rnak=8"], "Did you mean 'rank'?"),
    "unknown axis": (nothing, ["sweep", "smoke", "--axis", "student.rnak=8"], "Did you mean 'rank'?"),
    "unknown place": (nothing, ["sweep", "smoke", "--place", "student.gpu=1"], "Did you mean 'gpus'?"),
    "unknown init": (nothing, ["sweep", "smoke", "--axis", "student.init=random,svdd"], "Did you mean 'svd'?"),
    "until an unknown stage": (nothing, ["sweep", "smoke", "--until", "techer"], "Did you mean 'teacher'?"),
    "wrong type": (nothing, ["sweep", "smoke", "--set", "student.steps=many"], "valid integer"),
    "empty axis": (nothing, ["sweep", "smoke", "--axis", "student.rank=,"], "no values"),
    "no value": (nothing, ["sweep", "smoke", "--set", "student.steps"], "STAGE.SETTING=VALUE"),
    "warm-up longer than training": (nothing, ["sweep", "smoke", "--set", "student.warmup_steps=99"], "warm up"),
    "redo of an unknown run": (nothing, ["sweep", "smoke", "--redo", "svd r99 s1"], "no run 'svd r99 s1'"),
    "show without a store": (nothing, ["show", "svd r16 s2"], "no store at "),
    "verify without a store": (nothing, ["store", "verify", "--store", "NONE"], "NONE; name one with --store DIR"),
    "gc without a store": (nothing, ["store", "gc"], "no store at "),
    "sync without a store": (nothing, ["store", "sync", "smoke"], "no store at "),
    "run that is not there": (data("", "runs/sweep.log"), ["show", "svd r16 s2"], "no run 'svd r16 s2'"),
    "report of nothing": (nothing, ["report", "smoke"], "python -m orchestrator sweep smoke"),
    "report of nothing with options": (
        nothing,
        ["report", "smoke", "--store", "none", "--set", "student.steps=3"],
        "python -m orchestrator sweep smoke --set student.steps=3 --store none",
    ),
    "ui of nothing elsewhere": (nothing, ["ui", "--store", "none"], "python -m orchestrator ui STUDY --store none"),
    "ui of nothing": (nothing, ["ui"], "no MLflow database"),
    "study file that is not there": (nothing, ["sweep", "./mine.py"], "no study file"),
    "study file with a mistake": (data("def build(", "mine.py"), ["sweep", "mine.py"], "mine.py line 1"),
    "study file that builds with a mistake": (
        data("def build(scale):\n    return scale.stagse()\n", "mine.py"),
        ["plan", "mine.py"],
        "mine.py line 2: AttributeError: 'Scale' object has no attribute 'stagse'",
    ),
    "study file that fails at once": (
        data("\nNOTHING[0]\n", "mine.py"),
        ["plan", "mine.py"],
        "mine.py line 2: NameErr",
    ),
    "study file whose build takes nothing": (
        data("def build():\n    pass\n", "mine.py"),
        ["plan", "mine.py"],
        "mine.py: TypeError: build() takes 0 positional arguments",
    ),
    "unknown data": (nothing, ["sweep", "smoke", "--set", "dataset.source=chain_smu"], "chain_sum"),
    "no such file": (nothing, ["sweep", "smoke", *FILE], "train.json"),
    "empty file": (data(""), ["sweep", "smoke", *FILE], "train.json"),
    "empty list": (data("[]"), ["sweep", "smoke", *FILE], "train.json"),
    "malformed JSON": (
        data('[{"question": "a", "answer": "b"},\n{"question": }]'),
        ["sweep", "smoke", *FILE],
        "line 2",
    ),
    "not UTF-8": (data('[{"question": "é", "answer": "b"}]'.encode("latin-1")), ["sweep", "smoke", *FILE], "UTF-8"),
    "a field is missing": (
        data(lines(lambda record: json.dumps({"question": record["question"]})), "train.jsonl"),
        ["sweep", "smoke", "--set", "dataset.source=train.jsonl"],
        "train.jsonl line 14: no field 'answer'",
    ),
    "a malformed line": (
        data(lines(lambda record: '{"question": '), "train.jsonl"),
        ["sweep", "smoke", "--set", "dataset.source=train.jsonl"],
        "train.jsonl line 14",
    ),
    "a column is missing": (
        data("problem,note\n" + "a,b\n" * 30, "train.csv"),
        ["sweep", "smoke", "--set", "dataset.source=train.csv"],
        "problem",
    ),
    "unknown suffix": (data("x", "train.xls"), ["sweep", "smoke", "--set", "dataset.source=./train.xls"], ".csv"),
    "split larger than the data": (
        data(json.dumps(RECORDS)),
        ["sweep", "smoke", *FILE, "--set", "dataset.validation=60", "--set", "dataset.test=60"],
        "81",
    ),
    "unknown generator parameter": (nothing, ["sweep", "smoke", "--set", "dataset.generator.max_trems=3"], "max_terms"),
    "unknown task": (nothing, ["sweep", "smoke", "--set", "dataset.task=mathz"], "maths"),
    "no such model folder": (nothing, ["sweep", "smoke", *BASE], "base"),
    "no weights": (
        of_model(lambda base: (base / "model.safetensors").unlink()),
        ["sweep", "smoke", *BASE],
        "safetensors",
    ),
    "pickled weights": (of_model(pickled), ["sweep", "smoke", *BASE], "safetensors"),
    "truncated weights": (
        of_model(lambda base: cut(base / "model.safetensors")),
        ["sweep", "smoke", *BASE],
        "model.safetensors",
    ),
    "no config.json": (
        of_model(lambda base: (base / "config.json").unlink()),
        ["sweep", "smoke", *BASE],
        "config.json",
    ),
    "no tokenizer": (
        of_model(lambda base: [path.unlink() for path in base.glob("tokenizer*")]),
        ["sweep", "smoke", *BASE],
        "tokenizer",
    ),
    "targets that match nothing": (
        nothing,
        ["sweep", "smoke", "--local", "--set", 'student.target_modules=["q_prj"]'],
        "q_proj",
    ),
    "rank above a layer's size": (
        nothing,
        ["sweep", "smoke", "--local", "--axis", "student.rank=5000"],
        "student.rank",
    ),
    "store that is a file": (data("x", "runs"), ["sweep", "smoke", "--local"], "--store DIR"),
    "store that cannot be made": (
        lambda folder: write(folder / "file", "x"),
        ["sweep", "smoke", "--local", "--store", "file/runs"],
        "--store DIR",
    ),
    "store where nothing may be written": (
        nothing,
        ["sweep", "smoke", "--local", "--store", "/proc/runs"],
        "cannot write to the store /proc/runs",
    ),
    "no disk space": (
        data(
            "from dataclasses import replace\nfrom search_spaces.smoke import build as smoke\n"
            "def build(scale):\n    return replace(smoke(scale), shape=replace(scale.shape, layers=10**9))\n",
            "huge.py",
        ),
        ["sweep", "huge.py", "--local", "--oversubscribe"],
        "GiB free and the runs need about",
    ),
    "export without ranks": (nothing, EXPORT, "one of the arguments --rank --energy --error --budget is required"),
    "export by two criteria": (nothing, [*EXPORT, "--rank", "4", "--error", "0.1"], "not allowed with"),
    "export at rank 0": (nothing, [*EXPORT, "--rank", "0"], "--rank 0: it is a number of singular triplets"),
    "export energy in per cent": (nothing, [*EXPORT, "--energy", "90"], "between 0 and 1, such as 0.9"),
    "export error above 1": (nothing, [*EXPORT, "--error", "15"], "between 0 and 1, such as 0.15"),
    "export alpha of 0": (nothing, [*EXPORT, "--rank", "4", "--alpha", "0"], "--alpha 0.0"),
    "export on no core": (nothing, [*EXPORT, "--rank", "4", "--threads", "0"], "--threads 0"),
    "export of nothing": (nothing, [*EXPORT, "--rank", "4"], "--base ./base: no such folder"),
    "export of a file": (data("", "base"), [*EXPORT, "--rank", "4"], "--base ./base is a file"),
    "export of an adapter": (
        data("{}", "base/adapter_config.json"),
        [*EXPORT, "--rank", "4"],
        "is a LoRA adapter, not a whole model",
    ),
    "export of a pickled model": (of_model(pickled), [*EXPORT, "--rank", "4"], "convert them to safetensors"),
    "export of a damaged model": (
        of_model(lambda base: cut(base / "model.safetensors")),
        [*EXPORT, "--rank", "4"],
        "cut off",
    ),
    "export of a model without a config": (
        of_model(lambda base: (base / "config.json").unlink()),
        [*EXPORT, "--rank", "4"],
        "has no config.json",
    ),
    "export of layers that are not there": (
        of_model(nothing),
        [*EXPORT, "--rank", "4", "--layers", "0-99,atention"],
        "Did you mean 'attention'?",
    ),
    "export of the base itself": (of_model(nothing), [*EXPORT, "--rank", "4"], "equals the base in every tensor"),
    "export of shards that ZeRO-3 did not gather": (
        of_model(scatter),
        [*EXPORT, "--rank", "4"],
        "DeepSpeed ZeRO-3 without gathering its shards",
    ),
    "export of a quantised model": (of_model(quantise), [*EXPORT, "--rank", "4"], "is quantised by GPTQ or AWQ"),
    "export with too small a budget": (of_model(nothing), [*EXPORT, "--budget", "9"], "below rank 1 of the smallest"),
    "export into another folder's files": (
        data("mine", "out/thesis.txt"),
        [*EXPORT, "--rank", "4"],
        "out is not empty: name a folder that is new or empty",
    ),
    "export into a file": (data("mine", "out"), [*EXPORT, "--rank", "4"], "out is a file"),
    "export with data that is not there": (
        of_model(nothing),
        [*EXPORT, "--rank", "4", "--data", "questions.json"],
        "questions.json",
    ),
    "export with settings of no data": (
        nothing,
        [*EXPORT, "--rank", "4", "--data-set", "chat_template=true"],
        "there is no --data",
    ),
    "export with an unknown setting of the data": (
        nothing,
        [*EXPORT, "--rank", "4", "--data", "chain_sum", "--data-set", "chat_templte=true"],
        "Did you mean 'chat_template'?",
    ),
    "export with a malformed setting of the data": (
        nothing,
        [*EXPORT, "--rank", "4", "--data", "chain_sum", "--data-set", "chat_template"],
        "SETTING=VALUE",
    ),
    "more GPUs than there are": (nothing, ["sweep", "smoke", "--place", "student.gpus=64"], "--place student.gpus"),
}


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line_with_the_way_out_and_nothing_trained(folder, model, capsys, mistake):
    prepare, arguments, expected = MISTAKES[mistake]
    prepare(folder, model) if getattr(prepare, "needs_model", False) else prepare(folder)
    before = snapshot(folder)
    try:
        code = main(arguments)
    except SystemExit as leave:
        code = leave.code
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert code == 2, complaint
    assert complaint.startswith("orchestrator: ")
    assert expected in complaint
    assert len(complaint) < 600
    assert not re.search(r"Traceback|\bError\(", complaint)
    after = snapshot(folder)
    new = {path.relative_to(folder).as_posix() for path in set(after) - set(before)}
    assert not [name for name in new if re.search(r"(teacher|student|svd_export)-", name)], "something was trained"
    assert not [name for name in new if name.startswith("runs/work/")], "something was left half written"
    assert before.items() <= after.items()


def test_there_are_at_least_thirty_kinds():
    assert len(MISTAKES) >= 30


def test_a_path_with_spaces_is_no_mistake(folder):
    write(folder / "my data" / "train set.json", json.dumps(RECORDS))
    arguments = ["sweep", "smoke", "--local", "--until", "dataset", "--store", "my runs"]
    assert main([*arguments, "--set", "dataset.source=my data/train set.json"]) == 0
    (record,) = (folder / "my runs" / "artefacts").glob("dataset-*/record.json")
    assert json.loads(record.read_text())["metrics"]["records"] == 81
