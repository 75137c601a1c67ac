"""The formulas: against published sizes, PEFT and each other; tests/benchmarks/test_memory.py measures processes."""

import pytest

from orchestrator.memory.disk import disk
from orchestrator.memory.fit import StageMemory
from orchestrator.memory.passes import Text
from orchestrator.memory.stages import Facts, facts_of, need
from orchestrator.memory.training import Trained, Training
from orchestrator.plan import Run
from orchestrator.planning import expand
from orchestrator.store import Store
from orchestrator.study import Stage, Study
from tests.trainables.driver import FolderPlanner
from tests.trainables.tiny_models import FAMILIES, base_model
from trainables.base import Place
from trainables.base_models.shape import QWEN_MATH_1_5B, QWEN_MATH_7B, SMOLLM2_135M, TINY_QWEN2, of_config, read_shape
from trainables.checkpoint_files import read_headers
from trainables.ia3 import IA3Config
from trainables.lora_mean import LoraMeanConfig
from trainables.student import StudentConfig
from trainables.teacher import TeacherConfig

TEXT = Text(512)


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [(SMOLLM2_135M, 134_515_008), (QWEN_MATH_1_5B, 1_543_714_304), (QWEN_MATH_7B, 7_615_616_512)],
)
def test_a_shape_has_as_many_parameters_as_its_model_card_says(shape, parameters):
    assert shape.parameters == parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shape_read_from_a_config_counts_the_checkpoints_elements(family):
    folder = base_model(family)
    assert read_shape(folder).parameters == sum(tensor.elements for tensor in read_headers(folder).values())


def test_the_tiny_scales_shape_is_that_of_the_model_it_builds():
    assert read_shape(base_model("qwen2")) == TINY_QWEN2


@pytest.mark.parametrize("config", [{"model_type": "mamba"}, {"num_experts": 8, "hidden_size": 64}])
def test_what_has_another_kind_of_block_has_no_shape(config):
    assert of_config(config) is None


