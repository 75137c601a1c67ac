"""Layer by layer: what is computed, what is kept, and that it does not matter who computes it."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.trainables.export.tuned import changed, pair_of, teacher
from tests.trainables.tiny_models import FAMILIES, base_model
from trainables.base import InputError, Place, Progress, Stopped
from trainables.export.checkpoint_pair import CheckpointPair
from trainables.export.factorise import excluded, factorise, origin
from trainables.export.layer_files import LayerFiles
from trainables.export.ranks import ByBudget, ByEnergy, ByRank, Ranks
from trainables.export.spectrum import LayerSpectrum
from trainables.targets import Linear, read_layout, select


@dataclass
class Run:
    """One factorisation of the tiny model, and what came out of it."""

    folder: Path
    ranks: Ranks = field(default_factory=lambda: ByRank(rank=4))
    family: str = "llama"
    pair: CheckpointPair | None = None
    place: Place = field(default_factory=Place)
    stop_requested: Callable[[], bool] = lambda: False
    progress: list[Progress] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def __call__(self) -> list[LayerSpectrum]:
        layout = read_layout(base_model(self.family))
        steps = factorise(
            self.pair or pair_of(self.family),
            layout,
            select(layout, "all-linear"),
            self.ranks,
            self.folder,
            place=self.place,
            stop_requested=self.stop_requested,
            log=self.lines.append,
        )
        while True:
            try:
                self.progress.append(next(steps))
            except StopIteration as end:
                return end.value


@dataclass
class Watching:
    """A fixed rank that sees who asks it: after each layer, its thread and that thread's number of torch threads."""

    rank: int = 4
    asked: list[tuple[str, int, int]] = field(default_factory=list)
    pause_s: float = 0.0

    def first(self, linears: Sequence[Linear]) -> Mapping[str, int]:
        return {linear.name: self.rank for linear in linears}

    def unfinished(self, layers: Sequence[LayerSpectrum]) -> list[str]:
        if len(layers) == 1:
            self.asked.append((layers[0].linear.name, threading.get_ident(), torch.get_num_threads()))
            time.sleep(self.pause_s)
        return []

    def split(self, layers: Sequence[LayerSpectrum]) -> dict[str, int]:
        raise NotImplementedError


@dataclass
class Until(Watching):
    """Begins with two triplets and wants so many of one layer, or of all; says so of one alone, or only of all."""

    wanted: int = 9
    name: str | None = None
    alone: bool = True
    seen: dict[str, list[int]] = field(default_factory=dict)

    def first(self, linears: Sequence[Linear]) -> Mapping[str, int]:
        return {linear.name: 2 for linear in linears}

    def unfinished(self, layers: Sequence[LayerSpectrum]) -> list[str]:
        if len(layers) == 1:
            self.seen.setdefault(layers[0].linear.name, []).append(layers[0].known)
            if not self.alone:
                return []
        names = {layer.linear.name for layer in layers if layer.known < self.wanted}
        return sorted(names & {self.name} if self.name else names)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_how_layers_are_spread_changes_no_bit_and_no_order(tmp_path):
    runs = {cpus: Run(tmp_path / str(cpus), place=Place(cpus=cpus)) for cpus in (1, 2, 3)}
    layers = {cpus: run() for cpus, run in runs.items()}
    names = [linear.name for linear in select(read_layout(base_model("llama")), "all-linear")]
    for cpus, run in runs.items():
        assert [layer.linear.name for layer in layers[cpus]] == names
        assert contents(run.folder) == contents(tmp_path / "1")
        assert run.progress == [Progress(step, 14) for step in range(15)]


