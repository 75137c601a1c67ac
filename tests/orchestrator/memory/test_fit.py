"""What the estimate says of every scale, of what cannot fit, and of the ways out that it names."""

import dataclasses
import re

import pytest

from orchestrator.changes import Changes
from orchestrator.errors import UserError
from orchestrator.fingerprints import FilePlanner
from orchestrator.memory.fit import UNKNOWN, Limits, crowd, estimate, misfit, refuse, warnings, ways
from orchestrator.memory.limits import USABLE, device_memory, machine_memory
from orchestrator.memory.need import GIB
from orchestrator.memory.passes import Text
from orchestrator.memory.stages import Facts, need
from orchestrator.planning import expand
from orchestrator.store import Store
from orchestrator.studies import load
from search_spaces.scales import SCALES

ALONE = ("teacher.workers=1", "teacher.zero_stage=0")
"""The 7B teacher on one GPU of 80 GB."""


def memory(folder, scale, *places, settings=(), teacher=None):
    """Return the memory of each stage of `rank_study`, by stage."""
    store = Store(folder)
    changes = Changes(places=places, scale=scale, settings=settings, teacher=teacher)
    plan = expand(load("rank_study", changes), FilePlanner(store))
    return {item.stage: item for item in estimate(plan, plan.runs, store)}


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_fits_the_devices_that_it_names(tmp_path, scale):
    for item in memory(tmp_path, scale).values():
        assert item.need is not None, item.stage
        assert misfit(item, None) is None
        if item.need.is_on_gpu:
            assert device_memory(item.run.place) is not None, "a scale for GPUs says which"
    refuse(memory(tmp_path, scale).values(), UNKNOWN)


@pytest.mark.parametrize("gibibytes", [4, 8])
@pytest.mark.parametrize("scale", ["tiny", "laptop"])
def test_small_scales_are_not_refused_on_a_small_machine(tmp_path, scale, gibibytes):
    refuse(memory(tmp_path, scale).values(), Limits(gibibytes * GIB, cpus=2))


@pytest.mark.parametrize(("workers", "stage"), [(1, 0), (2, 0), (4, 0), (2, 3), (4, 3)])
def test_the_middle_scale_fits_one_to_four_gpus_of_40_gb(tmp_path, workers, stage):
    found = memory(tmp_path, "qwen2.5-math-1.5b", f"teacher.workers={workers}", f"teacher.zero_stage={stage}")
    assert misfit(found["teacher"], None) is None


def test_a_teacher_of_7_billion_parameters_is_refused_on_one_gpu_with_ways_out_that_fit(tmp_path):
    teacher = memory(tmp_path, "qwen2.5-math-7b", *ALONE)["teacher"]
    with pytest.raises(UserError) as refusal:
        refuse([teacher], UNKNOWN)
    said = str(refusal.value)
    assert said.startswith("teacher needs 1")
    assert "optimiser 56.7" in said, "two moments in fp32 of 7,615,616,512 parameters"
    assert "the GPU has 79.0" in said
    assert "--place teacher.workers=4 --place teacher.zero_stage=3" in said
    assert "--place teacher.offload=true" in said
    assert "--oversubscribe" in said
    refuse([teacher], Limits(oversubscribe=True))


def test_every_way_out_really_fits(tmp_path):
    cramped = memory(tmp_path, "qwen2.5-math-1.5b", "student.per_device_batch_size=32", "student.device_memory_gib=20")
    teacher = memory(tmp_path, "qwen2.5-math-7b", *ALONE)["teacher"]
    evaluate = memory(tmp_path, "qwen2.5-math-7b", "evaluate.evaluation_batch_size=512")["evaluate"]
    for item in (teacher, cramped["student"], evaluate):
        assert misfit(item, None) is not None
        found = list(ways(item, None))
        assert found
        for settings in found:
            assert misfit(item.on_place(settings), None) is None
            changed = item.on_place(settings).need
            assert changed.device <= USABLE * device_memory(item.run.place)


def test_a_refusal_for_want_of_host_memory_names_the_machine(tmp_path):
    laptop = memory(tmp_path, "laptop").values()
    with pytest.raises(UserError, match=r"needs .* GiB of memory \(.*\) and this machine has 1\.0; "):
        refuse(laptop, Limits(GIB, cpus=2))
    refuse(laptop, Limits(GIB, cpus=2, oversubscribe=True))


