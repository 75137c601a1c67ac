from __future__ import annotations

import os

import pytest
import torch

from tests.trainables.tiny_models import base_model, examples
from trainables.training.batches import padded
from trainables.training.checkpoints import Checkpoints, Position
from trainables.training.config import TrainingConfig
from trainables.training.engine import Engine, ProcessEngine
from trainables.training.forward import summed_loss
from trainables.training.models import load_model

CPU = torch.device("cpu")


def engine_of(**settings) -> ProcessEngine:
    config = TrainingConfig(precision="fp32", learning_rate=1e-3, schedule="cosine", **settings)
    return ProcessEngine(load_model(base_model("llama")), config, steps=10, device=CPU)


def advance(engine: Engine, steps: int) -> None:
    for step in range(steps):
        engine.backward(summed_loss(engine.model, padded(examples(3, seed=step), 0)))
        engine.step()


def weights(engine: Engine) -> list[torch.Tensor]:
    return [value.detach().clone() for value in engine.model.parameters()]


def test_an_engine_goes_on_bit_for_bit_from_what_it_saved(tmp_path):
    one, other = engine_of(), engine_of()
    advance(one, 3)
    one.save(tmp_path)
    expected = torch.rand(3)
    other.load(tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert other.learning_rate == one.learning_rate
    for engine in (one, other):
        advance(engine, 4)
    assert all(map(torch.equal, weights(one), weights(other)))
    assert other.learning_rate == one.learning_rate


def test_a_checkpoint_holds_safetensors_and_json_only(tmp_path):
    engine = engine_of()
    advance(engine, 1)
    checkpoints = Checkpoints(tmp_path, engine)
    checkpoints.keep_best()
    folder = checkpoints.save(Position(step=1))
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


def test_only_the_newest_checkpoint_stays_and_it_carries_the_best_weights(tmp_path):
    engine = engine_of()
    checkpoints = Checkpoints(tmp_path, engine)
    advance(engine, 1)
    checkpoints.keep_best()
    best = weights(engine)
    for step in (2, 3):
        advance(engine, 1)
        checkpoints.save(Position(step=step, best_step=1, best_eval_loss=1.5))
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-3"]
    later = tmp_path / "later"
    later.mkdir()
    resumed = Checkpoints(later, engine)
    position = resumed.resume(tmp_path / "step-3")
    assert position == Position(step=3, best_step=1, best_eval_loss=1.5)
    engine.load_weights(resumed.best)
    assert all(map(torch.equal, weights(engine), best))


def test_a_better_evaluation_leaves_the_checkpoints_before_it_as_they_were(tmp_path):
    engine = engine_of()
    checkpoints = Checkpoints(tmp_path, engine)
    checkpoints.keep_best()
    folder = checkpoints.save(Position(step=1))
    before = (folder / "best.safetensors").read_bytes()
    advance(engine, 1)
    checkpoints.keep_best()
    assert (folder / "best.safetensors").read_bytes() == before != checkpoints.best.read_bytes()


def test_a_half_written_checkpoint_has_no_name_that_a_resume_looks_for(tmp_path):
    class Full(ProcessEngine):
        """An engine whose disk is full after the weights."""

        def save(self, folder):
            self.save_weights(folder / "weights.safetensors")
            raise OSError(28, os.strerror(28))

    config = TrainingConfig(precision="fp32")
    engine = Full(load_model(base_model("llama")), config, steps=10, device=CPU)
    with pytest.raises(OSError, match="No space"):
        Checkpoints(tmp_path, engine).save(Position(step=7))
    assert not list(tmp_path.glob("step-*"))


def test_weights_of_another_model_are_refused(tmp_path):
    engine_of().save_weights(tmp_path / "weights.safetensors")
    config = TrainingConfig(precision="fp32")
    other = ProcessEngine(load_model(base_model("gpt2")), config, steps=10, device=CPU)
    with pytest.raises(ValueError, match="another model"):
        other.load_weights(tmp_path / "weights.safetensors")


def test_an_engine_trains_only_what_requires_a_gradient_and_decays_only_matrices():
    model = load_model(base_model("gpt2"))
    model.transformer.wpe.weight.requires_grad_(False)
    config = TrainingConfig(precision="fp32", weight_decay=0.3)
    engine = ProcessEngine(model, config, steps=10, device=CPU)
    decay = {id(value): group["weight_decay"] for group in engine.optimizer.param_groups for value in group["params"]}
    assert id(model.transformer.wpe.weight) not in decay
    assert decay[id(model.transformer.h[0].mlp.c_fc.weight)] == 0.3
    assert decay[id(model.transformer.h[0].mlp.c_fc.bias)] == decay[id(model.transformer.ln_f.weight)] == 0


def test_clipping_returns_the_norm_from_before_and_can_be_left_out():
    for limit in (1e-3, None):
        engine = engine_of(max_grad_norm=limit)
        engine.backward(summed_loss(engine.model, padded(examples(3), 0)))
        squares = sum(float(value.grad.double().pow(2).sum()) for value in engine.model.parameters())
        assert engine.step() == pytest.approx(squares**0.5, rel=1e-5)