def test_each_core_gets_a_thread_of_its_own_and_the_process_keeps_its_number(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone, spread = Watching(), Watching(pause_s=0.02)
        Run(tmp_path / "one", alone)()
        Run(tmp_path / "two", spread, place=Place(cpus=2))()
        assert torch.get_num_threads() == 2
        said = threading.Thread(target=lambda: late.append(torch.get_num_threads()))
        late: list[int] = []
        said.start()
        said.join()
        assert late == [2], "threads that start later compute with one"
    finally:
        torch.set_num_threads(before)
    assert {(thread, count) for _, thread, count in alone.asked} == {(threading.get_ident(), 1)}
    assert len({thread for _, thread, _ in spread.asked}) == 2
    assert {count for *_, count in spread.asked} == {1}
    assert threading.get_ident() not in {thread for _, thread, _ in spread.asked}


def test_finished_layers_are_not_computed_again(tmp_path):
    first, again = Run(tmp_path), Watching()
    expected = contents_after(first)
    second = Run(tmp_path, again)
    layers = second()
    assert again.asked == []
    assert contents(tmp_path) == expected
    assert second.progress == [Progress(14, 14)]
    assert second.lines == ["14 of 14 layers are there already"]
    assert [layer.known for layer in layers] == [4] * 14


def contents_after(run: Run) -> dict[str, bytes]:
    run()
    return contents(run.folder)


def test_only_what_is_damaged_missing_or_too_small_is_computed_again(tmp_path):
    expected = contents_after(Run(tmp_path))
    paths = sorted(tmp_path.iterdir())
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    paths[1].unlink()
    small = Run(tmp_path / "small", ByRank(rank=3))
    small()
    (small.folder / paths[2].name).replace(paths[2])
    watching = Watching()
    Run(tmp_path, watching)()
    assert {name for name, *_ in watching.asked} == {path.stem for path in paths[:3]}
    assert {path.name: path.read_bytes() for path in paths} == expected
    more = Run(tmp_path, ByRank(rank=2))
    assert {layer.known for layer in more()} == {4}, "more triplets than asked for are as good"
    assert more.progress == [Progress(14, 14)]


def test_factors_of_other_checkpoints_are_not_taken_for_these(tmp_path):
    Run(tmp_path / "layers")()
    tuned = changed("llama", tmp_path / "tuned", lambda _, tensor: tensor + 0.01)
    other = pair_of("llama", tuned)
    watching = Watching()
    Run(tmp_path / "layers", watching, pair=other)()
    assert len(watching.asked) == 14
    was = origin(other)
    os.utime(tuned / "model.safetensors", ns=(1, 1))
    assert origin(other) != was
    assert origin(pair_of("llama")) == origin(pair_of("llama")) != was


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("alone", [True, False])
def test_a_layer_gets_twice_the_triplets_until_the_criterion_can_decide(tmp_path, cpus, alone):
    """Tiny layers have 64 or 32; beyond a quarter of them, all are computed."""
    name = "model.layers.1.mlp.up_proj"
    ranks = Until(wanted=9, name=name, alone=alone)
    run = Run(tmp_path, ranks, place=Place(cpus=cpus))
    layers = {layer.linear.name: layer for layer in run()}
    most = min(layers[name].linear.out_features, layers[name].linear.in_features)
    expected = [*itertools.takewhile(lambda rank: rank <= most / 4, (2, 4, 8, 16)), most]
    assert ranks.seen[name] == ([2, 4, 8, 16] if most == 64 else expected)
    assert layers[name].known == ranks.seen[name][-1]
    assert {layer.known for other, layer in layers.items() if other != name} == {2}
    assert LayerFiles(tmp_path)[name].rank == layers[name].known
    steps = 14 if alone else 14 + len(ranks.seen[name]) - 1
    assert run.progress[-1] == Progress(steps, steps)
    assert [progress.step for progress in run.progress] == list(range(steps + 1))


def test_a_criterion_that_is_never_content_ends_with_all_triplets(tmp_path):
    layers = Run(tmp_path, Until(wanted=10**6))()
    assert all(layer.is_complete for layer in layers)


def test_a_stricter_criterion_goes_on_from_what_is_there(tmp_path):
    Run(tmp_path, Until(wanted=2))()
    strict = Until(wanted=3)
    assert {layer.known for layer in Run(tmp_path, strict)()} == {4}
    assert all(seen == [4] for seen in strict.seen.values())


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a model as transformers loads them."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def exact(family: str) -> dict[str, torch.Tensor]:
    """All singular values of every layer's change, by torch in fp64 from the loaded models."""
    base, tuned = parameters(base_model(family)), parameters(teacher(family))
    names = [linear.name for linear in select(read_layout(base_model(family)), "all-linear")]
    delta = {name: tuned[f"{name}.weight"] - base[f"{name}.weight"] for name in names}
    return {name: torch.linalg.svdvals(change.double()) for name, change in delta.items()}


def test_ranks_by_energy_and_by_budget_are_those_of_the_full_spectrum(tmp_path):
    sigma = exact("gpt2")
    energy = ByEnergy(energy=0.6)
    ranks = energy.split(Run(tmp_path, energy, "gpt2")())
    for name, values in sigma.items():
        share = values.square().cumsum(0) / values.square().sum()
        assert ranks[name] == int((share < 0.6).sum()) + 1
    budget = ByBudget(parameters=12_000)
    layers = Run(tmp_path, budget, "gpt2")()
    ranks = budget.split(layers)
    prices = {layer.linear.name: layer.linear.out_features + layer.linear.in_features for layer in layers}
    assert sum(rank * prices[name] for name, rank in ranks.items()) <= 12_000
    worst = min(sigma[name][rank - 1] ** 2 / prices[name] for name, rank in ranks.items() if rank)
    left = 12_000 - sum(rank * prices[name] for name, rank in ranks.items())
    for name, rank in ranks.items():
        assert sigma[name][rank] ** 2 / prices[name] <= worst * (1 + 1e-9) or prices[name] > left


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_stop_keeps_the_layers_in_flight_and_the_next_run_computes_the_rest(tmp_path, cpus):
    whole = contents_after(Run(tmp_path / "whole"))
    run = Run(tmp_path / "cut", place=Place(cpus=cpus))
    run.stop_requested = lambda: len(run.progress) >= 5
    with pytest.raises(Stopped, match=r"^\d+ of 14 layers are kept") as stopped:
        run()
    kept = len(list(run.folder.iterdir()))
    assert 4 <= kept <= 4 + cpus
    assert str(stopped.value).startswith(f"{kept} of 14")
    assert run.progress[-1].step == kept
    watching = Watching()
    Run(tmp_path / "cut", watching, place=Place(cpus=cpus))()
    assert len(watching.asked) == 14 - kept
    assert contents(tmp_path / "cut") == whole


def test_a_stop_before_the_first_layer_computes_none(tmp_path):
    for cpus in (1, 2):
        with pytest.raises(Stopped, match="0 of 14 layers are kept"):
            Run(tmp_path / "none", place=Place(cpus=cpus), stop_requested=lambda: True)()
    assert not (tmp_path / "none").exists()


def test_an_abandoned_run_leaves_no_thread_behind(tmp_path):
    before = set(threading.enumerate())
    layout = read_layout(base_model("llama"))
    steps = factorise(
        pair_of("llama"),
        layout,
        select(layout, "all-linear"),
        Watching(pause_s=0.02),
        tmp_path,
        place=Place(cpus=2),
        stop_requested=lambda: False,
        log=print,
    )
    assert [next(steps).step for _ in range(3)] == [0, 1, 2]
    steps.close()
    assert set(threading.enumerate()) <= before
    assert all(not path.name.startswith(".") for path in tmp_path.iterdir())


@pytest.mark.parametrize("cpus", [1, 2])
def test_what_goes_wrong_in_a_layer_comes_out_as_itself(tmp_path, cpus):
    def spoil(name, tensor):
        return tensor.fill_(float("nan")) if name.endswith("layers.1.mlp.up_proj.weight") else tensor + 1

    pair = pair_of("llama", changed("llama", tmp_path / "tuned", spoil))
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight of the teacher holds NaN"):
        Run(tmp_path / "layers", pair=pair, place=Place(cpus=cpus))()
    assert "model.layers.0.mlp.up_proj" in LayerFiles(tmp_path / "layers")
    assert "model.layers.1.mlp.up_proj" not in LayerFiles(tmp_path / "layers")


@pytest.mark.skipif(torch.cuda.device_count() >= 64, reason="so many GPUs are there")
def test_more_gpus_than_there_are_are_refused_in_words(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU to be placed on")
    pair = pair_of("llama")
    cuda = CheckpointPair(pair.base, pair.tuned, torch.device("cuda"))
    with pytest.raises(InputError, match="placed on 64 GPUs and torch sees"):
        Run(tmp_path, pair=cuda, place=Place(gpus=64))()


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_else_is_named_with_the_norm_of_its_change_and_a_reason(family):
    layout = read_layout(base_model(family))
    targets = [linear for linear in select(layout, "all-linear") if "0" in linear.name]
    found = {item.name: item for item in excluded(pair_of(family), layout, targets)}
    base, tuned = parameters(base_model(family)), parameters(teacher(family))
    sizes = {name: float((tensor - base[name]).double().norm()) for name, tensor in tuned.items()}
    assert set(found) == set(sizes) - {linear.weight for linear in targets}
    assert {name: item.delta_norm for name, item in found.items()} == pytest.approx(
        {name: sizes[name] for name in found}, rel=1e-9
    )
    assert all(item.reason for item in found.values())
