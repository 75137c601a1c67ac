"""Where inits find a change, and what happens to a study's runs when an init reads one more input."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from peft import LoraConfig, get_peft_model

from orchestrator.errors import UserError
from orchestrator.planning import expand
from orchestrator.study import Stage, Study
from tests.trainables.driver import FolderPlanner, execute
from tests.trainables.inits.made import (
    at_start,
    cases,
    changes,
    fresh,
    given,
    given_for,
    high_rank_student,
    loaded,
    merged,
    started,
    taught,
)
from tests.trainables.tiny_models import FAMILIES
from trainables import inits
from trainables.base import InputError
from trainables.inits.parts.layers import adapted_layers
from trainables.inits.spectrum_random import random_directions
from trainables.linalg.adapter_factors import AdapterFactors, factors_of_product
from trainables.linalg.factors import load_factors


@pytest.mark.parametrize("shape", [(40, 30, 6), (7, 50, 7), (50, 7, 7)])
def test_the_triplets_of_a_product_are_those_of_the_matrix(shape):
    rows, columns, rank = shape
    torch.manual_seed(0)
    a, b = torch.randn(rank, columns), torch.randn(rows, rank)
    found = factors_of_product(a, b, 0.7)
    product = 0.7 * b.double() @ a.double()
    expected = torch.linalg.svdvals(product)[:rank].float()
    torch.testing.assert_close(found.s, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.delta().double(), product, rtol=1e-4, atol=1e-4)
    for directions in (found.u.T, found.vt):
        torch.testing.assert_close(directions @ directions.T, torch.eye(rank), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_saved_adapter_adds_is_what_peft_says_it_adds(tmp_path, family):
    """With ranks and scalings of single layers, as PEFT's patterns allow."""
    names = {"gpt2": ("c_fc", "c_attn")}.get(family, ("up_proj", "q_proj"))
    patterns = {"rank_pattern": {names[0]: 3}, "alpha_pattern": {names[1]: 11}}
    for use_rslora in (False, True):
        config = LoraConfig(r=5, lora_alpha=8, target_modules=list(names), use_rslora=use_rslora, **patterns)
        model = get_peft_model(fresh(family), config)
        for part in adapted_layers(model):
            torch.nn.init.normal_(part.up.weight)
        model.save_pretrained(tmp_path / family)
        found = AdapterFactors(tmp_path / family)
        assert set(found) == {part.name for part in adapted_layers(model)}
        assert len(found) == 4
        for part in adapted_layers(model):
            delta = part.layer.get_delta_weight("default").detach()
            expected = delta.T if family == "gpt2" else delta
            torch.testing.assert_close(found[part.name].delta(), expected, rtol=1e-3, atol=1e-4)
            assert found[part.name].rank == part.rank
        with pytest.raises(KeyError):
            found["nothing"]


def test_a_student_whose_start_was_subtracted_is_squeezed_as_what_it_added_to_the_base(tmp_path):
    settings = {"init": "pissa", "rank": 6, "steps": 3, "precision": "fp32", "learning_rate": 1e-2}
    execute("student", settings, tmp_path / "pissa", inputs=given("llama"))
    learnt = changes("llama", merged("llama", tmp_path / "pissa"))
    found = AdapterFactors(tmp_path / "pissa/adapter")
    for name, change in learnt.items():
        torch.testing.assert_close(found[name].delta(), change, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["svd", "svd_balanced", "subspace_only", "svd_subtracted", "lora_squeeze"])
def test_the_subspace_is_the_leading_one_of_the_change(name):
    tuned = merged("qwen2", high_rank_student("qwen2")) if name == "lora_squeeze" else loaded(taught("qwen2").teacher)
    change = changes("qwen2", tuned)
    for part in adapted_layers(at_start(name, "qwen2")):
        leading = torch.linalg.svd(change[part.name].double())[2][:4].float()
        rows = torch.nn.functional.normalize(part.down.weight.detach())
        cosines = torch.linalg.svdvals(rows @ leading.T)
        torch.testing.assert_close(cosines, torch.ones(4), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("name", "family", "scaling"), cases(["svd_balanced"]))
def test_balanced_factors_are_of_one_size(name, family, scaling):
    for part in adapted_layers(at_start(name, family, **scaling)):
        up, down = part.up.weight.detach() * part.scaling, part.down.weight.detach()
        torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "family", "scaling"), cases(["spectrum_random"]))
def test_random_directions_carry_the_teachers_spectrum_and_not_its_directions(name, family, scaling):
    factors = load_factors(taught(family).export)
    overlaps = []
    for part in adapted_layers(at_start(name, family, **scaling)):
        delta = part.layer.get_delta_weight("default").detach().double()
        teachers = factors[part.name]
        torch.testing.assert_close(torch.linalg.svdvals(delta)[:4].float(), teachers.s[:4], rtol=1e-4, atol=1e-6)
        assert torch.linalg.svdvals(delta)[4] < 1e-4 * teachers.s[0]
        rows = part.down.weight.detach()
        torch.testing.assert_close(rows @ rows.T, torch.eye(4), rtol=0, atol=1e-5)
        overlaps.append((rows @ teachers.vt[:4].T).square().sum() / 4)
    # Four random directions hold 4/64 of a given one on average; the mean over the layers is near that.
    assert 0.02 < torch.stack(overlaps).mean() < 0.15


