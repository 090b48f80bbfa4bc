from pathlib import Path
from typing import Any

import pydantic
import pytest

from fempi import registry
from fempi.errors import FempiError

PLUGIN = '''
from fempi.registry import register

@register("aggregator", "{name}", paper="Nobody, Nowhere 2000", needs=("columns",))
def rule(updates, context, *, strength: float, steps: int = 3, mode: str = "slow"):
    """Do nothing at all.

    Not even slowly.
    """
    return strength, steps, mode
'''


@pytest.fixture
def plugin_file(tmp_path: Path, own_registry: None) -> Path:
    """A user's plugin file; what it registers is forgotten after the test, for other tests list all plugins."""
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN.format(name="do_nothing"))
    return path


def test_names_are_sorted_and_those_of_the_package_are_there() -> None:
    aggregators = registry.names("aggregator")
    assert aggregators == sorted(aggregators)
    assert {"mean", "krum", "multi_krum", "fltrust", "dual"} <= set(aggregators)
    assert {"sign_flip", "label_flip", "none"} <= set(registry.names("attack"))
    assert {"cnn", "cnn_small", "mlp"} <= set(registry.names("model"))


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("aggregator", "mulit_krum", r"no aggregator is called 'mulit_krum'; did you mean 'multi_krum'\?"),
        ("attack", "signflip", r"no attack is called 'signflip'; did you mean 'sign_flip'\?"),
        ("aggregator", "xyzzy", r"no aggregator is called 'xyzzy' \(there are: .*dual, .*mean"),
    ],
)
def test_an_unknown_name_gets_the_nearest_or_all_there_are(kind: str, wrong: str, message: str) -> None:
    with pytest.raises(FempiError, match=message):
        registry.find(kind, wrong)


def test_nearest_of_nothing_is_silent() -> None:
    assert registry.nearest("krum", []) == ""


def test_defaults_are_filled_in() -> None:
    plugin = registry.find("aggregator", "dual")
    assert plugin.bind({}) == {"trust_threshold": 0.2, "m": None, "rescale": False}
    assert plugin.bind({"m": 3}) == {"trust_threshold": 0.2, "m": 3, "rescale": False}


@pytest.mark.parametrize(
    "wrong",
    [
        {"treshold": 0.5},  # no such hyper-parameter
        {"m": "3"},
        {"m": 3.0},
        {"m": True},  # bool is an int to Python, not to us
        {"m": 0},
        {"trust_threshold": True},
        {"trust_threshold": "0.2"},
        {"trust_threshold": float("nan")},
        {"trust_threshold": 1.0},
        {"rescale": 1},
        {"rescale": "yes"},
    ],
)
def test_hyper_parameters_are_bound_strictly(wrong: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        registry.find("aggregator", "dual").bind(wrong)


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(pydantic.ValidationError) as error:
        registry.find("aggregator", "dual").bind({"m": 0, "rescale": 1, "treshold": 0.5})
    assert {problem["loc"][0] for problem in error.value.errors()} == {"m", "rescale", "treshold"}


def test_a_whole_number_will_do_for_a_float() -> None:
    assert registry.find("attack", "sign_flip").bind({"scale": 3})["scale"] == 3


def test_a_users_file_registers_what_it_defines(plugin_file: Path) -> None:
    registry.load_file(plugin_file)
    plugin = registry.find("aggregator", "do_nothing")
    assert "do_nothing" in registry.names("aggregator")
    assert plugin.summary == "Do nothing at all"
    assert (plugin.paper, plugin.needs, plugin.origin) == ("Nobody, Nowhere 2000", ("columns",), str(plugin_file))
    assert plugin.bind({"strength": 1.5}) == {"strength": 1.5, "steps": 3, "mode": "slow"}
    with pytest.raises(pydantic.ValidationError, match="strength"):
        plugin.bind({})  # it has no default


def test_loading_a_file_twice_is_no_error(plugin_file: Path) -> None:
    registry.load_file(plugin_file)
    registry.load_file(plugin_file)
    assert registry.names("aggregator").count("do_nothing") == 1


@pytest.mark.parametrize("taken", ["krum", "do_nothing"])
def test_a_name_belongs_to_the_file_that_took_it_first(plugin_file: Path, taken: str) -> None:
    registry.names("aggregator")
    registry.load_file(plugin_file)
    other = plugin_file.with_name("other.py")
    other.write_text(PLUGIN.format(name=taken))
    with pytest.raises(FempiError, match=rf"'{taken}' of other\.py is (built in|registered by .*mine)"):
        registry.load_file(other)
    assert registry.find("aggregator", taken).origin != str(other)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FempiError, match=r"no such file: .*absent\.py"):
        registry.load_file(tmp_path / "absent.py")
    with pytest.raises(FempiError, match="no such file"):
        registry.load_file(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def broken(:\n", r"bad\.py cannot be imported: SyntaxError"),
        ("1 / 0\n", r"bad\.py cannot be imported: ZeroDivisionError: division by zero"),
        ("import no_such_module_at_all\n", r"bad\.py cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_file_that_cannot_be_imported_says_why_every_time(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    for _ in range(2):
        with pytest.raises(FempiError, match=message):
            registry.load_file(path)


def test_a_mended_file_can_be_loaded(plugin_file: Path) -> None:
    good = plugin_file.read_text()
    plugin_file.write_text("1 / 0\n")
    with pytest.raises(FempiError):
        registry.load_file(plugin_file)
    plugin_file.write_text(good + "\n# mended\n")
    registry.load_file(plugin_file)
    assert registry.find("aggregator", "do_nothing").origin == str(plugin_file)


def test_a_file_that_is_not_python_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plugin.txt"
    path.write_text("hello")
    with pytest.raises(FempiError, match="is not a Python file"):
        registry.load_file(path)


def test_an_unknown_kind_gets_the_nearest() -> None:
    with pytest.raises(FempiError, match=r"no kind of plugin is called 'agregator'; did you mean 'aggregator'\?"):
        registry.register("agregator", "mine")


def test_a_hyper_parameter_without_a_type_is_refused() -> None:
    def rule(updates: object, context: object, *, strength=1.0) -> None:  # type: ignore[no-untyped-def]
        """Forget an annotation."""

    with pytest.raises(FempiError, match="annotate the hyper-parameter 'strength'"):
        registry.register("aggregator", "careless")(rule)
    assert "careless" not in registry.names("aggregator")
