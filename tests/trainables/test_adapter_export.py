"""The trainable as a whole: from two checkpoints of any kind to an adapter that PEFT loads and merges."""

from __future__ import annotations

import json
import random
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.trainables import tiny_models
from tests.trainables.driver import Driven, execute, prepare
from tests.trainables.export.pairs import make_pair, records
from trainables.base import InputError, Stopped
from trainables.export.layer_files import LayerFiles
from trainables.export.ranks import ByEnergy
from trainables.training.models import quiet


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"), "llama")


def inputs(pair):
    return {"base_model": pair.base, "teacher": pair.tuned}


def merged(pair, folder):
    with quiet():
        base = AutoModelForCausalLM.from_pretrained(pair.base, dtype=torch.float32)
        return PeftModel.from_pretrained(base, folder).merge_and_unload()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Energy, and the losses on seven questions."""
    data = {"source": str(records(tmp_path_factory.mktemp("data") / "questions.json")), "chat_template": True}
    return {"ranks": {"energy": 0.7}, "data": data, "data_items": 7, "base_name": "org/base", "tuned_name": "./tuned"}


@pytest.fixture(scope="module")
def whole(pair, config, tmp_path_factory):
    """The export with that config, made once: its folder and what it gave."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    return folder, execute("adapter_export", config, folder, inputs=inputs(pair))


def test_every_layer_keeps_the_energy_that_was_asked_for_and_no_triplet_more(pair, whole):
    """Against torch on the checkpoints' own weights, and on what PEFT reads from the adapter."""
    folder, driven = whole
    described = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    found = dict(merged(pair, folder / "adapter").named_parameters())
    base = dict(AutoModelForCausalLM.from_pretrained(pair.base).named_parameters())
    tuned = dict(AutoModelForCausalLM.from_pretrained(pair.tuned).named_parameters())
    kept = total = 0.0
    for linear in pair.linears:
        delta = (tuned[linear.weight] - base[linear.weight]).detach().double()
        energies = torch.linalg.svdvals(delta).square().cumsum(0) / delta.square().sum()
        rank = int((energies < 0.7).sum()) + 1
        added = (found[linear.weight] - base[linear.weight]).detach().double()
        assert torch.linalg.matrix_rank(added, rtol=1e-4) == rank, linear.name
        lost = (delta - added).square().sum()
        assert float(lost / delta.square().sum()) == pytest.approx(1 - float(energies[rank - 1]), abs=1e-5)
        kept, total = kept + float(delta.square().sum() - lost), total + float(delta.square().sum())
    assert driven.metrics["energy"] == pytest.approx(kept / total, abs=1e-5)
    assert len(set(described["rank_pattern"].values()) | {described["r"]}) > 1, "else one rank would have done"
    assert driven.metrics["parameters"] == sum(tensor.numel() for tensor in _adapter(folder).values())


def _adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.slow
def test_a_budget_is_spent_and_not_exceeded_and_only_on_the_chosen_layers(pair, tmp_path):
    config = {"ranks": {"parameters": 3000}, "layers": [["mlp"], ["1"]]}
    metrics = execute("adapter_export", config, tmp_path / "out", inputs=inputs(pair)).metrics
    assert 3000 - 192 < metrics["parameters"] <= 3000
    assert all("layers.1.mlp." in name for name in _adapter(tmp_path / "out"))
    assert metrics["layers"] == 3


def test_losses_come_with_the_report_and_the_page(pair, whole):
    folder, driven = whole
    losses = {name: driven.metrics[name] for name in ("loss_base", "loss_adapter", "loss_tuned")}
    assert len(set(losses.values())) == 3
    page = (folder / "adapter" / "README.md").read_text()
    report = (folder / "report" / "report.txt").read_text()
    assert "on 7 items of questions.json" in page
    assert f"{losses['loss_adapter']:.3f}" in page
    assert f"{losses['loss_adapter']:.3f}" in report
    text = page + (folder / "adapter" / "adapter_config.json").read_text()
    assert str(pair.base.parent) not in text, "the page names what the user calls the models, no path of this machine"


@pytest.mark.slow
def test_the_test_side_of_a_dataset_run_serves_as_held_out_data(pair, tmp_path):
    config = {"ranks": {"rank": 1}, "data": {"source": str(tiny_models.dataset())}, "data_items": 5}
    driven = execute("adapter_export", config, tmp_path / "out", inputs=inputs(pair))
    assert any(line.startswith("held-out loss of tuned") for line in driven.lines)


