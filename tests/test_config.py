"""The configuration file: what it may leave out, how it is changed, and how it becomes several runs."""

import os
import tomllib

import pytest

from fempi.config import Config, ConfigError
from fempi.experiment import load, parse

BASE = """
name = "base"

[data]
dataset = "synthetic"
size = 12
clients = 20

[attack]
name = "sign_flip"
malicious = 3
scale = 4.0

[aggregator]
name = "multi_krum"
m = 2
"""

CHANGES = {
    "name": '"other"',
    "seed": "2",
    "rounds": "7",
    "data.dataset": '"mnist"',
    "data.size": "13",
    "data.clients": "21",
    "data.partition": '"shards"',
    "data.root_examples": "99",
    "model.name": '"mlp"',
    "model.dropout": "0.25",
    "train.cohort": "9",
    "train.local_epochs": "1",
    "train.batch_size": "11",
    "train.lr": "0.1",
    "train.clients_per_batch": "2",
    "train.precision": '"bfloat16"',
    "attack.name": '"none"',
    "attack.malicious": "2",
    "attack.scale": "4.5",
    "aggregator.name": '"mean"',
    "aggregator.num_byzantine": "3",
    "aggregator.m": "3",
    "record.updates": '"none"',
    "record.every": "2",
    "record.sketch_size": "64",
    "evaluation.every": "2",
}


pytestmark = pytest.mark.usefixtures("own_registry")


