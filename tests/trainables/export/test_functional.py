"""Held-out loss of truncated models, against models merged by hand and measured on their own."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.trainables.export.pairs import make_pair
from tests.trainables.export.spectra import layer
from tests.trainables.tiny_models import examples
from trainables.base import InputError, Progress
from trainables.export.functional import EXPORTED, functional_gains
from trainables.export.spectrum import LayerSpectrum, energy, split_energy
from trainables.training.examples import Example


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"), "gpt2", size=0.1)


def spectra(pair) -> list[LayerSpectrum]:
    shapes = {linear.name: (linear.out_features, linear.in_features) for linear in pair.linears}
    made = [layer(found.s.numpy(), name=name, shape=shapes[name]) for name, found in pair.factors.items()]
    return [
        LayerSpectrum(linear, *list(vars(one).values())[1:]) for linear, one in zip(pair.linears, made, strict=True)
    ]


def loss_by_hand(pair, items, ranks) -> float:
    """Mean cross-entropy over completion tokens, one sequence after the other, with transformers' own model."""
    model = AutoModelForCausalLM.from_pretrained(pair.base).eval()
    for linear in pair.linears:
        delta = pair.factors[linear.name].truncated(ranks[linear.name]).delta()
        model.get_submodule(linear.name).weight.data += delta.T if linear.is_transposed else delta
    return _loss(model, items)


def drained(steps):
    """Return what a generator yields, and what it returns."""
    yielded = []
    while True:
        try:
            yielded.append(next(steps))
        except StopIteration as end:
            return yielded, end.value


def _loss(model, items) -> float:
    total = count = 0
    for item in items:
        tokens = torch.tensor([item.input_ids])
        with torch.no_grad():
            scores = model(tokens).logits[0, item.prompt_length - 1 : -1].double()
        total += float(torch.nn.functional.cross_entropy(scores, tokens[0, item.prompt_length :], reduction="sum"))
        count += item.completion_tokens
    return total / count


def test_losses_are_those_of_models_merged_by_hand(pair):
    items, chosen, layers = examples(9, seed=5), pair.ranks(1, 4, 30), spectra(pair)
    lines: list[str] = []
    steps = functional_gains(
        pair.base, pair.tuned, pair.factors, layers, [8, 1], items, chosen=chosen, batch_size=4, log=lines.append
    )
    progress, gains = drained(steps)
    found = {item.label: item for item in gains}
    assert [item.label for item in gains] == ["base", "rank 1", "rank 8", EXPORTED, "tuned"]
    assert len(lines) == len(gains)
    assert progress == [Progress(step, 5) for step in range(6)], "a point to stop at before each loss"
    for label, ranks in [("base", (0,)), ("rank 1", (1,)), ("rank 8", (8,)), (EXPORTED, (1, 4, 30))]:
        assert found[label].loss == pytest.approx(loss_by_hand(pair, items, pair.ranks(*ranks)), abs=2e-5), label
    assert found["tuned"].loss == pytest.approx(
        _loss(AutoModelForCausalLM.from_pretrained(pair.tuned), items), abs=2e-5
    )
    assert found["rank 8"].energy == pytest.approx(energy(layers, 8))
    assert found[EXPORTED].energy == pytest.approx(split_energy(layers, chosen))
    assert found["base"].energy is None


def test_a_token_that_a_model_does_not_know_is_refused_before_it_is_looked_up(pair):
    with pytest.raises(InputError, match="gives a token 100000, and the base model knows"):
        drained(
            functional_gains(pair.base, pair.tuned, pair.factors, spectra(pair), [1], [Example([1, 100_000, 2], 1)])
        )
