"""What every file of `trainables/inits` has to keep: an init is tested the moment it exists."""

from __future__ import annotations

import functools
import inspect
import itertools
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel

import trainables
from tests.trainables.driver import execute
from tests.trainables.inits.made import (
    at_start,
    cases,
    changes,
    context_for,
    fresh,
    given_for,
    held_out_loss,
    high_rank_student,
    loaded,
    merged,
    started,
    taught,
    truncated,
    write_factors,
)
from tests.trainables.tiny_models import FAMILIES, examples
from trainables import inits
from trainables.inits.parts.subtraction import subtracted
from trainables.linalg.factors import Factors, load_factors
from trainables.student import StudentConfig, add_adapter
from trainables.training.batches import collate
from trainables.training.forward import summed_loss

NAMES = inits.names()
STARTS = {
    "random": "base",
    "subspace_only": "base",
    "svd_subtracted": "base",
    "pissa": "base",
    "svd": "teacher",
    "svd_balanced": "teacher",
    "wrong_teacher": "wrong teacher",
    "lora_squeeze": "high-rank student",
    "spectrum_random": "elsewhere",
}
B_IS_ZERO = {"random", "subspace_only"}
DRAWS = {"random": ["lora_A"], "spectrum_random": ["lora_A", "lora_B"]}
RANK = 4


def test_every_init_says_here_where_it_starts():
    assert STARTS.keys() == set(NAMES)


def test_labels_and_references_are_said_and_no_two_are_the_same():
    found = [inits.find(name) for name in NAMES]
    for texts in ([init.label for init in found], [init.reference for init in found]):
        assert all(text.strip() for text in texts)
        assert len({text.lower() for text in texts}) == len(texts)


@pytest.mark.parametrize("name", NAMES)
def test_an_init_is_found_by_its_file_and_reads_only_what_a_student_can_be_given(name):
    init = inits.find(name)
    assert init.name == name
    assert list(inspect.signature(init.start).parameters) == ["model", "config", "context"]
    student = trainables.find("student")
    assert set(init.needs) <= set(student.roles) - {"base_model", "dataset"}
    assert student.needed_roles(StudentConfig(init=name)) == ("base_model", "dataset", *init.needs)


def test_every_role_that_a_student_has_is_read_by_some_init():
    read = {role for name in NAMES for role in inits.find(name).needs}
    assert trainables.find("student").roles == ("base_model", "dataset", *inits.roles())
    assert set(inits.roles()) == read


@pytest.mark.parametrize("name", NAMES)
def test_an_init_says_whether_its_start_is_subtracted(name):
    """The memory estimate counts the frozen numbers by that: as many as the adapter has."""
    kept = subtracted(at_start(name, "llama"))
    assert inits.find(name).is_subtracted == bool(kept)
    assert sum(half.start.numel() - half.weight.numel() for half in kept.values()) == 0


@functools.cache
def expected_loss(start: str, family: str) -> float:
    """The loss where an init has to start, from weights that were changed densely and without an adapter."""
    if start == "base":
        return held_out_loss(fresh(family))
    if start == "high-rank student":
        return held_out_loss(truncated(family, merged(family, high_rank_student(family)), RANK))
    return held_out_loss(truncated(family, loaded(taught(family, wrong=start == "wrong teacher").teacher), RANK))