@pytest.fixture
def write(tmp_path):
    def write(text, name="config.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def base(write):
    return write(BASE)


def one(path, *overrides):
    (config,) = load(path, overrides=overrides)
    return config


def problems(path, **options):
    with pytest.raises(ConfigError) as refused:
        load(path, **options)
    return refused.value.problems


def labels(configs):
    return [config.label for config in configs]


def test_a_name_is_all_a_file_must_hold(write):
    config = one(write('name = "x"'))
    assert (config.label, config.seed, config.rounds) == ("x", 1, 100)
    assert (config.data.dataset, config.data.clients, config.data.partition) == ("mnist", 100, "iid")
    assert (config.train.cohort, config.train.local_epochs, config.train.batch_size) == (10, 5, 10)
    assert (config.train.lr, config.attack.name, config.aggregator.name) == (0.01, "none", "mean")
    assert (config.record.updates, config.record.every, config.record.pack) == ("full", 1, True)


def test_defaults_of_hyper_parameters_are_filled_in(base):
    config = one(base)
    assert config.parameters("attack") == {"scale": 4.0, "target": "update"}
    assert config.parameters("aggregator") == {"m": 2, "power": 2}
    assert config.parameters("dataset")["noise"] == 0.3
    assert config.parameters("partition") == {}


def test_nothing_can_be_changed_after_loading(base):
    with pytest.raises(ValueError, match="frozen"):
        one(base).seed = 2


def test_a_number_without_a_point_serves_as_a_float(base):
    assert one(base, "train.lr=1").train.lr == 1.0


@pytest.mark.parametrize("value", ['"1"', "true", "1.0", "[1]", "1979-05-27"])
def test_no_value_is_converted_to_an_int(base, value):
    assert problems(base, overrides=[f"rounds={value}"])[0].startswith("rounds: ")


def test_every_problem_is_said_at_once_with_path_and_nearest_name(write):
    path = write("""
        nam = "x"
        seed = -1
        [data]
        dataset = "sinthetic"
        [model]
        name = "mlp"
        hiden = [8]
        [train]
        cohor = 3
        lr = 0.0
        [aggregator]
        name = "mean"
        weighted = 1
    """)
    expected = [
        ("name: ", "missing"),
        ("nam: ", "did you mean 'name'?"),
        ("seed: ", "-1"),
        ("data.dataset: ", "did you mean 'synthetic'?"),
        ("model.hiden: ", "did you mean 'hidden'?"),
        ("train.cohor: ", "did you mean 'cohort'?"),
        ("train.lr: ", "greater than 0"),
        ("aggregator.weighted: ", "boolean"),
    ]
    said = problems(path)
    for start, word in expected:
        assert [p for p in said if p.startswith(start) and word in p], f"{start}{word} is not in {said}"
    assert len(said) == len(expected)


def test_the_message_begins_with_the_file_and_the_number_of_problems(write):
    path = write("seed = -1")
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert str(refused.value).splitlines()[0] == f"{path}: 2 problems"


@pytest.mark.parametrize("key", CHANGES)
def test_the_hash_changes_with(key, base):
    assert one(base, f"{key}={CHANGES[key]}").hash != one(base).hash


def test_the_hash_is_that_of_the_settings_not_of_their_order_or_of_said_defaults(write):
    short, long = write('rounds = 3\nname = "x"', "a"), write('name = "x"\nseed = 1\nrounds = 3\n[train]\nlr=0.01', "b")
    assert one(short).hash == one(long).hash


@pytest.mark.parametrize("aggregator", ['"multi_krum"', '"dual"', '"mean"'])
def test_the_resolved_file_reads_back_to_the_same_run(base, write, aggregator):
    for config in load(base, overrides=[f"aggregator.name={aggregator}", "grid={'train.lr' = [0.1, 1e-7], seed=[3]}"]):
        again = one(write(config.to_toml(), "again.toml"))
        assert again == config
        assert again.hash == config.hash


def test_an_override_beats_the_file_and_the_later_one_wins(base):
    assert one(base, "data.clients=30", "seed=5", "seed=6").data.clients == 30
    assert one(base, "data.clients=30", "seed=5", "seed=6").seed == 6


def test_an_override_has_the_last_word_over_arms_and_grid(write):
    path = write(
        BASE
        + """
[[arm]]
name = "a"
set = { seed = 3, "attack.scale" = 2.0 }
[[arm]]
name = "b"
[grid]
"train.lr" = [0.5, 0.6]
rounds = [4, 5]
"""
    )
    runs = load(path, overrides=["seed=9", "train.lr=0.1"])
    assert labels(runs) == ["a+seed=9+rounds=4", "a+seed=9+rounds=5", "b+rounds=4", "b+rounds=5"]
    assert [(c.seed, c.train.lr, c.attack.scale) for c in runs] == [(9, 0.1, 2.0)] * 2 + [(9, 0.1, 4.0)] * 2


def test_an_override_of_a_whole_section_has_the_last_word_too(write):
    path = write('name = "x"\n[[arm]]\nname = "a"\nset = { "attack.name" = "none" }\n')
    (config,) = load(path, overrides=["attack={name='sign_flip', scale=9.0}"])
    assert config.parameters("attack")["scale"] == 9.0


TABLES = """
name = "x"
attack = { malicious = 2 }
[grid]
attack = [{ name = "none" }, { name = "sign_flip", scale = 2.0 }, { name = "sign_flip", scale = 3.0 }]
"""


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("attack={name='sign_flip', scale=9.0}", [("x", "sign_flip", 9.0, 2)]),
        ("attack.name='alie'", [("x", "alie", None, 2)]),
        (
            "attack.name='sign_flip'",
            [
                ("x", "sign_flip", 5.0, 2),
                ("x+attack=scale_2.0", "sign_flip", 2.0, 2),
                ("x+attack=scale_3.0", "sign_flip", 3.0, 2),
            ],
        ),
        (
            "attack.malicious=3",
            [
                ("x+attack=none", "none", None, 3),
                ("x+attack=sign_flip_scale_2.0", "sign_flip", 2.0, 3),
                ("x+attack=sign_flip_scale_3.0", "sign_flip", 3.0, 3),
            ],
        ),
    ],
)
def test_an_override_has_the_last_word_over_a_grids_tables(write, override, expected):
    runs = load(write(TABLES), overrides=[override])
    assert [
        (run.label, run.attack.name, run.parameters("attack").get("scale"), run.attack.malicious) for run in runs
    ] == expected


def test_an_override_of_a_hyper_parameter_holds_in_the_arm_that_chooses_its_plugin(write):
    path = write('name = "x"\n[[arm]]\nname = "a"\nset = { "aggregator.name" = "dual" }\n')
    (config,) = load(path, overrides=["aggregator.name='dual'", "aggregator.trust_threshold=0.5"])
    assert config.aggregator.parameters["trust_threshold"] == 0.5