def test_with_offloading_the_machine_pays_for_the_optimiser(tmp_path):
    teacher = memory(tmp_path, "qwen2.5-math-7b-48g")["teacher"]
    kept = teacher.on_place({"offload": False}).need
    assert kept.device - teacher.need.device > 8 * 7.6e9 * 0.9, "the moments, 8 bytes a parameter, leave the GPU"
    assert teacher.need.host > 20 * 7.6e9, "masters, moments and two kinds of gradients"
    assert f"{teacher.need.host / GIB:.0f} GiB of the machine's memory" in SCALES["qwen2.5-math-7b-48g"].about


def test_runs_side_by_side_are_warned_of_and_a_reservation_answers_it(tmp_path):
    laptop = memory(tmp_path, "laptop")
    alone = max(item.need.host for item in laptop.values())
    said = crowd(laptop.values(), Limits(1.2 * alone, cpus=2))
    assert said is not None
    assert "1 x teacher" in said
    reserve = re.search(r"--place (\w+\.memory_gib=[\d.]+)", said).group(1)
    assert crowd(laptop.values(), Limits(64 * GIB, cpus=2)) is None
    assert crowd(laptop.values(), Limits(1.2 * alone, cpus=0)) is None, "one after the other"
    again = memory(tmp_path, "laptop", reserve)
    assert "teacher" not in (crowd(again.values(), Limits(1.2 * alone, cpus=2)) or "")


def test_a_share_of_a_gpu_has_a_share_of_its_memory(tmp_path):
    whole, half = (memory(tmp_path, "qwen2.5-math-7b", f"student.gpus={gpus}")["student"] for gpus in (1, 0.5))
    assert device_memory(half.run.place) == device_memory(whole.run.place) / 2


def test_another_base_model_is_not_mistaken_for_the_scales_own(tmp_path):
    found = memory(tmp_path, "laptop", settings=("base_model.source=tiny-llama",))
    assert all(item.facts.shape is None and item.need is None for item in found.values())
    refuse(found.values(), Limits(1.0))


def test_a_given_teacher_needs_no_memory_to_train(tmp_path):
    from tests.trainables.tiny_models import base_model

    found = memory(tmp_path, "qwen2.5-math-7b-48g", teacher=str(base_model("qwen2")))
    assert found["teacher"].need.device == 0
    assert found["teacher"].need.host < GIB


def test_a_local_model_is_known_from_its_config(tmp_path):
    from tests.trainables.tiny_models import base_model

    found = memory(tmp_path, "laptop", settings=(f"base_model.source={base_model('gpt2')}",))
    assert found["teacher"].facts.shape.positions == 512


def test_data_once_made_replaces_the_upper_bound(tmp_path):
    teacher = memory(tmp_path, "laptop")["teacher"]
    made = need(teacher.run, dataclasses.replace(teacher.facts, text=Text(52, 0.06, is_known=True)))
    assert not teacher.facts.text.is_known
    assert made.host < teacher.need.host


def test_what_only_long_sequences_would_make_too_large_is_warned_of_until_the_data_is_made(tmp_path):
    teacher = memory(tmp_path, "laptop")["teacher"]
    limits = Limits((teacher.need.host + teacher.at_least().need.host) / 2, cpus=1)
    refuse([teacher], limits)
    (said,) = warnings([teacher], limits)
    assert "teacher needs" in said
    long = dataclasses.replace(teacher, facts=dataclasses.replace(teacher.facts, text=Text(96, is_known=True)))
    with pytest.raises(UserError, match="teacher needs"):
        refuse([long], limits)


def test_no_data_length_no_estimate(tmp_path):
    student = memory(tmp_path, "laptop")["student"]
    assert need(student.run, Facts(student.facts.shape, None)) is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal:       1048576 kB\n"}, GIB),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "4096\n"}, 4096),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/memory.max": "8192\n"}, 8192),
        (
            {
                "proc/self/cgroup": "5:cpu,memory:/x\n0::/\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "77\n",
                "proc/meminfo": "MemTotal: 1 kB\n",
            },
            77,
        ),
    ],
)
def test_a_machines_memory_is_the_smallest_limit_above_it(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine_memory(tmp_path) == expected
