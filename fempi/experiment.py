"""A TOML file and the runs it describes: one, or with `[[arm]]` and `[grid]` several."""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fempi import registry
from fempi.config import PLUGINS, SECTIONS, Config, ConfigError, Document, resolve
from fempi.errors import FempiError


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

    _, base_problems = resolve({"label": "run", **document})
    problems += base_problems
    configs: list[Config] = []
    labels: list[str] = []
    for arm_name, label, changed, objection in _expand(document, arms, grid):
        if objection:
            problems.append(objection)
            continue
        resolved, own = resolve({**changed, "label": label})
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
    for kind, (section, key) in PLUGINS.items():
        chosen = settings.get(f"{section}.{key}")
        table = document.get(section, {})
        default = SECTIONS[section].model_fields[key].default
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
