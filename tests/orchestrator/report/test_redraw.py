from __future__ import annotations

import struct
import xml.etree.ElementTree as ET

import pandas as pd
import pytest

from orchestrator.__main__ import main
from orchestrator.errors import UserError
from orchestrator.report import figures, style
from orchestrator.report.redraw import Wish, redraw

SVG = "{http://www.w3.org/2000/svg}"


def drawn(hostile, tmp_path, **wish):
    kind = wish.get("format", "png")
    return redraw(hostile.plan, hostile.store, hostile.folder, Wish(out=tmp_path / f"a.{kind}", **wish))


def png_size(path) -> tuple[int, int]:
    return struct.unpack(">II", path.read_bytes()[16:24])


@pytest.mark.parametrize("name", ["outcome_by_rank", "spectrum"])
def test_a_slide_is_16_to_9_and_a_column_as_wide_as_a_papers(hostile, tmp_path, name):
    slide = drawn(hostile, tmp_path, figure=name, look=style.SLIDE)
    assert png_size(slide.picture) == (1920, 1080)
    column = drawn(hostile, tmp_path, figure=name, look=style.COLUMN)
    width, _ = png_size(column.picture)
    assert width == pytest.approx(3.35 * style.COLUMN.dpi, abs=1)


def test_text_of_an_svg_stays_text_and_a_column_has_no_title(hostile, tmp_path):
    whole = drawn(hostile, tmp_path, figure="loss_curves", format="svg")
    words = [item.text for item in ET.parse(whole.picture).iter(f"{SVG}text")]
    assert "random" in words
    assert "How fast does each init learn?" in words
    column = drawn(hostile, tmp_path, figure="loss_curves", format="svg", look=style.COLUMN)
    words = [item.text for item in ET.parse(column.picture).iter(f"{SVG}text")]
    assert "random" in words
    assert not any(word and "How fast" in word for word in words)


def test_text_of_a_pdf_stays_text(hostile, tmp_path):
    page = drawn(hostile, tmp_path, figure="differences", format="pdf").picture.read_bytes()
    assert page.startswith(b"%PDF")
    assert b"/FontFile2" in page, "a TrueType font is embedded, not outlines"
    assert b"/Type3" not in page


def test_an_arm_keeps_its_colour_whichever_others_are_shown(hostile, tmp_path):
    every = hostile.summary.differences[0]
    random, svd = (style.arm_style([every.baseline, every.arm], arm)[0].lower() for arm in (every.baseline, every.arm))
    for arms, there, not_there in ((("svd",), svd, random), (("random",), random, svd)):
        text = drawn(hostile, tmp_path, figure="loss_curves", arms=arms, format="svg").picture.read_text().lower()
        assert there in text
        assert not_there not in text


def test_no_two_of_many_arms_look_alike():
    arms = [f"arm{index}" for index in range(31)]
    assert len({style.arm_style(arms, arm) for arm in arms}) == 31


def test_differences_of_several_arms_have_a_panel_for_each_group(hostile):
    one = hostile.summary.differences
    more = [*one, *(item.model_copy(update={"arm": "pissa"}) for item in one)]
    assert list(figures.panels_of(one)) == [""]
    assert {name: [item.arm for item in items] for name, items in figures.panels_of(more).items()} == {
        "rank 4": ["svd", "pissa"],
        "rank 16": ["svd", "pissa"],
    }
    assert list(figures.panels_of(more[::2])) == ["rank 4"]


def test_only_the_chosen_ranks_are_drawn_and_in_the_numbers(hostile, tmp_path):
    some = drawn(hostile, tmp_path, figure="loss_curves", ranks=(16,), format="svg")
    words = [item.text for item in ET.parse(some.picture).iter(f"{SVG}text")]
    assert "rank 16" in words
    assert "rank 4" not in words
    assert set(pd.read_csv(some.numbers)["panel"]) == {"rank 16"}
    some = drawn(hostile, tmp_path, figure="differences", ranks=(4,))
    assert set(pd.read_csv(some.numbers)["group"]) == {"rank 4"}


def test_a_figure_drawn_twice_is_the_same_file(hostile, tmp_path):
    for kind in ("png", "svg"):
        first = drawn(hostile, tmp_path, figure="differences", format=kind).picture.read_bytes()
        assert drawn(hostile, tmp_path, figure="differences", format=kind).picture.read_bytes() == first


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"figure": "los_curves"}, "no figure named 'los_curves'. Did you mean 'loss_curves'? Known: "),
        ({"figure": "spectrum", "arms": ("sdv",)}, "no arm named 'sdv'. Did you mean 'svd'? Known: random, svd."),
        ({"figure": "spectrum", "ranks": (5,)}, "--rank 5: no such rank here. Known: 4, 16."),
        ({"figure": "layers"}, "nothing to draw for layers of rank_study yet; there is for: loss_curves,"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line_with_what_is(hostile, tmp_path, wish, words):
    with pytest.raises(UserError) as refused:
        drawn(hostile, tmp_path, **wish)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_looks_leave_nothing_behind():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with style.house_rules(style.SLIDE):
        assert style.look() == style.SLIDE
        assert mpl.rcParams["font.size"] == 9 * style.SLIDE.scale
    assert style.look() == style.REPORT
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--slide"], "--slide is for one figure; name it with --figure NAME"),
        (["--figure", "spectrum", "--answers"], "--figure and --answers are two things"),
        (["--figure", "spectrum", "--rank", "four"], "--rank four: ranks are whole numbers"),
        (["--figure", "spectrum", "--out", "a.gif"], "--out a.gif: the file ends in png or svg or pdf"),
        (["--figure", "spectrum", "--out", "a.png", "--format", "pdf"], "agrees with --format"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_read(arguments, words, tmp_path, capsys):
    assert main(["report", "smoke", "--store", str(tmp_path / "none"), *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_help_teaches_and_names_the_figures(capsys):
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    told = capsys.readouterr().out
    for name in ("--figure loss_curves --slide", "report.html", "--arms", "--column", *figures.FIGURES):
        assert name in told
