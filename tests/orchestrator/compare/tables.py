"""Tables as other tools write them, and `compare` run on them through the command line."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.__main__ import main

# Paired differences svd - random of seeds 1 to 6: all negative, mean -0.2, range -0.3 to -0.1.
DIFFERENCES = (-0.3, -0.25, -0.2, -0.2, -0.15, -0.1)
USUAL = ("--arm", "init", "--baseline", "random", "--pair", "seed", "--metric", "eval_loss")


def runs(differences=DIFFERENCES, rank=None, start=1):
    """Return rows of two arms whose losses differ by exactly so much at each seed."""
    found = []
    for seed, difference in enumerate(differences, start=start):
        more = {} if rank is None else {"rank": rank}
        base = 1.0 + 0.05 * seed
        found.append({"init": "random", **more, "seed": seed, "eval_loss": base})
        found.append({"init": "svd", **more, "seed": seed, "eval_loss": base + difference})
    return found


def curves(values):
    """Return rows of a step table: {(init, seed): [(step, loss), ...]}."""
    return [
        {"init": init, "seed": seed, "step": step, "eval_loss": loss}
        for (init, seed), curve in values.items()
        for step, loss in curve
    ]


def write(path: Path, rows) -> Path:
    """Write rows as CSV, or JSON lines, by the path's ending; a missing key is an empty cell."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    titles = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(titles)]
    lines += [",".join("" if row.get(name) is None else str(row[name]) for name in titles) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def answer(capsys, table, *options, usual=USUAL):
    """Return the parsed JSON of `compare` on a table."""
    assert main(["compare", str(table), *usual, *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=lambda name: 1 / 0)


def refusal(capsys, table, *options, usual=USUAL):
    """Return the one line with which `compare` refuses."""
    assert main(["compare", str(table), *usual, *options]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def said(found, words):
    """Say whether one of the notes holds these words."""
    return any(words in note for note in found["notes"])
