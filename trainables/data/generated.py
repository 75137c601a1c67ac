"""reasoning-gym's procedural tasks: which there are, which parameters they take, and their items.

Planning looks at the package's source instead of importing it, which takes over a second.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.base import InputError
from trainables.data.formats import Sample

OURS = ("seed", "size")
"""Parameters of every task that are settings of the dataset itself."""
NAME = re.compile(r'^DATASET_NAME\s*=\s*"(\w+)"', re.MULTILINE)


def version() -> str:
    """Return the installed version of reasoning-gym, which the items depend on."""
    return importlib.metadata.version("reasoning-gym")


@functools.cache
def tasks() -> dict[str, Path]:
    """Return the source file of every task by the task's name."""
    found = importlib.util.find_spec("reasoning_gym")
    if found is None or not found.submodule_search_locations:
        raise InputError("reasoning-gym is not installed: pip install reasoning-gym")
    files = Path(found.submodule_search_locations[0]).rglob("*.py")
    named = ((NAME.search(path.read_text(encoding="utf-8")), path) for path in files)
    return {match[1]: path for match, path in sorted(named, key=lambda pair: pair[1]) if match}


@dataclass(frozen=True)
class _Parameters:
    """The config class of a task, as source, and the names of its fields."""

    source: ast.ClassDef
    names: tuple[str, ...]


@functools.cache
def _parameters(task: str) -> _Parameters:
    tree = ast.parse(tasks()[task].read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _called(node) == "register_dataset")
    name = next(argument.id for call in calls for argument in call.args[2:3] if isinstance(argument, ast.Name))
    source = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    fields = (
        node.target.id for node in source.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    )
    return _Parameters(source, tuple(sorted(set(fields) - set(OURS))))


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def parameter_names(task: str) -> tuple[str, ...]:
    """Return the names of a task's own parameters, sorted."""
    return _parameters(task).names


def check_parameters(task: str, parameters: Mapping[str, Any]) -> None:
    """Raise InputError for a parameter that the task has not, or a value that it refuses."""
    known = parameter_names(task)
    for name in parameters:
        if name not in known:
            hint = f"; {name} is a setting of the dataset itself" if name in OURS else ""
            raise InputError(f"dataset.generator: {task} has no parameter {name!r}. Known: {', '.join(known)}{hint}")
    try:
        _validate(task, parameters)
    except (AssertionError, TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value}" for name, value in parameters.items())
        raise InputError(f"dataset.generator: {task} refuses {given}: {error or type(error).__name__}") from None


def _validate(task: str, parameters: Mapping[str, Any]) -> None:
    """Let the task's config class judge the parameters: alone, or in its package where it needs more of that."""
    import dataclasses
    import typing

    source = _parameters(task).source
    names: dict[str, Any] = {**vars(typing), "dataclass": dataclasses.dataclass, "field": dataclasses.field}
    try:
        module = ast.Module([source], type_ignores=[])
        exec(compile(module, str(tasks()[task]), "exec"), names)  # noqa: S102  the installed package's own source
        config = names[source.name](**parameters)
        getattr(config, "validate", lambda: None)()
    except NameError:
        import reasoning_gym.factory

        config = reasoning_gym.factory.DATASETS[task][1](**parameters)
        getattr(config, "validate", lambda: None)()


def first_seed(seed: int) -> int:
    """Return the seed of the first item.

    reasoning-gym makes item i from seed + i, so that datasets of seeds 1 and 2 would share all items but one.
    """
    return int.from_bytes(hashlib.sha256(f"dataset {seed}".encode()).digest()[:4], "big") // 2


def generate(
    task: str, parameters: Mapping[str, Any], seed: int, limit: int, *, completion: str | None = None
) -> Iterator[Sample]:
    """Yield at most `limit` items of a task, one after the other, the same for the same seed.

    `completion` names the metadata to learn instead of the bare answer, such as gsm_symbolic's `answer_cot`.
    """
    import reasoning_gym

    dataset = reasoning_gym.create_dataset(task, seed=first_seed(seed), size=limit, **parameters)
    for index in range(limit):
        item = dataset[index]
        metadata = {**item["metadata"], "source_dataset": task, "question": item["question"]}
        answer = str(item["answer"])
        learnt = answer if completion is None else _completion(task, metadata, completion)
        yield Sample((("user", item["question"]),), learnt, answer, json.loads(json.dumps(metadata, default=str)))


def _completion(task: str, metadata: Mapping[str, Any], name: str) -> str:
    text = metadata.get(name)
    if not isinstance(text, str) or not text.strip():
        texts = ", ".join(key for key, value in metadata.items() if isinstance(value, str)) or "none"
        raise InputError(f"dataset.completion={name}: {task} has no such text with its items. Texts: {texts}")
    return text
