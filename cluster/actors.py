"""A gang's workers as Ray actors, each a fresh process in a bundle of its own of the trial's placement group.

They are owned by the driver in the same group: whatever ends that, ends them. Nothing is restarted by Ray: another
attempt is begun by the sweep, with another group.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util import get_current_placement_group, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.base import Job
from cluster.ending import Ending
from cluster.gang import WorkerLost
from cluster.placement import demand
from cluster.share import REPORT_EVERY_S, Orders, Said, Share, free_port, hide_gpus, portable
from orchestrator.errors import StoreError
from orchestrator.store import Attempt
from trainables.base import Member

END_S = 10.0
"""How long killed actors may take to be gone."""


class Seat:
    """An actor: a fresh process for one worker's share."""

    def begin(self, orders: Orders) -> Said:
        """Take the orders."""
        if not orders.attempt.folder.is_dir():
            host, store = socket.gethostname(), orders.job.store
            return Said(problem=StoreError(f"node {host} does not see the store {store}: mount it there too"))
        try:
            hide_gpus(orders.job.run.place)
            self.share = Share(orders)
        except Exception as error:
            return Said(problem=portable(error))
        return Said()

    def advance(self, seconds: float) -> Said:
        """Go on with the run for a while."""
        try:
            return self.share.advance(seconds)
        except Exception as error:
            return Said(problem=portable(error))


class ActorCrew:
    """Actors in the placement group of this trial. See `cluster.gang.Crew`."""

    def __init__(self) -> None:
        """Look where this trial is: on the node of worker 0."""
        self.address = ray.util.get_node_ip_address()
        self.group = get_current_placement_group()
        self.actors: list[Any] = []
        self.pending: dict[Any, int] = {}

    def free_port(self) -> int:
        """Return a port that worker 0 may listen on."""
        return free_port(self.address)

    def nodes(self) -> tuple[str, ...]:
        """Return the node of each worker."""
        where = placement_group_table(self.group)["bundles_to_node_id"]
        return tuple(node for _, node in sorted(where.items()))

    def start(self, job: Job, attempt: Attempt, members: Iterable[Member], halt: Path | None) -> None:
        """Start an actor for each member and give it its orders; raises WorkerLost if the group has lost a node."""
        state = placement_group_table(self.group)["state"]
        if state != "CREATED":
            raise WorkerLost(f"its placement group is {state.lower()}")
        bundle = demand(job.run.place).bundle
        for member in members:
            actor = (
                ray.remote(Seat)
                .options(
                    max_restarts=0,
                    num_cpus=bundle.get("CPU", 0.0),
                    num_gpus=bundle.get("GPU", 0.0),
                    memory=int(bundle["memory"]) if "memory" in bundle else None,
                    scheduling_strategy=PlacementGroupSchedulingStrategy(
                        self.group, placement_group_bundle_index=member.rank, placement_group_capture_child_tasks=True
                    ),
                )
                .remote()
            )
            self.actors.append(actor)
            self.pending[actor.begin.remote(Orders(job, attempt, member, halt))] = member.rank

    def hear(self, timeout_s: float) -> Iterator[tuple[int, Said]]:
        """Wait until a worker speaks; yield ranks and what was said."""
        ready, _ = ray.wait(list(self.pending), num_returns=1, timeout=timeout_s)
        for answer in ready:
            rank = self.pending.pop(answer)
            said = self._answer(answer)
            if said.ending is None and said.problem is None:
                self.pending[self.actors[rank].advance.remote(REPORT_EVERY_S)] = rank
            yield rank, said

    def end(self) -> None:
        """Kill what is left; return when it is gone."""
        for actor in self.actors:
            ray.kill(actor)
        gone = [actor.advance.remote(0.0) for actor in self.actors]
        if gone:
            ray.wait(gone, num_returns=len(gone), timeout=END_S)
        self.actors.clear()
        self.pending.clear()

    def _answer(self, answer: Any) -> Said:
        try:
            said: Said = ray.get(answer)
        except RayTaskError as error:
            return Said(problem=portable(error))
        except RayError as error:
            return Said(ending=Ending("lost", error=" ".join(str(error).split())))
        return said
