import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.identity import canonical, differences, digest, run_id

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def test_key_order_does_not_change_the_digest():
    assert digest({"rank": 4, "seed": 1}) == digest({"seed": 1, "rank": 4})


def test_every_part_of_a_run_changes_its_id():
    base = {"stage": "student", "trainable": "student", "version": 1, "config": {"rank": 4}, "inputs": {"dataset": "d"}}
    changes = [
        {"stage": "teacher"},
        {"trainable": "teacher"},
        {"version": 2},
        {"config": {"rank": 8}},
        {"inputs": {"dataset": "e"}},
    ]
    ids = {run_id(**{**base, **change}) for change in [{}, *changes]}
    assert len(ids) == len(changes) + 1


def test_the_id_is_the_same_in_another_process_with_another_hash_seed():
    code = "from orchestrator.identity import digest; print(digest({'b': [1, 2.5, 'ü'], 'a': None}))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert seen == {digest({"a": None, "b": [1, 2.5, "ü"]})}


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, object(), {1: "a"}, {"a": [b"bytes"]}])
def test_what_has_no_stable_form_is_refused(value):
    with pytest.raises((TypeError, ValueError), match="stable form"):
        canonical(value)


def test_a_refusal_names_the_field():
    with pytest.raises(ValueError, match=r"student\.rates\[1\] is nan"):
        canonical({"student": {"rates": [1.0, math.nan]}})


@given(PLAIN)
def test_canonical_bytes_are_stable_under_a_json_round_trip(value):
    import json

    assert canonical(json.loads(canonical(value))) == canonical(value)


@given(st.integers(min_value=-(2**53), max_value=2**53))
def test_an_integer_and_its_float_are_told_apart(value):
    assert canonical(value) != canonical(float(value))


def test_differences_are_named_field_by_field():
    old = {"rank": 4, "data": {"items": 10, "seed": 1}}
    new = {"rank": 8, "data": {"items": 20, "seed": 1}, "alpha": 16}
    assert list(differences(old, new)) == ["alpha null -> 16", "data.items 10 -> 20", "rank 4 -> 8"]