def test_an_override_can_drop_the_arms(write):
    path = write(BASE + '[[arm]]\nname = "a"\n[[arm]]\nname = "b"\n')
    assert labels(load(path)) == ["a", "b"]
    assert labels(load(path, overrides=["arm=[]"])) == ["base"]


def test_an_override_can_set_the_grid(base):
    assert labels(load(base, overrides=["grid={seed=[1, 2]}"])) == ["base+seed=1", "base+seed=2"]


def test_runs_are_all_arms_times_all_points_of_the_grid(write):
    path = write(BASE + '[[arm]]\nname = "a"\n[[arm]]\nname = "b"\n[grid]\nseed = [1, 2]\n"train.lr" = [0.1, 0.2]\n')
    runs = load(path)
    assert [(c.label[0], c.seed, c.train.lr) for c in runs] == [
        (arm, seed, lr) for arm in "ab" for seed in (1, 2) for lr in (0.1, 0.2)
    ]
    assert runs[0].label == "a+seed=1+lr=0.1"


def test_grid_keys_with_the_same_last_part_are_named_whole(base):
    (config,) = load(base, overrides=["grid={'attack.name'=['none'], 'model.name'=['mlp']}"])
    assert config.label == "base+attack.name=none+model.name=mlp"


def test_two_runs_of_one_name_are_refused(base):
    assert problems(base, overrides=["grid={seed=[1, 1]}"]) == ["two runs are called 'base+seed=1'"]


@pytest.mark.parametrize("values", ["['a', '-a']", "[1, -1]"])
def test_values_that_differ_get_names_that_differ(base, values, write):
    plugin = """
import fempi
@fempi.register("partition", "any")
def any_(labels, clients, rng, *, x: int | str = 0):
    pass
"""
    write(plugin, "any.py")
    overrides = ["plugins.files=['any.py']", "data.partition='any'", f"grid={{'data.x'={values}}}"]
    assert len(set(labels(load(base, overrides=overrides)))) == 2


def test_arm_selects_that_arm_with_its_whole_grid(write):
    path = write(BASE + '[[arm]]\nname = "a"\n[[arm]]\nname = "ab"\n[grid]\nseed = [1, 2]\n')
    assert labels(load(path, arm="a")) == ["a+seed=1", "a+seed=2"]
    assert problems(path, arm="b") == ["--arm: no arm is called 'b'; did you mean 'ab'?"]


def test_arm_does_not_select_an_arm_whose_name_goes_on_with_a_plus(write):
    path = write(BASE + '[[arm]]\nname = "a"\n[[arm]]\nname = "a+b"\n')
    assert labels(load(path, arm="a")) == ["a"]


def test_choosing_another_plugin_drops_the_hyper_parameters_of_the_old_one(write):
    path = write(
        BASE
        + """
[[arm]]
name = "same"
[[arm]]
name = "chosen-again"
set = { "attack.name" = "sign_flip" }
[[arm]]
name = "other"
set = { "attack.name" = "label_flip", "aggregator.name" = "mean", "data.dataset" = "mnist" }
[[arm]]
name = "own"
set = { "aggregator.name" = "dual", "aggregator.m" = 1 }
"""
    )
    same, again, other, own = load(path)
    assert same.parameters("attack") == again.parameters("attack") == {"scale": 4.0, "target": "update"}
    assert other.parameters("attack")["mode"] == "invert"
    assert other.parameters("aggregator") == {"weighted": False}
    assert other.parameters("dataset") == {"folder": None}
    assert other.attack.malicious == 3  # the section's own settings stay
    assert own.parameters("aggregator") == {"trust_threshold": 0.2, "m": 1, "rescale": False}


def test_an_override_of_the_plugin_drops_them_too(base):
    assert one(base, 'attack.name="none"').parameters("attack") == {}


@pytest.mark.parametrize(("cohort", "malicious", "f"), [(10, 0, 0), (10, 2, 1), (10, 3, 2), (20, 3, 3), (1, 1, 1)])
def test_the_declared_f_is_the_expected_number_of_malicious_rows_rounded_up(base, cohort, malicious, f):
    config = one(base, f"train.cohort={cohort}", f"attack.malicious={malicious}")
    assert config.aggregator.num_byzantine == f


