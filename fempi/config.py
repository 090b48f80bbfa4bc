"""The TOML file: strict, frozen, every error at once.

A file describes one run, or with `[[arm]]` and `[grid]` several. `load` expands it into one `Config` a run; each holds
every setting with its defaults filled in, so that a record needs nothing else to say what was done.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fempi import registry
from fempi.errors import FempiError

Document = dict[str, Any]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=+-]*$", max_length=120)]


class Section(BaseModel):
    """A table of the file: no unknown keys, no silent conversions, no changes after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class PluginSection(Section):
    """A table that names a plugin; the keys that are not its own are the plugin's hyper-parameters."""

    model_config = ConfigDict(extra="allow")

    @property
    def parameters(self) -> dict[str, Any]:
        """The hyper-parameters, defaults included."""
        return dict(self.model_extra or {})


class Data(PluginSection):
    """`[data]`: the dataset, its split over the clients, and the server's root data."""

    dataset: str = "mnist"
    clients: Annotated[int, Field(ge=1)] = 100
    partition: str = "iid"
    root_examples: Annotated[int, Field(ge=0)] = 100
    """training examples the server keeps for its reference update; no client has them"""


class Model(PluginSection):
    """`[model]`: the architecture."""

    name: str = "cnn"


class Train(Section):
    """`[train]`: what a client does in a round."""

    cohort: Annotated[int, Field(ge=1)] = 10
    """clients in a round"""
    local_epochs: Annotated[int, Field(ge=1)] = 5
    batch_size: Annotated[int, Field(ge=1)] = 10
    lr: Annotated[float, Field(gt=0)] = 0.01


class Attack(PluginSection):
    """`[attack]`: who is malicious and what they do."""

    name: str = "none"
    malicious: Annotated[int, Field(ge=0)] = 0
    """malicious clients among all"""


class Aggregator(PluginSection):
    """`[aggregator]`: the rule."""

    name: str = "mean"
    num_byzantine: Annotated[int, Field(ge=0)] | None = None
    """declared Byzantine rows in a round; by default the expected number of malicious ones, rounded up"""


class Record(Section):
    """`[record]`: what is kept besides Gram matrices, scores and decisions, which always are."""

    updates: Literal["full", "float16", "sketch", "none"] = "full"
    every: Annotated[int, Field(ge=1)] = 1
    """keep the updates of every k-th round"""
    sketch_size: Annotated[int, Field(ge=16)] = 1024
    pack: bool = True
    """join the round files into one file at the end"""


class Evaluation(Section):
    """`[evaluation]`: when the model is tested."""

    every: Annotated[int, Field(ge=1)] = 1
    """test after every k-th round, and after the last"""


class Plugins(Section):
    """`[plugins]`: the user's own rules, attacks, models, ..."""

    files: list[str] = []
    """Python files, relative to the configuration's folder"""


class Config(Section):
    """One run, completely described."""

    name: FileName
    label: FileName
    """this run among those of its file: its arm and its place in the grid; names the record"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    rounds: Annotated[int, Field(ge=1)] = 100
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    attack: Attack = Attack()
    aggregator: Aggregator = Aggregator()
    record: Record = Record()
    evaluation: Evaluation = Evaluation()
    plugins: Plugins = Plugins()

    def parameters(self, kind: str) -> dict[str, Any]:
        """The hyper-parameters of this run's plugin of a kind."""
        section, _ = _PLUGINS[kind]
        values = getattr(self, section).parameters
        return {key: values[key] for key in self.plugin(kind).parameters.model_fields}

    def plugin(self, kind: str) -> registry.Plugin:
        """This run's plugin of a kind."""
        section, key = _PLUGINS[kind]
        return registry.find(kind, getattr(getattr(self, section), key))

    def to_toml(self) -> str:
        """Every setting, as a file that `fempi run` would read back to the same run."""
        return tomli_w.dumps(_without_none(self.model_dump()))

    @property
    def hash(self) -> str:
        """SHA-256 of the complete settings."""
        return hashlib.sha256(self.to_toml().encode()).hexdigest()


_PLUGINS: Mapping[str, tuple[str, str]] = {
    "dataset": ("data", "dataset"),
    "partition": ("data", "partition"),
    "model": ("model", "name"),
    "attack": ("attack", "name"),
    "aggregator": ("aggregator", "name"),
}
_SECTIONS: Mapping[str, type[Section]] = {
    "data": Data,
    "model": Model,
    "train": Train,
    "attack": Attack,
    "aggregator": Aggregator,
    "record": Record,
    "evaluation": Evaluation,
    "plugins": Plugins,
}


