"""The figures: which there are, that their numbers are those of the spectrum, and that no words overlap."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.image import imread
from matplotlib.transforms import Bbox

from tests.trainables.export.made_up import GPT2, LLAMA, deltas, layers
from trainables.export import figure_style
from trainables.export.spectrum import FunctionalGain, Spectrum, energy
from trainables.export.spectrum_figure import draw_all, overview, panels

GAINS = [
    FunctionalGain("base", None, None, 1.332),
    FunctionalGain("rank 2", 2, 0.37, 1.009),
    FunctionalGain("rank 4", 4, 0.80, 0.925),
    FunctionalGain("as exported", None, 0.75, 0.930),
    FunctionalGain("tuned", None, None, 0.893),
]


def _spectrum(shapes=GPT2, *, blocks=3, rank=4, **options):
    return Spectrum(layers(deltas(shapes, blocks=blocks), rank, **options), [], rank)


def _ranks(spectrum):
    return {layer.linear.name: index % (layer.known + 1) for index, layer in enumerate(spectrum.layers)}


def test_every_figure_has_its_numbers_beside_it(tmp_path):
    spectrum = _spectrum()
    names = draw_all(tmp_path, spectrum, gains=GAINS, ranks=_ranks(spectrum))
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{n}.{end}" for n in names for end in ("png", "csv")
    }
    assert len(names) == 8
    for path in [tmp_path / "figure.png", *(tmp_path / "figures").glob("*.png")]:
        picture = imread(path)
        assert picture.shape[1] >= 700, path  # a column of 3.5 in, sharp in print
        assert picture.std() > 0.02, path  # not an empty page
    with (tmp_path / "figures" / "energy_by_rank.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    pooled = {int(row["rank"]): float(row["energy"]) for row in rows if row["type"] == "all layers"}
    assert pooled == pytest.approx({rank: energy(spectrum.layers, rank) for rank in (1, 2, 4)}, abs=1e-6)


def test_a_panel_is_there_only_where_its_question_is():
    names = {panel.name for panel in panels(_spectrum())}
    assert {"singular_values", "energy_by_rank", "energy_by_group", "energy_by_depth", "change_by_depth"} <= names
    assert not names & {"functional_gain", "ranks_by_depth"}
    one_block = {panel.name for panel in panels(_spectrum(blocks=1))}
    assert not one_block & {"energy_by_depth", "change_by_depth"}
    one_group = {panel.name for panel in panels(_spectrum({"h.{}.mlp.c_fc": (8, 4)}))}
    assert "energy_by_group" not in one_group
    spectrum = _spectrum()
    uniform = {layer.linear.name: 4 for layer in spectrum.layers}
    assert "ranks_by_depth" not in {panel.name for panel in panels(spectrum, ranks=uniform)}


def test_the_map_of_energies_shows_each_layers_own(tmp_path):
    spectrum = _spectrum()
    panel = next(panel for panel in panels(spectrum) if panel.name == "energy_by_depth")
    rank = int(str(panel.head[-1]).removeprefix("energy_"))
    shown = {(kind, depth): float(str(value)) for kind, depth, value in panel.rows}
    for layer in spectrum.layers:
        assert shown[layer.type, layer.depth] == pytest.approx(layer.energy(rank), abs=1e-6)


def test_noise_is_drawn_where_it_matters_and_told_where_not():
    def words(noise):
        axes = figure_style.new_figure(3.5, 2.5).subplots()
        next(panel for panel in panels(_spectrum(noise=noise)) if panel.name == "singular_values").draw(axes)
        axes.figure.draw_without_rendering()
        return axes.texts[0].get_text(), axes.get_ylim()[0]

    near, near_bottom = words(0.01)
    far, far_bottom = words(1e-9)
    assert near == "rounding noise"
    assert far.startswith("rounding noise: ")
    level = 0.01 * (1 / np.sqrt(6) + 1 / np.sqrt(24))
    assert near_bottom < level
    assert far_bottom > 1e-6


CASES = {
    "GPT-2": {"shapes": GPT2, "blocks": 2},
    "30 layers": {"shapes": LLAMA, "blocks": 30, "rank": 16},
    "80 layers": {"shapes": LLAMA, "blocks": 80, "rank": 16},
    "rank 1": {"rank": 1},
    "no power of two": {"shapes": LLAMA, "rank": 17},
    "near noise": {"noise": 0.01},
    "long names": {
        "shapes": {"a.{}.self_attn." + 30 * "long_" + "q": (6, 6), "a.{}.mlp." + 30 * "long_" + "p": (6, 6)}
    },
}


SLOW = ("30 layers", "rank 1", "long names")


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES])
def test_no_words_overlap(case):
    spectrum = _spectrum(**CASES[case])
    found = panels(spectrum, GAINS, _ranks(spectrum))
    with figure_style.house_rules():
        for figure in [
            *map(figure_style.panel_figure, found),
            overview(found, spectrum),
            overview(panels(spectrum), spectrum),
        ]:
            boxes = _words(figure)
            assert len(boxes) > 8
            width, height = figure.canvas.get_width_height()
            for (said, box), (other, its_box) in itertools.combinations(boxes, 2):
                assert not box.padded(-1).overlaps(its_box.padded(-1)), (said, other)
            for said, box in boxes:
                assert box.x0 > -1, said
                assert box.y0 > -1, said
                assert box.x1 < width + 1, said
                assert box.y1 < height + 1, said


class _Recorder(RendererAgg):
    """A renderer that notes where each line of words is really drawn: an axis keeps labels beyond its limits."""

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        width, height, descent = self.get_text_width_height_descent(s, prop, ismath)
        below = self.height - y
        if angle == 0:
            box = Bbox.from_extents(x, below - descent, x + width, below - descent + height)
        else:
            assert angle == 90
            box = Bbox.from_extents(x - height + descent, below, x + descent, below + width)
        self.words = [*getattr(self, "words", []), (s, box)]
        super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)


def _words(figure):
    """Return every line of words that is drawn, with its box in pixels."""
    renderer = _Recorder(*figure.canvas.get_width_height(), figure.dpi)
    figure.draw(renderer)
    return renderer.words


def test_a_model_that_did_not_change_gets_figures_that_say_so(tmp_path):
    spectrum = Spectrum(layers({name: 0 * delta for name, delta in deltas().items()}, 4), [], 4)
    assert draw_all(tmp_path, spectrum) == ["singular_values", "energy_by_rank"]
    for panel in panels(spectrum):
        axes = figure_style.new_figure(3.5, 2.5).subplots()
        panel.draw(axes)
        assert "nothing changed" in [text.get_text() for text in axes.texts]


def test_the_same_spectrum_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        draw_all(tmp_path / name, _spectrum({"h.{}.attn.c_attn": (4, 4)}, blocks=1))
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path


@pytest.mark.parametrize("shares", [(0.12, 0.16, 0.2, 0.22), (0.7, 0.85, 0.95, 0.99)], ids=["low", "high"])
def test_the_legend_of_the_gains_hides_no_point(shares):
    ranks = (1, 2, 4, 8)
    gains = [
        FunctionalGain(f"rank {r}", r, 0.3 + 0.06 * r, 3 - 2 * share) for r, share in zip(ranks, shares, strict=True)
    ]
    gains = [FunctionalGain("base", None, None, 3.0), *gains, FunctionalGain("tuned", None, None, 1.0)]
    spectrum = _spectrum(shapes=LLAMA, rank=8)
    with figure_style.house_rules():
        figure = overview(panels(spectrum, gains), spectrum)
        figure.draw_without_rendering()
    (axes,) = [axes for axes in figure.axes if axes.get_ylabel() == "share kept"]
    box = axes.get_legend().get_window_extent()
    rule = axes.transData.transform((1, 1))[1]
    assert box.y0 > rule or box.y1 < rule, "nor does the rule of the tuned model strike it through"
    for line in axes.lines[:2]:
        assert not any(box.contains(*point) for point in axes.transData.transform(line.get_xydata()))


@pytest.mark.parametrize(("last", "told"), [(12, ["1", "2", "4", "8", "12"]), (17, ["1", "2", "4", "8", "", "17"])])
def test_a_rank_keeps_its_label_where_there_is_room(last, told):
    axes = figure_style.new_figure(3.5, 2.5).subplots()
    figure_style.rank_axis(axes, [*(1 << n for n in range((last - 1).bit_length())), last])
    assert [label.get_text() for label in axes.get_xticklabels()] == told
