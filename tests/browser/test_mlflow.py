"""What a researcher sees in MLflow's UI after a sweep, read off the pages themselves."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from orchestrator.record import Record
from orchestrator.store import Store
from tests.browser import chromium
from tests.browser.mlflow_pages import Site

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing() or "never"),
]

COLOURS = """() => Object.fromEntries(
    document.querySelector('.js-plotly-plot').data.map(trace => [trace.name, trace.marker.color.slice(0, 7)])
)"""
NAMES = {f"{init} r{rank} s{seed}" for init in ("random", "svd") for rank in (2, 4) for seed in (1, 2)}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("store")
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "orchestrator", "sweep", "smoke", "--local", "--store", str(folder)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return Store(folder)


@pytest.fixture(scope="module")
def site(store) -> Iterator[Site]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "orchestrator", "ui", "--store", str(store.root), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    said = re.fullmatch(rf"smoke tiny  (http://127\.0\.0\.1:{port}/#/experiments/\d+/runs\?\S+)\n", line)
    try:
        assert said is not None, line
        with chromium.opened() as page:
            yield Site(page, said[1])
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def records(store: Store) -> dict[str, Record]:
    """Return the verdict students' records by their names."""
    found = [record for run_id in store.ids() if (record := store.record(run_id)) is not None]
    return {record.name: record for record in found if record.name in NAMES}


def test_the_experiment_page_lists_the_compared_runs_with_their_settings_and_the_outcome(site, store):
    site.view("runs")
    chromium.photograph(site.page, "runs")
    rows = site.rows()
    assert len(rows) == len(NAMES) == len(records(store))
    text = site.page.inner_text("body")
    assert all(name in text for name in NAMES)
    assert [name for name in site.columns() if name in ("rank", "init", "learning_rate", "seed", "test_loss")] == [
        "rank",
        "init",
        "learning_rate",
        "seed",
        "test_loss",
    ]
    assert not {"adam_beta1", "weight_decay", "sha256", "Source"} & set(site.columns())


def test_children_are_nested_under_their_study(site, store):
    site.view("all")
    assert len(site.rows()) == 1
    assert "smoke tiny" in site.page.inner_text("body")
    site.page.locator(".ag-row [data-icon], .ag-row button").first.click()
    site.page.wait_for_function("() => document.querySelectorAll('.ag-center-cols-container .ag-row').length > 5")
    chromium.photograph(site.page, "nested")
    text = site.page.inner_text("body")
    assert f"{len(store.ids()) + 1}\nmatching runs" in text or f"{len(store.ids()) + 1} matching runs" in text


def test_curves_have_every_training_step_on_their_axis(site, store):
    site.view("runs", "CHART")
    drawn = [chart for chart in site.charts() if chart["x_title"] == "Step"]
    chromium.photograph(site.page, "charts")
    known = records(store)
    for metric in ("eval_loss", "loss"):
        steps = {name: measured(record, metric) for name, record in known.items()}
        assert any(
            {trace["name"]: trace["x"] for trace in chart["traces"] if trace["name"] in known} == steps
            for chart in drawn
        ), metric


def measured(record: Record, metric: str) -> list[int]:
    return [int(row["step"]) for row in record.history_rows() if metric in row]


def test_an_arm_has_one_colour_in_all_charts(site):
    site.view("runs", "CHART")
    site.charts()
    colours = site.page.evaluate(COLOURS)
    by_arm = {arm: {colour for name, colour in colours.items() if name.startswith(arm)} for arm in ("random", "svd")}
    assert [len(found) for found in by_arm.values()] == [1, 1]
    assert by_arm["random"] != by_arm["svd"]


def test_compare_shows_what_differs_and_draws_parallel_coordinates(site, store):
    site.view("runs")
    for name in ("random r4 s1", "svd r4 s1"):
        site.choose(name)
    site.page.get_by_test_id("runs-compare-button").click()
    site.page.get_by_text("Comparing 2 Runs").wait_for()
    (plot,) = [trace for chart in site.charts() for trace in chart["traces"] if trace["type"] == "parcoords"]
    assert "init" in plot["dimensions"]
    chromium.photograph(site.page, "compare")
    site.page.get_by_text("Show diff only").first.click()
    params = site.page.inner_text("body").partition("Parameters\n")[2].partition("Metrics\n")[0]
    assert re.search(r"init\s+(random\s+svd|svd\s+random)", params)
    assert "batch_size" not in params
    site.page.get_by_role("link", name="eval_loss", exact=True).click()
    site.page.wait_for_url("**/metric?**")
    (chart,) = site.charts()
    chromium.photograph(site.page, "metric")
    assert chart["x_title"] == "Step"
    known = records(store)
    assert {trace["name"]: trace["x"] for trace in chart["traces"]} == {
        name: measured(known[name], "eval_loss") for name in ("random r4 s1", "svd r4 s1")
    }


def test_the_study_shows_its_report_and_its_figures(site):
    site.view("all")
    site.page.get_by_role("link", name="smoke tiny").first.click()
    site.page.get_by_text("About this run").wait_for()
    chromium.photograph(site.page, "study")
    address = site.page.url.partition("?")[0]
    site.open(f"{address}/artifacts/report.html")
    inside = site.page.frame_locator("iframe")
    inside.get_by_role("heading", name="Verdict", exact=True).wait_for()
    assert "smoke at scale tiny" in inside.locator("h1").inner_text()
    chromium.photograph(site.page, "report")
    site.open(f"{address}/artifacts/figures/loss_curves.png")
    site.page.wait_for_function("() => [...document.images].some(image => image.naturalWidth > 600)")
    site.open(f"{address}/artifacts/tables/comparison.json")
    site.page.get_by_text("random").first.wait_for()
    chromium.photograph(site.page, "table")


def test_a_run_leads_to_its_dataset_its_base_model_and_its_answers(site):
    site.view("runs")
    site.page.get_by_role("link", name="svd r4 s1", exact=True).first.click()
    site.page.get_by_text("About this run").wait_for()
    site.page.get_by_text("Logged models (1)").wait_for()
    chromium.photograph(site.page, "run")
    text = site.page.inner_text("body")
    assert "chain_sum" in text
    assert "tiny-qwen2" in text
    site.open(f"{site.page.url.partition('?')[0]}/artifacts/answers.json")
    site.page.get_by_text("reference").first.wait_for()
    chromium.photograph(site.page, "answers")
