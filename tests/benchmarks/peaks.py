"""Peak memory of one run, measured in a process of its own: what `orchestrator.memory` is held to.

The process imports the libraries, makes a batch of made-up examples and drives a trainable for a few steps; a thread
samples its anonymous pages (RssAnon: mapped weights do not count) every two milliseconds. What is returned is the peak
above the baseline that the imports leave, in bytes; of several workers the largest.
"""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.share import free_port
from tests.anonymous_memory import rss_anon, sampled
from trainables.base import Member, Place

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Case:
    """One run to measure: of a base model's folder, on `items` sequences of `length` tokens, half of them prompt."""

    base: str
    trainable: str
    config: Mapping[str, Any]
    place: Mapping[str, Any] = field(default_factory=dict)
    length: int = 128
    vocabulary: int = 5000
    items: int = 8

    def typed_place(self) -> Place:
        return Place.model_validate(dict(self.place))


def measure(case: Case, folder: Path) -> int:
    """Return the largest peak of the case's workers above their baseline, in bytes; works below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset(folder / "dataset", case)
    code = "import sys; from tests.benchmarks.peaks import work; work(sys.argv[1])"
    size, port = case.typed_place().workers, free_port("127.0.0.1")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    orders = [json.dumps({**vars(case), "folder": str(folder), "rank": rank, "port": port}) for rank in range(size)]
    commands = [[sys.executable, "-c", code, order] for order in orders]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment}
    workers = [subprocess.Popen(command, **pipe) for command in commands]  # type: ignore[call-overload]
    said = [worker.communicate() for worker in workers]
    for worker, (_, errors) in zip(workers, said, strict=True):
        assert worker.returncode == 0, errors
    return max(int(printed.splitlines()[-1]) for printed, _ in said)


def work(order: str) -> None:
    """Do one worker's part and print its peak."""
    values = json.loads(order)
    folder, rank, port = Path(values.pop("folder")), values.pop("rank"), values.pop("port")
    case = Case(**values)
    place = case.typed_place()
    _import(place)
    from tests.trainables.driver import execute

    member = Member(rank, place.workers, "127.0.0.1", port) if place.workers > 1 else None
    inputs = {"base_model": Path(case.base), "dataset": folder / "dataset"}
    gc.collect()
    baseline = rss_anon()
    with sampled() as peak:
        execute(case.trainable, case.config, folder / f"output-{rank}", inputs=inputs, place=place, member=member)
    print(peak[0] - baseline)


def _import(place: Place) -> None:
    import peft
    import torch
    import transformers

    assert peft
    assert transformers
    torch.set_num_threads(1)
    torch.nn.Linear(8, 8)(torch.ones(2, 8)).sum().backward()
    if place.zero_stage:
        import deepspeed.runtime.zero.stage3

        assert deepspeed


def dataset(folder: Path, case: Case) -> None:
    """Write a dataset of random tokens: every sequence as long as the others, half of it prompt."""
    from trainables.training.examples import Example, save_examples

    folder.mkdir(exist_ok=True)
    draw = random.Random(0)
    made = [
        Example([draw.randrange(3, case.vocabulary) for _ in range(case.length)], case.length // 2)
        for _ in range(case.items)
    ]
    for split in ("train", "validation", "test"):
        save_examples(folder, split, made, [{"id": str(index)} for index in range(case.items)])
    (folder / "dataset.json").write_text(json.dumps({"pad_id": 0}))


def predicted(case: Case) -> float:
    """Return what the model of memory says of a case: the machine's memory of one worker, its process left out."""
    import trainables
    from orchestrator.memory.passes import Text
    from orchestrator.memory.stages import Facts, need
    from orchestrator.plan import Run
    from trainables.base_models.shape import read_shape

    found = trainables.find(case.trainable)
    config, place = found.config.model_validate(dict(case.config)), case.typed_place()
    run = Run("", case.trainable, case.trainable, found.version, config, {}, place)
    facts = Facts(read_shape(Path(case.base)), Text(case.length, 0.5, is_known=True))
    estimate = need(run, facts)
    assert estimate is not None
    return estimate.host - estimate.process