@pytest.mark.parametrize(("name", "family", "scaling"), cases([name for name in NAMES if STARTS[name] != "elsewhere"]))
def test_an_init_starts_where_it_says(name, family, scaling):
    """At the base: to the bit where B is zero; where two products cancel, to the rounding of their fp32 sums, 1e-7 of
    the loss per layer. At a truncated change: W x + B A x against (W + B A) x, the same rounding of a few layers."""
    found = held_out_loss(at_start(name, family, **scaling))
    expected = expected_loss(STARTS[name], family)
    if name in B_IS_ZERO:
        assert found == expected
    else:
        assert found == pytest.approx(expected, abs=1e-6 if STARTS[name] == "base" else 5e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_starts_are_too_far_apart_to_be_taken_for_one_another(family):
    losses = sorted(expected_loss(start, family) for start in set(STARTS.values()) - {"elsewhere"})
    assert min(after - before for before, after in itertools.pairwise(losses)) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_start_where_chance_does(name):
    first, again, other = (
        adapter_of(make(name, "qwen2", **seed))
        for make, seed in ((at_start, {}), (started, {"seed": 1}), (started, {"seed": 2}))
    )
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    for key, value in first.items():
        is_drawn = any(half in key for half in DRAWS.get(name, []))
        assert torch.equal(value, other[key]) != is_drawn, key


def adapter_of(model):
    return {key: value for key, value in model.state_dict().items() if "lora_" in key}


@pytest.mark.parametrize(
    ("name", "family"), [*((name, FAMILIES[index % 3]) for index, name in enumerate(NAMES)), ("pissa", "gpt2")]
)
def test_an_init_changes_no_weight_of_the_base(name, family):
    state = at_start(name, family).state_dict()
    kept = {
        key.removeprefix("base_model.model.").replace(".base_layer", ""): key for key in state if "lora_" not in key
    }
    original = fresh(family).state_dict()
    assert kept.keys() == original.keys()
    assert all(torch.equal(value, state[kept[key]]) for key, value in original.items())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow_in_the_first_step(name):
    """Into both factors of every layer; where B is zero, into B alone: A follows from the second step on."""
    model = started(name, "llama")
    moved = {key: gradient.abs().max() > 0 for key, gradient in gradients(model).items()}
    assert any("lora_A" in key for key in moved)
    assert moved == {key: "lora_B" in key or name not in B_IS_ZERO for key in moved}


def gradients(model):
    summed_loss(model.get_base_model(), collate(examples(4), 0)).backward()
    return {key: value.grad for key, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("name", [name for name in NAMES if "svd_export" in inits.find(name).needs])
def test_a_layer_that_the_teacher_left_alone_can_still_learn(tmp_path, name):
    """The export of a zero change has zero singular values on some directions (linalg.truncated)."""
    whole = dict(load_factors(taught("llama").export))
    still = "model.layers.0.mlp.up_proj"
    whole[still] = Factors(torch.eye(128, 64), torch.zeros(64), torch.eye(64))
    config = StudentConfig(init=name, rank=RANK)
    model = add_adapter(fresh("llama"), config)
    context = context_for(name, "llama", svd_export=write_factors(tmp_path / "export", whole))
    inits.find(name).start(model, config, context)
    assert not model.get_base_model().get_submodule(still).get_delta_weight("default").any()
    moved = [
        value.abs().sum(dim=int("lora_B" not in key)) > 0 for key, value in gradients(model).items() if still in key
    ]
    assert torch.stack([part if len(part) == RANK else part.new_zeros(RANK) for part in moved]).any(0).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_init_trains_with_dropout_and_a_list_of_targets_and_plain_peft_loads_what_it_saved(tmp_path, name):
    family = FAMILIES[NAMES.index(name) % 3]
    targets = ["c_attn", "c_fc"] if family == "gpt2" else ["q_proj", "v_proj", "up_proj"]
    settings = {"init": name, "rank": RANK, "steps": 3, "batch_size": 4, "eval_every": 1, "precision": "fp32"}
    settings |= {"lora_dropout": 0.3, "target_modules": targets, "learning_rate": 2e-3, "use_rslora": True}
    driven = execute("student", settings, tmp_path / "s", inputs=given_for(name, family))
    again = PeftModel.from_pretrained(fresh(family), tmp_path / "s/adapter")
    assert held_out_loss(again) == driven.metrics["final_eval_loss"] != driven.metrics["initial_eval_loss"]
    assert {key.split(".")[-4] for key in adapter_of(again)} == set(targets)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random"])
def test_empty_shards_are_refused_by_name_and_not_taken_for_filled_weights(name):
    """DeepSpeed's stage 3 leaves every parameter with the shape [0] outside a gather."""
    config = StudentConfig(init=name, rank=RANK)
    model = add_adapter(fresh("qwen2"), config)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.data = torch.empty(0)
    said = r"q_proj\.lora_A has the shape \[0\] instead of \[4, 64\]; gather ZeRO-3's parameters"
    with pytest.raises(RuntimeError, match=said):
        inits.find(name).start(model, config, context_for(name, "qwen2"))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "random"])
def test_a_model_without_an_adapter_is_not_taken_for_a_started_student(name):
    config = StudentConfig(init=name, rank=RANK)
    bare = SimpleNamespace(get_base_model=lambda: fresh("qwen2"))
    with pytest.raises(RuntimeError, match="has no LoRA layer"):
        inits.find(name).start(bare, config, context_for(name, "qwen2"))


def test_what_the_change_adds_is_what_the_teacher_changed():
    """The references of this file are about something: the truncated change is most of the teacher's change."""
    whole = changes("llama", loaded(taught("llama").teacher))
    kept = changes("llama", truncated("llama", loaded(taught("llama").teacher), RANK))
    energy = sum(value.square().sum() for value in kept.values()) / sum(
        value.square().sum() for value in whole.values()
    )
    assert 0.2 < energy < 0.98