def test_a_stopped_export_goes_on_and_ends_with_the_same_adapter(pair, config, whole, tmp_path):
    cut, seen = tmp_path / "cut", Driven()
    with pytest.raises(Stopped, match="layers are kept"):
        execute("adapter_export", config, cut, inputs=inputs(pair), stop_after=5, into=seen)
    assert not (cut / "adapter").exists()
    assert [item.step for item in seen.progress] == [0, 1, 2, 3, 4]
    again = execute("adapter_export", config, cut, inputs=inputs(pair))
    assert again.progress[0].step == 4, "what was finished is not computed again"
    before, after = _adapter(whole[0]), _adapter(cut)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_finished_layers_serve_another_criterion_and_get_more_triplets_where_it_needs_them(pair, tmp_path):
    execute("adapter_export", {"ranks": {"rank": 2}}, tmp_path / "out", inputs=inputs(pair))
    changed = execute("adapter_export", {"ranks": {"energy": 0.99}}, tmp_path / "out", inputs=inputs(pair))
    fresh = execute("adapter_export", {"ranks": {"energy": 0.99}}, tmp_path / "fresh", inputs=inputs(pair))
    assert changed.metrics["energy"] == pytest.approx(fresh.metrics["energy"])
    assert changed.metrics["energy"] > 0.99
    layers = list(LayerFiles(tmp_path / "out.checkpoints" / "layers").spectra().values())
    assert ByEnergy(energy=0.99).unfinished(layers) == []


@pytest.mark.parametrize("ranks", [{"rank": 2}, {"energy": 0.5}], ids=str)
def test_a_tuned_model_that_is_the_base_is_refused_before_the_first_layer(pair, tmp_path, ranks):
    both, seen = {"base_model": pair.base, "teacher": pair.base}, Driven()
    with pytest.raises(InputError, match="equals the base in every tensor, so there is nothing to export"):
        execute("adapter_export", {"ranks": ranks}, tmp_path / "out", inputs=both, into=seen)
    assert seen.progress == []
    assert not list(tmp_path.rglob("*.safetensors"))


def test_layers_that_did_not_change_are_refused_although_others_did(pair, tmp_path):
    tuned = _with(pair, tmp_path / "tuned", lambda name, was, now: was if "mlp" in name else now)
    both = {"base_model": pair.base, "teacher": tuned}
    said = (
        r"equals the base in every chosen layer \(6 of them\).*it differs in model\.embed_tokens\.weight: choose other"
    )
    with pytest.raises(InputError, match=said):
        execute("adapter_export", {"ranks": {"rank": 2}, "layers": [["mlp"]]}, tmp_path / "out", inputs=both)


def test_a_token_that_the_tuned_model_does_not_know_is_found_before_the_first_layer(pair, config, tmp_path):
    """The tuned vocabulary is cut to ten tokens; the base's tokenizer has hundreds."""
    tuned = _with(pair, tmp_path / "tuned", lambda name, _, now: now[:10] if len(now) > 300 else now)
    both, seen = {"base_model": pair.base, "teacher": tuned}, Driven()
    with pytest.raises(InputError, match=r"gives a token [0-9]+, and the tuned model knows 10 only: leave out --data"):
        execute("adapter_export", config, tmp_path / "out", inputs=both, into=seen)
    assert seen.progress == []


def test_another_vocabulary_is_told_at_the_start_and_on_the_page(pair, tmp_path):
    tuned = _with(pair, tmp_path / "tuned", lambda name, _, now: now[:390] if len(now) > 300 else now)
    config = {"ranks": {"rank": 1}, "layers": [["q_proj"]]}
    both = {"base_model": pair.base, "teacher": tuned}
    lines = execute("adapter_export", config, tmp_path / "out", inputs=both).lines
    said = "the tuned model has 390 rows of vocabulary and the base 397; an adapter adds none"
    assert lines[1].startswith(f"note: {said}")
    assert f"T{said[1:]}" in (tmp_path / "out" / "adapter" / "README.md").read_text()


def _with(pair, folder, change):
    """Copy the tuned model with `change(name, base's tensor, tuned tensor)` in place of each tensor."""
    shutil.copytree(pair.tuned, folder)
    was, now = (load_file(path / "model.safetensors") for path in (pair.base, pair.tuned))
    changed = {name: change(name, was[name], now[name]).contiguous() for name in now}
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    return folder


