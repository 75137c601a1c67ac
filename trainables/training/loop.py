"""The one training loop, for teachers and students.

It is a generator: every yield is a point where the run may be stopped, and a checkpoint is written only after
what it contains has been yielded. So a run that was cut anywhere goes on from its last checkpoint and measures
the same numbers as one that was not. Everything it needs comes in through its arguments; several loops can
take turns in one process. The workers of one run advance their loops in step, each with its share of every batch.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.base import Context, Diverged, InputError, Progress, Stopped
from trainables.training.batches import chunks, collate, completion_tokens
from trainables.training.checkpoints import Checkpoints, Position
from trainables.training.config import TrainingConfig
from trainables.training.data_order import step_items
from trainables.training.engine import Engine
from trainables.training.evaluation import evaluate_engine
from trainables.training.examples import Example, load_examples, load_facts
from trainables.training.forward import can_pack, summed_loss
from trainables.training.memory import MicroBatch, find_word, is_out_of_memory, leave_word
from trainables.training.random_state import random_states, restore_random_states


@dataclass(frozen=True)
class Data:
    """What a run trains on and what it is evaluated on. `pad_id` fills batches up; no loss ever sees it."""

    train: Sequence[Example]
    validation: Sequence[Example]
    pad_id: int


@dataclass(frozen=True)
class Trained:
    """How a training run ended: its last position, and where the best weights are if they are not the last ones."""

    position: Position
    checkpoints: Checkpoints

    @property
    def has_other_best(self) -> bool:
        """Say whether weights from between the first and the last step were better than the last."""
        return 0 < self.position.best_step < self.position.step

    def metrics(self) -> dict[str, float | int | None]:
        """Return the final metrics of a run."""
        position = self.position
        halved = {"micro_batch_size": position.micro_batch, "halved": position.halved} if position.halved else {}
        return {
            "initial_eval_loss": position.initial_eval_loss,
            "final_eval_loss": position.eval_loss,
            "best_eval_loss": position.best_eval_loss,
            "best_step": position.best_step,
            "final_loss": position.loss,
            "steps": position.step,
            "tokens": position.tokens,
            **halved,
        }


def load_data(context: Context, config: TrainingConfig) -> Data:
    """Return the dataset's training and validation examples; a warm worker keeps them from run to run."""
    folder = context.inputs["dataset"]
    key = f"training data of {folder}"
    if key not in context.cache:
        context.cache[key] = (load_examples(folder, "train"), load_examples(folder, "validation"))
    train, validation = context.cache[key]
    for split, examples in (("training", train), ("validation", validation)):
        if not examples:
            raise InputError(f"the dataset has no {split} items; give it more data or another split")
    return Data(train, validation[: config.eval_items], int(load_facts(folder)["pad_id"]))


def train(engine: Engine, data: Data, config: TrainingConfig, context: Context) -> Generator[Progress, None, Trained]:
    """Train to the last step, yielding once before the first step and once after each.

    Raises Diverged when a loss or a gradient is no longer finite, after yielding what was measured before it,
    and Stopped, with a checkpoint written, when the context asks for it.
    """
    run = _Run(engine, data, config, context)
    if context.resume_from is None:
        yield from run.begin()
    while run.position.step < run.total:
        if engine.workers.any(context.stop_requested()):
            run.checkpoints.save(run.position)
            raise Stopped(f"stopped after step {run.position.step} of {run.total}")
        yield from run.advance()
        if run.position.step % context.place.checkpoint_every == 0 and run.position.step < run.total:
            run.checkpoints.save(run.position)
    return Trained(run.position, run.checkpoints)


