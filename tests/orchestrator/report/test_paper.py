from __future__ import annotations

import csv
import io
import math
import re
import shutil
import subprocess

import pandas as pd
import pytest

from orchestrator.report.comparison import summarise
from orchestrator.report.family import Family
from orchestrator.report.material import Material
from orchestrator.report.paper import bibliography, methods, names
from orchestrator.report.paper.latex import escape, inline
from orchestrator.report.paper.library import LIBRARY
from orchestrator.report.paper.numbers import number
from orchestrator.results import tidy
from tests.orchestrator.report import latex
from tests.orchestrator.report.conftest import HOSTILE
from tests.orchestrator.synthetic import filled, rank_study

TEX = ("methods.tex", "captions.tex", "tables.tex", "numbers.tex")


@pytest.fixture(scope="module")
def rows(hostile) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(hostile.text("paper/numbers.csv"))))


@pytest.mark.parametrize("name", TEX)
def test_what_is_written_is_latex(hostile, name):
    assert latex.undefined(latex.read(hostile.text(f"paper/{name}"))) == set()


@pytest.mark.parametrize(
    "bad",
    ["a_b", "{ 50 % }", "}", "$x", "\\newcommand{\\a1}{}\n", "#1", "a & b", "×", "\\begin{table}", "a \\! b", "\x07"],
)
def test_the_reader_refuses_what_latex_would(bad):
    with pytest.raises(AssertionError):
        latex.read(bad)


def test_the_reader_names_commands_that_nobody_defines():
    assert latex.undefined(latex.read("\\alpha \\verb \\mine")) == {"verb", "mine"}


def test_words_of_a_study_are_escaped_in_latex(hostile):
    latex.read(inline(HOSTILE + "Δσ ≈ √2 ‖W‖² 10⁻⁵ ≥ × ☃ “a” – β → …"))
    assert escape("10⁻⁵ β ☃") == r"10\ensuremath{^{-}}\ensuremath{^{5}} \ensuremath{\beta} \texttt{U+2603}"
    assert escape("50 % & $x_1$ #1 {a}") == r"50 \% \& \$x\_1\$ \#1 \{a\}"
    assert "\\input" not in hostile.text("paper/methods.tex")


def test_macros_are_unique_and_each_is_traced(hostile, rows):
    macros = latex.read(hostile.text("paper/numbers.tex")).macros
    assert [row["macro"] for row in rows] == list(macros)
    assert [row["shown"] for row in rows] == list(macros.values())
    known = {run.id for run in hostile.plan.runs}
    for row in rows:
        ids = row["run_ids"].split()
        assert ids, row["macro"]
        assert set(ids) <= known
        assert all(hostile.store.record(run) is not None for run in ids)


def test_a_mean_and_its_n_are_those_of_its_rows_in_results_csv(hostile, rows):
    table = pd.read_csv(hostile.folder / "results.csv").set_index("run_id")
    seen = 0
    for row in rows:
        is_plain = row["column"] in table and not re.search("GapClosed|Difference|Percent", row["macro"])
        if not is_plain or row["statistic"] not in ("mean", "n") or "StepsToTarget" in row["macro"]:
            continue
        values = table.loc[row["run_ids"].split(), row["column"]]
        assert values.notna().all()
        expected = values.mean() if row["statistic"] == "mean" else len(values)
        assert float(row["value"]) == pytest.approx(expected, rel=1e-9)
        seen += 1
    assert seen > 40


def test_a_difference_is_that_of_its_pairs_in_results_csv(hostile, rows):
    table = pd.read_csv(hostile.folder / "results.csv").set_index("run_id")
    by_name = {row["macro"]: row for row in rows}
    for rank, pairs in (("Four", 7), ("Sixteen", 5)):
        row = by_name[f"rankStudySvdMinusRandomRank{rank}Difference"]
        mine = table.loc[row["run_ids"].split()]
        assert len(mine) == 2 * pairs
        means = mine.groupby("init")["test_loss"].mean()
        assert float(row["value"]) == pytest.approx(means["svd"] - means["random"], rel=1e-9)
        assert by_name[f"rankStudySvdMinusRandomRank{rank}DifferenceN"]["value"] == str(pairs)


def test_a_macro_shows_the_digits_of_the_comparison(hostile, rows):
    by_name = {row["macro"]: row for row in rows}
    mean = by_name["rankStudySvdRankSixteenTestLoss"]["shown"]
    assert f"| {mean} ± " in hostile.text("comparison.md")
    interval = by_name["rankStudySvdRankSixteenTestLossInterval"]["shown"]
    low, high = (by_name[f"rankStudySvdRankSixteenTestLoss{end}"]["shown"] for end in ("Low", "High"))
    assert interval == f"[{low}, {high}]"
    assert by_name["rankStudySvdMinusRandomRankFourDifference"]["shown"].startswith(r"\ensuremath{-")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("rank 16", "RankSixteen"),
        ("svd_balanced", "SvdBalanced"),
        ("rank 1024", "RankOneThousandTwentyFour"),
        ("margin 0.05", "MarginZeroPointZeroFive"),
        ("1e-05", "OneEMinusZeroFive"),
        ("qwen2.5-math", "QwenTwoPointFiveMath"),
        ("q,v", "QV"),
        ("100", "OneHundred"),
    ],
)
def test_numbers_in_names_are_spelt(text, name):
    assert names.spelt(text) == name


