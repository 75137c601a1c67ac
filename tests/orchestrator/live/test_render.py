"""The screen as lines of a given width and height; what is left out where there is no room."""

from __future__ import annotations

import io
import itertools
import re

import pytest
from rich.console import Console

from orchestrator.live.course import Course
from orchestrator.live.render import COLUMNS, Screen, laid_out
from orchestrator.live.state import State
from tests.orchestrator.live.made_up import BEGAN, crowd, smoke

HINT = "Ctrl-C stops, keeping checkpoints · log: runs/sweep.log"


def drawn(state: State, width: int, height: int) -> list[str]:
    return [line.plain.rstrip() for line in laid_out(state, HINT, width, height)]


@pytest.fixture
def state() -> State:
    return smoke()[1].state(BEGAN + 60)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 160, 300])
@pytest.mark.parametrize("height", [5, 10, 16, 24, 45])
@pytest.mark.parametrize("size", ["few", "many", "none"])
def test_a_screen_fits_whatever_the_terminal_is(width: int, height: int, size: str, state: State) -> None:
    state = {"few": state, "many": crowd().state(BEGAN + 20), "none": Course("/data/runs").state(BEGAN)}[size]
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    lines = console.render_lines(Screen(state, HINT), console.options.update(width=width, height=height))
    assert len(lines) <= height
    assert all(sum(segment.cell_length for segment in line) <= width for line in lines)


def test_80_columns_show_runs_with_step_loss_trend_held_out_time_left_and_speed(state: State) -> None:
    lines = drawn(state, 80, 24)
    assert re.fullmatch(r" smoke +4 of 18 runs · 1 min 0 s · about 46 s left", lines[0])
    (head,) = [line for line in lines if " 2 running" in line]
    assert head.split() == ["2", "running", "step", "loss", "trend", "held-out", "left", "steps/s"]
    (run,) = [line for line in lines if "svd r4 s1" in line and "19/40" in line]
    assert re.fullmatch(r" svd r4 s1 \(2\) +19/40 +1\.\d{3} +[▁-█]{12} +1\.\d{3} +\d+ s +1\.0", run)
    (failed,) = [number for number, line in enumerate(lines) if "  failed    " in line]
    assert lines[failed + 1].strip() == "log: /data/runs/failures/student-000000000000/1/log.txt"
    assert lines[-1] == f" {HINT}"


def test_columns_go_in_the_order_of_their_importance_as_the_screen_gets_narrow(state: State) -> None:
    order = [column.head for column in sorted(COLUMNS, key=lambda one: one.importance)][1:]
    shown = []
    for width in range(160, 39, -1):
        (head,) = [line for line in drawn(state, width, 30) if " 2 running" in line]
        shown.append(head.split()[2:])
    assert set(shown[0]) == set(order)
    for wide, narrow in itertools.pairwise(shown):
        assert set(narrow) <= set(wide)
        assert set(narrow) == set(order[: len(narrow)])
    assert shown[-1] == ["step", "loss"]


def test_many_runs_are_folded_and_none_is_lost() -> None:
    lines = drawn(crowd(64).state(BEGAN + 20), 80, 24)
    runs = [line for line in lines if "/100" in line]
    assert f" and {64 - len(runs)} more" in lines
    assert 5 < len(runs) < 20


def test_a_low_screen_keeps_a_line_of_all_stages_and_the_runs(state: State) -> None:
    lines = drawn(state, 100, 12)
    assert " base_model 1/1  dataset 1/1  teacher 1/1  student 0/8  evaluate 0/8" in lines
    assert any("19/40" in line for line in lines)


def test_the_columns_keep_their_places_when_a_run_begins(state: State) -> None:
    _, course = smoke()
    before = drawn(course.state(BEGAN + 60), 100, 24)
    course.tracks["student-000000000001"].loss = None
    after = drawn(course.state(BEGAN + 60), 100, 24)
    head = [next(line for line in lines if " 2 running" in line) for lines in (before, after)]
    assert head[0] == head[1]


def test_without_colours_nothing_is_lost_and_no_colour_is_sent(state: State, monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(width=80, height=24, file=io.StringIO(), force_terminal=True)
    console.print(Screen(state, HINT))
    sent = console.file.getvalue()  # type: ignore[attr-defined]
    codes = {code for found in re.findall(r"\x1b\[([\d;]*)m", sent) for code in found.split(";")}
    assert codes <= {"0", "1", "2", ""}, "bold and dim only"
    assert "━" in sent
    assert "─" in sent


@pytest.mark.parametrize(("is_driven", "words"), [(True, ""), (False, "no sweep is running: the last one was cut off")])
def test_a_sweep_whose_driver_is_gone_is_called_so(is_driven: bool, words: str) -> None:
    title = drawn(smoke()[1].state(BEGAN + 60, is_driven=is_driven), 120, 24)[0]
    assert words in title
