import pytest

from orchestrator.errors import InputError, UserError
from orchestrator.studies import Changes, load, names, summary
from search_spaces.scales import SCALES

STUDY = '''
"""Mine."""
from search_spaces.rank_study import build as rank_study
def build(scale):
    return rank_study(scale).with_axis("student.rank", [2])
'''


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("scale", SCALES)
def test_every_study_builds_at_every_scale_and_says_its_question_in_one_line(name, scale):
    study = load(name, Changes(scale=scale))
    is_rehearsal = SCALES[scale].rehearsal is not None
    assert study.name == (f"{name}-{scale}" if is_rehearsal else name)
    assert study.scale == scale
    assert study.description.endswith(summary(name))
    assert is_rehearsal or study.description == summary(name)
    assert study.description.endswith(("?", "."))


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("scale", SCALES)
def test_every_arm_of_every_study_has_a_learning_rate(name, scale):
    study = load(name, Changes(scale=scale))
    for init in study.axes["student.init"]:
        for rank in study.axes["student.rank"]:
            assert SCALES[scale].learning_rate(init, rank) in SCALES[scale].learning_rates[init].values()


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
    with pytest.raises(InputError, match=r"no learning rate for init 'pissa'.*--set student.learning_rate"):
        SCALES["tiny"].learning_rate("pissa", 4)


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
    from orchestrator.fingerprints import FilePlanner
    from orchestrator.plan import expand
    from orchestrator.store import Store

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


def test_an_unknown_study_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"no study named 'rank_stdy'. Did you mean 'rank_study'\? Known: .*smoke"):
        load("rank_stdy")