def test_random_directions_are_those_of_the_layer_whatever_else_is_adapted_and_of_whatever_rank():
    wide = {part.name: part for part in adapted_layers(started("spectrum_random", "llama", rank=8, seed=3))}
    few = adapted_layers(started("spectrum_random", "llama", rank=4, seed=3, target_modules=["up_proj", "q_proj"]))
    assert len(few) == 4
    for part in few:
        torch.testing.assert_close(part.down.weight, wide[part.name].down.weight[:4], rtol=0, atol=1e-6)
        torch.testing.assert_close(part.up.weight, wide[part.name].up.weight[:, :4], rtol=0, atol=1e-6)
    rows = [part.down.weight for part in wide.values() if part.down.weight.shape == (8, 64)]
    assert not any(torch.allclose(first, second, atol=1e-2) for first, second in itertools.combinations(rows, 2))


def test_random_directions_prefer_no_sign():
    """Without the correction of Mezzadri (2007) LAPACK's QR leaves the first entry of each column negative."""
    first = torch.stack([random_directions(6, 2, f"key {index}")[0] for index in range(400)])
    assert (first.mean(0).abs() < 4 * (1 / 6) ** 0.5 / 20).all()  # four standard errors of 400 entries of variance 1/6


def test_a_high_rank_student_that_does_not_fit_is_named(tmp_path):
    inputs = given_for("lora_squeeze", "qwen2")
    settings = {"init": "lora_squeeze", "steps": 1, "precision": "fp32"}
    with pytest.raises(InputError, match=r"student rank 13 is above the 12 .*; raise high_rank_student.rank$"):
        execute("student", settings | {"rank": 13}, tmp_path / "s", inputs=inputs)
    few = tmp_path / "few"
    execute("student", {**settings, "init": "random", "rank": 4, "target_modules": ["q_proj"]}, few, inputs=inputs)
    with pytest.raises(InputError, match=r"high_rank_student has no factors for .*k_proj: give .* the same targets$"):
        execute("student", settings | {"rank": 4}, tmp_path / "t", inputs=inputs | {"high_rank_student": few})


READS = {"base_model": "base_model", "dataset": "dataset"}
WRONG = {"base_model": "base_model", "dataset": "other_data"}


def student_run(tmp_path, init, **changed):
    """Return the student of a study that fills every role, and the runs that it reads by role."""
    inputs = {**READS, "svd_export": "svd_export", "wrong_export": "wrong_export", "high_rank_student": "wide"}
    stages = {
        "base_model": Stage("base_model", {"source": "tiny-llama"}),
        "dataset": Stage("dataset", {"source": "chain_sum"}, {"base_model": "base_model"}),
        "other_data": Stage("dataset", {"source": "gcd"}, {"base_model": "base_model"}),
        "teacher": Stage("teacher", {}, READS),
        "svd_export": Stage("svd_export", {}, {"base_model": "base_model", "teacher": "teacher"}),
        "wrong_teacher": Stage("teacher", {}, WRONG),
        "wrong_export": Stage("svd_export", {}, {"base_model": "base_model", "teacher": "wrong_teacher"}),
        "wide": Stage("student", {"rank": 64}, READS),
        "student": Stage("student", {"init": init, "rank": 4}, inputs),
    }
    for stage, settings in changed.items():
        stages[stage] = dataclasses.replace(stages[stage], config={**stages[stage].config, **settings})
    plan = expand(Study("s", "s", stages), FolderPlanner(tmp_path))
    (run,) = plan.of_stage("student")
    return run, {role: plan[source].stage for role, source in run.inputs.items()}


FILLED = {"svd_export": "svd_export", "wrong_export": "wrong_export", "high_rank_student": "wide"}
MAKERS = {"svd_export": "teacher", "wrong_export": "wrong_teacher", "high_rank_student": "wide"}


@pytest.mark.parametrize("name", inits.names())
def test_what_an_init_reads_is_among_the_runs_inputs_and_in_its_identity(tmp_path, name):
    run, sources = student_run(tmp_path, name)
    needs = inits.find(name).needs
    assert sources == {**READS, **{role: FILLED[role] for role in needs}}
    for role, maker in MAKERS.items():
        other, _ = student_run(tmp_path, name, **{maker: {"seed": 7}})
        assert (other.id != run.id) == (role in needs), role


def test_a_study_that_lacks_an_inits_input_is_told_which(tmp_path):
    study = Study("s", "s", {"base_model": Stage("base_model", {"source": "tiny-llama"})})
    data = Stage("dataset", {"source": "chain_sum"}, {"base_model": "base_model"})
    student = Stage("student", {"init": "lora_squeeze"}, READS)
    study = dataclasses.replace(study, stages={**study.stages, "dataset": data, "student": student})
    with pytest.raises(UserError, match="student needs an input 'high_rank_student' and the study gives it none"):
        expand(study, FolderPlanner(tmp_path))