def test_a_declared_f_stays(base):
    assert one(base, "aggregator.num_byzantine=0").aggregator.num_byzantine == 0


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", ".x", "", "x\\n", "a b", "ä", "x" * 121])
def test_no_name_leaves_the_output_folder(write, name):
    assert problems(write(f'name = "{name}"'))[0].startswith("name: ")
    assert "name: use letters" in problems(write(f'name = "x"\n[[arm]]\nname = "{name}"'))[0]


def test_a_grid_value_that_looks_like_a_path_does_not_leave_the_output_folder(base):
    (config,) = load(base, overrides=["data.dataset='mnist'", "grid={'data.folder'=['/../x']}"])
    assert config.label.startswith("base+folder=..")
    assert "/" not in config.label


def test_plugin_files_are_found_beside_the_configuration(tmp_path, write, monkeypatch):
    (tmp_path / "rules").mkdir()
    rule = (
        'import fempi\n@fempi.register("aggregator", "beside")\ndef rule(updates, context, *, q: int = 3):\n    pass\n'
    )
    write(rule, "rules/beside.py")
    path = write('name = "x"\n[plugins]\nfiles = ["rules/beside.py"]\n[aggregator]\nname = "beside"\n')
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    assert one(path).parameters("aggregator") == {"q": 3}


def test_parse_works_without_a_file():
    assert isinstance(parse({"name": "x"})[0], Config)


def test_how_a_record_is_kept_does_not_change_the_hash(base):
    assert one(base, "record.pack=false").hash == one(base).hash


PLUGIN = """
import fempi
@fempi.register("aggregator", "mine")
def mine(updates, context, *, keep: float = 0.5):
    pass
"""


def test_the_text_of_a_plugin_file_is_part_of_the_hash(write):
    path = write('name = "x"\n[plugins]\nfiles = ["mine.py"]\n[aggregator]\nname = "mine"\n')
    write(PLUGIN, "mine.py")
    before = one(path)
    written = (path.parent / "mine.py").stat()
    write(PLUGIN.replace("0.5", "0.6"), "mine.py")
    os.utime(path.parent / "mine.py", ns=(written.st_atime_ns, written.st_mtime_ns))  # Python's cache goes by this
    after = one(path)
    assert before.hash != after.hash
    assert (before.parameters("aggregator"), after.parameters("aggregator")) == ({"keep": 0.5}, {"keep": 0.6})
    (path.parent / "resolved.toml").write_text(before.to_toml())
    assert "not those that the configuration was made with" in problems(path.parent / "resolved.toml")[0]


def test_an_override_replaces_a_plugin_of_the_users_with_its_hyper_parameters(write):
    write(PLUGIN, "mine.py")
    path = write('name = "x"\n[plugins]\nfiles = ["mine.py"]\n[aggregator]\nname = "mine"\nkeep = 0.7\n')
    assert one(path, 'aggregator.name="mean"').parameters("aggregator") == {"weighted": False}


def test_an_override_takes_an_arms_plugin_with_its_hyper_parameters_and_shows_in_the_label(write):
    path = write(
        """
name = "x"
[attack]
malicious = 2
[[arm]]
name = "plain"
[[arm]]
name = "dual"
set = { "aggregator.name" = "dual", "aggregator.trust_threshold" = 0.3, "aggregator.num_byzantine" = 1 }
"""
    )
    runs = load(path, overrides=['aggregator.name="krum"'])
    assert labels(runs) == ["plain", "dual+aggregator.name=krum"]
    assert [c.aggregator.name for c in runs] == ["krum", "krum"]
    assert [c.aggregator.num_byzantine for c in runs] == [1, 1]


def test_a_name_too_long_for_a_file_is_refused_and_not_dropped(write):
    path = write(f'name = "x"\n[model]\nname = "mlp"\n[grid]\n"model.hidden" = [[8], {list(range(1, 60))}]\n')
    assert any("label: string should have at most 120" in p for p in problems(path))


def test_keys_without_quotes_are_settings_and_not_whole_sections(write):
    path = write('name = "x"\n[train]\ncohort = 5\n[[arm]]\nname = "a"\nset = { train.lr = 0.1 }\n')
    (config,) = load(path)
    assert (config.train.lr, config.train.cohort) == (0.1, 5)
    (config,) = load(path, overrides=["train.lr=0.2"])
    assert (config.train.lr, config.label) == (0.2, "a+train.lr=0.2")


