"""The settings of one run: strict, frozen, with every default filled in and every error found at once."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fempi import registry
from fempi.errors import FempiError

Document = dict[str, Any]
NAME = r"[A-Za-z0-9][A-Za-z0-9._=+-]*"
"""What may name a run, and so a file"""
NAME_LENGTH = 120
FileName = Annotated[str, Field(pattern=f"^{NAME}$", max_length=NAME_LENGTH)]


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
    root_epochs: Annotated[int, Field(ge=1)] | None = None
    """the server's, on its root data, for the reference update; by default as many as `local_epochs`"""
    batch_size: Annotated[int, Field(ge=1)] = 10
    lr: Annotated[float, Field(gt=0, le=1e6)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    prox: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """FedProx's mu; 0: FedAvg"""
    clients_per_batch: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    """clients of a rank trained at once, which changes results by rounding; "auto": as suits model and device"""
    precision: Literal["float32", "bfloat16"] = "float32"
    """what layers compute in; parameters, updates and tests of the model are float32 in any case"""


class Attack(PluginSection):
    """`[attack]`: who is malicious and what they do."""

    name: str = "none"
    malicious: Annotated[int, Field(ge=0)] = 0
    """malicious clients among all"""
    start_round: Annotated[int, Field(ge=1)] = 1
    """first round of the attack; before it, malicious clients behave"""
    on_rounds: Annotated[int, Field(ge=1)] = 1
    off_rounds: Annotated[int, Field(ge=0)] = 0
    """from then on, the attack lasts `on_rounds` and pauses for `off_rounds`, again and again"""
    active_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """share of the malicious clients, rounded up, that attack in a round, drawn anew each time; the others behave"""


class Aggregator(PluginSection):
    """`[aggregator]`: the rule."""

    name: str = "mean"
    num_byzantine: Annotated[int, Field(ge=0)] | None = None
    """declared Byzantine rows in a round; by default the expected number of malicious ones, rounded up"""
    pre: list[Document] = []
    """pre-aggregators, applied in this order: a name, or a table with a name and hyper-parameters"""
    layout: Literal["root", "sharded"] = "root"
    """where a round's updates are judged: on rank 0, or spread over all ranks, by columns, which changes no result"""


class Privacy(Section):
    """`[privacy]`: what every client does to its update before it sends it; see `fempi.privacy`."""

    clip: Annotated[float, Field(gt=0)] | Literal["none", "off"] | None = None
    """the norm that updates are clipped to; "none" adds noise without clipping; "off", or left out: no privacy"""
    noise_multiplier: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """standard deviation of the noise in units of `clip`"""
    epsilon: Annotated[float, Field(gt=0)] | None = None
    """in place of `noise_multiplier`: what the whole run may spend"""
    noise_std: Annotated[float, Field(ge=0)] | None = None
    """for clip = "none": standard deviation of the noise on each coordinate"""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    sampling: Literal["none", "poisson", "fixed"] = "none"
    """what the accountant saves for the drawing of cohorts: nothing, which holds against whoever knows who took part"""


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
    per_client: bool = False
    """also on each client's own part of the test set, which has the same mix of labels as its training examples"""


class Plugins(Section):
    """`[plugins]`: the user's own rules, attacks, models, ..."""

    files: list[str] = []
    """Python files, relative to the configuration's folder"""
    sha256: list[str] = []
    """sums of their texts, filled in when they are loaded; given, they must agree"""


class Config(Section):
    """One run, completely described."""

    name: FileName
    label: FileName
    """this run among those of its file: its arm and its place in the grid; names the record"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    rounds: Annotated[int, Field(ge=1, le=10**6)] = 100
    skip_invalid: bool = False
    """leave a run out, and say why, if a plugin objects to it when it is prepared, instead of refusing all runs"""
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    attack: Attack = Attack()
    aggregator: Aggregator = Aggregator()
    privacy: Privacy = Privacy()
    record: Record = Record()
    evaluation: Evaluation = Evaluation()
    plugins: Plugins = Plugins()

    @property
    def title(self) -> str:
        """This run among those of several files."""
        return f"{self.name}/{self.label}"

    def parameters(self, kind: str) -> dict[str, Any]:
        """The hyper-parameters of this run's plugin of a kind."""
        section, _ = PLUGINS[kind]
        values = getattr(self, section).parameters
        return {key: values[key] for key in self.plugin(kind).parameters.model_fields}

    def plugin(self, kind: str) -> registry.Plugin:
        """This run's plugin of a kind."""
        section, key = PLUGINS[kind]
        return registry.find(kind, getattr(getattr(self, section), key))

    @property
    def needs(self) -> set[str]:
        """What the rule cannot do without."""
        return set(self.plugin("aggregator").needs)

    def to_toml(self) -> str:
        """Every setting, as a file that `fempi run` would read back to the same run."""
        return tomli_w.dumps(_without_none(self.model_dump()))

    @property
    def hash(self) -> str:
        """SHA-256 of all settings that matter for a record's content.

        Those are not `record.pack`, `aggregator.layout` and `skip_invalid`.
        """
        usual = {
            "record": self.record.model_copy(update={"pack": True}),
            "aggregator": self.aggregator.model_copy(update={"layout": "root"}),
            "skip_invalid": False,
        }
        return hashlib.sha256(self.model_copy(update=usual).to_toml().encode()).hexdigest()


PLUGINS: Mapping[str, tuple[str, str]] = {
    "dataset": ("data", "dataset"),
    "partition": ("data", "partition"),
    "model": ("model", "name"),
    "attack": ("attack", "name"),
    "aggregator": ("aggregator", "name"),
}
NOISE = ("noise_multiplier", "epsilon", "noise_std")
"""Settings of [privacy] of which one is given: where an arm gives another, the first goes"""
MOST_LINES, LONGEST_LINE = 100, 1000
"""What is said of a configuration that is wrong all over"""
LEAST_NOISE = 1e-3
"""A smaller multiple protects nothing, and the accountant's numbers overflow."""
SECTIONS: Mapping[str, type[Section]] = {
    "data": Data,
    "model": Model,
    "train": Train,
    "attack": Attack,
    "aggregator": Aggregator,
    "privacy": Privacy,
    "record": Record,
    "evaluation": Evaluation,
    "plugins": Plugins,
}


def names(configs: Sequence[Config]) -> dict[str, str]:
    """Return what to call each run, by its title: its label, or its title where the runs are of several files."""
    several = len({config.name for config in configs}) > 1
    return {config.title: config.title if several else config.label for config in configs}


class ConfigError(FempiError):
    """Everything that is wrong with a configuration, a line each."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = [_on_a_line(problem) for problem in dict.fromkeys(problems)]
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        more = len(self.problems) - MOST_LINES
        shown = [*self.problems[:MOST_LINES], f"and {more} more"] if more > 0 else self.problems
        super().__init__("\n  ".join([f"{where}: {count}", *shown]))


def resolve_aggregator(table: Document) -> Aggregator:
    """Validate `[aggregator]` alone and fill in its plugins' defaults; ConfigError with every problem."""
    table = dict(table)
    problems = [*_bind("aggregator", table, ["aggregator"]), *_bind_pre(table)]
    try:
        section = Aggregator.model_validate(table)
    except ValidationError as error:
        raise ConfigError("aggregator", [*_describe(error, ("aggregator",)), *problems]) from None
    if problems:
        raise ConfigError("aggregator", problems)
    return section


def resolve(document: Document) -> tuple[Config | None, list[str]]:
    """Validate a document without arms and fill in every default; return the run, or None, and the problems."""
    document = {k: dict(v) if isinstance(v, dict) else v for k, v in document.items()}
    problems: list[str] = []
    for section, kinds in itertools.groupby(PLUGINS, key=lambda kind: PLUGINS[kind][0]):
        table = document.setdefault(section, {})
        if isinstance(table, dict):
            problems += _bind(section, table, list(kinds))
    problems += _bind_pre(document["aggregator"])
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        return None, [*_describe(error, ()), *problems]
    if not problems and "reference" in config.needs and not config.data.root_examples:
        problems.append(f"data.root_examples: {config.aggregator.name} needs the server's own examples; give it some")
    problems += _contradictions(config) + _privacy_contradictions(config.privacy)
    if problems:
        return None, problems
    if config.aggregator.num_byzantine is None:
        expected = ceil(config.train.cohort * config.attack.malicious / config.data.clients)
        document["aggregator"]["num_byzantine"] = expected
        config = Config.model_validate(document)
    return config, []


def _bind(section: str, table: Document, kinds: list[str]) -> list[str]:
    """Check the hyper-parameters in a table against its plugins and fill in their defaults."""
    own = SECTIONS[section].model_fields
    given = {key: value for key, value in table.items() if key not in own}
    problems: list[str] = []
    known: set[str] = set(own)
    for kind in kinds:
        key = PLUGINS[kind][1]
        name = table.get(key, own[key].default)
        if not isinstance(name, str):
            return []  # said by the section's own check
        try:
            plugin = registry.find(kind, name)
        except FempiError as error:
            return [f"{section}.{key}: {error}"]
        fields = plugin.parameters.model_fields
        known |= fields.keys()
        problems += [
            f"{section}.{key}: {name} has a hyper-parameter {clash!r}, which is a setting of [{section}]; rename it"
            for clash in sorted(fields.keys() & own.keys())
        ]
        try:
            bound = plugin.bind({k: v for k, v in given.items() if k in fields})
        except ValidationError as error:
            problems += _describe(error, (section,))
        else:
            table.update(bound)
    problems += [f"{section}.{key}: unknown setting{registry.nearest(key, known)}" for key in given if key not in known]
    return problems


def _bind_pre(table: Any) -> list[str]:
    """Check the pre-aggregators and fill in their defaults; each becomes a table."""
    entries = table.get("pre") if isinstance(table, dict) else None
    if not isinstance(entries, list):
        return []  # said by the section's own check
    problems: list[str] = []
    bound: list[Document] = []
    for number, entry in enumerate(entries, 1):
        where = f"aggregator.pre.{number}"
        given = {"name": entry} if isinstance(entry, str) else entry
        bound.append({})  # until it is found to be right, so that the section's own check has nothing to add
        if not isinstance(given, dict):
            problems.append(f"{where}: must be a name or a table with a name, not {entry!r}")
            continue
        if not isinstance(name := given.get("name"), str):
            problems.append(f"{where}: needs a name")
            continue
        try:
            plugin = registry.find("pre_aggregator", name)
            bound[-1] = {"name": name, **plugin.bind({k: v for k, v in given.items() if k != "name"})}
        except FempiError as error:
            problems.append(f"{where}: {error}")
        except ValidationError as error:
            problems += _describe(error, ("aggregator", "pre", str(number)))
    table["pre"] = bound
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


def _privacy_contradictions(privacy: Privacy) -> list[str]:
    given = [key for key in NOISE if getattr(privacy, key) is not None]
    if 0 < (privacy.noise_multiplier or 0) < LEAST_NOISE:
        return [f"privacy.noise_multiplier: must be 0 or at least {LEAST_NOISE}, not {privacy.noise_multiplier}"]
    if privacy.clip is None:
        return [f'privacy.clip: is missing, but there is privacy.{given[0]}; give a norm, or "none"'] if given else []
    if privacy.clip == "off":
        return []
    if privacy.clip == "none":
        if given != ["noise_std"]:
            return ['privacy: with clip = "none" the noise is given by noise_std, and by nothing else']
    elif given not in (["noise_multiplier"], ["epsilon"]):
        return ['privacy: the noise is given by either noise_multiplier or epsilon (noise_std goes with clip = "none")']
    return []


def _describe(error: ValidationError, prefix: tuple[str, ...]) -> list[str]:
    """One line a problem: its path, what is wrong, the value, and the nearest valid name."""
    lines = []
    for detail in error.errors(include_url=False):
        path = (*prefix, *map(str, detail["loc"]))
        where = ".".join(path)
        if path[:2] == ("privacy", "clip"):
            lines.append(f'privacy.clip: must be a number above 0, "none" or "off", not {detail["input"]!r}')
        elif path[:2] == ("train", "clients_per_batch"):
            lines.append(f'train.clients_per_batch: must be a number from 1 up, or "auto", not {detail["input"]!r}')
        elif detail["type"] == "extra_forbidden" and len(path) > 2:
            lines.append(f"{where}: unknown setting")
        elif detail["type"] == "extra_forbidden":
            owner: type[BaseModel] = SECTIONS[path[0]] if len(path) > 1 and path[0] in SECTIONS else Config
            valid = {*owner.model_fields, "arm", "grid"} - {"label"} if owner is Config else owner.model_fields
            lines.append(f"{where}: unknown setting{registry.nearest(path[-1], valid)}")
        elif detail["type"] == "missing":
            lines.append(f"{where}: is missing")
        else:
            said = detail["msg"][0].lower() + detail["msg"][1:]
            lines.append(f"{where}: {said}, not {detail['input']!r}")
    return lines


def _on_a_line(text: str) -> str:
    """Escape what keys and values of a file could do to a terminal, and cut what nobody would read."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return plain if len(plain) <= LONGEST_LINE else f"{plain[:LONGEST_LINE]} ..."


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value]
    return value
