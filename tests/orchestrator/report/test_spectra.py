from __future__ import annotations

import shutil

import pytest

from orchestrator import report
from orchestrator.report import spectra, style
from orchestrator.report.document import compose
from orchestrator.report.family import Family
from orchestrator.report.material import Material, Selection
from orchestrator.results import tidy
from orchestrator.store import Store

LAYERS = """layer,type,delta_norm,weight_norm,energy_4,energy_16
0.q,q_proj,3.0,10.0,0.5,0.8
1.q,q_proj,1.0,10.0,0.9,1.0
0.up,up_proj,2.0,5.0,0.25,0.6
"""


@pytest.fixture(scope="module")
def material(hostile, tmp_path_factory) -> Material:
    """The material of a report whose export measured three layers."""
    root = tmp_path_factory.mktemp("layers") / "store"
    shutil.copytree(hostile.store.root, root, symlinks=True)
    store = Store(root)
    export = hostile.plan.of_stage("svd_export")[-1]
    (store.artefact(export.id) / "layers.csv").write_text(LAYERS)
    records = store.records(run.id for run in hostile.plan.runs)
    family = Family(hostile.plan.study, tidy(hostile.plan, store))
    summary = report.read(hostile.folder).model_copy(update={"figures": {"layers": "What layers keep."}})
    return Material(hostile.plan, store, records, family, summary)


def test_energy_of_a_type_is_pooled_over_its_layers(material):
    kept = spectra.energy_by_type(material).set_index("type")
    # sum of kept sigma^2 over sum of squared norms: (9 * .5 + 1 * .9) / 10
    assert kept.loc["q_proj", "energy_4"] == pytest.approx(0.54)
    assert kept.loc["q_proj", "energy_16"] == pytest.approx((9 * 0.8 + 1) / 10)
    assert kept.loc["q_proj", "relative_delta"] == pytest.approx((10 / 200) ** 0.5)
    assert kept.loc["up_proj", "share"] == pytest.approx(4 / 14)
    assert list(kept["layers"]) == [2, 1]


def test_the_figure_shows_the_ranks_of_the_study_that_were_asked_for(material):
    with style.house_rules():
        drawn = spectra.layers(material)
        some = spectra.layers(
            Material(
                material.plan,
                material.store,
                material.records,
                material.family,
                material.summary,
                Selection(ranks=(16,)),
            )
        )
    assert drawn is not None
    assert some is not None
    assert list(drawn.numbers) == ["type", "layers", "energy_4", "energy_16"]
    assert list(some.numbers) == ["type", "layers", "energy_16"]
    assert "3 layers" in drawn.caption


def test_the_report_has_a_section_on_layers_with_those_numbers(material):
    context = {"how_tested": "", "counts": "", "provenance": []}
    section = next(item for item in compose(material, context).sections if item.name == "layers")
    assert section.figures == ["layers"]
    assert section.grids[0].rows[0] == ["q_proj", "2", "0.22", "71.4", "0.540", "0.820"]


def test_ranks_have_shades_of_their_own():
    assert [style.rank_style([4, 16, 64], rank)[0] for rank in (4, 16, 64)] == ["0.7", "0.35", "0.0"]
