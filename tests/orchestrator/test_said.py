"""What the verbs say: texts as they were given, and the way on that fits where one stands."""

from __future__ import annotations

from rich.table import Table

from orchestrator.__main__ import main
from orchestrator.cli.options import console

STUDY = """
from dataclasses import replace
from search_spaces import smoke

def build(scale):
    study = smoke.build(scale)
    return replace(study, name="mine", description=r"which of [qkvo]_proj, [bold] or not :smile:")
"""


def test_brackets_in_a_text_are_text(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(STUDY)
    assert main(["plan", str(tmp_path / "mine.py"), "--store", str(tmp_path / "s")]) == 0
    assert "which of [qkvo]_proj, [bold] or not :smile:" in capsys.readouterr().out


def test_brackets_in_a_table_are_text(capsys):
    table = Table("reason")
    table.add_row(r"target_modules all-linear -> .*\.[qkvo]_proj")
    console().print(table)
    assert r".*\.[qkvo]_proj" in capsys.readouterr().out


def test_status_says_where_there_is_no_store(tmp_path, capsys):
    assert main(["status", "--store", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == f"no store at {tmp_path / 'none'}\n"
