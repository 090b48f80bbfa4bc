"""A TOML file and the runs it describes: one, or with `[[arm]]` and `[grid]` several."""

from __future__ import annotations

import itertools
import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fempi import registry
from fempi.config import NAME, NAME_LENGTH, NOISE, PLUGINS, SECTIONS, Config, ConfigError, Document, resolve
from fempi.errors import FempiError

MOST_RUNS = 10_000
"""that one file may describe"""
DEEPEST = 20
"""tables and lists within each other; a configuration needs five"""


def load(path: Path, *, overrides: Sequence[str] = (), arm: str | None = None) -> list[Config]:
    """Read a file, apply `key=TOMLVALUE` overrides, and expand arms and grid; one arm only, if `arm` names it.

    An override has the last word: arms and grid no longer set its key, and the labels of arms so changed say it.
    Raises ConfigError with every problem there is.
    """
    try:
        document = _parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigError(str(path), [f"not valid TOML: {error}"]) from error
    settings = parse_overrides(overrides, where=str(path))
    return parse(document, settings, where=str(path), folder=path.parent, arm=arm)


def load_all(paths: Sequence[Path], *, overrides: Sequence[str] = (), arm: str | None = None) -> list[Config]:
    """Load several files, one after another; ConfigError also if two of their runs would have the same record."""
    runs = [config for path in paths for config in load(path, overrides=overrides, arm=arm)]
    twice = [name for name, count in Counter(run.title for run in runs).items() if count > 1]
    if twice:
        raise ConfigError(", ".join(map(str, paths)), [f"two runs are called {name}" for name in sorted(twice)])
    return runs


def parse(
    document: Document,
    settings: Mapping[str, Any] = MappingProxyType({}),
    *,
    where: str = "config",
    folder: Path = Path(),
    arm: str | None = None,
) -> list[Config]:
    """Expand a document into its runs, with settings that override it; see `load`."""
    problems: list[str] = []
    sums = _load_plugins(document, settings, folder, problems)
    base = document
    try:
        document = _changed(base, settings)
    except FempiError as error:
        raise ConfigError(where, [*problems, f"--set: {error}"]) from error
    _note_sums(document, sums, problems)
    arms = _overridden(_tables(document.pop("arm", []), problems), base, settings)
    grid = document.pop("grid", {})
    if isinstance(grid, dict):
        grid = _overridden_grid(grid, base, settings)

    _, base_problems = resolve({"label": "run", **document})
    problems += base_problems
    named_badly = any(p.startswith("name: ") for p in base_problems)
    configs: list[Config] = []
    labels: list[str] = []
    for arm_name, label, changed, objection in _expand(document, arms, grid):
        if objection:
            problems.append(objection)
            continue
        resolved, own = resolve({**changed, "label": label})
        problems += [
            f"{label}: {p}" for p in own if p not in base_problems and not (named_badly and p.startswith("label: "))
        ]
        if changed.get("plugins") != document.get("plugins"):
            problems.append(f"{label}: plugins: are loaded once for all runs, so no arm and no grid can set them")
        if resolved is not None:
            labels.append(label)
            if arm in (None, arm_name):
                configs.append(resolved)

    problems += [f"two runs are called {label!r}" for label, count in sorted(Counter(labels).items()) if count > 1]
    names = [str(a["name"]) for a in arms]
    if arm is not None and not problems and arm not in names:
        problems.append(f"--arm: no arm is called {arm!r}{registry.nearest(arm, names)}")
    if problems:
        raise ConfigError(where, problems)
    return configs


def _parsed(text: str) -> Document:
    """Read TOML; ValueError for what is none, and for what `tomllib` takes although no configuration can mean it."""
    try:
        document = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("lists or tables are nested too deeply") from error
    _vet(document, "", DEEPEST)
    return document


