from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainables.driver import Driven, execute
from tests.trainables.gang import Job, drive_gang, work
from tests.trainables.tiny_models import base_model, dataset, examples, inputs
from trainables.base import Diverged, InputError, Place, Stopped

# Five sequences on two workers: unequal shares; and micro-batches of 2, so that one has a pass without an item.
TEACHER: dict[str, Any] = {"steps": 6, "batch_size": 5, "eval_every": 2, "precision": "fp32", "learning_rate": 3e-3}
TEACHER |= {"schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.1, "max_grad_norm": 2.0}
STUDENT = TEACHER | {"rank": 4, "learning_rate": 1e-2, "max_grad_norm": 0.2}
MEASURED = ("loss", "grad_norm", "learning_rate", "tokens", "eval_loss", "eval_token_accuracy", "best_eval_loss")
ROOT = Path(__file__).parents[2]


def placed(stage: int, workers: int = 2, **more: Any) -> Place:
    settings = {"zero_stage": stage, "workers": workers, "device": "cpu", "per_device_batch_size": 2} | more
    return Place(**settings)


@functools.cache
def alone(trainable: str, family: str, folder: Path) -> tuple[Driven, Path]:
    """The same run in one process, without a gang; once for all tests."""
    settings = TEACHER if trainable == "teacher" else STUDENT
    return execute(trainable, settings, folder / "run", inputs=inputs(family)), folder / "run"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return lambda trainable, family="qwen2": alone(trainable, family, tmp_path_factory.getbasetemp() / trainable)


def assert_same_course(found: Driven, expected: Driven, tolerance: float = 1e-4) -> None:
    """The order of sums differs between workers, so the last bits do; 1e-4 is what issue 4 asks for."""
    for name in MEASURED:
        assert found.column(name) == pytest.approx(expected.column(name), abs=tolerance), name
    numbers = {name: value for name, value in expected.metrics.items() if isinstance(value, int | float)}
    assert found.metrics.keys() == expected.metrics.keys()
    assert {name: found.metrics[name] for name in numbers} == pytest.approx(numbers, abs=tolerance)


def rows(driven: Driven) -> dict[int, dict[str, float]]:
    return {item.step: dict(item.metrics) for item in driven.progress}


def assert_equal_files(first: Path, second: Path) -> None:
    tensors, others = load_file(first), load_file(second)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def newest(folder: Path) -> Path:
    (found,) = folder.with_name(f"{folder.name}.checkpoints").glob("step-*")
    return found


def test_clipping_is_at_work_in_these_runs(one):
    assert max(one("teacher")[0].column("grad_norm")) > TEACHER["max_grad_norm"]
    assert max(one("student")[0].column("grad_norm")) > STUDENT["max_grad_norm"]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_a_teacher_of_two_workers_takes_the_course_of_one_process(tmp_path, one, stage):
    expected, whole = one("teacher")
    workers = work(Job("teacher", TEACHER, tmp_path / "t", inputs("qwen2"), placed(stage)))
    assert [worker.trace for worker in workers] == ["", ""]
    assert_same_course(workers[0].driven, expected)
    assert rows(workers[1].driven) == rows(workers[0].driven)  # all agree to the last bit on what was measured
    assert [worker.printed for worker in workers] == ["", ""]
    ours, theirs = load_file(tmp_path / "t/model.safetensors"), load_file(whole / "model.safetensors")
    assert {(name, value.shape) for name, value in ours.items()} == {(name, v.shape) for name, v in theirs.items()}
    # An update of AdamW is its rate times a ratio, which rounding can turn around where a gradient is nearly zero.
    for name, value in theirs.items():
        assert (ours[name] - value).abs().max() < 2 * TEACHER["learning_rate"]
        assert (ours[name] - value).abs().mean() < 1e-4


EVALUATE = """
    import sys
    from pathlib import Path
    from trainables.training.evaluation import evaluate_loss
    from trainables.training.examples import load_examples
    from trainables.training.models import load_model
    model, data = load_model(Path(sys.argv[1])), load_examples(Path(sys.argv[2]), "validation")
    print(evaluate_loss(model, data, batch_size=32, precision="fp32", device="cpu", pad_id=0).loss)
"""


def test_a_consolidated_teacher_loads_in_another_process_and_evaluates_the_same(tmp_path):
    place = placed(3, evaluation_batch_size=4)  # three batches: one worker evaluates two, the other one
    driven = drive_gang("teacher", TEACHER, tmp_path / "t", inputs=inputs("llama"), place=place)
    assert {value.dtype for value in load_file(tmp_path / "t/model.safetensors").values()} == {torch.float32}
    command = [sys.executable, "-c", textwrap.dedent(EVALUATE), str(tmp_path / "t"), str(dataset())]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert float(found) == pytest.approx(driven.metrics["final_eval_loss"], abs=1e-6)
    assert driven.metrics["final_eval_loss"] < driven.metrics["initial_eval_loss"] - 0.01
    assert (tmp_path / "t/tokenizer.json").exists()


@pytest.mark.parametrize("stage", [2, 3])
def test_a_gang_cut_off_goes_on_bit_for_bit(tmp_path, stage):
    options = {"inputs": inputs("qwen2"), "place": placed(stage)}
    whole = drive_gang("teacher", TEACHER, tmp_path / "whole", **options)
    # One worker sees the request a step earlier than the other.
    cut = work(Job("teacher", TEACHER, tmp_path / "cut", **options, stops={0: 4, 1: 5}))
    assert [type(worker.error) for worker in cut] == [Stopped, Stopped]
    assert newest(tmp_path / "cut").name == "step-3"
    rest = drive_gang("teacher", TEACHER, tmp_path / "rest", **options, resume_from=newest(tmp_path / "cut"))
    assert rows(cut[0].driven) | rows(rest) == rows(whole)
    assert rest.metrics == whole.metrics
    assert_equal_files(tmp_path / "whole/model.safetensors", tmp_path / "rest/model.safetensors")


def test_a_student_starts_from_its_init_under_zero_3(tmp_path, one):
    expected, whole = one("student")
    driven = drive_gang("student", STUDENT, tmp_path / "s", inputs=inputs("qwen2"), place=placed(3))
    assert_same_course(driven, expected)
    ours, theirs = (load_file(folder / "adapter/adapter_model.safetensors") for folder in (tmp_path / "s", whole))
    assert {(name, value.shape) for name, value in ours.items()} == {(name, v.shape) for name, v in theirs.items()}
    assert (tmp_path / "s/adapter/adapter_config.json").read_text() == (
        whole / "adapter/adapter_config.json"
    ).read_text()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (placed(3), placed(2)),
        (placed(2), Place(per_device_batch_size=2)),
        pytest.param(placed(3, 3), placed(1), marks=pytest.mark.slow),
        pytest.param(placed(0), placed(3), marks=pytest.mark.slow),
        pytest.param(Place(), placed(3), marks=pytest.mark.slow),
        pytest.param(placed(3), placed(0), marks=pytest.mark.slow),
    ],
    ids=lambda place: f"{place.zero_stage}x{place.workers}",
)
def test_a_run_goes_on_with_other_workers_or_another_stage(tmp_path, one, before, after):
    cut = work(Job("teacher", TEACHER, tmp_path / "cut", inputs("qwen2"), before, stops={0: 4}))
    assert {type(worker.error) for worker in cut} == {Stopped}
    rest = drive_gang(
        "teacher",
        TEACHER,
        tmp_path / "rest",
        inputs=inputs("qwen2"),
        place=after,
        resume_from=newest(tmp_path / "cut"),
    )
    joined = Driven(rest.metrics, [*cut[0].driven.progress, *rest.progress])
    assert_same_course(joined, one("teacher")[0])


