from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainables.driver import Driven, execute
from tests.trainables.tiny_models import FAMILIES, base_model, dataset, inputs
from trainables.base import Context, Diverged, InputError, Place, Stopped
from trainables.student import StudentConfig, add_adapter
from trainables.training.data_order import step_items
from trainables.training.engine import ProcessEngine
from trainables.training.examples import load_examples
from trainables.training.loop import load_data, train
from trainables.training.models import load_model

SHORT = {"steps": 6, "batch_size": 4, "eval_every": 2, "precision": "fp32", "rank": 4, "learning_rate": 1e-2}


def rows(driven: Driven) -> dict[int, dict[str, float]]:
    return {item.step: dict(item.metrics) for item in driven.progress}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_twenty_losses_are_those_of_transformers_trainer_with_peft(tmp_path, schedule):
    data = dataset(equal=True)
    settings = {"steps": 20, "batch_size": 4, "learning_rate": 3e-2, "schedule": schedule, "warmup_steps": 4}
    settings |= {"weight_decay": 0.1, "max_grad_norm": 0.5, "precision": "fp32", "rank": 4, "seed": 3}
    settings |= {"eval_every": 20}
    given = {"base_model": base_model("qwen2"), "dataset": data}
    ours = execute("student", settings, tmp_path / "ours", inputs=given).column("loss")
    theirs = losses_of_trainer(StudentConfig(**settings), data, tmp_path / "theirs")
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert min(ours) < ours[0] - 0.2  # or equal losses would say little


def losses_of_trainer(config: StudentConfig, data: Path, folder: Path) -> list[float]:
    """The losses of transformers' Trainer on a PEFT model with the same start, data order and schedule."""
    from transformers import Trainer, TrainingArguments

    examples = load_examples(data, "train")
    order = [index for step in range(config.steps) for index in step_items(config.seed, step, 4, len(examples))]
    items = [
        {
            "input_ids": torch.tensor(item.input_ids),
            "attention_mask": torch.ones(len(item.input_ids), dtype=torch.long),
            "labels": torch.tensor([-100] * item.prompt_length + item.input_ids[item.prompt_length :]),
        }
        for item in (examples[index] for index in order)
    ]
    losses: list[float] = []

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(items)

        def compute_loss(self, *arguments, **options):
            loss = super().compute_loss(*arguments, **options)
            losses.append(loss.item())
            return loss

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup" if config.schedule == "constant" else config.schedule,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    model = add_adapter(load_model(base_model("qwen2")), config)
    InOrder(model=model, args=arguments, train_dataset=items).train()
    return losses


