"""The kills as a Markdown table, with a line that sums them up and how to repeat them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.chaos import SWEEP
from tests.chaos.kills import HALF, Done, stage

if TYPE_CHECKING:
    from tests.chaos.__main__ import Chaos

TITLES = (
    "",
    "store",
    "victim",
    "moment",
    "what the kill met",
    "running (step)",
    "the command then",
    "afterwards",
    "end",
)


def cells(number: int, done: Done) -> list[str]:
    """Return a kill as one row of the table."""
    kill = done.kill
    moment = f"{kill.after_s:.1f} s" if kill.moment == "any time" else kill.moment
    running = ", ".join(f"{stage(one.run_id)} {one.step}/{one.total}" for one in done.met)
    then = ", ".join(f"{stage(one.run_id)} {done.then.get(one.run_id, 'not yet')}" for one in done.met)
    code = "" if done.code is None else f"exit {done.code}"
    return [
        str(number),
        str(done.store),
        kill.victim,
        moment,
        done.during,
        running or "–",
        code,
        then or "–",
        done.outcome,
    ]


def row(number: int, done: Done) -> str:
    """Return a kill as a line for the terminal."""
    return "  ".join(cells(number, done)[:6])


def markdown(chaos: Chaos, asked: int, seconds: float) -> str:
    """Return the page: what was done, the sum, every kill, and what was wrong if anything was."""
    kills, wrong = chaos.done, chaos.wrong
    victims = Counter(done.kill.victim for done in kills)
    half = [done.kill.moment for done in kills if done.during.endswith(HALF)]
    sums = ", ".join(f"{count} x {victim}" for victim, count in victims.most_common())
    met_half = f"{half.count('checkpoint')} in the middle of a checkpoint, {half.count('commit')} of a commit"
    end = f"**{len(wrong)} things wrong**" if wrong else "**every sweep ended as if undisturbed**"
    cost = f"{chaos.finished} sweeps, {chaos.commands} commands, {seconds / 60:.0f} minutes"
    verdict = f"{len(kills)} kills ({sums}; {met_half}) on {cost}: {end}."
    lines = [
        "# Random kills",
        "",
        "Made by the command below; who is killed and when is drawn from the seed, what exactly that meets is the "
        "machine's chance. After each kill of the driver (or of the raylet, which ends it) the same command is given "
        "again; a killed worker is replaced by the command itself. In the end every store is compared with one that "
        "nobody disturbed: `results.csv` equal but for times and memory, no run lost, none executed again after its "
        "commit (times of the record files), sha256 of every artefact, one MLflow run per run and none RUNNING, "
        "nothing left in `work/` or in Ray's temporary folder, no process left behind.",
        "",
        f"    python -m tests.chaos --kills {asked} --seed {chaos.seed} --out docs/chaos.md",
        "",
        f"The sweep is `python -m orchestrator {SWEEP}`.",
        "",
        verdict,
        "",
        f"| {' | '.join(TITLES)} |",
        f"|{'---|' * len(TITLES)}",
        *(f"| {' | '.join(cells(number, done))} |" for number, done in enumerate(kills, 1)),
    ]
    return "\n".join([*lines, *(["", *(f"- {line}" for line in wrong)] if wrong else [])]) + "\n"
