"""What must not change a claim: units, the order of replicates and of comparisons, and which arm is named first."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from orchestrator.statistics import equivalence, sign_flip, westfall_young

# Multiples of 1/8 are added and flipped without rounding: ties stay ties.
VALUES = st.integers(-40, 40).map(lambda value: value / 8)
TABLES = hnp.arrays(float, st.tuples(st.integers(1, 7), st.integers(1, 4)), elements=VALUES)


@settings(max_examples=60, deadline=None)
@given(d=TABLES, seed=st.integers(0, 99))
def test_adjusted_p_depend_on_neither_units_nor_order_nor_the_arms_order(d, seed):
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(len(d)), rng.permutation(d.shape[1])
    expected = np.array(westfall_young(d))
    assert np.allclose(westfall_young(-d), expected)
    assert np.allclose(westfall_young(d * 2.0 ** np.arange(d.shape[1])), expected)
    assert np.allclose(westfall_young(d[rows]), expected)
    assert np.allclose(westfall_young(d[:, columns]), expected[columns])


@settings(max_examples=60, deadline=None)
@given(d=TABLES)
def test_an_adjusted_p_is_never_below_its_own_and_a_larger_family_never_helps(d):
    alone = [sign_flip(column).p for column in d.T]
    adjusted = westfall_young(d)
    assert all(a >= p - 1e-12 for a, p in zip(adjusted, alone, strict=True))
    fewer = westfall_young(d[:, :-1]) if d.shape[1] > 1 else []
    assert all(a >= p - 1e-12 for a, p in zip(adjusted, fewer, strict=False))


@settings(max_examples=60, deadline=None)
@given(d=hnp.arrays(float, st.integers(1, 9), elements=VALUES), margin=st.integers(1, 40))
def test_equivalence_knows_no_first_arm_and_a_wider_margin_never_hurts(d, margin):
    found, turned = equivalence(d, margin / 8), equivalence(-d, margin / 8)
    assert (found.p_below, found.p_above) == (turned.p_above, turned.p_below)
    assert equivalence(d, margin / 4).p <= found.p