def test_an_override_that_changes_no_plugin_leaves_the_arms_hyper_parameters(write):
    path = write(
        'name = "x"\n[attack]\nname = "sign_flip"\nmalicious = 2\n'
        '[[arm]]\nname = "a"\nset = { "attack.scale" = 1.0 }\n[[arm]]\nname = "b"\nset = { "attack.scale" = 9.0 }\n'
    )
    runs = load(path, overrides=['attack.name="sign_flip"'])
    assert [(c.label, c.parameters("attack")["scale"]) for c in runs] == [("a", 1.0), ("b", 9.0)]


def test_pre_aggregators_are_names_or_tables_and_get_their_defaults():
    (run,) = parse(
        {"name": "x", "aggregator": {"pre": ["nnm", {"name": "bucketing", "size": 3}, {"name": "clipping"}]}}
    )
    assert [entry["name"] for entry in run.aggregator.pre] == ["nnm", "bucketing", "clipping"]
    assert run.aggregator.pre[1] == {"name": "bucketing", "size": 3}
    assert run.aggregator.pre[2]["threshold"] > 0
    assert parse(tomllib.loads(run.to_toml())) == [run]


def test_a_grid_may_list_whole_tables_and_their_values_make_the_labels():
    grid = {"attack": [{"name": "label_flip", "fraction": 0.1}, {"name": "scale", "factor": 2.0}]}
    runs = parse({"name": "x", "attack": {"name": "label_flip", "malicious": 3}, "grid": grid})
    assert [run.label for run in runs] == ["x+attack=label_flip_fraction_0.1", "x+attack=scale_factor_2.0"]
    assert [run.attack.name for run in runs] == ["label_flip", "scale"]
    assert runs[0].parameters("attack")["fraction"] == 0.1
    assert runs[1].parameters("attack") == {"factor": 2.0}
    assert {run.attack.malicious for run in runs} == {3}


@pytest.mark.parametrize(
    "privacy",
    [
        {"clip": 1.0, "noise_multiplier": 0.5},
        {"clip": 2.0, "epsilon": 8.0, "delta": 1e-6, "sampling": "fixed"},
        {"clip": "none", "noise_std": 0.01},
    ],
)
def test_privacy_reads_back_as_it_was_given(privacy):
    (run,) = parse({"name": "x", "privacy": privacy})
    (again,) = parse(tomllib.loads(run.to_toml()))
    assert again == run
    assert again.hash == run.hash
    assert run.privacy.model_dump(exclude_unset=True) == privacy


def test_an_arm_can_do_without_privacy_or_with_another_noise(write):
    base = 'name="x"\n[privacy]\nclip=1.0\nepsilon=8.0\n'
    arms = '[[arm]]\nname="off"\nset.privacy.clip="off"\n[[arm]]\nname="sigma"\nset.privacy.noise_multiplier=1.0\n'
    off, sigma = load(write(base + arms))
    assert off.privacy.clip == "off"
    assert (sigma.privacy.noise_multiplier, sigma.privacy.epsilon) == (1.0, None)


def test_skip_invalid_does_not_change_the_hash():
    (run,), (skipping,) = parse({"name": "x"}), parse({"name": "x", "skip_invalid": True})
    assert run.hash == skipping.hash


def test_an_optional_parameter_of_a_pre_aggregator_reads_back(write):
    plugin = "def p(updates, context, *, z: int | None = None):\n    pass\n"
    write(f'import fempi\n@fempi.register("pre_aggregator", "p")\n{plugin}', "p.py")
    (config,) = load(write('name = "x"\n[plugins]\nfiles = ["p.py"]\n[aggregator]\npre = ["p"]\n'))
    assert load(write(config.to_toml(), "again.toml")) == [config]


def test_only_the_wrong_pre_aggregators_are_named():
    with pytest.raises(ConfigError) as refused:
        parse({"name": "x", "aggregator": {"pre": ["nnm", "clippin"]}})
    (said,) = refused.value.problems
    assert said.startswith("aggregator.pre.2: ")
