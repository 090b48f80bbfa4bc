"""The configurations that come with the project."""

import tomllib
from pathlib import Path

import pytest

from fempi import experiment, registry

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_configuration_is_valid_and_named_after_its_file(path):
    runs = experiment.load(path)
    assert {run.name for run in runs} == {path.stem}


def test_the_catalogue_has_every_rule_and_every_attack():
    grid = tomllib.loads((CONFIGS / "catalogue.toml").read_text())["grid"]
    assert sorted(grid["aggregator.name"]) == registry.names("aggregator")
    assert sorted(grid["attack.name"]) == registry.names("attack")


def test_the_other_catalogue_has_every_rule_after_every_pre_aggregator():
    document = tomllib.loads((CONFIGS / "catalogue_pre.toml").read_text())
    assert sorted(document["grid"]["aggregator.name"]) == registry.names("aggregator")
    used = [pre for arm in document["arm"] for pre in arm.get("set", {}).get("aggregator.pre", [])]
    assert sorted({pre if isinstance(pre, str) else pre["name"] for pre in used}) == registry.names("pre_aggregator")


def test_the_grid_of_the_paper_on_trust_krum_and_privacy_is_whole():
    runs = experiment.load(CONFIGS / "trust_krum_dp_table1.toml")
    columns = {run.label.partition("+")[0] for run in runs}
    assert {"baseline", "krum", "dp", "hybrid"} < columns
    attacks = {("label_flip", p) for p in (0.1, 0.2, 0.3)} | {("scale", alpha) for alpha in (0.1, 0.2, 0.3)}
    intensity = {"label_flip": "fraction", "scale": "factor", "gaussian_noise": "std"}
    for column in columns:
        for seed in range(1, 6):
            mine = [run for run in runs if run.label.startswith(f"{column}+") and run.seed == seed]
            attacked = [run for run in mine if run.attack.name != "none"]
            assert attacks < {(r.attack.name, r.parameters("attack")[intensity[r.attack.name]]) for r in attacked}
            assert len(mine) == len(attacked) + 1
    assert {run.label.partition("+")[0] for run in runs if run.privacy.clip == "none"} == {"dp", "hybrid"}