MISTAKES = {
    "budget": ({"ranks": {"parameters": 5}}, "below rank 1 of the smallest layer"),
    "layers": ({"ranks": {"rank": 2}, "layers": [["mpl"]]}, "Did you mean 'mlp'"),
    "targets": ({"ranks": {"rank": 2}, "target_modules": ["q_prj"]}, "Did you mean 'q_proj'"),
    "data": ({"ranks": {"rank": 2}, "data": {"source": "./nothing.json"}}, "no file"),
    "data folder": ({"ranks": {"rank": 2}, "data": {"source": "."}}, "is no dataset of a store"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found_before_anything_is_read(pair, tmp_path, name):
    config, said = MISTAKES[name]
    with pytest.raises(InputError, match=said):
        prepare("adapter_export", config, inputs(pair), tmp_path)


def test_names_are_no_part_of_the_identity_but_everything_else_is(pair, tmp_path):
    def identity(**settings):
        return prepare("adapter_export", {"ranks": {"rank": 2}, **settings}, inputs(pair), tmp_path).identity()

    assert identity() == identity(base_name="a", tuned_name="b", base_revision="c", tuned_revision="d")
    for other in (
        {"balanced": True},
        {"dtype": "bf16"},
        {"lora_alpha": 3},
        {"ranks": {"rank": 3}},
        {"layers": [["0"]]},
    ):
        assert identity() != identity(**other)


# -- two checkpoints that somebody else's tools made -------------------------------------------------------


def _trained_elsewhere(base, folder, dtype):
    """Train every weight with transformers' own Trainer and save shards, as a stranger would."""
    from transformers import Trainer, TrainingArguments

    draw = random.Random(0)
    items = [
        {"input_ids": (tokens := [draw.randrange(10, 200) for _ in range(12)]), "labels": tokens} for _ in range(64)
    ]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=20,
        per_device_train_batch_size=8,
        learning_rate=1e-5,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    with quiet():
        Trainer(model=model, args=arguments, train_dataset=items).train()
        model.to(dtype).save_pretrained(folder / "tuned", max_shard_size="100KB")
    return folder / "tuned"


@pytest.fixture(scope="module", params=["bf16", "fp32"])
def trainers(request, tmp_path_factory):
    """A base saved in a dtype, what the Trainer made of it, sharded, and its exports at full rank and at rank 3."""
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(tiny_models.base_model("qwen2"), dtype=dtype)
        model.save_pretrained(folder / "base", max_shard_size="100KB")
    tuned = _trained_elsewhere(folder / "base", folder, dtype)
    assert len(list(tuned.glob("model-*.safetensors"))) > 2
    both = {"base_model": folder / "base", "teacher": tuned}
    metrics = {
        rank: execute("adapter_export", {"ranks": {"rank": rank}}, folder / f"r{rank}", inputs=both).metrics
        for rank in (3, 64)
    }
    return request.param, folder, metrics


@pytest.mark.slow
@pytest.mark.parametrize("rank", [3, 64])
def test_the_adapter_merges_to_the_truncated_change_of_what_the_trainer_made(trainers, rank):
    """Rank 64 is all there is: the tuned model itself. 2e-8 is two units in the last place of the largest weights."""
    _, folder, metrics = trainers
    with quiet():
        models = [
            AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)
            for name in ("base", "tuned", "base")
        ]
        found = dict(
            PeftModel.from_pretrained(models[2], folder / f"r{rank}/adapter").merge_and_unload().named_parameters()
        )
    start, end = (dict(model.named_parameters()) for model in models[:2])
    names = [name for name in _adapter(folder / f"r{rank}") if "lora_A" in name]
    assert len(names) == 14
    for name in names:
        weight = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        delta = (end[weight] - start[weight]).detach().double()
        u, s, vt = torch.linalg.svd(delta, full_matrices=False)
        wanted = end[weight] if rank == 64 else start[weight] + ((u[:, :rank] * s[:rank]) @ vt[:rank]).float()
        assert torch.allclose(found[weight], wanted, rtol=0, atol=2e-8), weight
        assert float(delta.abs().max()) > 1e-5, "the change itself is well above the tolerance"
    assert metrics[rank]["reload_difference"] < metrics[rank]["reload_tolerance"]


@pytest.mark.slow
def test_rounding_noise_is_flagged_in_bf16_and_in_bf16_only(trainers):
    """The same training saved in bf16 and in fp32: in bf16 the change is within ten times of the rounding."""
    dtype, folder, metrics = trainers
    page = (folder / "r3" / "adapter" / "README.md").read_text()
    report = (folder / "r3" / "report" / "report.txt").read_text()
    if dtype == "bf16":
        assert metrics[3]["near_noise_layers"] == metrics[3]["layers"] == 14
        assert "**Rounding noise.** In 14 of 14 layers" in page
        assert "WARNING" in report
    else:
        assert metrics[3]["near_noise_layers"] == 0
        assert "Rounding noise" not in page
        assert "WARNING" not in report
