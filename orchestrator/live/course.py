"""The course of a sweep: events and measurements in, how far it is out, with the time left.

The sweep's own reporter feeds one as things happen, a watcher another from the store; nothing here looks at a clock.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from orchestrator.live.events import Began, Ended, Event, Over, Planned, Said, Started, Stopping, Task
from orchestrator.live.state import Happened, Phase, Running, Stage, State
from orchestrator.live.trend import Track

EVENTS = 100
"""Events that are remembered: more than a screen holds."""

LAST_RUNS = 9
"""Runs of a stage that say how long the next one takes."""
TRUST_S = 30.0
"""Seconds for which guesses are taken to have held before any run has ended."""
TREND_CELLS = 12
BAD = ("failed", "oom", "killed")


class Course:
    """One sweep, from its first event on."""

    def __init__(self, store: str = "") -> None:
        """Begin with nothing; `store` is how the screen names the store."""
        self.store, self.study = store, ""
        self.slots, self.began_at = 1.0, 0.0
        self.is_stopping = self.is_over = False
        self.cached: Mapping[str, int] = {}
        self.tasks: dict[str, Task] = {}
        self.expected: tuple[Task, ...] = ()
        self.status: dict[str, str] = {}
        self.started: dict[str, Started] = {}
        self.tracks: dict[str, Track] = {}
        self.pace: dict[str, deque[float]] = {}
        self.taken_s = self.guessed_s = 0.0
        self.seen: set[str] = set()
        self.events: deque[Happened] = deque(maxlen=EVENTS)
        self.most_at_once = 0
        self.skipped_because = ""

    # -- what happens -----------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """Take the next event."""
        match event:
            case Began():
                self.study, self.slots, self.began_at, self.cached = event.study, event.slots, event.at, event.cached
            case Planned():
                self.tasks |= {task.id: task for task in event.tasks}
                self.expected = event.expected
            case Started():
                self._start(event)
            case Ended():
                self._end(event)
            case Said():
                self.events.append(Happened(event.at, "note", event.text))
            case Stopping():
                self.is_stopping = True
            case Over():
                self.is_over = True

    def measured(
        self, run_id: str, metrics: Mapping[str, float], *, step: int, total: int, clock_s: float, at: float
    ) -> None:
        """Take a step of a running run: `clock_s` is on any clock that its steps share, `at` on the events' clock."""
        track = self.tracks.get(run_id)
        if track is not None:
            track.measure(metrics)
            track.reach(step, total, clock_s=clock_s)
            track.heard_at = at
            self.seen |= track.measures

    def _start(self, event: Started) -> None:
        self.started[event.id], self.tracks[event.id] = event, Track()
        self.status.pop(event.id, None)
        self.most_at_once = max(self.most_at_once, len(self.started))
        if event.attempt > 1:
            self.events.append(Happened(event.at, "again", f"{self.name(event.id)}  attempt {event.attempt}"))

    def _end(self, event: Ended) -> None:
        begun = self.started.pop(event.id, None)
        self.tracks.pop(event.id, None)
        if event.status != "stopped":
            self.status[event.id] = event.status
        if begun is not None and event.status == "done":
            stage = self.stage(event.id)
            self.pace.setdefault(stage, deque(maxlen=LAST_RUNS)).append(event.at - begun.at)
            self.taken_s += event.at - begun.at
            self.guessed_s += self.tasks[event.id].cost_s if event.id in self.tasks else 0.0
        self._remember(event)

    def _remember(self, event: Ended) -> None:
        """Keep the event; many that are skipped for one reason are one."""
        last = self.events[-1] if self.events else None
        if last is not None and last.kind == event.status == "skipped" and self.skipped_because == event.because:
            text = f"{last.times + 1} runs  {event.because}"
            self.events[-1] = replace(last, at=event.at, text=text, times=last.times + 1)
            return
        self.skipped_because = event.because
        text = "  ".join(filter(None, [self.name(event.id), event.measured, event.because]))
        self.events.append(Happened(event.at, event.status, text, event.log))

    # -- how far it is ----------------------------------------------------------------------------------

    @property
    def done(self) -> int:
        """The runs of this sweep that have ended, well or not."""
        return len(self.status)

    @property
    def total(self) -> int:
        """The runs of this sweep, with those expected."""
        return len(self.tasks) + len(self.expected)

    def name(self, run_id: str) -> str:
        """Return a run's readable name."""
        return self.tasks[run_id].name if run_id in self.tasks else run_id

    def stage(self, run_id: str) -> str:
        """Return a run's stage."""
        return run_id.rpartition("-")[0]

    def seconds_left(self, now: float) -> float:
        """Return the estimated wall time of what is left: its work over the slots, at least its longest chain."""
        work, ends = 0.0, dict.fromkeys(self.status, 0.0)
        for task in (*self.tasks.values(), *self.expected):
            if task.id not in self.status:
                cost = self._left(task, now)
                work += cost
                ends[task.id] = cost + max((ends.get(need, 0.0) for need in task.needs), default=0.0)
        return max(work / max(self.slots, self.most_at_once, 1), *ends.values(), 0.0)

    def state(self, now: float, *, is_driven: bool = True) -> State:
        """Return how far it is at the time `now`; `is_driven`: whether the sweep is known to live."""
        return State(
            study=self.study,
            store=self.store,
            phase=self._phase(is_driven),
            elapsed_s=now - self.began_at,
            left_s=self.seconds_left(now),
            done=self.done,
            total=self.total,
            stages=tuple(self._stages()),
            running=tuple(self._running(event, now) for event in self.started.values()),
            events=tuple(self.events),
            seen=frozenset(self.seen),
        )

    def _phase(self, is_driven: bool) -> Phase:
        if not self.began_at:
            return "none"
        if self.is_over:
            return "over"
        if not is_driven:
            return "cut off"
        return "stopping" if self.is_stopping else "running"

    def _left(self, task: Task, now: float) -> float:
        """Return the seconds that a run which has not ended will still take."""
        begun = self.started.get(task.id)
        if begun is None:
            return self._cost(task)
        track = self.tracks[task.id]
        left_s = track.left_s()
        if left_s is not None:
            return max(left_s - (now - track.heard_at), 0.0)
        return max(self._cost(task) - (now - begun.at), 0.0)

    def _cost(self, task: Task) -> float:
        """Return what the last runs of its stage took; else its guess, as far as guesses have held in this sweep.

        The first run of a worker takes seconds longer, for its imports: hence a median, and little trust in how guesses
        of a few seconds have held.
        """
        if task.stage in self.pace:
            return statistics.median(self.pace[task.stage])
        return task.cost_s * (self.taken_s + TRUST_S) / (self.guessed_s + TRUST_S)

    def _stages(self) -> list[Stage]:
        counts: dict[str, dict[str, int]] = {}

        def count(stage: str, status: str, number: int = 1) -> None:
            of_stage = counts.setdefault(stage, {})
            of_stage[status] = of_stage.get(status, 0) + number

        for stage, number in self.cached.items():
            count(stage, "cached", number)
        for task in self.tasks.values():
            status = self.status.get(task.id, "running" if task.id in self.started else "waiting")
            count(task.stage, "failed" if status in BAD else status)
        for task in self.expected:
            count(task.stage, "later")
        return [Stage(name, of_stage) for name, of_stage in counts.items()]

    def _running(self, begun: Started, now: float) -> Running:
        track = self.tracks[begun.id]
        task = self.tasks.get(begun.id)
        left_s = self._left(task, now) if task is not None else 0.0
        return Running(
            name=self.name(begun.id),
            stage=self.stage(begun.id),
            attempt=begun.attempt,
            step=track.step,
            total=track.total,
            loss=track.loss,
            trend=track.losses.thinned(TREND_CELLS),
            held_out=track.held_out,
            best=track.best,
            steps_per_s=track.steps_per_s(),
            tokens_per_s=track.tokens_per_s(),
            left_s=left_s if left_s > 0 or track.left_s() is not None else None,
            node=begun.host,
            device=begun.device,
        )