# A rate so high that an early evaluation is the best.
WILD = {"learning_rate": 0.1, "schedule": "constant", "warmup_steps": 0, "batch_size": 4, "weight_decay": 0.0}
WILD |= {"max_grad_norm": 1.0}


@pytest.mark.parametrize("stage", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_best_weights_of_a_gang_are_kept_across_a_resume(tmp_path, stage):
    settings, options = STUDENT | WILD, {"inputs": inputs("llama"), "place": placed(stage)}
    whole = drive_gang("student", settings, tmp_path / "whole", **options)
    best = int(whole.metrics["best_step"])
    assert 0 < best < 5
    work(Job("student", settings, tmp_path / "cut", **options, stops={1: 6}))
    folder = tmp_path / "rest"
    drive_gang("student", settings, folder, **options, resume_from=newest(tmp_path / "cut"))
    assert_equal_files(
        tmp_path / "whole/best/adapter/adapter_model.safetensors", folder / "best/adapter/adapter_model.safetensors"
    )
    shorter = drive_gang("student", settings | {"steps": best}, tmp_path / "shorter", **options)
    assert shorter.metrics["final_eval_loss"] == whole.metrics["best_eval_loss"]
    assert_equal_files(
        tmp_path / "shorter/adapter/adapter_model.safetensors", folder / "best/adapter/adapter_model.safetensors"
    )


@pytest.mark.parametrize("stage", [0, 3])
def test_a_gang_diverges_at_every_worker_at_once(tmp_path, stage):
    settings = TEACHER | {"learning_rate": 1e38, "max_grad_norm": None, "warmup_steps": 0, "eval_every": 100}
    workers = work(Job("teacher", settings, tmp_path / "t", inputs("qwen2"), placed(stage)))
    assert [type(worker.error) for worker in workers] == [Diverged, Diverged]
    assert str(workers[0].error) == str(workers[1].error)
    assert all(math.isfinite(value) for row in rows(workers[0].driven).values() for value in row.values())


def limit_tokens(limit: int, only_rank: int | None, rank: int) -> None:
    """Let every model of this process run out of memory above `limit` tokens in a pass that is trained on."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    def check(module: torch.nn.Module, arguments: Any) -> None:
        is_trained = module.training and torch.is_grad_enabled()
        if isinstance(module, torch.nn.Embedding) and is_trained and arguments[0].numel() > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    if only_rank in (None, rank):
        register_module_forward_pre_hook(check)


def one_rank_short(rank: int) -> None:
    limit_tokens(18, 1, rank)


def all_short(rank: int) -> None:
    limit_tokens(18, None, rank)


def none_fits(rank: int) -> None:
    limit_tokens(3, None, rank)


@pytest.mark.parametrize("stage", [0, 3])
def test_a_gang_halves_its_micro_batch_together_when_one_worker_runs_out_of_memory(tmp_path, one, stage):
    place = placed(stage, per_device_batch_size=None, checkpoint_every=2)
    job = Job("teacher", TEACHER, tmp_path / "t", inputs("qwen2"), place, prepare=one_rank_short)
    workers = work(job)
    assert [worker.trace for worker in workers] == ["", ""]
    driven = workers[0].driven
    assert driven.metrics["halved"] == workers[1].driven.metrics["halved"] >= 1
    assert driven.metrics["micro_batch_size"] == workers[1].driven.metrics["micro_batch_size"] == 1
    expected = one("teacher")[0]
    started = min(rows(driven))
    tail = [item for item in expected.progress if item.step >= started]
    for found, wanted in zip(driven.progress, tail, strict=True):
        assert dict(found.metrics) == pytest.approx(dict(wanted.metrics), abs=1e-4)
    assert any("micro-batch" in line and "memory" in line for line in driven.lines)


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_out_of_memory_at_micro_batch_1_goes_through(tmp_path, stage):
    workers = work(Job("teacher", TEACHER, tmp_path / "t", inputs("qwen2"), placed(stage), prepare=none_fits))
    assert "OutOfMemoryError" in {type(worker.error).__name__ for worker in workers}


def test_one_process_halves_too_and_keeps_it_across_a_resume(tmp_path, one):
    place = Place(checkpoint_every=2)
    job = Job("teacher", TEACHER, tmp_path / "t", inputs("qwen2"), place, prepare=all_short)
    whole = work(job)[0].driven
    assert_same_course(Driven({}, whole.progress), Driven({}, one("teacher")[0].progress))
    assert (whole.metrics["micro_batch_size"], whole.metrics["halved"]) == (1, 2)
    cut = work(Job("teacher", TEACHER, tmp_path / "cut", inputs("qwen2"), place, stops={0: 4}, prepare=all_short))
    options = {"inputs": inputs("qwen2"), "place": place, "resume_from": newest(tmp_path / "cut")}
    rest = drive_gang("teacher", TEACHER, tmp_path / "rest", **options, prepare=all_short)
    assert rows(cut[0].driven) | rows(rest) == rows(whole)
    assert rest.metrics == whole.metrics
    position = json.loads((newest(tmp_path / "cut") / "position.json").read_text())
    assert position["micro_batch"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["teacher", "student"])
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_stage_and_family_takes_the_course_of_one_process(tmp_path, trainable, stage, family):
    settings = TEACHER if trainable == "teacher" else STUDENT
    expected = execute(trainable, settings, tmp_path / "one", inputs=inputs(family))
    found = drive_gang(trainable, settings, tmp_path / "gang", inputs=inputs(family), place=placed(stage))
    assert_same_course(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_one_or_three_workers_do_as_well(tmp_path, one, workers, stage):
    found = drive_gang("teacher", TEACHER, tmp_path / "t", inputs=inputs("qwen2"), place=placed(stage, workers))
    assert_same_course(found, one("teacher")[0])


@pytest.mark.slow
def test_a_worker_without_any_sequence_takes_part(tmp_path):
    settings = TEACHER | {"batch_size": 2}
    expected = execute("teacher", settings, tmp_path / "one", inputs=inputs("qwen2"))
    found = drive_gang("teacher", settings, tmp_path / "gang", inputs=inputs("qwen2"), place=placed(3, 3))
    assert_same_course(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["teacher", "student"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_gradient_checkpointing_changes_no_loss(tmp_path, one, trainable, stage):
    settings = TEACHER if trainable == "teacher" else STUDENT
    place = placed(stage, gradient_checkpointing=True)
    found = drive_gang(trainable, settings, tmp_path / "t", inputs=inputs("qwen2"), place=place)
    assert_same_course(found, one(trainable)[0])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offload_changes_no_loss_and_resumes_bit_for_bit(tmp_path, one, stage):
    options = {"inputs": inputs("qwen2"), "place": placed(stage, offload=True)}
    whole = drive_gang("teacher", TEACHER, tmp_path / "whole", **options)
    assert_same_course(whole, one("teacher")[0])
    work(Job("teacher", TEACHER, tmp_path / "cut", **options, stops={0: 4}))
    rest = drive_gang("teacher", TEACHER, tmp_path / "rest", **options, resume_from=newest(tmp_path / "cut"))
    assert rest.metrics == whole.metrics


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["teacher", "student"])
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_bf16_is_that_of_one_process(tmp_path, trainable, stage):
    settings = (TEACHER if trainable == "teacher" else STUDENT) | {"precision": "bf16"}
    expected = execute(trainable, settings, tmp_path / "one", inputs=inputs("qwen2"))
    options = {"inputs": inputs("qwen2"), "place": placed(stage)}
    found = drive_gang(trainable, settings, tmp_path / "gang", **options)
    # Batches of another size round otherwise in bf16 (8 bits): the losses differ by some thousandths of a nat.
    assert found.column("loss") == pytest.approx(expected.column("loss"), abs=0.02)
    full = drive_gang(trainable, settings | {"precision": "fp32"}, tmp_path / "full", **options)
    assert found.column("loss") != pytest.approx(full.column("loss"), abs=1e-5)  # or nothing ran in bf16
    weights = "model.safetensors" if trainable == "teacher" else "adapter/adapter_model.safetensors"
    assert {value.dtype for value in load_file(tmp_path / "gang" / weights).values()} == {torch.float32}


@pytest.mark.slow
def test_a_linears_only_teacher_trains_in_pieces_and_is_saved_whole(tmp_path):
    settings = TEACHER | {"parameters": "linears"}
    expected = execute("teacher", settings, tmp_path / "one", inputs=inputs("llama"))
    found = drive_gang("teacher", settings, tmp_path / "gang", inputs=inputs("llama"), place=placed(3))
    assert_same_course(found, expected)
    ours, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "gang", base_model("llama")))
    changed = {name for name in base if not torch.equal(base[name], ours[name])}
    assert changed
    assert all("proj" in name for name in changed)


def check_that_weights_are_in_pieces(rank: int) -> None:
    """Fail after an evaluation pass that leaves a matrix of the model whole in this worker."""
    from torch.nn.modules.module import register_module_forward_hook
    from transformers import Qwen2ForCausalLM

    def check(module: torch.nn.Module, arguments: Any, output: Any) -> None:
        # The hooks of the layers have run by now; DeepSpeed lets go of a layer's weights there.
        if isinstance(module, Qwen2ForCausalLM) and not module.training:
            # Not `layer.weight`: within a pass DeepSpeed gathers what is looked at by name.
            sizes = [value.numel() for name, value in module.named_parameters() if name.endswith("proj.weight")]
            assert not any(sizes), f"{sum(map(bool, sizes))} of {len(sizes)} weights stayed whole"

    register_module_forward_hook(check)


@pytest.mark.parametrize(("stage", "is_whole"), [(3, False), pytest.param(2, True, marks=pytest.mark.slow)])
def test_weights_are_in_pieces_between_the_passes_of_zero_3(tmp_path, stage, is_whole):
    settings = TEACHER | {"steps": 1, "warmup_steps": 0}
    prepared = {"prepare": check_that_weights_are_in_pieces}
    workers = work(Job("teacher", settings, tmp_path / "t", inputs("qwen2"), placed(stage), **prepared))
    assert ("stayed whole" in workers[0].trace + workers[1].trace) == is_whole


@pytest.mark.slow
def test_gangs_of_one_follow_each_other_in_one_process(tmp_path):
    found = work(Job("teacher", TEACHER, tmp_path / "t", inputs("qwen2"), placed(3, 1), prepare=run_another))
    assert [worker.trace for worker in found] == [""]


def run_another(rank: int) -> None:
    import tempfile

    folder = Path(tempfile.mkdtemp()) / "t"
    execute("student", STUDENT, folder, inputs=inputs("qwen2"), place=placed(2, 1))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_a_loss_scale_changes_no_update_and_skips_those_that_overflow(tmp_path, stage):
    prepare = functools.partial(train_with_a_loss_scale, stage, tmp_path)
    found = work(Job("teacher", TEACHER, tmp_path / "t", inputs("qwen2"), placed(stage, 1), prepare=prepare))
    assert [worker.trace for worker in found] == [""]


def train_with_a_loss_scale(stage: int, folder: Path, rank: int) -> None:
    """Compare a ZeRO engine that scales its loss with a plain one; the passes are in fp32, as CPUs have no fp16."""
    from trainables.base import Context
    from trainables.training.batches import padded
    from trainables.training.config import TrainingConfig
    from trainables.training.engine import ProcessEngine
    from trainables.training.forward import summed_loss
    from trainables.training.models import load_model
    from trainables.training.workers import CPU, join
    from trainables.training.zero_engine import ZeroEngine

    config = TrainingConfig(precision="fp32", learning_rate=1e-3, schedule="constant", max_grad_norm=0.5)
    context = Context("teacher-0", {}, folder, folder, placed(stage, 1))
    plain = ProcessEngine(load_model(base_model("qwen2")), config, steps=9, device=CPU)
    with join(context, CPU) as workers:
        half = config.model_copy(update={"precision": "fp16"})
        model = load_model(base_model("qwen2"))
        scaled = ZeroEngine(model, half, steps=9, workers=workers, place=context.place)
        scaled.zero.module.precision = "fp32"
        for step in range(3):
            norms = []
            for engine in (plain, scaled):
                engine.backward(engine.forward(summed_loss, padded(examples(3, seed=step), 0)) / 10)
                norms.append(engine.step())
            assert norms[1] == pytest.approx(norms[0], rel=1e-4)
        before = scaled.trained_weights()
        for name, value in plain.trained_weights().items():
            assert before[name] == pytest.approx(value, abs=1e-4), name
        scaled.backward(scaled.forward(summed_loss, padded(examples(3), 0)) * 3e38)
        assert scaled.step() == math.inf
        assert all(torch.equal(value, before[name]) for name, value in scaled.trained_weights().items())
        assert (scaled.scale.value, scaled.updates) == (2.0**15, 3)


def test_a_gang_of_another_size_than_placed_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="placed on 2 workers and started with 1"):
        execute("teacher", TEACHER, tmp_path / "t", inputs=inputs("qwen2"), place=placed(3))


def test_fp16_on_a_cpu_is_a_mistake_in_one_line_in_a_gang_too(tmp_path):
    settings = TEACHER | {"precision": "fp16"}
    with pytest.raises(InputError, match="bf16 or fp32"):
        drive_gang("teacher", settings, tmp_path / "t", inputs=inputs("qwen2"), place=placed(3))
