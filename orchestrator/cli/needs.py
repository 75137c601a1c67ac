"""What a plan needs, as `plan` shows it: a table of placement and disk, and one of memory, or the same as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cluster.placement import bundles
from orchestrator.memory.disk import StageDisk, disk, most
from orchestrator.memory.fit import PARTS, Limits, StageMemory, estimate, gib, here, refuse, warnings
from orchestrator.memory.limits import device_memory
from orchestrator.memory.need import GIB
from orchestrator.memory.stages import is_on_gpu

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from orchestrator.plan import Plan, Run
    from orchestrator.store import Store


@dataclass(frozen=True)
class Needs:
    """Memory and disk of the runs that are missing, and what there is."""

    memory: Sequence[StageMemory]
    disk: Sequence[StageDisk] | None
    limits: Limits

    @classmethod
    def of(cls, plan: Plan, missing: Sequence[Run], store: Store, limits: Limits) -> Needs:
        """Return the needs of the runs that a plan lacks."""
        memory = estimate(plan, missing, store)
        return cls(memory, disk(memory, limits.cpus), limits)

    @property
    def disk_gib(self) -> float | None:
        """Disk that is enough for all, in GiB; None if the model's size is not known."""
        return None if self.disk is None else most(self.disk) / GIB

    def answer(self) -> int:
        """Return the exit code; raises UserError for the first stage that cannot fit, unless told otherwise."""
        refuse(self.memory, self.limits)
        return 0

    def warnings(self) -> list[str]:
        """Return what might not fit, and what might not fit together."""
        return warnings(self.memory, self.limits)

    def print(self, out: Console) -> None:
        """Print both tables, and what they rest on."""
        if not self.memory:
            return
        out.print()
        out.print(_placements(self))
        out.print()
        if any(item.need is not None for item in self.memory):
            out.print(_memory(self))
        out.print(_legend(self), style="dim")

    def json(self) -> list[dict[str, Any]]:
        """Return one object a stage: runs, placement group, memory of a worker and disk, in bytes."""
        written = {stage.stage: stage for stage in self.disk or ()}
        return [_as_json(item, written.get(item.stage)) for item in self.memory]


def _placements(needs: Needs) -> Table:
    table = _table(("stage", "runs", "placement group of a run", "disk kept", "+ running"), text={0, 2})
    disks = {stage.stage: (_amount(stage.kept), _amount(stage.working)) for stage in needs.disk or ()}
    for item in needs.memory:
        sizes = disks.get(item.stage, ("?", "?"))
        table.add_row(item.stage, str(len(item.runs)), bundles(item.run.place), *sizes)
    return table


def _memory(needs: Needs) -> Table:
    titles = ("one worker", "peak in", *PARTS, "total", "limit", "host")
    table = _table(titles, text={0, 1})
    for item in needs.memory:
        if item.need is None:
            table.add_row(item.stage, *("?" for _ in titles[1:]))
            continue
        there = device_memory(item.run.place) if is_on_gpu(item.run.place) else needs.limits.machine
        total = item.need.device if item.need.is_on_gpu else item.need.host
        sizes = [_amount(getattr(item.need.parts, name)) for name in PARTS]
        sizes += [gib(total), "?" if there is None else gib(there), gib(item.need.host) if item.need.is_on_gpu else ""]
        table.add_row(item.stage, item.need.peak.name, *sizes)
    return table


def _table(titles: Sequence[str], *, text: set[int]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index in text else "right", no_wrap=True)
    return table


def _amount(size: float) -> str:
    """Return bytes as GiB, and nothing for next to nothing."""
    return gib(size) if size >= 0.05 * GIB else "-"


def _legend(needs: Needs) -> str:
    texts = [item.facts.text for item in needs.memory if item.facts.text is not None]
    if all(item.need is None for item in needs.memory):
        return "memory and disk are known once model and data are there: plan again after --until dataset"
    said = "GiB, at most; running: checkpoints while runs last; total: on a CPU with the process"
    if any(item.need is not None and item.need.is_on_gpu for item in needs.memory):
        said += "; host: of each worker, beside its GPU"
    if any(item.need is None for item in needs.memory):
        said += "; ? is known once model and data are there"
    if texts and not texts[0].is_known:
        said += f"; reckons with sequences of {texts[0].longest} tokens, all predicted, until the data is made"
    elif texts:
        said += f"; the data's longest sequence has {texts[0].longest} tokens"
    return said


def _as_json(item: StageMemory, written: StageDisk | None) -> dict[str, Any]:
    need, place = item.need, item.run.place
    memory = None
    if need is not None:
        there = device_memory(place)
        memory = {**asdict(need.parts), "phase": need.peak.name, "device": need.device, "machine": need.host}
        memory["device_limit"] = there
    return {
        "stage": item.stage,
        "runs": len(item.runs),
        "placement_group": bundles(place),
        "workers": place.workers,
        "memory_bytes_per_worker": memory,
        "disk_bytes": None if written is None else {"kept": written.kept, "while_running": written.working},
    }


def limits_of(plan: Plan, *, cpus: float, oversubscribe: bool, is_elsewhere: bool = False) -> Limits:
    """Return what there is for a plan: this machine's memory, if its GPUs suffice and the runs are not elsewhere."""
    from cluster.processes import visible_devices

    machine = None if is_elsewhere else here(plan.runs, len(visible_devices()))
    return Limits(machine, cpus, oversubscribe)
