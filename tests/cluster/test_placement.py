"""What a run asks for, and the words for what cannot be had."""

from __future__ import annotations

import pytest

from cluster.placement import GIB, check, request
from orchestrator.errors import InfeasibleError
from trainables.base import Place

SMALL = {"CPU": 2.0, "GPU": 0.0, "memory": 8.0 * GIB}
LARGE = {"CPU": 64.0, "GPU": 8.0, "memory": 500.0 * GIB}


def test_a_place_asks_for_what_it_names_and_nothing_else() -> None:
    assert request(Place()) == {"CPU": 1.0}
    assert request(Place(cpus=4, gpus=0.5, memory_gib=2)) == {"CPU": 4.0, "GPU": 0.5, "memory": 2.0 * GIB}


def test_what_fits_one_node_is_accepted() -> None:
    check({"teacher": Place(gpus=8), "student": Place(gpus=0.25)}, {"a": SMALL, "b": LARGE})


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (
            Place(gpus=1),
            "teacher asks for 1 GPU, 1 CPU; the largest node has 0 GPUs, 2 CPUs. Make it fit with "
            "--place teacher.gpus=0",
        ),
        (
            Place(gpus=2, cpus=4),
            "teacher asks for 2 GPUs, 4 CPUs; the largest node has 0 GPUs, 2 CPUs. Make it fit with "
            "--place teacher.cpus=2 --place teacher.gpus=0",
        ),
        (
            Place(memory_gib=16),
            "teacher asks for 1 CPU, 16 GiB of memory; the largest node has 2 CPUs, 8 GiB of memory. Make it fit "
            "with --place teacher.memory_gib=8",
        ),
    ],
)
def test_what_no_node_can_hold_is_refused_with_what_would_fit(place: Place, said: str) -> None:
    with pytest.raises(InfeasibleError) as caught:
        check({"dataset": Place(), "teacher": place}, {"only": SMALL})
    assert str(caught.value) == said


def test_resources_of_two_nodes_do_not_add_up() -> None:
    with pytest.raises(InfeasibleError, match=r"the largest node has 8 GPUs, 64 CPUs\. .*teacher\.gpus=8$"):
        check({"teacher": Place(gpus=16)}, {"a": LARGE, "b": LARGE})
    with pytest.raises(InfeasibleError, match=r"--place teacher\.cpus=4$"):
        check({"teacher": Place(gpus=2, cpus=8)}, {"many": {"CPU": 96.0}, "gpu": {"CPU": 4.0, "GPU": 2.0}})
