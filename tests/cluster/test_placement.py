"""What a run asks for, and the words for what cannot be had."""

from __future__ import annotations

import pytest

from cluster.local import LocalBackend
from cluster.placement import GIB, check, demand, factory
from cluster.processes import own_devices
from orchestrator.errors import InfeasibleError
from trainables.base import Place

SMALL = {"CPU": 2.0, "GPU": 0.0, "memory": 8.0 * GIB}
LARGE = {"CPU": 64.0, "GPU": 8.0, "memory": 500.0 * GIB}


def test_a_place_asks_for_what_it_names_and_nothing_else() -> None:
    assert demand(Place()).bundle == {"CPU": 1.0}
    assert demand(Place(cpus=4, gpus=0.5, memory_gib=2)).bundle == {"CPU": 4.0, "GPU": 0.5, "memory": 2.0 * GIB}


def test_a_gang_has_an_empty_bundle_for_its_driver_and_one_for_each_worker() -> None:
    one = factory(Place(cpus=2, gpus=0.5))
    assert (one.bundles, one.head_bundle_is_empty) == ([{"CPU": 2.0, "GPU": 0.5}], False)
    three = factory(Place(workers=3, gpus=1, strategy="STRICT_SPREAD"))
    assert (three.bundles, three.head_bundle_is_empty) == ([{"CPU": 1.0, "GPU": 1.0}] * 3, True)
    assert three.strategy == "STRICT_SPREAD"
    alone = factory(Place(zero_stage=3))
    assert (alone.bundles, alone.head_bundle_is_empty) == ([{"CPU": 1.0}], True), "DeepSpeed survives no warm worker"


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


FOUR = {"n1": LARGE, "n2": LARGE, "n3": SMALL}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (
            Place(workers=2, gpus=16),
            "teacher asks for 16 GPUs, 1 CPU for each of 2 workers; the largest node has 8 GPUs, 64 CPUs. Make it "
            "fit with --place teacher.gpus=8",
        ),
        (
            Place(workers=5, gpus=4),
            "teacher asks for 5 workers of 4 GPUs, 1 CPU each; the cluster holds 4 at a time. Make it fit with "
            "--place teacher.workers=4",
        ),
        (
            Place(workers=16, gpus=1, strategy="STRICT_PACK"),
            "teacher asks for 16 workers of 1 GPU, 1 CPU each on one node (STRICT_PACK); the roomiest holds 8. Make "
            "it fit with --place teacher.workers=8 or --place teacher.strategy=PACK",
        ),
        (
            Place(workers=17, gpus=1, strategy="STRICT_PACK"),
            "teacher asks for 17 workers of 1 GPU, 1 CPU each on one node (STRICT_PACK); the roomiest holds 8. Make "
            "it fit with --place teacher.workers=8",
        ),
        (
            Place(workers=3, gpus=1, strategy="STRICT_SPREAD"),
            "teacher asks for 3 workers of 1 GPU, 1 CPU each on a node each (STRICT_SPREAD); 2 of the nodes can hold "
            "one. Make it fit with --place teacher.workers=2 or --place teacher.strategy=SPREAD",
        ),
        (
            Place(workers=3, gpus=5),
            "teacher asks for 3 workers of 5 GPUs, 1 CPU each; the cluster holds 2 at a time. Make it fit with "
            "--place teacher.workers=2",
        ),
        (
            Place(gpus=1.5),
            "teacher asks for 1.5 GPUs; a worker has a share of one GPU, or whole ones. Use --place teacher.gpus=1 "
            "or --place teacher.gpus=2",
        ),
        (
            Place(workers=2, gpus=0.5),
            "teacher asks for 0.5 GPUs for each of 2 workers; NCCL needs a whole one for each. Use --place "
            "teacher.gpus=1, or --place teacher.workers=1",
        ),
    ],
)
def test_a_gang_that_the_nodes_cannot_hold_is_refused_with_what_would_fit(place: Place, said: str) -> None:
    with pytest.raises(InfeasibleError) as caught:
        check({"dataset": Place(), "teacher": place}, FOUR)
    assert str(caught.value) == said


def test_what_is_advised_does_fit() -> None:
    check({"teacher": Place(workers=8, gpus=1, strategy="STRICT_PACK")}, FOUR)
    check({"teacher": Place(workers=16, gpus=1)}, FOUR)
    check({"teacher": Place(workers=2, gpus=1, strategy="STRICT_SPREAD")}, FOUR)
    check({"teacher": Place(workers=3, gpus=1, strategy="SPREAD")}, FOUR)
    check({"teacher": Place(workers=4, gpus=0.5, device="cpu")}, FOUR)


def test_a_local_gang_is_refused_where_there_are_too_few_gpus_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,GPU-ab")
    backend = LocalBackend()
    backend.check({"teacher": Place(workers=3, gpus=1), "student": Place(gpus=8), "dataset": Place(workers=4)})
    with pytest.raises(InfeasibleError, match=r"^teacher asks for 2 x 2 GPUs; this machine has 3\. .*teacher.gpus=0$"):
        backend.check({"teacher": Place(workers=2, gpus=2)})


def test_local_workers_have_gpus_of_their_own_or_share_one_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,GPU-ab,1")
    assert [own_devices(Place(workers=2, gpus=2), rank) for rank in range(2)] == [["4", "7"], ["GPU-ab", "1"]]
    assert [own_devices(Place(gpus=0.5), rank) for rank in range(3)] == [["4"], ["4"], ["7"]]
    assert [own_devices(Place(gpus=0.6), rank) for rank in range(2)] == [["4"], ["7"]]
    assert own_devices(Place(gpus=0), 0) == []
