"""The configuration of a run that was cut short, from its folder alone."""

from __future__ import annotations

import tomllib
from pathlib import Path

from fempi import registry
from fempi.config import Config, ConfigError, resolve
from fempi.errors import FempiError
from fempi.runfile import RunFile, folder_of, target_of
from fempi.store import open_whole


def config_of(folder: Path, *, allow_plugins: bool) -> Config:
    """Return the configuration of the run in a folder, its plugins loaded from the record.

    They are code, and whoever sends a folder could have written it; so that needs a word of the user's.
    """
    if not folder.is_dir():
        packed = f"; {target_of(folder)} is its packed record" if target_of(folder).exists() else ""
        raise FempiError(f"{folder} is not the folder of a run{packed}")
    if folder_of(target_of(folder)) != folder:
        raise FempiError(f"{folder} is not called as the folder of a run is; rename it to {folder.name}.run")
    with open_whole(folder) as run:
        text = str(run.attributes["config"])
        load_plugins(run, allow=allow_plugins)
    config, problems = resolve(tomllib.loads(text))
    if config is None:
        raise ConfigError(str(folder), [*problems, "was it made with another version of fempi?"])
    return config


def load_plugins(run: RunFile, *, allow: bool) -> None:
    """Load the plugins that a record holds; FempiError if there are any and they are not allowed."""
    if "plugins/file" not in run:
        return
    files, sources = list(run["plugins/file"].asstr()[...]), list(run["plugins/source"].asstr()[...])
    if not allow:
        raise FempiError(
            f"this run has code of its own, kept in {run.path}: {', '.join(files)}; add --allow-plugins to let it run"
        )
    for file, source in zip(files, sources, strict=True):
        registry.load_source(source, run.path / file)
