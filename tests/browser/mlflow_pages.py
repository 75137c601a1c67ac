"""MLflow's pages as a reader uses them: addresses, rows, charts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHARTS = """() => [...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot.data).map(plot => ({
    x_title: plot._fullLayout?.xaxis?.title?.text ?? '',
    traces: plot.data.map(trace => ({
        type: trace.type,
        name: trace.name ?? '',
        x: [...(trace.x ?? [])],
        y: [...(trace.y ?? [])],
        dimensions: (trace.dimensions ?? []).map(dimension => dimension.label),
    })),
}))"""
HAS_TRACES = "() => [...document.querySelectorAll('.js-plotly-plot')].some(plot => plot.data && plot.data.length)"
ROW = ".ag-center-cols-container .ag-row"


@dataclass
class Site:
    """A server's pages; `runs` is the address that `ui` printed for the study."""

    page: Any
    runs: str

    def open(self, address: str) -> None:
        """Load an address afresh: a change behind the # alone would not."""
        self.page.goto("about:blank")
        self.page.goto(address)

    def view(self, key: str, mode: str = "TABLE") -> None:
        """Open a saved view of the study's experiment, as a table or as charts."""
        address = self.runs.rpartition("=")[0]
        self.open(f"{address}={key}&compareRunsMode={mode}")
        self.page.wait_for_selector(".ag-row")
        self.page.wait_for_timeout(1500)
        if assistant := self.page.query_selector("[data-component-id='mlflow.assistant.chat_panel.close']"):
            assistant.click()
            self.page.wait_for_timeout(500)

    def columns(self) -> list[str]:
        """Return the texts of the columns' heads, sorting arrows left out."""
        return [text.strip() for text in self.page.locator(".ag-header-cell").all_inner_texts() if text.strip()]

    def rows(self) -> list[str]:
        """Return the texts of the rows, cells one after the other."""
        return [" ".join(text.split()) for text in self.page.locator(ROW).all_inner_texts()]

    def charts(self) -> list[dict[str, Any]]:
        """Return the drawn charts: title of the x axis, and traces with their points or dimensions."""
        self.page.wait_for_function(HAS_TRACES)
        self.page.wait_for_timeout(3000)
        found = self.page.evaluate(CHARTS)
        assert isinstance(found, list)
        return found

    def choose(self, run: str) -> None:
        """Tick a run's box."""
        self.page.locator(".ag-row", has_text=run).first.locator("input[type=checkbox]").first.click()