class _Run:
    """One run in progress: its position, and what each step does."""

    def __init__(self, engine: Engine, data: Data, config: TrainingConfig, context: Context) -> None:
        self.engine, self.data, self.config, self.context = engine, data, config, context
        self.workers = engine.workers
        self.total = config.total_steps(len(data.train))
        self.checkpoints = Checkpoints(context.checkpoints, engine)
        # Dropout is the same in every arm, however many random numbers its init has drawn; each worker has its own.
        torch.manual_seed(config.seed + self.workers.rank)
        self.position = Position() if context.resume_from is None else self.checkpoints.resume(context.resume_from)
        self.micro_batch = self.first_micro_batch()

    def first_micro_batch(self) -> MicroBatch:
        """Return the micro-batch that the place asks for, or what an earlier start of this run found to fit."""
        share = self.workers.largest_share(self.config.batch_size)
        asked = MicroBatch(min(self.context.place.per_device_batch_size or share, share))
        found = find_word(self.context.checkpoints)
        if found is None and self.context.resume_from is not None:
            found = find_word(self.context.resume_from.parent)
        if found is None and self.position.micro_batch is not None:
            found = MicroBatch(self.position.micro_batch, self.position.halved)
        if found is None or found.size >= asked.size:
            return asked
        self.note_micro_batch(found, f"micro-batch {found.size} instead of {asked.size}: memory did not suffice before")
        return found

    def note_micro_batch(self, found: MicroBatch, line: str) -> None:
        """Keep a micro-batch that memory has dictated, for checkpoints and final metrics."""
        self.micro_batch = found
        self.position.micro_batch, self.position.halved = found.size, found.halved
        self.context.log(line)

    def begin(self) -> Generator[Progress, None, None]:
        yield from self.measured({}, evaluates=True)

    def advance(self) -> Generator[Progress, None, None]:
        position, place = self.position, self.context.place
        rate = self.engine.learning_rate
        loss, tokens, norm = self.update()
        position.step, position.tokens, position.loss = position.step + 1, position.tokens + tokens, loss
        is_last = position.step == self.total
        metrics = {"loss": loss, "learning_rate": rate, "grad_norm": norm, "tokens": float(position.tokens)}
        if not math.isfinite(norm):
            del metrics["grad_norm"]
        if position.step % place.log_every and not is_last:
            metrics = {}
        yield from self.measured(metrics, evaluates=is_last or position.step % self.config.eval_every == 0)
        if not math.isfinite(norm) and self.config.precision != "fp16":
            raise Diverged(f"the gradient's norm was {norm} at step {position.step} of {self.total}")

    def update(self) -> tuple[float, int, float]:
        """Make one optimiser step; return its loss per completion token, their number, and the gradient's norm."""
        config, engine = self.config, self.engine
        items = step_items(config.seed, self.position.step, config.batch_size, len(self.data.train))
        examples = [self.data.train[item] for item in items]
        tokens = completion_tokens(examples)
        engine.model.train()
        mean = self.add_up_gradients(examples, tokens)
        if not math.isfinite(mean):
            raise Diverged(f"the training loss was {mean} at step {self.position.step + 1} of {self.total}")
        return mean, tokens, engine.step()

    def add_up_gradients(self, examples: Sequence[Example], tokens: int) -> float:
        """Return the loss of the global batch, its gradient with the engine; halve the micro-batch until it fits.

        Out of memory goes through at micro-batch 1, and, having left word, where the workers meet inside of passes.
        """
        before = random_states(self.engine.device)
        while True:
            has_run_out = False
            try:
                summed = self.pass_over(examples, tokens)
            except Exception as error:
                if not is_out_of_memory(error) or self.micro_batch.size == 1:
                    raise
                if self.engine.passes_meet:
                    leave_word(self.context.checkpoints, self.micro_batch.half())
                    raise
                has_run_out = True
            if not self.workers.any(has_run_out):
                return float(self.workers.sum(summed).item())
            self.halve()
            restore_random_states(before, self.engine.device)

    def pass_over(self, examples: Sequence[Example], tokens: int) -> Tensor:
        """Go forward and back over this worker's share of a batch of `tokens` completion tokens; return its loss.

        Every worker makes as many passes as the one with the largest share: the others repeat an item that counts
        nothing, because the passes of some engines are where the workers meet.
        """
        engine = self.engine
        packs = can_pack(engine.model, engine.device)
        pieces = list(chunks(self.workers.share(examples), self.micro_batch.size))
        passes = -(-self.workers.largest_share(len(examples)) // self.micro_batch.size)
        summed = torch.zeros((), device=engine.device)
        for index in range(passes):
            counts = index < len(pieces)
            batch = collate(pieces[index] if counts else examples[:1], self.data.pad_id, packs=packs)
            loss = engine.forward(summed_loss, batch.to(engine.device)) / tokens
            if not counts:
                loss = loss * 0.0
            engine.backward(loss, is_last=index == passes - 1)
            summed += loss.detach()
        return summed

    def halve(self) -> None:
        """Go back to before the step and make the micro-batch half as large."""
        self.engine.forget_gradients()
        if self.engine.device.type == "cuda":
            torch.cuda.empty_cache()
        step, smaller = self.position.step + 1, self.micro_batch.half()
        self.note_micro_batch(
            smaller, f"out of memory at step {step}: micro-batch {self.micro_batch.size} -> {smaller.size}"
        )

    def measured(self, metrics: dict[str, float], *, evaluates: bool) -> Generator[Progress, None, None]:
        """Yield this step's metrics, with those of an evaluation if it is time for one."""
        held_out = self.evaluate() if evaluates else {}
        is_finite = all(math.isfinite(value) for value in held_out.values())
        yield Progress(self.position.step, self.total, {**metrics, **held_out} if is_finite else metrics)
        if not is_finite:
            loss = held_out["eval_loss"]
            raise Diverged(f"the held-out loss was {loss} at step {self.position.step} of {self.total}")

    def evaluate(self) -> dict[str, float]:
        found = evaluate_engine(
            self.engine,
            self.data.validation,
            batch_size=self.context.place.evaluation_batch_size,
            pad_id=self.data.pad_id,
        )
        is_best = self.position.note_evaluation(found.loss)
        if is_best and 0 < self.position.step < self.total:
            self.checkpoints.keep_best()
        return {
            "eval_loss": found.loss,
            "eval_perplexity": found.perplexity,
            "eval_token_accuracy": found.token_accuracy,
            "best_eval_loss": self.position.best_eval_loss,
        }
