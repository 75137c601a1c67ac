"""The report of an export: what the text says and does not say, and that its tables and facts hold the same numbers."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest

from tests.trainables.export.made_up import GPT2, LLAMA, deltas, layers
from trainables.export.spectrum import Excluded, FunctionalGain, Spectrum, energy, split_energy
from trainables.export.spectrum_report import facts, write_report
from trainables.export.spectrum_tables import write_depths, write_gains, write_layers, write_spectrum
from trainables.export.spectrum_text import report_text
from trainables.export.words import percent, short, shorten, two_digits

GAINS = [
    FunctionalGain("base", None, None, 1.332),
    FunctionalGain("rank 4", 4, 0.37, 1.009),
    FunctionalGain("rank 64", 64, 0.80, 0.925),
    FunctionalGain("tuned", None, None, 0.893),
]


def _spectrum(rank=4, excluded=(), **options):
    return Spectrum(layers(deltas(), rank, **options), excluded, rank)


def _read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# -- text -------------------------------------------------------------------------------------------------


def test_the_table_by_rank_holds_the_pooled_energy_and_the_error_it_amounts_to():
    changes = deltas()
    squares = [np.linalg.svd(delta, compute_uv=False) ** 2 for delta in changes.values()]
    rows = re.findall(r"^ +(\d+) +\S+ (?:k|M|) *(\d\.\d{3}) +(\d\.\d{3}) +\d\.\d{3}$", report_text(_spectrum()), re.M)
    assert [int(rank) for rank, _, _ in rows] == [1, 2, 4]
    for rank, kept, lost in rows:
        true = sum(row[: int(rank)].sum() for row in squares) / sum(row.sum() for row in squares)
        assert float(kept) == pytest.approx(true, abs=6e-4)
        assert float(lost) == pytest.approx((1 - true) ** 0.5, abs=6e-4)


def test_energies_beyond_the_known_triplets_are_marked_as_bounds():
    mixed = Spectrum([*layers(deltas(), 6), *layers(deltas(LLAMA), 2)], [], 6)
    text = report_text(mixed)
    assert re.search(r"^ +2 +\S+ \S? *0\.\d{3} +0\.\d{3}", text, re.M)
    assert re.search(r"^ +4 +\S+ \S? *>0\.\d{3} +<0\.\d{3} +>0\.\d{3}$", text, re.M)
    assert "no more than 2 triplets" in text
    assert ">0" not in report_text(_spectrum(6))


def test_a_share_that_no_known_rank_reaches_is_not_rounded_up_to():
    assert "0.95: > 1, as rank 1 keeps 0." in report_text(_spectrum(1))
    text = report_text(Spectrum(layers(deltas(), 6), [], 6))
    assert re.search(r"pooled energy of 0\.5: \d, 0\.9: \d, 0\.95: \d$", text, re.M)


def test_attention_stands_against_mlp_and_early_against_late_blocks():
    text = report_text(Spectrum(layers(deltas(blocks=7), 4), [], 4))
    assert re.search(r"^attention +14 ", text, re.M)
    assert re.search(r"^MLP +14 ", text, re.M)
    assert re.findall(r"^blocks (\d) to (\d) +(\d+) ", text, re.M) == [
        ("0", "1", "8"),
        ("2", "3", "8"),
        ("4", "6", "12"),
    ]


def test_the_shares_of_all_types_and_of_what_lies_outside_add_up_to_the_whole():
    text = report_text(_spectrum(excluded=[Excluded("wte.weight", 0.5, "embeddings")]))
    inside = [float(share) for share in re.findall(r"^(?:c_|attn\.|mlp\.).* (\d+\.\d) % ", text, re.M)]
    outside = re.search(r"(\d+\.\d) %  embeddings: wte.weight", text)
    assert len(inside) == 4
    assert outside
    assert sum(inside) + float(outside[1]) == pytest.approx(100, abs=0.3)


def test_layers_near_their_rounding_noise_raise_a_loud_flag_with_the_way_out():
    loud = report_text(_spectrum(noise=0.05))
    assert "WARNING: the change of 8 of 8 layers is near its rounding noise" in loud
    assert "h.0.attn.c_attn" in loud
    assert "save the tuned checkpoint in fp32" in loud
    assert "WARNING" not in report_text(_spectrum(noise=1e-6))
    assert "rounding alone gives 2.8e-06" in report_text(_spectrum(noise=1e-6))  # sqrt(8) 1e-6
    assert "rounding" not in report_text(_spectrum(noise=0.0))


def test_what_lies_outside_is_told_by_reason_with_its_share():
    outside = [Excluded("wte.weight", 3.0, "embeddings"), Excluded("still.weight", 0.0, "1-D")]
    outside += [Excluded(f"h.{index}.ln.weight", 0.3, "1-D") for index in range(100)]
    text = report_text(Spectrum(layers({"h.0.attn.c_attn": np.eye(2)}, 2), outside, 2))
    assert "   45.0 %  embeddings: wte.weight\n   45.0 %  1-D: h.0.ln.weight, " in text  # 9 and 9 of 20
    assert re.search(r"and \d+ more$", text)
    assert "still.weight" not in text


def test_the_routes_and_the_certainty_are_told():
    text = report_text(_spectrum(route="golub-kahan", slack=1.05e-5, chance=1.2e-12))
    assert "layers by route: golub-kahan 8" in text
    assert "to 3e-05 of itself" in text  # 2.1e-5, rounded up: it stays a bound
    assert "at most 1e-11" in text  # 8 times 1.2e-12, rounded up
    assert "no bound rests on chance" in report_text(_spectrum())


def test_function_is_told_beside_energy_and_which_understates():
    text = report_text(_spectrum(), gains=GAINS)
    assert re.search(r"^rank 4 +1\.009 +0\.370 +0\.74$", text, re.M)
    assert "energy understates function at every rank measured, most at rank 4: 37% of the energy, 74%" in text
    turned = [GAINS[0], FunctionalGain("rank 4", 4, 0.9, 1.3), GAINS[-1]]
    assert "energy overstates function at every rank measured" in report_text(_spectrum(), gains=turned)


def test_a_tuned_model_that_did_not_improve_has_no_gain_to_share_out():
    worse = [*GAINS[:-1], FunctionalGain("tuned", None, None, 1.4)]
    text = report_text(_spectrum(), gains=worse)
    assert "did not improve on the base here (1.400 against 1.332)" in text
    assert "understates" not in text


def test_ranks_per_layer_are_compared_with_a_uniform_rank_of_the_same_size():
    spectrum = _spectrum(6)
    ranks = {layer.linear.name: 1 + index % 4 for index, layer in enumerate(spectrum.layers)}
    text = report_text(spectrum, ranks=ranks)
    cost = sum(ranks[name] * sum(delta.shape) for name, delta in deltas().items())
    assert f"ranks per layer: {cost} parameters keep an energy of {split_energy(spectrum.layers, ranks):.3f}" in text
    rank = max(r for r in range(7) if sum(min(r, *d.shape) * sum(d.shape) for d in deltas().values()) <= cost)
    assert f"with no more parameters, {rank} (" in text
    assert text.rstrip().endswith(f"keeps {energy(spectrum.layers, rank):.3f}")
    assert re.search(r"^c_attn +2 +1 +1 +1 ", text, re.M)


def test_a_model_that_did_not_change_is_told_so_and_gets_no_energies():
    text = report_text(Spectrum(layers({name: 0 * delta for name, delta in deltas().items()}, 4), [], 4))
    assert "8 layers did not change at all" in text
    assert "None of these layers changed" in text
    assert "energy at" not in text
    assert "WARNING" not in text


LONG = "wrapped.model." + "a_very_long_part_of_a_name." * 5 + "layers.{}.self_attn." + "projection_" * 6 + "q"


@pytest.mark.parametrize(("shapes", "blocks"), [(LLAMA, 80), (GPT2, 1), ({LONG: (9, 5)}, 3)], ids=["80", "one", "long"])
@pytest.mark.parametrize("noise", [1e-7, 1e3])
def test_no_line_is_wider_than_110_columns(shapes, blocks, noise):
    found = layers(deltas(shapes, blocks=blocks), 256, noise=noise, chance=1e-12, slack=1e-5)
    outside = [
        Excluded(f"{LONG.format(i)}.weight", 0.1, "vocabulary 151936 -> 151665: common rows only") for i in (1, 2)
    ]
    ranks = {layer.linear.name: index % layer.known for index, layer in enumerate(found)}
    text = report_text(Spectrum(found, outside, 256), gains=GAINS, ranks=ranks)
    assert not [line for line in text.splitlines() if len(line) > 110]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (percent(0.1049), "10.5 %"),
        (percent(0.00001), "< 0.1 %"),
        (percent(0.0), "0 %"),
        (short(950), "950"),
        (short(4_880_000), "4.88 M"),
        (short(12_000), "12.0 k"),
        (two_digits(0.001), "0.0010"),
        (two_digits(12.3), "12"),
        (shorten("model.layers.0.self_attn.q_proj", 20), "model....attn.q_proj"),
    ],
)
def test_numbers_and_names_are_short(said, expected):
    assert said == expected


# -- tables and facts -------------------------------------------------------------------------------------


def test_the_table_of_layers_says_how_each_was_factorised_and_what_is_kept(tmp_path):
    spectrum = _spectrum(4, noise=0.003, route="gram", slack=1e-6, chance=1e-12)
    write_layers(tmp_path / "all.csv", spectrum)
    write_layers(tmp_path / "few.csv", spectrum, {"h.0.attn.c_attn": 3})
    for row, (name, delta) in zip(_read(tmp_path / "all.csv"), deltas().items(), strict=True):
        assert row["layer"] == name
        assert row["group"] == ("attention" if "attn" in name else "mlp")
        assert (int(row["out"]), int(row["in"])) == delta.shape
        assert row["near_noise"] == str(int(np.linalg.norm(delta) < 0.03))
        assert row["route"] == "gram"
        assert float(row["certified_bound"]) == pytest.approx(2e-6, rel=1e-3)
        assert (row["rank_known"], row["rank_kept"]) == ("4", "4")
        sigma = np.linalg.svd(delta, compute_uv=False)
        assert float(row["energy_2"]) == pytest.approx((sigma[:2] ** 2).sum() / (sigma**2).sum(), abs=1e-6)
        assert float(row["noise_sigma"]) == pytest.approx(
            0.003 * (delta.shape[0] ** 0.5 + delta.shape[1] ** 0.5) / delta.size**0.5, rel=1e-6
        )
    assert [int(row["rank_kept"]) for row in _read(tmp_path / "few.csv")] == [3] + 7 * [0]


def test_every_singular_value_lies_within_its_bounds_in_the_table(tmp_path):
    write_spectrum(tmp_path / "spectrum.csv", _spectrum(4))
    rows = _read(tmp_path / "spectrum.csv")
    assert len(rows) == 8 * 4
    for row in rows:
        assert float(row["lower"]) < float(row["sigma"]) < float(row["upper"])
    assert [int(row["index"]) for row in rows[:4]] == [1, 2, 3, 4]


def test_blocks_have_a_row_for_all_their_layers_and_one_for_each_group(tmp_path):
    write_depths(tmp_path / "by_depth.csv", _spectrum(4))
    rows = _read(tmp_path / "by_depth.csv")
    assert [(row["depth"], row["group"], row["layers"]) for row in rows[:3]] == [
        ("0", "all", "4"),
        ("0", "attention", "2"),
        ("0", "mlp", "2"),
    ]
    whole, attention, mlp = (float(row["delta_norm"]) ** 2 for row in rows[:3])
    assert whole == pytest.approx(attention + mlp, rel=1e-5)


def test_losses_are_written_with_their_share_of_the_gain(tmp_path):
    write_gains(tmp_path / "gains.csv", GAINS)
    rows = _read(tmp_path / "gains.csv")
    assert [row["rank"] for row in rows] == ["", "4", "64", ""]
    assert [float(row["gain_kept"]) for row in rows] == pytest.approx([0, 0.7358, 0.9271, 1], abs=1e-4)


def test_the_facts_define_what_they_state_and_are_plain_json():
    spectrum = _spectrum(excluded=[Excluded("wte.weight", 0.5, "embeddings"), Excluded("ln.weight", 0.1)], noise=1.0)
    read = json.loads(json.dumps(facts(spectrum, ["saved in bf16"], {"h.0.attn.c_attn": 2})))
    assert read["rank"] == 4
    assert read["targets"] == list(deltas())
    assert sum(read["excluded"].values()) == pytest.approx(read["outside_share"])
    assert read["reasons"] == {"wte.weight": "embeddings"}
    assert read["near_noise"] == list(deltas())
    assert read["ranks"] == {"h.0.attn.c_attn": 2}
    assert read["metrics"]["energy_2"] == pytest.approx(energy(spectrum.layers, 2))
    assert {"energy", "error", "noise_norm", "near_noise", "gain_kept"} <= set(read["definitions"])


def test_a_report_is_all_of_its_files_and_its_text_is_the_one_returned(tmp_path):
    ranks = {name: 1 + index % 3 for index, name in enumerate(deltas())}
    text = write_report(tmp_path, _spectrum(noise=1e-6), notes=["note: saved in bf16"], gains=GAINS, ranks=ranks)
    assert (tmp_path / "report.txt").read_text() == text + "\n"
    assert "note: saved in bf16" in text
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files == {
        *("report.txt", "export.json", "figure.png"),
        *("layers.csv", "spectrum.csv", "by_depth.csv", "gains.csv"),
    }
    plain = Spectrum(layers({"lm_head": np.eye(3)}, 2), [], 2)
    write_report(tmp_path / "plain", plain)
    assert not (tmp_path / "plain" / "gains.csv").exists()


def test_one_rank_for_all_layers_is_not_told_as_a_split(tmp_path):
    spectrum = _spectrum()
    alike = {layer.linear.name: layer.linear.rank(spectrum.rank) for layer in spectrum.layers}
    assert "ranks per layer" not in write_report(tmp_path / "alike", spectrum, ranks=alike)
    first = next(iter(alike))
    assert "ranks per layer" in write_report(tmp_path / "split", spectrum, ranks={**alike, first: alike[first] - 1})
    assert "rank_kept" in (tmp_path / "alike" / "layers.csv").read_text()
