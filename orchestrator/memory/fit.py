"""What does not fit, and the settings with which it would: each is tried with the same estimate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from orchestrator.errors import UserError
from orchestrator.memory.limits import USABLE, device_memory, machine_memory
from orchestrator.memory.need import GIB, Need, Parts
from orchestrator.memory.passes import Text
from orchestrator.memory.stages import Facts, facts_of, is_on_gpu, need
from orchestrator.plan import Plan, Run
from orchestrator.store import Store

Settings: TypeAlias = Mapping[str, Any]
PARTS = ("weights", "gradients", "optimiser", "activations")
SHOWN = 3
"""Ways out that a refusal names."""


@dataclass(frozen=True)
class Limits:
    """What there is: bytes of the one machine that all runs execute on (None: there may be others), and its cores.

    `cpus` is 0 where runs go one after the other. With `oversubscribe` nothing is refused.
    """

    machine: float | None = None
    cpus: float = 0.0
    oversubscribe: bool = False


UNKNOWN = Limits()
"""Nothing is known of the machines: only what the places say of their GPUs is checked."""


@dataclass(frozen=True)
class StageMemory:
    """A stage's runs, the most demanding of them, and what one of its workers needs."""

    run: Run
    facts: Facts
    need: Need | None
    runs: tuple[Run, ...]

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.run.stage

    def on_place(self, settings: Settings) -> StageMemory:
        """Return the same with another place."""
        run = replace(self.run, place=self.run.place.model_copy(update=dict(settings)))
        return replace(self, run=run, need=need(run, self.facts))

    def at_least(self) -> StageMemory:
        """Return the same for short sequences, while nothing is known of the data but what it may have at most."""
        text = self.facts.text
        if text is None or text.is_known:
            return self
        facts = replace(self.facts, text=Text(max(1, text.longest // 2), text.share / 2))
        return replace(self, facts=facts, need=need(self.run, facts))


def estimate(plan: Plan, runs: Iterable[Run], store: Store) -> list[StageMemory]:
    """Return the memory of each stage that has runs among these, in their order."""
    by_stage: dict[str, list[Run]] = {}
    for run in runs:
        by_stage.setdefault(run.stage, []).append(run)
    return [_largest(plan, of_stage, store) for of_stage in by_stage.values()]


def _largest(plan: Plan, runs: Sequence[Run], store: Store) -> StageMemory:
    kinds = {}
    for run in runs:
        sources = tuple(run.inputs.get(role) for role in ("base_model", "dataset"))
        kinds[(run.config.model_dump_json(exclude={"seed"}), sources)] = run
    found = []
    for run in kinds.values():
        facts = facts_of(plan, run, store)
        found.append(StageMemory(run, facts, need(run, facts), tuple(runs)))
    return max(found, key=lambda item: 0.0 if item.need is None else item.need.parts.total)


def refuse(memory: Iterable[StageMemory], limits: Limits) -> None:
    """Raise UserError for the first stage that cannot fit, with what it needs, what there is and what would fit.

    Until the data is made only what would not fit with sequences half as long, half as much of them predicted; `tight`
    says what else might not.
    """
    for item in () if limits.oversubscribe else memory:
        if misfit(item.at_least(), limits.machine) is not None:
            raise UserError(f"{_with_ways_out(item, limits.machine)}; or run it all the same with --oversubscribe")


def tight(memory: Iterable[StageMemory], limits: Limits) -> Iterator[str]:
    """Yield what might not fit, depending on the data, or was not refused."""
    for item in memory:
        if misfit(item, limits.machine) is not None:
            yield _with_ways_out(item, limits.machine)


def misfit(item: StageMemory, machine: float | None) -> str | None:
    """Say what a stage needs and what there is; None if it fits, or if one of the two is not known.

    `machine` is the memory in bytes of the one machine that all workers run on, None where that is another one.
    """
    if item.need is None:
        return None
    place = item.run.place
    each = " of each worker" if place.workers > 1 else ""
    there = device_memory(place)
    if there is not None and item.need.device > USABLE * there:
        return (
            f"{item.stage} needs {gib(item.need.device)} GiB of GPU memory{each} ({listed(item.need.parts)}) and the "
            f"{'GPU has' if place.gpus >= 1 else 'share of one has'} {gib(there)}"
        )
    if machine is not None and item.need.host * place.workers > machine:
        own = "" if item.need.is_on_gpu else f" ({listed(item.need.parts)})"
        times = f"{place.workers} x " if place.workers > 1 else ""
        return f"{item.stage} needs {times}{gib(item.need.host)} GiB of memory{own} and this machine has {gib(machine)}"
    return None


def ways(item: StageMemory, machine: float | None) -> Iterator[Settings]:
    """Yield settings of the place with which the stage would fit, gentlest first."""
    for ladder in _ladders(item.run):
        for settings in ladder:
            if settings and misfit(item.on_place(settings), machine) is None:
                yield settings
                break


def _ladders(run: Run) -> Iterator[Iterable[dict[str, Any]]]:
    """Yield sequences of settings, each of one kind and from mild to strict: the first that fits stands for all."""
    place = run.place
    if run.trainable in ("evaluate", "svd_export"):
        yield ({"evaluation_batch_size": size} for size in _halves(place.evaluation_batch_size))
        yield ({"cpus": cpus} for cpus in _halves(int(place.cpus)))
        return
    if run.trainable not in ("teacher", "student", "ia3"):
        return
    batch = int(getattr(run.config, "batch_size", 1))
    share = -(-batch // place.workers)
    sizes = [{"per_device_batch_size": size} for size in _halves(min(place.per_device_batch_size or share, share))]
    savings: list[dict[str, Any]] = [{}] if place.gradient_checkpointing else [{}, {"gradient_checkpointing": True}]
    yield (saving for saving in savings)
    yield (saving | size for saving in savings for size in sizes)
    tighter = [{}, *savings[1:], *(saving | size for saving in savings[-1:] for size in sizes)]
    if is_on_gpu(place):
        counts = [count for count in (1, 2, 4, 8, 16, 32) if place.workers < count <= batch]
        yield ({"workers": count, "zero_stage": 3} | more for count in counts for more in tighter)
        yield ({"zero_stage": 3, "offload": True} | more for more in tighter)


def _halves(size: int) -> Iterator[int]:
    while size > 1:
        size //= 2
        yield size


def _with_ways_out(item: StageMemory, machine: float | None) -> str:
    return f"{misfit(item, machine)}; {_ways_out(item, machine)}"


def _ways_out(item: StageMemory, machine: float | None) -> str:
    found = [_written(item, settings) for settings in ways(item, machine)][:SHOWN]
    if not found:
        return "no placement tried would make it fit: take a larger device, a smaller model or shorter sequences"
    return f"it would fit with {', or '.join(found)}"


def _written(item: StageMemory, settings: Settings) -> str:
    options = " ".join(f"--place {item.stage}.{name}={_value(value)}" for name, value in settings.items())
    changed = item.on_place(settings).need
    if not settings.get("offload") or changed is None:
        return options
    return f"{options} ({gib(changed.host)} GiB of the machine's memory)"


def _value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def crowd(memory: Iterable[StageMemory], limits: Limits) -> str | None:
    """Say which runs could together ask for more than the machine has when they run side by side; None if none could.

    The most demanding runs for their cores come first, as far as the cores go. A reservation (`memory_gib`) keeps Ray
    from starting more than fit, so what is reserved counts as that and no more.
    """
    machine = limits.machine
    if machine is None:
        return None
    free, used, seen = limits.cpus, 0.0, []
    memory = [item for item in memory if item.run.place.memory_gib is None]
    for item in sorted(memory, key=_per_core, reverse=True):
        place = item.run.place
        cores = place.cpus * place.workers
        if item.need is None:
            continue
        count = min(len(item.runs), int(free // cores))
        if count:
            free -= count * cores
            used += count * place.workers * item.need.host
            seen.append(f"{count} x {item.stage} of {gib(item.need.host)}")
    if used <= machine:
        return None
    first = max(memory, key=_per_core)
    reserve = "" if first.need is None else gib(first.need.host)
    return (
        f"side by side {', '.join(seen)} GiB can need {gib(used)} of the {gib(machine)} GiB of this machine; "
        f"reserve it and fewer run at a time: --place {first.stage}.memory_gib={reserve}"
    )


def warnings(memory: Sequence[StageMemory], limits: Limits) -> list[str]:
    """Return what might not fit, alone or side by side, a line each."""
    alone, together = list(tight(memory, limits)), crowd(memory, limits)
    return alone if alone or together is None else [together]


def _per_core(item: StageMemory) -> float:
    return 0.0 if item.need is None else item.need.host / item.run.place.cpus


def here(runs: Iterable[Run], gpus: int) -> float | None:
    """Return this machine's memory in bytes if all the runs could run on it; None if they ask for GPUs it has not."""
    asked = max((run.place.gpus * run.place.workers for run in runs), default=0.0)
    return machine_memory() if asked <= gpus else None


def gib(size: float) -> str:
    """Return bytes as GiB with one digit after the point."""
    return f"{size / GIB:.1f}"


def listed(parts: Parts) -> str:
    """Return the parts of a need in words: "weights 28.4, gradients 28.4"; what is nothing is left out."""
    named = [(name, getattr(parts, name)) for name in PARTS]
    return ", ".join(f"{name} {gib(size)}" for name, size in named if size >= 0.05 * GIB)
