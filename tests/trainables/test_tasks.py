"""Answer checkers: the contract over every file, and the maths checker against Python's own numbers."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainables import tasks
from trainables.base import InputError
from trainables.tasks.maths import answer_of

maths = tasks.find("maths")
exact = tasks.find("exact")


def maths_agrees(one: str, other: str) -> bool:
    assert maths.check is not None
    return maths.check(one, other, {})


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_is_named_after_its_file_and_judges_or_says_that_it_cannot(name: str) -> None:
    task = tasks.find(name)
    assert task.name == name
    assert task.label
    assert task.check is None or callable(task.check)
    assert task.is_answer("certainly no reference") is False


@pytest.mark.parametrize("name", ["exact", "maths"])
@pytest.mark.parametrize("answer", ["12", "-3/4", "1,234.50"])
def test_a_reference_answers_itself_and_nothing_else_does(name: str, answer: str) -> None:
    check = tasks.find(name).check
    assert check is not None
    assert check(answer, answer, {})
    assert not check("77", answer, {})
    assert not check("", answer, {})


def test_all_tasks_load_without_torch() -> None:
    code = "import sys\nfrom trainables import tasks\n[tasks.find(n) for n in tasks.names()]\n"
    code += "print([m for m in ('torch', 'transformers', 'reasoning_gym', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_an_unknown_task_is_named_with_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"no task named 'math'\. Did you mean 'maths'\? Known: exact, maths"):
        tasks.find("math")


@pytest.mark.parametrize(
    ("given_text", "reference"),
    [
        ("So 3 + 4 = 7, and the answer is 12. That took 2 days.", "12"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        (r"\frac12", "1/2"),
        ("50%", "1/2"),
        ("50 %", "50"),
        (r"\boxed{50\%}", "0.5"),
        ("$1,234.00", "1234"),
        ("1{,}000", "1000"),
        ("1 1/2", "1.5"),
        ("\u22123", "-3"),
        ("10 - 12 = -2", "-2"),
        ("5-3=2", "2"),
        (r"3.2 \times 10^{3}", "3200"),
        ("the cot\n#### 72", "It is so.\n#### 72"),
        ("72 km/h", "72"),
        ("an area of 5 m^2", "5"),
        ("5 cm^{2}", "5"),
        (r"first \boxed{3}, no: \boxed{4}", "4"),
        (r"\boxed{x + 1}", r"\boxed{x+1}"),
        (r"\text{about } 7 \text{ apples}", "7"),
        ("**12**", "12"),
        ("12.", "12"),
    ],
)
def test_ways_to_write_the_same_number_agree(given_text: str, reference: str) -> None:
    assert maths_agrees(given_text, reference)


@pytest.mark.parametrize(
    ("given_text", "reference"),
    [
        ("12", "-12"),
        ("1/0", "0"),
        ("no number", "0"),
        ("50%", "0.05"),
        ("50%", "5000"),
        (r"\boxed{x+1}", "1"),
        ("", "0"),
    ],
)
def test_what_is_another_number_or_none_is_wrong(given_text: str, reference: str) -> None:
    assert not maths_agrees(given_text, reference)


fractions = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=1000)


@given(fractions)
def test_a_fraction_is_read_exactly_in_every_notation(value: Fraction) -> None:
    sign = "-" if value < 0 else ""
    top, bottom = abs(value).numerator, value.denominator
    notations = [
        f"{sign}{top}/{bottom}",
        rf"\boxed{{{sign}\frac{{{top}}}{{{bottom}}}}}",
        f"so x = {sign}{top}/{bottom} m.",
    ]
    if top > bottom > 1:
        notations.append(f"{sign}{top // bottom} {top % bottom}/{bottom}")
    for notation in notations:
        found = answer_of(notation)
        assert found is not None
        assert found.value == value, notation


@given(st.decimals(min_value=-(10**12), max_value=10**12, allow_nan=False, allow_infinity=False, places=4))
def test_thousands_separators_and_zeros_at_the_end_change_nothing(value: object) -> None:
    plain, separated = f"{value:f}", f"{value:,}"
    assert maths_agrees(plain, separated)
    assert maths_agrees(f"It costs ${separated} in all.", f"{plain}00")


@given(fractions, fractions)
def test_two_numbers_agree_only_if_they_are_equal(one: Fraction, other: Fraction) -> None:
    assert maths_agrees(f"{one}", f"{other}") == (one == other)


@given(st.text(max_size=80))
def test_no_text_whatever_makes_the_checkers_fail(text: str) -> None:
    maths_agrees(text, text)
    assert exact.check is not None
    assert exact.check(text, f"  {text}\n", {})


@pytest.mark.parametrize("name", ["chain_sum", "gcd", "fraction_simplification", "basic_arithmetic"])
def test_reasoning_gyms_verifier_accepts_its_own_answers_and_refuses_others(name: str) -> None:
    from trainables.data.generated import generate

    check = tasks.find("reasoning_gym").check
    assert check is not None
    for sample in generate(name, {}, seed=3, limit=5):
        assert check(f" {sample.answer}\n", sample.answer, sample.metadata)
        assert not check("nothing", sample.answer, sample.metadata)
