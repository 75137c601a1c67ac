import pytest

from orchestrator.changes import Changes
from orchestrator.errors import InputError, UserError
from orchestrator.fingerprints import FilePlanner
from orchestrator.planning import expand
from orchestrator.replication import design_of, lengthened
from orchestrator.store import Store
from orchestrator.studies import load
from orchestrator.study import Axis
from orchestrator.values import value_at
from search_spaces.scales import SCALES

STUDY = '''
"""Mine."""
from search_spaces.rank_study import build as rank_study
def build(scale):
    return rank_study(scale).with_axis("student.rank", [2])
'''


def test_a_rank_between_tuned_ranks_takes_the_rate_of_the_nearest():
    laptop = SCALES["laptop"]
    rates = laptop.learning_rates["random"]
    assert [laptop.learning_rate("random", rank) for rank in (1, 4, 6, 16, 512)] == [
        rates[4],
        rates[4],
        rates[4],
        rates[16],
        rates[64],
    ]


def test_an_arm_without_a_rate_is_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"no learning rate for init 'mine'.*--set student.learning_rate"):
        SCALES["tiny"].learning_rate("mine", 4)


def test_inits_that_start_where_another_does_have_its_rate():
    tiny = SCALES["tiny"]
    assert tiny.learning_rate("pissa", 4) == tiny.learning_rate("random", 4)
    assert tiny.learning_rate("lora_squeeze", 4) == tiny.learning_rate("svd", 4)


def test_naming_another_source_drops_what_was_said_of_the_old_one():
    changed = load("rank_study", Changes(settings=("dataset.source=train.json", "dataset.test=9")))
    config = changed.stages["dataset"].config
    assert config == {"source": "train.json", "test": 9}


def test_a_users_own_file_is_a_study(tmp_path):
    (tmp_path / "my study.py").write_text(STUDY)
    assert load(str(tmp_path / "my study.py")).axes["student.rank"] == (2,)


@pytest.mark.parametrize(
    ("changes", "value"),
    [
        ({"settings": ("student.steps=40",)}, lambda study: study.stages["student"].config["steps"] == 40),
        ({"settings": ("student.learning_rate=1e-4",)}, lambda s: s.stages["student"].config["learning_rate"] == 1e-4),
        (
            {"settings": ("dataset.generator.max_terms=4",)},
            lambda study: study.stages["dataset"].config["generator"]["max_terms"] == 4,
        ),
        ({"axes": ("student.rank=4,8",)}, lambda study: study.axes["student.rank"] == (4, 8)),
        ({"axes": ("student.lora_dropout=0,0.1",)}, lambda study: study.axes["student.lora_dropout"] == (0.0, 0.1)),
        ({"places": ("teacher.workers=2",)}, lambda study: study.stages["teacher"].place.workers == 2),
        ({"teacher": "org/model"}, lambda study: study.stages["teacher"].trainable == "base_model"),
    ],
)
def test_a_change_is_typed_and_applied(changes, value):
    assert value(load("rank_study", Changes(scale="tiny", **changes)))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"scale": "laptp"}, "no scale named 'laptp'. Did you mean 'laptop'?"),
        ({"settings": ("student.rnak=8",)}, "student has no setting 'rnak'. Did you mean 'rank'?"),
        ({"settings": ("studnt.rank=8",)}, "no stage named 'studnt'. Did you mean 'student'?"),
        ({"settings": ("student.steps",)}, "write it as STAGE.SETTING=VALUE"),
        ({"settings": ("student.steps=",)}, "write it as STAGE.SETTING=VALUE"),
        ({"settings": ("student=8",)}, "name a setting of student"),
        ({"settings": ("student.steps=many",)}, "student.steps=many: input should be a valid integer"),
        ({"settings": ("student.steps=2.5",)}, "valid integer"),
        ({"settings": ("student.learning_rate=-1",)}, "greater than 0"),
        ({"settings": ("student.learning_rate=NaN",)}, "finite number"),
        ({"settings": ("student.rank=8",)}, "is an axis of rank_study; give its values with --axis student.rank=8"),
        ({"settings": ("student.steps.x=8",)}, "student.steps has no parts"),
        ({"axes": ("student.rank=4,4",)}, "names a value twice"),
        ({"axes": ("student.rank=,",)}, "no values"),
        ({"axes": ("student.rank=4,big",)}, "valid integer"),
        ({"axes": ("student.rank=0",)}, "greater than or equal to 1"),
        ({"axes": ("student.colour=red",)}, "student has no setting 'colour'"),
        ({"axes": ("rank=4",)}, "no stage named 'rank'"),
        ({"places": ("teacher.wrokers=2",)}, "no such place setting 'wrokers'. Did you mean 'workers'?"),
        ({"places": ("teacher.workers=0",)}, "does not fit workers"),
        ({"places": ("teacher.strategy=PAK",)}, "does not fit strategy"),
    ],
)
def test_a_change_that_does_not_fit_is_one_line_with_the_way_out(changes, complaint, tmp_path):
    with pytest.raises(UserError) as caught:
        expand(load("rank_study", Changes(**{"scale": "tiny", **changes})), FilePlanner(Store(tmp_path)))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "no study file"),
        ("def build(scale:\n", "line 1"),
        ("import nothing_like_this", "No module named"),
        ("x = 1", "defines no build(scale)"),
        ("def build(scale): return 3", "returned a int, not an orchestrator.study.Study"),
        (STUDY.replace("[2])", "[2]).__class__('a/b', '', {})"), "must be letters, digits"),
    ],
)
def test_a_study_file_that_is_none_is_one_line(tmp_path, text, complaint):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert complaint in str(caught.value)