class ConfigError(FempiError):
    """Everything that is wrong with a configuration, a line each."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n  ".join([f"{where}: {count}", *self.problems]))


def load(path: Path, *, overrides: Sequence[str] = (), arm: str | None = None) -> list[Config]:
    """Read a file, apply `key=TOMLVALUE` overrides, and expand arms and grid; one arm only, if `arm` names it.

    An override has the last word: arms and grid no longer set its key.

    Raises ConfigError with every problem there is.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"not valid TOML: {error}"]) from error
    settings: Document = {}
    problems: list[str] = []
    for override in overrides:
        try:
            settings |= _parse_override(override)
            document = _changed(document, settings)
        except FempiError as error:
            problems.append(f"--set {override}: {error}")
    if problems:
        raise ConfigError(str(path), problems)
    _forget(document, settings)
    return parse(document, where=str(path), folder=path.parent, arm=arm)


def parse(document: Document, *, where: str = "config", folder: Path = Path(), arm: str | None = None) -> list[Config]:
    """Expand a document into its runs; see `load`."""
    document = dict(document)
    problems: list[str] = []
    arms = _tables(document.pop("arm", []), problems)
    grid = document.pop("grid", {})
    for file in _plugin_files(document):
        try:
            registry.load_file(folder / file)
        except FempiError as error:
            problems.append(f"plugins.files: {error}")

    _, base_problems = _resolve({"label": "run", **document})
    problems += base_problems
    configs: list[Config] = []
    labels: list[str] = []
    for arm_name, label, changed, objection in _expand(document, arms, grid):
        if objection:
            problems.append(objection)
            continue
        resolved, own = _resolve({**changed, "label": label})
        problems += [f"{label}: {p}" for p in own if p not in base_problems]
        if resolved is not None:
            labels.append(label)
            if arm in (None, arm_name):
                configs.append(resolved)

    problems += [f"two runs are called {label!r}" for label in sorted({x for x in labels if labels.count(x) > 1})]
    if arm is not None and not problems:
        known = [str(a.get("name")) for a in arms]
        if arm not in known:
            problems.append(f"--arm: no arm is called {arm!r}{registry.nearest(arm, known)}")
    if problems:
        raise ConfigError(where, problems)
    return configs


def _forget(document: Document, settings: Document) -> None:
    """Take what the command line has set out of the arms and the grid: its word is the last."""
    arms, grid = document.get("arm", []), document.get("grid", {})
    tables = [a.get("set") for a in arms if isinstance(a, dict)] if isinstance(arms, list) else []
    for table in (*tables, grid):
        for key in list(table) if isinstance(table, dict) else ():
            if key in settings or key.rpartition(".")[0] in settings:
                del table[key]


def _tables(arms: Any, problems: list[str]) -> list[Document]:
    if not isinstance(arms, list) or not all(isinstance(a, dict) for a in arms):
        problems.append("arm: must be [[arm]] tables")
        return []
    for number, table in enumerate(arms, 1):
        unknown = sorted(table.keys() - {"name", "set"})
        problems += [f"arm {number}: unknown key {key!r}{registry.nearest(key, ['name', 'set'])}" for key in unknown]
        if not isinstance(table.get("name"), str):
            problems.append(f"arm {number}: needs a name")
        if not isinstance(table.get("set", {}), dict):
            problems.append(f"arm {number}: set must be a table")
    return [a for a in arms if isinstance(a.get("name"), str) and isinstance(a.get("set", {}), dict)]


def _plugin_files(document: Document) -> list[str]:
    plugins = document.get("plugins", {})
    files = plugins.get("files", []) if isinstance(plugins, dict) else []
    return [f for f in files if isinstance(f, str)] if isinstance(files, list) else []


def _expand(document: Document, arms: list[Document], grid: Any) -> Iterator[tuple[str, str, Document, str]]:
    """Yield (arm, label, document, problem) for every arm and point of the grid."""
    if not isinstance(grid, dict) or not all(isinstance(v, list) and v for v in grid.values()):
        yield "", "", {}, 'grid: each key must list its values, as in "seed" = [1, 2, 3]'
        return
    short = [key.rpartition(".")[2] for key in grid]
    keys = {key: last if short.count(last) == 1 else key for key, last in zip(grid, short, strict=True)}
    for table in arms or [{"name": document.get("label", document.get("name", "run"))}]:
        for point in itertools.product(*grid.values()):
            settings = dict(zip(grid, point, strict=True))
            name = str(table["name"])
            label = "+".join([name, *(f"{keys[k]}={_in_a_name(v)}" for k, v in settings.items())])
            try:
                changed = _changed(_changed(document, table.get("set", {})), settings)
            except FempiError as error:
                yield name, label, {}, f"{label}: {error}"
            else:
                yield name, label, changed, ""


