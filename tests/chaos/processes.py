"""The processes that a command has started, and only those: found by descent, told from others by their start."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process; `started` (clock ticks since boot) tells it from a later one with the same number."""

    pid: int
    parent: int
    started: int
    words: str

    @property
    def kind(self) -> str:
        """Say what of a sweep it is: driver, raylet, worker, or something else."""
        if self.words.startswith("ray::Worker"):
            return "worker"
        if "raylet/raylet " in self.words or self.words.partition(" ")[0].endswith("/raylet"):
            return "raylet"
        return "driver" if " -m orchestrator " in self.words else "other"


def processes() -> dict[int, Process]:
    """Return all living processes by number; those that have ended but were not waited for are left out."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if fields[0] != "Z":
                found[int(folder.name)] = Process(int(folder.name), int(fields[1]), int(fields[19]), words)
    return found


def family(pid: int) -> list[Process]:
    """Return a process and all that descend from it."""
    everyone = processes()
    members = [everyone[pid]] if pid in everyone else []
    for parent in members:
        members += [other for other in everyone.values() if other.parent == parent.pid]
    return members


def alive(those: set[Process]) -> list[Process]:
    """Return those that still live; one that has changed its title or been adopted is the same."""
    now = {(process.pid, process.started) for process in processes().values()}
    return [process for process in those if (process.pid, process.started) in now]
