"""The digest of the code behind a result: all of it, and nothing else."""

from __future__ import annotations

import modulefinder
from pathlib import Path

import pytest

import trainables
from trainables import source

FINDERS = {"inits", "tasks"}
"""Packages whose modules are found by a name in a config."""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that writes the files of a package in the place of `trainables`."""
    root = tmp_path / "trainables"
    root.mkdir()
    monkeypatch.setattr(source, "ROOT", root)
    monkeypatch.setattr(source, "CONTRACT", root / "base.py")

    def write(**files: str) -> Path:
        source.digest.cache_clear()
        for name, text in files.items():
            (root / f"{name}.py").write_text(text)
        return root

    yield write
    source.digest.cache_clear()


def test_what_a_module_imports_through_others_changes_its_digest(package):
    root = package(
        teacher="from trainables.loop import train",
        loop="def train():\n    from trainables.steps import (\n        one,  # first\n        two as second,\n    )\n",
        steps="one = two = 1",
        other="",
    )
    before = source.digest(root / "teacher.py")
    package(other="changed = True")
    assert source.digest(root / "teacher.py") == before
    package(steps="one = two = 2")
    assert source.digest(root / "teacher.py") != before


def test_a_module_of_a_package_and_the_package_itself_count(package):
    root = package(student="from trainables import loop\nfrom trainables.inits import start\n", loop="", base="")
    (root / "inits").mkdir()
    (root / "inits" / "__init__.py").write_text("def start(): ...\n")
    assert source.reached([root / "student.py"]) == {
        root / "student.py",
        root / "loop.py",
        root / "inits" / "__init__.py",
    }


def test_how_a_run_is_called_and_who_imports_whom_in_a_circle_do_not_matter(package):
    root = package(a="from trainables.base import Context\nfrom trainables.b import x", b="from trainables.a import y")
    package(base="")
    assert source.reached([root / "a.py"]) == {root / "a.py", root / "b.py"}


def test_a_plugin_counts_where_the_config_names_it(package):
    root = package(student="", svd="", random="")
    before = source.digest(root / "student.py", ("svd.py",))
    package(random="changed = True")
    assert source.digest(root / "student.py", ("svd.py",)) == before
    package(svd="changed = True")
    assert source.digest(root / "student.py", ("svd.py",)) != before


@pytest.mark.parametrize("name", trainables.names())
def test_the_standard_library_finds_no_further_module(name):
    """`modulefinder` reads byte code where we read text; torch and the like are left out of its search."""
    module = Path(trainables.find(name).run.__code__.co_filename)
    finder = modulefinder.ModuleFinder(path=[str(source.ROOT.parent)])
    finder.run_script(str(module))
    theirs = {Path(found.__file__) for key, found in finder.modules.items() if key.startswith("trainables.")}
    assert theirs - {source.CONTRACT, *_used_by_the_contract()}, "it has found something"
    packages = {path for path in theirs if path.name == "__init__.py"}  # every package on the way is imported, too
    assert theirs - packages - {source.CONTRACT} - _used_by_the_contract() <= source.reached([module])


def _used_by_the_contract() -> set[Path]:
    return {source.ROOT / "source.py"}


def test_what_is_found_by_name_is_a_plugin():
    finding = {path.parent.name for path in source.ROOT.rglob("*.py") if "importlib.import_module(" in path.read_text()}
    assert finding == {*FINDERS, source.ROOT.name}
