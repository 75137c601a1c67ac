"""What training really does to SmolLM2-135M, factorised, against LAPACK in fp64; for every linear layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.benchmarks.smollm2 import trained_pair
from tests.trainables.linalg.matrices import exact_values
from trainables.export.checkpoint_pair import Checkpoint, CheckpointPair
from trainables.linalg.truncated import TOLERANCE, truncated_svd
from trainables.targets import read_layout, select

RANK = 64


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_bound_holds_on_a_real_change_and_every_rank_is_within_1e_4_of_the_best(tmp_path: Path) -> None:
    base, tuned = trained_pair(tmp_path, steps=4)
    layout = read_layout(base)
    pair = CheckpointPair(Checkpoint(base, "base"), Checkpoint(tuned, "tuned"), torch.device("cpu"))
    parameters = {name: parameter for parameter in layout.parameters for name in parameter.names}
    routes = set()
    for linear in select(layout, "all-linear"):
        delta = pair.change(parameters[linear.weight]).delta
        found = truncated_svd(delta, RANK)
        factors, known = found.factors, found.certificate
        exact = exact_values(delta, RANK).numpy()
        rounding = 1e-13 * exact[0]
        assert np.all(known.lower <= exact + rounding), linear.name
        assert np.all(exact - rounding <= known.upper), linear.name
        assert known.bound <= TOLERANCE, linear.name
        assert np.allclose(factors.s.double().numpy(), exact, rtol=1e-4), linear.name
        whole = delta.double()
        best = float((whole.square().sum() - torch.from_numpy(exact).square().sum()).sqrt())
        assert float(torch.linalg.norm(whole - factors.delta().double())) <= best * (1 + 1e-4), linear.name
        routes.add(known.route)
    assert routes == {"golub-kahan", "gram"}
