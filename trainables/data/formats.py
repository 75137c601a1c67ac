"""What the fields of a record mean: five formats, all of them turned into turns of a conversation and a completion.

A format is chosen by the fields of the first record, or named; each setting `prompt`, `completion`, `answer` maps a
field of another name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from trainables.base import InputError
from trainables.data.records import Record

Format: TypeAlias = Literal["prompt_completion", "question_answer", "instruction", "messages", "text"]
FIELDS: Mapping[Format, tuple[str, str]] = {
    "prompt_completion": ("prompt", "completion"),
    "question_answer": ("question", "answer"),
    "instruction": ("instruction", "output"),
    "messages": ("messages", "messages"),
    "text": ("text", "text"),
}
"""The fields of prompt and completion by format; what has one of the first kind is taken for that format."""


@dataclass(frozen=True)
class Sample:
    """One item before tokens: what comes before, what is to be learnt, what a right answer is."""

    turns: tuple[tuple[str, str], ...]
    completion: str
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """All turns as one text, to compare samples by."""
        return "\n".join(content for _, content in self.turns)


@dataclass(frozen=True)
class Mapped:
    """A format with the names that its fields have in this file."""

    format: Format
    prompt: str
    completion: str
    answer: str | None

    def samples(self, records: Iterable[Record]) -> list[Sample]:
        """Return the samples of all records; raises InputError naming the first record that does not fit."""
        read = READERS[self.format]
        return [read(self, record) for record in records]


def choose(
    records: Sequence[Record],
    wanted: Format | Literal["auto"],
    *,
    prompt: str | None = None,
    completion: str | None = None,
    answer: str | None = None,
) -> Mapped:
    """Return the format to read the records with; raises InputError if their fields fit none."""
    first = records[0]
    chosen = wanted
    if chosen == "auto":
        chosen = next((name for name, fields in FIELDS.items() if fields[0] in first.fields), "auto")
    if chosen == "auto":
        if prompt is None and completion is None:
            raise InputError(
                f"{first.where}: no format has its fields. Found: {', '.join(first.fields) or 'none'}. "
                "Map them with --set dataset.prompt=FIELD --set dataset.completion=FIELD"
            )
        chosen = "prompt_completion"
    return Mapped(chosen, prompt or FIELDS[chosen][0], completion or FIELDS[chosen][1], answer)


def _value(record: Record, name: str, setting: str) -> Any:
    if name not in record.fields:
        found = ", ".join(record.fields) or "none"
        other = next((field for field in record.fields if field not in ("id", "question", "prompt")), "FIELD")
        raise InputError(
            f"{record.where}: no field {name!r}. Found: {found}. Map it with --set dataset.{setting}={other}"
        )
    return record.fields[name]


def _text(record: Record, name: str, setting: str) -> str:
    value = _value(record, name, setting)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        kind = "null" if value is None else f"a {type(value).__name__}"
        raise InputError(f"{record.where}: field {name!r} is {kind} instead of text; fill it or take the record out")
    if not value.strip():
        raise InputError(f"{record.where}: field {name!r} is empty; fill it or take the record out")
    return value


def _answer(mapped: Mapped, record: Record, completion: str) -> str:
    return completion if mapped.answer is None else _text(record, mapped.answer, "answer")


def _read_pair(mapped: Mapped, record: Record) -> Sample:
    prompt = _text(record, mapped.prompt, "prompt")
    completion = _text(record, mapped.completion, "completion")
    return Sample((("user", prompt),), completion, _answer(mapped, record, completion))


def _read_instruction(mapped: Mapped, record: Record) -> Sample:
    sample = _read_pair(mapped, record)
    extra = record.fields.get("input")
    if not isinstance(extra, str) or not extra.strip():
        return sample
    return Sample((("user", f"{sample.prompt}\n\n{extra}"),), sample.completion, sample.answer)


def _read_messages(mapped: Mapped, record: Record) -> Sample:
    """Return the last turn as completion, what is before as prompt."""
    messages = _value(record, mapped.prompt, "prompt")
    if not isinstance(messages, list) or len(messages) < 2:
        raise InputError(f"{record.where}: field {mapped.prompt!r} must be a list of at least two messages")
    turns = tuple(_turn(record, index, message) for index, message in enumerate(messages, start=1))
    if turns[-1][0] != "assistant":
        raise InputError(f"{record.where}: its last message is the {turns[-1][0]}'s; it must be the assistant's")
    return Sample(turns[:-1], turns[-1][1], _answer(mapped, record, turns[-1][1]))


def _turn(record: Record, index: int, message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise InputError(f"{record.where}: message {index} is not an object with role and content")
    role, content = message["role"], message["content"]
    if role not in ("system", "user", "assistant"):
        raise InputError(f"{record.where}: message {index} has the role {role!r}; known: assistant, system, user")
    if not isinstance(content, str) or not content.strip():
        raise InputError(f"{record.where}: message {index} has no text; fill it or take the record out")
    return role, content


def _read_text(mapped: Mapped, record: Record) -> Sample:
    return Sample((), _text(record, mapped.prompt, "prompt"), "")


READERS: Mapping[Format, Callable[[Mapped, Record], Sample]] = {
    "prompt_completion": _read_pair,
    "question_answer": _read_pair,
    "instruction": _read_instruction,
    "messages": _read_messages,
    "text": _read_text,
}
