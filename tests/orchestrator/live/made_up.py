"""Courses of made-up sweeps, event by event, for tests of what is shown."""

from __future__ import annotations

import math

from orchestrator.live.course import Course
from orchestrator.live.events import Began, Ended, Event, Planned, Said, Started, Task

BEGAN = 1_700_000_000.0


def task(stage: str, number: int, name: str, *needs: str, cost_s: float = 10.0) -> Task:
    return Task(f"{stage}-{number:012x}", name, stage, cost_s, needs)


def smoke() -> tuple[list[Event], Course]:
    """A sweep of four stages in the middle: two students run, one has failed, a rate was selected."""
    base, teacher = task("base_model", 1, "base model"), task("teacher", 1, "teacher", "base_model-000000000001")
    names = [f"{init} r{rank} s{seed}" for rank in (4, 8) for init in ("random", "svd") for seed in (1, 2)]
    students = [task("student", number, name, teacher.id) for number, name in enumerate(names)]
    tests = [task("evaluate", number, f"{one.name} test", one.id, cost_s=3) for number, one in enumerate(students)]
    events: list[Event] = [
        Began(BEGAN, "smoke", 2, {"base_model": 0, "dataset": 1, "teacher": 0, "student": 0, "evaluate": 0}),
        Planned(BEGAN, (base, teacher, *students, *tests)),
        Started(BEGAN + 1, base.id, 1, "node1", "cpu"),
        Ended(BEGAN + 4, base.id, "done", "parameters 52,000"),
        Started(BEGAN + 4, teacher.id, 1, "node1", "cpu"),
        Ended(BEGAN + 20, teacher.id, "done", "held-out loss 1.021"),
        Started(BEGAN + 20, students[0].id, 1, "node1", "cpu"),
        Started(BEGAN + 20, students[1].id, 1, "node1", "cpu"),
        Ended(
            BEGAN + 30,
            students[0].id,
            "failed",
            "",
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied",
            f"failures/{students[0].id}/1/log.txt",
        ),
        Ended(BEGAN + 30, tests[0].id, "skipped", "", f"needs {students[0].id}, which failed"),
        Said(BEGAN + 31, "student.learning_rate = 0.003 for random rank 4 (tried 0.001, 0.003, 0.01)"),
        Started(BEGAN + 31, students[2].id, 2, "node1", "cpu"),
    ]
    course = Course("/data/runs")
    for event in events:
        course.take(event)
    for number, student in enumerate(students[1:3]):
        for step in range(25 - 5 * number):
            metrics = {"loss": 1.0 + 2.0 * math.exp(-step / 6), "tokens": 64.0 * step}
            if step % 5 == 0:
                metrics |= {"eval_loss": 1.1 + 2.0 * math.exp(-step / 6)}
            now = BEGAN + 31 + step
            course.measured(student.id, metrics, step=step, total=40, clock_s=now, at=now)
    return events, course


def crowd(size: int = 64) -> Course:
    """A sweep on a cluster: so many students at once, on eight GPU nodes."""
    students = [task("student", number, f"svd r{2 ** (number % 7)} s{number}") for number in range(2 * size)]
    course = Course("/data/runs")
    course.take(Began(BEGAN, "rank_study", size, {"student": 0}))
    course.take(Planned(BEGAN, tuple(students)))
    for number, student in enumerate(students[:size]):
        course.take(Started(BEGAN, student.id, 1, f"node{number // 8}", "cuda"))
        for step in range(8):
            now = BEGAN + step + 1
            course.measured(student.id, {"loss": 2.0 - step / 10}, step=step, total=100, clock_s=now, at=now)
    return course
