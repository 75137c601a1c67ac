"""How far a sweep is, from its events: counts, time left, trends, and that the journal tells the whole story."""

from __future__ import annotations

import math
import os

import pytest

from orchestrator.live.course import TRUST_S, Course
from orchestrator.live.events import Began, Ended, GrowingFile, Journal, Planned, Said, Started, decode, encode
from orchestrator.live.trend import CELLS, Curve, Track
from tests.orchestrator.live.made_up import BEGAN, crowd, smoke, task


def test_every_event_survives_the_journal_and_replays_to_the_same_state() -> None:
    events, course = smoke()
    again = Course(course.store)
    for event in events:
        back = decode(encode(event))
        assert back == event
        again.take(back)
    for field in ("done", "total", "stages", "events", "phase"):
        assert getattr(again.state(BEGAN + 60), field) == getattr(course.state(BEGAN + 60), field)


@pytest.mark.parametrize(
    "line", ["", '{"event": "ended", "at": 1', '{"event": "unheard_of"}', "[]", '{"event": "ended"}']
)
def test_a_line_that_is_no_event_is_left_out(line: str) -> None:
    assert decode(line) is None


def test_stages_count_what_is_cached_done_running_waiting_failed_and_skipped() -> None:
    state = smoke()[1].state(BEGAN + 60)
    counts = {stage.name: {name: count for name, count in stage.counts.items() if count} for stage in state.stages}
    assert counts == {
        "base_model": {"done": 1},
        "dataset": {"cached": 1},
        "teacher": {"done": 1},
        "student": {"failed": 1, "running": 2, "waiting": 5},
        "evaluate": {"skipped": 1, "waiting": 7},
    }
    assert (state.done, state.total) == (4, 18), "a failed and a skipped run have ended"


def test_a_run_that_was_stopped_is_to_be_run_again() -> None:
    _, course = smoke()
    done = course.done
    course.take(Ended(BEGAN + 70, "student-000000000001", "stopped"))
    assert course.done == done
    assert "student-000000000001" not in {run.name for run in course.state(BEGAN + 71).running}


def test_time_left_is_the_longest_chain_or_the_work_over_the_slots() -> None:
    chain = [task("a", 1, "a", cost_s=30), task("b", 1, "b", "a-000000000001", cost_s=50)]
    many = [task("c", number, f"c{number}", cost_s=10) for number in range(40)]
    alone, both = Course(), Course()
    for course, tasks in ((alone, chain), (both, [*chain, *many])):
        course.take(Began(BEGAN, "s", 4, {}))
        course.take(Planned(BEGAN, tuple(tasks)))
    assert alone.seconds_left(BEGAN) == 80
    assert both.seconds_left(BEGAN) == (80 + 400) / 4


def test_guesses_are_corrected_by_what_runs_have_taken() -> None:
    course = Course()
    course.take(Began(BEGAN, "s", 1, {}))
    course.take(Planned(BEGAN, (task("a", 1, "a", cost_s=100), task("b", 1, "b", cost_s=100))))
    course.take(Started(BEGAN, "a-000000000001", 1, "here", "cpu"))
    course.take(Ended(BEGAN + 10, "a-000000000001", "done"))
    assert course.seconds_left(BEGAN + 10) == pytest.approx(100 * (10 + TRUST_S) / (100 + TRUST_S))


def test_the_slow_first_runs_of_workers_do_not_say_how_long_the_others_take() -> None:
    """Two workers import their libraries for 12 s each; every further run takes 1 s, of which ten are left."""
    course, seconds = Course(), [12, 12, 1, 1, 1]
    course.take(Began(BEGAN, "s", 1, {}))
    course.take(Planned(BEGAN, tuple(task("a", number, f"a{number}", cost_s=30) for number in range(15))))
    for number, took in enumerate(seconds):
        course.take(Started(BEGAN, f"a-{number:012x}", 1, "here", "cpu"))
        course.take(Ended(BEGAN + took, f"a-{number:012x}", "done"))
    assert course.seconds_left(BEGAN + 20) == pytest.approx(10)


def test_many_skipped_for_one_reason_are_one_event() -> None:
    course = Course()
    for number in range(5):
        course.take(Ended(BEGAN + number, f"student-{number:012x}", "skipped", "", "needs teacher-1, which failed"))
    course.take(Ended(BEGAN + 9, "student-000000000009", "skipped", "", "needs teacher-2, which failed"))
    first, second = course.state(BEGAN + 10).events
    assert (first.times, first.text) == (5, "5 runs  needs teacher-1, which failed")
    assert second.times == 1


def test_speed_is_that_of_the_last_half_minute() -> None:
    track = Track()
    for second in range(200):
        track.measure({"loss": 1.0, "tokens": 100.0 * second})
        track.reach(second if second < 100 else 100 + 3 * (second - 100), 1000, clock_s=float(second))
    assert track.steps_per_s() == pytest.approx(3)
    assert track.tokens_per_s() == pytest.approx(100)
    assert track.left_s() == pytest.approx((1000 - 397) / 3)


def test_a_run_without_tokens_or_steps_has_no_speed() -> None:
    track = Track()
    track.reach(0, 3, clock_s=5.0)
    assert track.steps_per_s() is None
    assert track.tokens_per_s() is None
    assert track.left_s() is None


def test_a_curve_of_any_length_keeps_its_shape_in_little_memory() -> None:
    curve = Curve()
    for step in range(10_000):
        curve.add(math.exp(-step / 3000))
    curve.add(math.nan)
    shown = curve.thinned(10)
    assert len(curve.cells) < CELLS
    exact = [sum(math.exp(-step / 3000) for step in range(part, part + 1000)) / 1000 for part in range(0, 10_000, 1000)]
    assert shown == pytest.approx(exact, rel=0.05), "its last cells are still being filled"
    assert Curve().thinned(10) == ()


def test_best_is_the_lowest_held_out_loss_unless_the_run_knows_better() -> None:
    track = Track()
    for loss in (3.0, 1.0, 2.0):
        track.measure({"eval_loss": loss})
    assert (track.held_out, track.best) == (2.0, 1.0)
    track.measure({"eval_loss": 2.5, "best_eval_loss": 0.5})
    assert track.best == 0.5


def test_a_journal_is_read_as_it_grows_and_anew_once_it_is_replaced(tmp_path) -> None:
    file = GrowingFile(tmp_path / "sweep.jsonl")
    assert list(file.lines()) == []
    first = Journal(tmp_path)
    first.write(Said(BEGAN, "one"))
    os.write(first.descriptor, b'{"event": "said", "at"')
    assert [decode(line) for line in file.lines()] == [Said(BEGAN, "one")]
    os.write(first.descriptor, b': 2, "text": "two"}\n')
    assert [decode(line) for line in file.lines()] == [Said(2, "two")]
    assert not file.was_replaced()
    Journal(tmp_path).write(Said(3, "of the next sweep"))
    assert file.was_replaced()
    assert [decode(line) for line in file.lines()] == [Said(3, "of the next sweep")]
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.jsonl"]


def test_a_cluster_that_runs_more_at_once_than_was_known_shortens_the_time_left() -> None:
    course = crowd(64)
    few = Course()
    few.take(Began(BEGAN, "rank_study", 2, {}))
    few.take(Planned(BEGAN, tuple(course.tasks.values())))
    assert few.seconds_left(BEGAN) == pytest.approx(128 * 10 / 2)
    for event in course.started.values():
        few.take(event)
    assert few.seconds_left(BEGAN) == pytest.approx(128 * 10 / 64)