@pytest.mark.parametrize("arms", ["svd,random", "zero_step,random"])
def test_a_free_axis_takes_those_of_its_values_that_are_named(arms):
    assert load("init_study", Changes(scale="tiny", axes=(f"arm={arms}",))).axes["arm"] == tuple(arms.split(","))


def test_a_range_is_all_its_whole_numbers():
    axes = load("rank_study", Changes(scale="tiny", axes=("student.seed=1..3,7", "student.rank=2"))).axes
    assert (axes["student.seed"], axes["student.rank"]) == ((1, 2, 3, 7), (2,))
    with pytest.raises(UserError, match=r"3\.\.1 has no values; write the smaller number first"):
        load("rank_study", Changes(scale="tiny", axes=("student.seed=3..1",)))


def test_the_option_for_many_seeds_has_their_ranges_and_gives_those_seeds(tmp_path):
    study = load("rank_study", Changes(scale="tiny"))
    design = design_of(expand(study, FilePlanner(Store(tmp_path))).outlook)
    assert design is not None
    ((option, text),) = lengthened(study, design, 120, is_fresh=True, avoid={101, 102})
    assert (option, text) == ("--axis", "student.seed=4..100,103..125")
    seeds = load("rank_study", Changes(scale="tiny", axes=(text,))).axes["student.seed"]
    assert seeds == (*range(4, 101), *range(103, 126))


def test_a_free_axis_that_means_nothing_but_itself_takes_any_value(tmp_path):
    (tmp_path / "again.py").write_text(STUDY.replace('.with_axis("student.rank", [2])', '.with_axis("again", (1, 2))'))
    assert load(str(tmp_path / "again.py"), Changes(scale="tiny", axes=("again=3,4,5",))).axes["again"] == (3, 4, 5)


@pytest.mark.parametrize(
    ("study", "changes", "complaint"),
    [
        ("init_study", {"axes": ("arm=random,svdd",)}, "arm has no value 'svdd'. Did you mean 'svd'? Values: compute_"),
        (
            "init_study",
            {"settings": ("student.init=svd",)},
            "student.init follows arm in init_study; choose with --axis arm=",
        ),
        ("rank_study", {"axes": ("arm=random",)}, "no stage named 'arm'"),
    ],
)
def test_what_does_not_fit_a_free_axis_is_one_line(study, changes, complaint):
    with pytest.raises(UserError) as caught:
        load(study, Changes(scale="tiny", **changes))
    assert complaint in str(caught.value)


def test_a_setting_is_changed_for_the_arms_that_have_none_of_their_own():
    study = load("init_study", Changes(scale="tiny", settings=("student.steps=7", "student.learning_rate=1e-3")))
    config = study.stages["student"].config
    point = {"student.rank": 4}
    steps = {arm: value_at(config["steps"], {**point, "arm": arm}, "student.steps") for arm in study.axes["arm"]}
    own = {"zero_step": 0, "compute_matched": SCALES["tiny"].compute_matched_steps(4)}
    assert steps == {**dict.fromkeys(study.axes["arm"], 7), **own}
    assert value_at(config["learning_rate"], {**point, "arm": "svd"}, "student.learning_rate") == 1e-3


def test_a_stage_that_follows_another_takes_on_its_changes():
    changes = Changes(scale="tiny", settings=("dataset.source=train.json",), axes=("dataset.split_seed=1,2",))
    stages = load("init_study", changes).stages
    assert stages["unseen_dataset"].config["source"] == "train.json"
    assert stages["unseen_dataset"].config["part"] == "second"
    assert stages["unseen_dataset"].config["split_seed"] == Axis("dataset.split_seed")
    assert stages["wrong_dataset"].config["source"] == SCALES["tiny"].wrong_dataset["source"]


def test_an_unknown_study_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"no study named 'rank_stdy'. Did you mean 'rank_study'\? Known: .*smoke"):
        load("rank_stdy")