def test_every_number_has_a_name_of_its_own():
    spelt = [names.cardinal(str(n)) for n in range(3000)]
    assert len(set(spelt)) == 3000
    assert all(name.isalpha() for name in spelt)


def test_names_that_clash_are_told_apart():
    assert names.unique(["a", "b", "a", "a"]) == ["a", "b", "aVariantTwo", "aVariantThree"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(-0.21, r"\ensuremath{-0.21}"), (12345.0, "12{,}345.00"), (math.inf, r"\ensuremath{\infty}")],
)
def test_numbers_are_right_in_text_and_in_mathematics(value, shown):
    assert number(value, 2) == shown


def test_methods_cite_what_the_bibliography_has_and_nothing_else_is_in_it(hostile):
    cited = latex.read(hostile.text("paper/methods.tex")).citations
    known = latex.entries(hostile.text("paper/references.bib"))
    assert set(cited) == set(known)
    assert {"hu2022lora", "fisher1935design", "fieller1954", "eckart1936"} <= set(known)
    assert "meng2024pissa" not in known
    assert hostile.summary.method == "westfall-young"


def test_the_adjustment_that_was_used_is_the_one_that_is_cited(hostile):
    used = {item.adjusted_by for item in hostile.summary.differences}
    known = latex.entries(hostile.text("paper/references.bib"))
    assert ("holm1979" in known) == ("holm" in used)
    assert ("westfall1993" in known) == ("westfall-young" in used)


def test_a_pissa_arm_brings_its_source(tmp_path):
    study, plan, store = filled(tmp_path, rank_study(ranks=(4,), inits=("random", "pissa"), seeds=1))
    records, table = store.records(run.id for run in plan.runs), tidy(plan, store)
    summary = summarise(plan, table, records, store)
    material = Material(plan, store, records, Family(study, table), summary)
    references = bibliography.used(material)
    assert "meng2024pissa" in {entry.key for entry in references}
    assert "\\texttt{pissa} (PiSSA)~\\cite{meng2024pissa}" in methods.paragraph(material, references)


def test_every_entry_of_the_library_can_be_read_and_followed():
    found = latex.entries("\n".join(entry.bibtex for entry in LIBRARY.values()))
    assert list(found) == list(LIBRARY)
    for entry in LIBRARY.values():
        assert entry.text.endswith(".")
        assert "{" not in entry.text
        assert "\\" not in entry.text
        assert "doi" not in entry.fields or re.fullmatch(r"10\.\d{4,}/\S+", entry.fields["doi"])
        assert "eprint" not in entry.fields or re.fullmatch(r"\d{4}\.\d{5}|math-ph/\d{7}", entry.fields["eprint"])


def test_methods_tell_the_settings_and_sizes_of_the_records(hostile):
    text = hostile.text("paper/methods.tex")
    teacher, data = (hostile.store.record(hostile.plan.of_stage(stage)[0].id) for stage in ("teacher", "dataset"))
    assert f"{teacher.metrics['steps']} steps of {teacher.settings['batch_size']} sequences" in text
    assert f"{data.metrics['test_items']} test items" in text
    assert "ranks 4 and 16" in text
    assert "seeds 1 to 7" in text
    assert "at rank 4 and rank 16: \\texttt{random} 0.001, \\texttt{svd} $3 \\times 10^{-5}$" in text
    assert "7 pairs" in text
    assert "by Holm over 2 comparisons" in text, "lost runs left a comparison without all replicates"


def test_captions_are_those_of_the_figures(hostile):
    macros = latex.read(hostile.text("paper/captions.tex")).macros
    assert len(macros) == len(hostile.summary.figures)
    assert "rankStudyCaptionLossCurves" in macros


def test_tables_have_the_rows_of_the_report(hostile):
    found = latex.read(hostile.text("paper/tables.tex"))
    assert len(found.tables) == len(found.labels) >= 4
    assert found.tables[0][1] == [found.tables[0][0]] * (1 + len(hostile.summary.lines))
    assert "booktabs" in hostile.text("paper/tables.tex").splitlines()[1]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here: the strict reader above stands in")
def test_the_pack_compiles(hostile, tmp_path):
    for name in (*TEX, "references.bib"):
        shutil.copy(hostile.folder / "paper" / name, tmp_path)
    body = "".join(f"\\input{{{name}}}\n" for name in ("numbers.tex", "captions.tex", "methods.tex", "tables.tex"))
    document = (
        f"\\documentclass{{article}}\\usepackage{{booktabs,graphicx}}\n\\begin{{document}}{body}\\end{{document}}"
    )
    (tmp_path / "a.tex").write_text(document)
    done = subprocess.run(["pdflatex", "-halt-on-error", "a.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
