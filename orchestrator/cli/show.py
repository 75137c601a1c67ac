"""`show`: one run by name or id: config, inputs, curve, sample answers, provenance, files."""

from __future__ import annotations

import argparse
import json
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.text import Text

from orchestrator.cli.options import add_json, add_store, console, existing_store, print_json
from orchestrator.progress import sparkline

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from orchestrator.record import Record

SAMPLES = 5


def add(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("show", help="one run: config, curve, answers, provenance, files", description=__doc__)
    parser.add_argument("run", help='a readable name ("svd r16 s2"), an id, or a unique beginning of an id')
    add_store(parser)
    add_json(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the run's record."""
    from orchestrator.errors import StoreError
    from orchestrator.lookup import find_run

    store = existing_store(options)
    run_id = find_run(options.run, store)
    record = store.record(run_id)
    if record is None:
        raise StoreError(f"{run_id} has no record that can be read; the sweep that it belongs to makes it again")
    if options.json:
        print_json(record.model_dump(mode="json"))
        return 0
    folder = store.artefact(run_id)
    if not folder.is_dir():
        folder = store.failures / run_id / str(record.provenance.attempt)
    _print(console(), record, folder)
    return 0


def _print(out: Console, record: Record, folder: Path) -> None:
    said = f"  {record.id}  {record.status}" + (f": {record.error}" if record.error else "")
    out.print(Text.assemble((record.name, "bold"), said))
    _section(out, "config", record.settings)
    _section(out, "inputs", record.inputs)
    _section(out, "metrics", record.metrics)
    for name in ("loss", "eval_loss"):
        values = [value for value in record.history.get(name, []) if value is not None]
        if len(values) > 1:
            out.print(f"{name:<10} {values[0]:.3f} {sparkline(values)} {values[-1]:.3f}")
    _print_answers(out, folder / "answers.jsonl")
    about = record.provenance
    packages = " ".join(f"{name} {version}" for name, version in about.packages.items())
    _section(
        out,
        "provenance",
        {
            "when": f"{about.started} to {about.finished}, {about.seconds:.1f} s, attempt {about.attempt}",
            "where": f"{about.host}, {about.device}, peak memory {about.peak_memory_gib} GiB",
            "source": f"{record.trainable} version {record.version} ({about.source}), git {about.git or 'none'}",
            "packages": packages,
        },
    )
    out.print(Text.assemble(("\nfiles", "bold"), f" in {folder}"), soft_wrap=True)
    for name, file in record.files.items():
        out.print(f"  {name:<40} {file.size:>14,} bytes")


def _section(out: Console, title: str, values: dict[str, Any]) -> None:
    if not values:
        return
    out.print(f"\n{title}", style="bold")
    for name, value in values.items():
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        out.print(f"  {name:<26} {shown}", soft_wrap=True)


def _print_answers(out: Console, path: Path) -> None:
    if not path.is_file():
        return
    out.print("\nanswers", style="bold")
    with path.open() as stream:
        for line in islice(stream, SAMPLES):
            answer = json.loads(line)
            mark = {True: "right", False: "wrong", None: ""}[answer.get("correct")]
            shown = f"{answer['prompt'][-60:]!r} -> {answer['given'][:40]!r} ({answer['reference']!r})"
            out.print(f"  {mark:<6} {shown}", soft_wrap=True)
