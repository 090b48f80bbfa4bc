"""The README's claims about the format are the code's."""

import re
import tomllib
from pathlib import Path

from fempi import experiment, registry
from fempi.schema import COORDINATES, FIELDS

README = (Path(__file__).parents[1] / "README.md").read_text()


def schema_table() -> str:
    lines = ["| dataset | dimensions | type | meaning |", "|---|---|---|---|"]
    for f in (*FIELDS, *COORDINATES):
        dims = ", ".join("param" if dim == "vector" else dim for dim in f.dims)
        units = f" ({f.units})" if f.units else ""
        lines.append(f"| `{f.path}` | {dims} | {f.dtype} | {f.meaning}{units} |")
    return "\n".join(lines)


def test_the_table_of_datasets_is_the_schema():
    assert schema_table() in README, f"put this into README.md:\n{schema_table()}"


def test_the_example_configuration_is_valid():
    example = next(block for block in re.findall(r"```toml\n(.*?)```", README, re.DOTALL) if "[data]" in block)
    runs = experiment.parse(tomllib.loads(example))
    assert [run.label for run in runs] == ["clean+seed=1", "clean+seed=2", "clean+seed=3"]


def test_the_example_rule_registers(tmp_path):
    source = re.search(r"```python\n(# nearest.py.*?)```", README, re.DOTALL)
    (tmp_path / "nearest.py").write_text(source[1])
    registry.load_file(tmp_path / "nearest.py")
    assert registry.find("aggregator", "nearest_half").bind({"keep": 0.7}) == {"keep": 0.7}


def test_every_named_plugin_exists():
    for kind, listed in {
        "dataset": "mnist, fashion_mnist, synthetic",
        "partition": "iid, shards, dirichlet",
        "attack": "none, sign_flip, label_flip",
        "aggregator": "mean, krum, multi_krum, fltrust, dual",
    }.items():
        assert f"# {listed}" in README
        package = Path(registry.__file__).parent
        built_in = [n for n in registry.names(kind) if Path(registry.find(kind, n).origin).is_relative_to(package)]
        assert sorted(listed.split(", ")) == built_in
