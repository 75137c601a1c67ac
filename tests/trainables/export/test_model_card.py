"""The page beside an adapter: read by a program (the hub's front matter) and by a stranger."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import yaml

from tests.trainables.export.spectra import layer
from trainables.export.adapter import AdapterOptions
from trainables.export.functional import EXPORTED
from trainables.export.model_card import Card, model_card, said_ranks
from trainables.export.reload import ReloadCheck
from trainables.export.spectrum import Excluded, FunctionalGain, Spectrum
from trainables.linalg.certificate import Certificate

LAYERS = [layer([3.0, 1.0, 1.0], name="m.0.q"), layer([2.0, 2.0, 1.0], name="m.1.q")]
SPECTRUM = Spectrum(LAYERS, [Excluded("m.embed.weight", 2.0), Excluded("m.norm.weight", 0.0)], 2)
GAINS = [
    FunctionalGain("base", None, None, 3.0),
    FunctionalGain("rank 1", 1, 0.65, 2.0),
    FunctionalGain(EXPORTED, None, 0.85, 1.25),
    FunctionalGain("tuned", None, None, 1.0),
]
CARD = Card(
    base="org/base",
    tuned="./my: 'tuned'",
    criterion="energy 0.8 of each layer",
    spectrum=SPECTRUM,
    ranks={"m.0.q": 1, "m.1.q": 2},
    parameters=18,
    options=AdapterOptions(),
    check=ReloadCheck(1e-6, 1.0, 10.0, "fp32"),
    base_revision="a" * 40,
    gains=GAINS,
    data="questions.json",
    items=12,
)


def front_matter(text):
    _, matter, page = text.split("---\n", 2)
    return yaml.safe_load(matter), page


def test_the_hub_can_read_it_and_peft_finds_what_it_looks_for():
    facts, _ = front_matter(model_card(CARD))
    assert facts["base_model"] == "org/base"
    assert facts["library_name"] == "peft"
    assert {"lora", "base_model:adapter:org/base"} <= set(facts["tags"])
    assert "license" not in facts


def test_any_path_survives_yaml():
    facts, _ = front_matter(model_card(dataclasses.replace(CARD, base='./a: "b" # c', base_revision=None)))
    assert facts["base_model"] == './a: "b" # c'
    assert not [tag for tag in facts["tags"] if tag.startswith("base_model")], "a folder is no model of the hub"


def test_the_example_is_python_and_names_base_and_revision():
    example = model_card(CARD).split("```python\n")[1].split("```")[0]
    compile(example, "example", "exec")
    assert f'from_pretrained("org/base", revision="{"a" * 40}")' in example


def test_a_stranger_learns_what_is_kept_and_what_is_not():
    _, page = front_matter(model_card(CARD))
    kept = (9 + 4 + 4) / (11 + 9)
    shares = ("| 18 (100.0 % of these layers' own) |", "16.7 % of the whole model's", "`m.embed.weight` 16.7 %.")
    for said in (f"| {kept:.3f} |", "1 to 2 in 2 layers", *shares, "./my: 'tuned'"):
        assert said in page, said
    assert "| base + this adapter | 1.250 | 0.850 | 88 % |" in page
    assert "Rounding noise" not in page


def test_one_rank_for_all_layers_is_the_adapter_itself():
    page = model_card(dataclasses.replace(CARD, ranks={"m.0.q": 1, "m.1.q": 1}, gains=[*GAINS[:2], GAINS[3]]))
    assert "| base + this adapter | 2.000 | 0.650 | 50 % |" in page
    assert "| base + dW at rank 1 |" in model_card(CARD)


def test_noise_is_flagged_where_there_is_some():
    noisy = [dataclasses.replace(found, noise_norm=found.delta_norm / 5) for found in LAYERS]
    page = model_card(dataclasses.replace(CARD, spectrum=Spectrum(noisy, (), 2)))
    assert "\n> **Rounding noise.** In 2 of 2 layers" in page
    assert page.index("Rounding noise") < page.index("## Use"), "nobody may read a figure before it"


def test_what_the_headers_told_is_on_the_page():
    page = model_card(dataclasses.replace(CARD, notes=["note: the tuned model has 9 rows"]))
    assert "\n\nThe tuned model has 9 rows.\n" in page


def test_small_singular_values_are_not_claimed_to_be_as_certain_as_large_ones():
    """A value of 0.5 % of the largest is off by 9 % of itself: 4.5e-4 of the largest, 4.5e-3 of a tenth of it."""
    sigma = np.array([1.0, 0.005])
    loose = Certificate("golub-kahan", np.array([1.0, 0.00455]), sigma, 9, 1e-9)
    found = dataclasses.replace(LAYERS[0], sigma=sigma, certificate=loose)
    page = model_card(dataclasses.replace(CARD, spectrum=Spectrum([found], (), 2), ranks={found.linear.name: 2}))
    assert "each certified to 0.005 of itself; those below 1% of their layer's largest to 0.0005 of the largest" in page


def test_tensors_of_no_weight_are_counted_and_not_listed():
    tiny = [Excluded(f"m.{n}.norm.weight", 1e-3) for n in range(4)]
    page = model_card(dataclasses.replace(CARD, spectrum=Spectrum(LAYERS, tiny, 2)))
    assert "does nothing, 4 of them." in page
    assert "norm.weight" not in page


def test_no_share_of_an_improvement_is_claimed_where_there_was_none():
    worse = [dataclasses.replace(GAINS[0], loss=0.5), *GAINS[1:]]
    page = model_card(dataclasses.replace(CARD, gains=worse))
    assert "no better than the base on these items" in page
    assert "| 1.250 | 0.850 |  |" in page


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ({"a": 4, "b": 4}, "4 in each of 2 layers"),
        ({"a": 4, "b": 9, "c": 5, "d": 0}, "4 to 9 in 3 layers (median 5), none in 1"),
    ],
)
def test_ranks_are_said_in_a_phrase(ranks, said):
    assert said_ranks(ranks) == said