def test_an_adapters_size_is_pefts(tmp_path):
    from peft import LoraConfig, get_peft_model

    from trainables.training.models import load_model

    folder = base_model("llama")
    model = get_peft_model(load_model(folder), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert read_shape(folder).adapter(4) == model.get_nb_trainable_parameters()[0]


def teacher(shape=QWEN_MATH_7B, batch=64, **place):
    """Return the need of a teacher on GPUs, in bf16."""
    config = TeacherConfig(batch_size=batch, precision="bf16")
    run = Run("", "teacher", "teacher", 1, config, {}, Place(**{"gpus": 1, "per_device_batch_size": 1} | place))
    return need(run, Facts(shape, TEXT))


def test_a_teacher_in_one_process_holds_16_bytes_a_parameter_and_its_activations():
    found = teacher().parts
    parameters = QWEN_MATH_7B.parameters
    assert (found.weights, found.gradients, found.optimiser) == (4 * parameters, 4 * parameters, 8 * parameters)
    assert found.activations > 0


def test_each_stage_of_zero_divides_more_among_the_workers():
    alone, one, two, three = (teacher(workers=8, zero_stage=stage) for stage in range(4))
    assert alone.parts.optimiser == 8 * QWEN_MATH_7B.parameters
    assert one.parts.optimiser == 12 * QWEN_MATH_7B.parameters / 8, "masters beside the moments"
    assert two.parts.gradients < one.parts.gradients / 4
    assert three.parts.weights < two.parts.weights / 3
    assert alone.device > one.device > two.device > three.device


def test_gradient_checkpointing_and_a_smaller_micro_batch_save_activations():
    def activations(size, checkpointing):
        return teacher(per_device_batch_size=size, gradient_checkpointing=checkpointing).parts.activations

    assert activations(8, True) < activations(8, False) / 2
    assert activations(1, False) < activations(8, False) / 3


def test_a_completion_tokens_logits_cost_by_the_vocabulary():
    short, long = (
        Training(Trained(SMOLLM2_135M, 1), Place(), Text(512, share), is_half=True, is_on_gpu=False, batch=8)
        for share in (0.1, 0.6)
    )
    per_target = (long.activations() - short.activations()) / (8 * 512 * 0.5)
    assert 12 * 49152 <= per_target <= 14 * 49152


def test_an_adam_checkpoint_of_7_billion_parameters_is_91_gb_and_two_exist_for_a_moment():
    config = TeacherConfig(batch_size=64, precision="bf16", steps=250)
    run = Run("", "teacher", "teacher", 1, config, {}, Place(gpus=1, checkpoint_every=50))
    (found,) = disk([StageMemory(run, Facts(QWEN_MATH_7B, TEXT), None, (run,))], cpus=4)
    checkpoint, weights = 12 * QWEN_MATH_7B.parameters, 4 * QWEN_MATH_7B.parameters
    assert checkpoint == pytest.approx(91e9, rel=0.01)
    assert found.kept == 2 * weights, "the last weights and the best"
    assert found.kept + found.working == pytest.approx(2 * (checkpoint + weights))


def student(init, **place):
    """Return the need of a student of rank 16 on a GPU, in bf16."""
    config = StudentConfig(init=init, rank=16, batch_size=8, precision="bf16")
    run = Run("", "student", "student", 1, config, {}, Place(**{"gpus": 1} | place))
    return need(run, Facts(SMOLLM2_135M, TEXT))


@pytest.mark.parametrize("place", [{}, {"workers": 2, "zero_stage": 3}])
def test_a_start_that_is_subtracted_takes_the_adapters_memory_again_on_each_worker(place):
    """Buffers in fp32, which no stage of ZeRO divides; without gradients or moments."""
    plain, beside = student("svd", **place), student("svd_subtracted", **place)
    for before, after in zip(plain.phases, beside.phases, strict=True):
        more = 0 if before.name == "load" and place else 4 * SMOLLM2_135M.adapter(16)
        assert after.device.weights - before.device.weights == pytest.approx(more)
        assert (after.device.gradients, after.device.optimiser) == (before.device.gradients, before.device.optimiser)


def test_ia3_needs_no_teachers_memory_and_a_mean_of_loras_one_layers():
    settings = {"batch_size": 8, "precision": "bf16"}
    run = Run("", "ia3", "ia3", 1, IA3Config(**settings), {}, Place(gpus=1, per_device_batch_size=1))
    cheap, dear = need(run, Facts(QWEN_MATH_7B, TEXT)), teacher(batch=8)
    assert cheap.parts.optimiser + cheap.parts.gradients < dear.parts.optimiser / 100
    assert cheap.host >= 4 * QWEN_MATH_7B.parameters, "the base once more, to merge into"
    mean = Run("", "teacher", "lora_mean", 1, LoraMeanConfig(), {}, Place())
    found = need(mean, Facts(QWEN_MATH_7B, None))
    assert found.parts.total == 6 * 4 * 3584 * 18944


def test_a_run_that_starts_from_another_teacher_has_the_bases_shape(tmp_path):
    study = Study(
        "continued",
        "",
        {
            "base_model": Stage("base_model", {"source": "tiny-qwen2"}),
            "dataset": Stage("dataset", {"source": "chain_sum"}, {"base_model": "base_model"}),
            "teacher": Stage("teacher", {}, {"base_model": "base_model", "dataset": "dataset"}),
            "continued": Stage("teacher", {"seed": 2}, {"base_model": "teacher", "dataset": "dataset"}),
        },
        shape=TINY_QWEN2,
    )
    plan = expand(study, FolderPlanner(tmp_path))
    (run,) = plan.of_stage("continued")
    assert plan[run.inputs["base_model"]].stage == "teacher"
    assert facts_of(plan, run, Store(tmp_path)).shape == TINY_QWEN2