def _vet(value: Any, where: str, depth: int) -> None:
    """Raise ValueError for integers of more than 64 bits, which are none in TOML, and for deep nesting."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{where}: has more than 64 bits")
    if isinstance(value, (dict, list)):
        if not depth:
            raise ValueError(f"{where}: lists or tables are nested too deeply")
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value, 1):
            _vet(inner, f"{where}.{key}".lstrip("."), depth - 1)


def _load_plugins(document: Document, settings: Mapping[str, Any], folder: Path, problems: list[str]) -> list[str]:
    """Load the plugin files, first of all, since they decide which names are right; return the sums of their texts."""
    plugins = document.get("plugins", {})
    files = settings.get("plugins.files", plugins.get("files", []) if isinstance(plugins, dict) else [])
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        return []  # said by the section's own check
    sums = []
    for file in files:
        try:
            sums.append(registry.load_file(folder / file))
        except FempiError as error:
            problems.append(f"plugins.files: {error}")
    return sums


def _note_sums(document: Document, sums: list[str], problems: list[str]) -> None:
    """Put the plugin files' sums into the configuration, so that a changed file makes another run."""
    plugins = document.get("plugins")
    if not isinstance(plugins, dict):
        return
    if plugins.get("sha256", sums) != sums:
        problems.append("plugins.sha256: the files are not those that the configuration was made with")
    if sums:
        document["plugins"] = {**plugins, "sha256": sums}


def _flat(settings: Mapping[str, Any]) -> Document:
    """Write a section given as a table as its dotted keys, which is how TOML reads `train.lr` without quotes."""
    flat: Document = {}
    for key, value in settings.items():
        if key in SECTIONS and isinstance(value, dict):
            flat |= {f"{key}.{name}": each for name, each in value.items()}
        else:
            flat[key] = value
    return flat


def _overridden(arms: list[Document], base: Document, settings: Mapping[str, Any]) -> list[Document]:
    """Take out of the arms what the command line sets, which has the last word, and say so in their labels.

    Where it chooses a plugin, the hyper-parameters that an arm gives to its own go too.
    """
    out = []
    for table in arms:
        own = _of_chosen_plugins(_flat(table.get("set", {})), base, settings)
        label = str(table["name"])
        for setting in [key for key in own if key in settings]:
            if own.pop(setting) != settings[setting]:
                label += f"+{setting}={_in_a_name(settings[setting])}"
        out.append({**table, "set": own, "label": label})
    return out


def _overridden_grid(grid: Document, base: Document, settings: Mapping[str, Any]) -> Document:
    """Take out of the grid what the command line sets, a whole key or a part of its tables; equal points become one."""
    out = {}
    for key, values in grid.items():
        if key in settings:
            continue
        if key in SECTIONS and isinstance(values, list) and all(isinstance(value, dict) for value in values):
            left = []
            for value in values:
                own = _of_chosen_plugins(_flat({key: value}), base, settings)
                rest = {name.removeprefix(f"{key}."): each for name, each in own.items() if name not in settings}
                if rest not in left:
                    left.append(rest)
            values = left
        if values != [{}]:
            out[key] = values
    return out


def _of_chosen_plugins(own: Document, base: Document, settings: Mapping[str, Any]) -> Document:
    """Leave out the hyper-parameters of plugins instead of which the settings choose others."""
    own = dict(own)
    for kind, (section, key) in PLUGINS.items():
        if f"{section}.{key}" in settings:
            before = own.get(f"{section}.{key}", _chosen(base, section, key))
            if before != settings[f"{section}.{key}"]:
                for name in _parameter_names(kind, before):
                    own.pop(f"{section}.{name}", None)
    return own


def _tables(arms: Any, problems: list[str]) -> list[Document]:
    if not isinstance(arms, list) or not all(isinstance(a, dict) for a in arms):
        problems.append("arm: must be [[arm]] tables")
        return []
    known = len(problems)
    for number, table in enumerate(arms, 1):
        unknown = sorted(table.keys() - {"name", "set"})
        problems += [f"arm {number}: unknown key {key!r}{registry.nearest(key, ['name', 'set'])}" for key in unknown]
        if not isinstance(table.get("name"), str):
            problems.append(f"arm {number}: needs a name")
        elif not re.fullmatch(NAME, table["name"]) or len(table["name"]) > NAME_LENGTH:
            problems.append(f"arm {number}: name: use letters, digits and . _ = + -, not {table['name']!r}")
        if not isinstance(table.get("set", {}), dict):
            problems.append(f"arm {number}: set must be a table")
    return arms if len(problems) == known else []