def test_a_micro_batch_changes_no_loss_where_lengths_differ(tmp_path):
    settings = {**SHORT, "steps": 8}
    found = [
        execute("student", settings, tmp_path / str(size), inputs=inputs("llama"), place=place)
        for size, place in ((size, Place(per_device_batch_size=size)) for size in (1, 2, 4, None))
    ]
    for other in found[:3]:
        assert other.column("loss") == pytest.approx(found[3].column("loss"), abs=1e-5)
        assert other.column("eval_loss") == pytest.approx(found[3].column("eval_loss"), abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("trainable", ["student", "teacher"])
def test_gradient_checkpointing_changes_no_loss(tmp_path, trainable, precision):
    settings = {name: value for name, value in SHORT.items() if trainable == "student" or name != "rank"}
    settings["precision"] = precision
    plain, saving = (
        execute(trainable, settings, tmp_path / str(is_on), inputs=inputs("qwen2"), place=place).column("loss")
        for is_on, place in ((is_on, Place(gradient_checkpointing=is_on)) for is_on in (False, True))
    )
    # In bf16 the two take different attention kernels on a CPU, and AdamW makes the most of every rounding.
    assert saving == pytest.approx(plain, abs=1e-6 if precision == "fp32" else 3e-2)


@pytest.mark.parametrize(("family", "precision"), [("gpt2", "fp32"), ("qwen2", "bf16")])
def test_a_run_cut_anywhere_ends_bit_for_bit_like_one_that_was_not(tmp_path, family, precision):
    settings = {**SHORT, "precision": precision, "lora_dropout": 0.2, "schedule": "cosine", "warmup_steps": 2}
    place = Place(checkpoint_every=2, per_device_batch_size=2)
    options = {"inputs": inputs(family), "place": place}
    whole = execute("student", settings, tmp_path / "whole", **options)
    for cut in (1, 2, 4, 6):
        folder, first = tmp_path / f"cut-{cut}", Driven()
        with pytest.raises(Stopped):
            execute("student", settings, folder, stop_after=cut, into=first, **options)
        newest = folder.with_name(f"{folder.name}.checkpoints") / f"step-{cut - 1}"
        torch.rand(7)  # whatever else this process does with random numbers
        second = execute("student", settings, tmp_path / f"rest-{cut}", resume_from=newest, **options)
        assert rows(first) | rows(second) == rows(whole)
        assert second.metrics == whole.metrics
        adapter = "adapter/adapter_model.safetensors"
        assert_equal_files(tmp_path / "whole" / adapter, tmp_path / f"rest-{cut}" / adapter)


def test_a_killed_run_goes_on_from_the_last_checkpoint_it_left(tmp_path):
    settings, options = {**SHORT, "lora_dropout": 0.1}, {"inputs": inputs("llama"), "place": Place(checkpoint_every=2)}
    whole = execute("student", settings, tmp_path / "whole", **options)

    def die(progress):
        if progress.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute("student", settings, tmp_path / "killed", on_progress=die, **options)
    checkpoints = tmp_path / "killed.checkpoints"
    assert [path.name for path in checkpoints.glob("step-*")] == ["step-4"]
    rest = execute("student", settings, tmp_path / "rest", resume_from=checkpoints / "step-4", **options)
    assert rows(rest) == {step: row for step, row in rows(whole).items() if step > 4}
    assert rest.metrics == whole.metrics


def test_a_resumed_run_still_knows_its_best_weights(tmp_path):
    # So high a rate that an early evaluation is the best.
    settings, options = {**SHORT, "learning_rate": 0.3, "schedule": "constant"}, {"inputs": inputs("llama")}
    whole = execute("student", settings, tmp_path / "whole", **options)
    assert 0 < whole.metrics["best_step"] < 5
    with pytest.raises(Stopped):
        execute("student", settings, tmp_path / "cut", stop_after=6, **options)
    execute("student", settings, tmp_path / "rest", resume_from=tmp_path / "cut.checkpoints" / "step-5", **options)
    best = "best/adapter/adapter_model.safetensors"
    assert_equal_files(tmp_path / "whole" / best, tmp_path / "rest" / best)


def assert_equal_files(one: Path, other: Path) -> None:
    tensors, others = load_file(one), load_file(other)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def test_best_weights_are_those_of_the_best_evaluation(tmp_path):
    settings = {**SHORT, "learning_rate": 0.3, "schedule": "constant"}
    driven = execute("student", settings, tmp_path / "run", inputs=inputs("llama"))
    best = int(driven.metrics["best_step"])
    assert 0 < best < SHORT["steps"]
    shorter = execute("student", {**settings, "steps": best}, tmp_path / "shorter", inputs=inputs("llama"))
    assert shorter.metrics["final_eval_loss"] == driven.metrics["best_eval_loss"] < driven.metrics["final_eval_loss"]
    assert_equal_files(
        tmp_path / "run/best/adapter/adapter_model.safetensors",
        tmp_path / "shorter/adapter/adapter_model.safetensors",
    )


def test_it_evaluates_before_the_first_step_every_k_steps_and_at_the_last(tmp_path):
    driven = execute("student", {**SHORT, "steps": 5}, tmp_path / "run", inputs=inputs("llama"))
    assert [step for step, row in rows(driven).items() if "eval_loss" in row] == [0, 2, 4, 5]
    assert set(rows(driven)[0]) == {"eval_loss", "eval_perplexity", "eval_token_accuracy", "best_eval_loss"}
    lows = driven.column("best_eval_loss")
    assert lows == [min(driven.column("eval_loss")[: index + 1]) for index in range(len(lows))]


def test_it_logs_every_jth_step_and_yields_after_each(tmp_path):
    place = Place(log_every=3)
    driven = execute(
        "student", {**SHORT, "eval_every": 5, "steps": 8}, tmp_path / "run", inputs=inputs("llama"), place=place
    )
    assert list(rows(driven)) == list(range(9))
    assert [step for step, row in rows(driven).items() if "loss" in row] == [3, 6, 8]
    assert rows(driven)[1] == {}


def test_tokens_count_what_the_loss_counts(tmp_path):
    driven = execute("student", SHORT, tmp_path / "run", inputs=inputs("llama"))
    examples = load_examples(dataset(), "train")
    per_step = [
        sum(examples[item].completion_tokens for item in step_items(1, step, 4, len(examples))) for step in range(6)
    ]
    assert driven.column("tokens") == [sum(per_step[: step + 1]) for step in range(6)]
    assert driven.metrics["tokens"] == sum(per_step)


def test_epochs_replace_steps(tmp_path):
    settings = {**SHORT, "epochs": 0.5, "batch_size": 5}
    driven = execute("student", settings, tmp_path / "run", inputs=inputs("llama"))
    assert driven.metrics["steps"] == math.ceil(0.5 * 24 / 5)
    assert StudentConfig(**settings).identity() == StudentConfig(**{**settings, "steps": 99}).identity()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_learning_rate_follows_its_schedule(tmp_path, schedule):
    settings = {**SHORT, "steps": 8, "warmup_steps": 2, "schedule": schedule, "learning_rate": 1e-3}
    driven = execute("student", settings, tmp_path / "run", inputs=inputs("llama"))
    shares = [step / 2 if step < 2 else (step - 2) / 6 for step in range(8)]
    falls = {"linear": lambda x: 1 - x, "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2, "constant": lambda x: 1}
    expected = [share if step < 2 else falls[schedule](share) for step, share in enumerate(shares)]
    assert driven.column("learning_rate") == pytest.approx([1e-3 * value for value in expected])


def test_a_loss_that_is_no_number_ends_the_run_as_diverged_with_what_was_measured_before(tmp_path):
    seen = Driven()
    settings = {**SHORT, "learning_rate": 1e38, "max_grad_norm": None, "eval_every": 100}
    with pytest.raises(Diverged, match=r"at step 2 of 6"):
        execute("student", settings, tmp_path / "run", inputs=inputs("qwen2"), into=seen)
    assert seen.progress[-1].step == 1
    assert all(math.isfinite(value) for item in seen.progress for value in item.metrics.values())


def test_an_evaluation_that_is_no_number_ends_the_run_after_its_training_loss(tmp_path):
    seen = Driven()
    settings = {**SHORT, "learning_rate": 1e38, "max_grad_norm": None, "eval_every": 1}
    with pytest.raises(Diverged, match=r"held-out loss was .* at step 1 of 6"):
        execute("student", settings, tmp_path / "run", inputs=inputs("qwen2"), into=seen)
    assert set(seen.progress[-1].metrics) >= {"loss", "tokens"}
    assert "eval_loss" not in seen.progress[-1].metrics


def test_a_stop_asked_for_before_the_last_step_leaves_one_checkpoint(tmp_path):
    with pytest.raises(Stopped, match="after step 4 of 6"):
        execute(
            "student", SHORT, tmp_path / "run", inputs=inputs("llama"), stop_after=5, place=Place(checkpoint_every=2)
        )
    left = [path for path in (tmp_path / "run.checkpoints").iterdir() if path.is_dir()]
    assert [path.name for path in left] == ["step-4"]


def test_a_run_asked_to_stop_at_its_last_step_just_ends(tmp_path):
    driven = execute("student", SHORT, tmp_path / "run", inputs=inputs("llama"), stop_after=7)
    assert driven.metrics["steps"] == 6


def test_dropout_is_the_same_however_many_random_numbers_an_init_has_drawn(tmp_path):
    config = StudentConfig(**SHORT, lora_dropout=0.3)
    found = []
    for drawn in (0, 5):
        model = add_adapter(load_model(base_model("llama")), config).get_base_model()
        torch.rand(drawn)
        engine = ProcessEngine(model, config, steps=6, device=torch.device("cpu"))
        context = Context("student-0", inputs("llama"), tmp_path, tmp_path, Place())
        steps = train(engine, load_data(context, config), config, context)
        found.append([item.metrics.get("loss") for item in steps])
    assert found[0] == found[1]


def test_fp16_is_refused_on_a_cpu_with_the_way_out(tmp_path):
    with pytest.raises(InputError, match="bf16 or fp32"):
        execute("student", {**SHORT, "precision": "fp16"}, tmp_path / "run", inputs=inputs("llama"))


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_trains_like_fp32_to_its_precision(tmp_path, family):
    full, half = (
        execute("student", {**SHORT, "precision": name}, tmp_path / name, inputs=inputs(family)).column("loss")
        for name in ("fp32", "bf16")
    )
    assert half == pytest.approx(full, abs=0.05)
    assert half != full
