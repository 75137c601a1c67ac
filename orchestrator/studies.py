"""Finding a study by its name or by the path of a user's own file."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import re
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import search_spaces
from orchestrator.changes import UNCHANGED, Changes, changed
from orchestrator.errors import InputError, UnknownName, UserError
from orchestrator.rehearsal import REPETITION, rehearse
from orchestrator.study import Origin, Study, repeats
from search_spaces.scales import SCALES

DEFAULT_SCALE = "laptop"
USER = "user_study_"
"""Before the name of the module of a study in a user's own file."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def names() -> list[str]:
    """Return the names of the built-in studies."""
    return sorted(path.stem for path in _folder().glob("*.py") if path.stem != "__init__")


def summary(name: str) -> str:
    """Return the first line of a study's docstring, without importing it."""
    return _summary(_folder() / f"{name}.py")


def load(study: str, changes: Changes = UNCHANGED) -> Study:
    """Return a study by its name or by the path of a `.py` file, with the command line's changes applied."""
    module = _module(study)
    scale_name = changes.scale or str(getattr(module, "DEFAULT_SCALE", DEFAULT_SCALE))
    if scale_name not in SCALES:
        raise UnknownName(f"no scale named {scale_name!r}", SCALES, scale_name)
    scale = SCALES[scale_name]
    with _mistakes_in(module):
        built = module.build(scale)
    if not isinstance(built, Study):
        raise UserError(f"{study}: build(scale) returned a {type(built).__name__}, not an orchestrator.study.Study")
    if not NAME.fullmatch(built.name):
        raise UserError(f"{study}: the study's name {built.name!r} must be letters, digits, '_', '.' and '-'")
    name = str(Path(study).expanduser().absolute()) if module.__name__.startswith(USER) else study
    origin = Origin(name, changes.settings, changes.axes, changes.teacher)
    built = replace(built, scale=built.scale or scale_name, origin=origin)
    if scale.rehearsal is None:
        return changed(built, changes)
    if built.search is not None:
        raise UserError(f"{built.name} searches and gives no verdict: there is nothing to rehearse; take another scale")
    return rehearse(
        changed(built.with_axis(REPETITION, repeats(scale.rehearsal.repetitions)), changes), scale.rehearsal
    )


def _module(study: str) -> ModuleType:
    if study.endswith(".py") or "/" in study:
        return _module_of_file(Path(study).expanduser().absolute())
    if study not in names():
        raise UnknownName(f"no study named {study!r}", names(), study)
    return importlib.import_module(f"search_spaces.{study}")


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"no study file {path}; give a built-in study ({', '.join(names())}) or a .py file")
    spec = importlib.util.spec_from_file_location(f"{USER}{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        with _mistakes_in(module):
            spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"{path} line {error.lineno}: {error.msg}") from None
    except ImportError as error:
        raise UserError(f"{path}: {error}") from None
    if not callable(getattr(module, "build", None)):
        raise UserError(f"{path} defines no build(scale) that returns a Study; search_spaces/rank_study.py is one")
    return module


@contextlib.contextmanager
def _mistakes_in(module: ModuleType) -> Iterator[None]:
    """Turn what goes wrong in a user's own file into a line that names its place; a built-in study keeps its traceback.

    What names itself already passes: our mistakes, and what cannot be parsed or imported.
    """
    try:
        yield
    except (InputError, SyntaxError, ImportError):
        raise
    except Exception as error:
        path = module.__file__
        if not module.__name__.startswith(USER) or path is None:
            raise
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        where = f"{path} line {lines[-1]}" if lines else path
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.splitlines()[0] if docstring else ""


def _folder() -> Path:
    return Path(next(iter(search_spaces.__path__)))


def scales() -> Iterable[tuple[str, str]]:
    """Return the name and the line of every scale."""
    return [(scale.name, scale.about) for scale in SCALES.values()]