def _in_a_name(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_")


def _parse_override(text: str) -> Document:
    key, equals, value = text.partition("=")
    if not equals:
        raise FempiError("write it as key=VALUE, with the value as in TOML")
    try:
        return {key.strip(): tomllib.loads(f"value = {value}")["value"]}
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise FempiError(f"{value!r} is not a TOML value (strings need quotes): {error}") from error


def _changed(document: Document, settings: Mapping[str, Any]) -> Document:
    """Return the document with dotted keys set.

    Hyper-parameters belong to the plugin they were written for: where a setting chooses another plugin, those of the
    old one go.
    """
    document = {k: dict(v) if isinstance(v, dict) else v for k, v in document.items()}
    for kind, (section, key) in _PLUGINS.items():
        chosen = settings.get(f"{section}.{key}")
        table = document.get(section, {})
        default = _SECTIONS[section].model_fields[key].default
        if chosen is None or not isinstance(table, dict) or chosen == table.get(key, default):
            continue
        for name in _parameter_names(kind, table.get(key, default)):
            table.pop(name, None)
    for dotted, value in settings.items():
        head, dot, last = dotted.rpartition(".")
        if head.count("."):
            raise FempiError(f"{dotted}: no such setting")
        if not dot:
            document[dotted] = value
            continue
        table = document.setdefault(head, {})
        if not isinstance(table, dict):
            raise FempiError(f"{dotted}: {head} is not a table")
        table[last] = value
    return document


def _parameter_names(kind: str, name: Any) -> list[str]:
    try:
        return list(registry.find(kind, name).parameters.model_fields)
    except FempiError:
        return []


def _resolve(document: Document) -> tuple[Config | None, list[str]]:
    """Validate a document without arms and fill in every default; return the run, or None, and the problems."""
    document = {k: dict(v) if isinstance(v, dict) else v for k, v in document.items()}
    problems: list[str] = []
    for section, kinds in itertools.groupby(_PLUGINS, key=lambda kind: _PLUGINS[kind][0]):
        table = document.setdefault(section, {})
        if isinstance(table, dict):
            problems += _bind(section, table, list(kinds))
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        return None, [*_describe(error, ()), *problems]
    if not problems and "reference" in config.plugin("aggregator").needs and not config.data.root_examples:
        problems.append(f"data.root_examples: {config.aggregator.name} needs the server's own examples; give it some")
    problems += _contradictions(config)
    if problems:
        return None, problems
    if config.aggregator.num_byzantine is None:
        expected = ceil(config.train.cohort * config.attack.malicious / config.data.clients)
        document["aggregator"]["num_byzantine"] = expected
        config = Config.model_validate(document)
    return config, []


def _bind(section: str, table: Document, kinds: list[str]) -> list[str]:
    """Check the hyper-parameters in a table against its plugins and fill in their defaults."""
    own = _SECTIONS[section].model_fields
    given = {key: value for key, value in table.items() if key not in own}
    problems: list[str] = []
    known: set[str] = set(own)
    for kind in kinds:
        key = _PLUGINS[kind][1]
        name = table.get(key, own[key].default)
        if not isinstance(name, str):
            return []  # said by the section's own check
        try:
            plugin = registry.find(kind, name)
        except FempiError as error:
            return [f"{section}.{key}: {error}"]
        fields = plugin.parameters.model_fields
        known |= fields.keys()
        try:
            bound = plugin.bind({k: v for k, v in given.items() if k in fields})
        except ValidationError as error:
            problems += _describe(error, (section,))
        else:
            table.update({k: v for k, v in bound.items() if v is not None})
            table.update({k: None for k, v in bound.items() if v is None})
    problems += [f"{section}.{key}: unknown setting{registry.nearest(key, known)}" for key in given if key not in known]
    return problems


def _contradictions(config: Config) -> list[str]:
    problems = []
    clients, cohort = config.data.clients, config.train.cohort
    if cohort > clients:
        problems.append(f"train.cohort: {cohort} clients a round, but data.clients is {clients}")
    if config.attack.malicious > clients:
        problems.append(f"attack.malicious: {config.attack.malicious}, but data.clients is {clients}")
    if (config.aggregator.num_byzantine or 0) > cohort:
        problems.append(f"aggregator.num_byzantine: {config.aggregator.num_byzantine}, but train.cohort is {cohort}")
    return problems


def _describe(error: ValidationError, prefix: tuple[str, ...]) -> list[str]:
    """One line a problem: its path, what is wrong, the value, and the nearest valid name."""
    lines = []
    for detail in error.errors(include_url=False):
        path = (*prefix, *map(str, detail["loc"]))
        where = ".".join(path)
        if detail["type"] == "extra_forbidden":
            owner: type[BaseModel] = _SECTIONS[path[0]] if len(path) > 1 and path[0] in _SECTIONS else Config
            valid = {*owner.model_fields, "arm", "grid"} - {"label"} if owner is Config else owner.model_fields
            lines.append(f"{where}: unknown setting{registry.nearest(path[-1], valid)}")
        elif detail["type"] == "missing":
            lines.append(f"{where}: is missing")
        else:
            said = detail["msg"][0].lower() + detail["msg"][1:]
            lines.append(f"{where}: {said}, not {detail['input']!r}")
    return lines


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return value