def _expand(document: Document, arms: list[Document], grid: Any) -> Iterator[tuple[str, str, Document, str]]:
    """Yield (arm, label, document, problem) for every arm and point of the grid."""
    if not isinstance(grid, dict) or not all(isinstance(v, list) and v for v in grid.values()):
        yield "", "", {}, 'grid: each key must list its values, as in "seed" = [1, 2, 3]'
        return
    runs = len(arms or [""]) * math.prod(map(len, grid.values()))
    if runs > MOST_RUNS:
        yield "", "", {}, f"grid: makes {runs} runs, and one file may make {MOST_RUNS}; split it"
        return
    short = [key.rpartition(".")[2] for key in grid]
    keys = {key: last if short.count(last) == 1 else key for key, last in zip(grid, short, strict=True)}
    for table in arms or [{"name": document.get("label", document.get("name", "run"))}]:
        for point in itertools.product(*grid.values()):
            settings = _flat(dict(zip(grid, point, strict=True)))
            name = str(table["name"])
            label = "+".join(
                [
                    table.get("label", name),
                    *(f"{keys[k]}={_in_a_name(v)}" for k, v in zip(grid, point, strict=True) if v != {}),
                ]
            )
            try:
                changed = _changed(_changed(document, table.get("set", {})), settings)
            except FempiError as error:
                yield name, label, {}, f"{label}: {error}"
            else:
                yield name, label, changed, ""


def _in_a_name(value: Any) -> str:
    if isinstance(value, dict):
        return "_".join(_in_a_name(v) if k == "name" else f"{_in_a_name(k)}_{_in_a_name(v)}" for k, v in value.items())
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", text).strip("_")


def parse_overrides(overrides: Sequence[str], *, where: str = "command line") -> Document:
    """Read `key=TOMLVALUE` settings; the last one of a key has the last word. ConfigError with every problem."""
    settings: Document = {}
    problems: list[str] = []
    for override in overrides:
        try:
            settings |= _flat(_parse_override(override))
        except FempiError as error:
            problems.append(f"--set {override}: {error}")
    if problems:
        raise ConfigError(where, problems)
    return settings


def _parse_override(text: str) -> Document:
    key, equals, value = text.partition("=")
    if not equals:
        raise FempiError("write it as key=VALUE, with the value as in TOML")
    try:
        return {key.strip(): _parsed(f"value = {value}")["value"]}
    except (ValueError, KeyError) as error:
        raise FempiError(f"{value!r} is not a TOML value (strings need quotes): {error}") from error


def _changed(document: Document, settings: Mapping[str, Any]) -> Document:
    """Return the document with dotted keys set.

    Hyper-parameters belong to the plugin they were written for: where a setting chooses another plugin, those of the
    old one go.
    """
    document = {k: dict(v) if isinstance(v, dict) else v for k, v in document.items()}
    for kind, (section, key) in PLUGINS.items():
        before, table = _chosen(document, section, key), document.get(section)
        if isinstance(table, dict) and settings.get(f"{section}.{key}", before) != before:
            for name in _parameter_names(kind, before):
                table.pop(name, None)
    table = document.get("privacy")
    if isinstance(table, dict) and any(f"privacy.{key}" in settings for key in NOISE):
        document["privacy"] = {key: value for key, value in table.items() if key not in NOISE}
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


def _chosen(document: Document, section: str, key: str) -> Any:
    """Return the name of the plugin that a document chooses, or the default one's."""
    table, default = document.get(section), SECTIONS[section].model_fields[key].default
    return table.get(key, default) if isinstance(table, dict) else default


def _parameter_names(kind: str, name: Any) -> list[str]:
    try:
        return list(registry.find(kind, name).parameters.model_fields)
    except FempiError:
        return []
