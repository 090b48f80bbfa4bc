"""What `fempi bench aggregate` says is what it measured."""

import json

import pytest

from fempi import cli, registry

SIZES = ["--cohort", "23", "--params", "20000", "--repeats", "3"]


def bench(*rules, folder):
    out = folder / "x.json"
    assert cli.main(["bench", "aggregate", *rules, *SIZES, "--json", str(out)]) == 0
    return json.loads(out.read_text())


def test_every_rule_is_timed_or_says_why_not(tmp_path, capfd):
    found = bench(folder=tmp_path)
    said = capfd.readouterr().out
    timed = [each["rule"] for each in found["rules"]]
    assert sorted([*timed, *found["refused"]]) == registry.names("aggregator")
    assert len(timed) > 20
    medians = [each["seconds"]["median"] for each in found["rules"]]
    assert medians == sorted(medians)
    for each in found["rules"]:
        assert 0 < each["seconds"]["least"] <= each["seconds"]["median"] <= each["seconds"]["most"]
        assert each["memory"] > 0
        assert f"{each['memory']:.1%}" in said
    assert (found["num_byzantine"], found["cohort"], found["params"], found["repeats"]) == (2, 23, 20000, 3)


def test_chains_may_be_named(tmp_path):
    found = bench("nnm>krum", "krum", folder=tmp_path)
    assert sorted(each["rule"] for each in found["rules"]) == ["krum", "nnm > krum"]


def test_more_than_the_updates_are_seen_in_memory(tmp_path):
    found = {each["rule"]: each["memory"] for each in bench("foolsgold", "krum", folder=tmp_path)["rules"]}
    assert found["foolsgold"] > found["krum"] + 0.9  # it keeps a row of each client


@pytest.mark.parametrize(
    ("rules", "words"), [(["krumm"], "did you mean 'krum'?"), (["mda", "--cohort", "100"], "mda tries every subset")]
)
def test_what_cannot_be_timed_is_said(rules, words, capfd):
    assert cli.main(["bench", "aggregate", *SIZES, *rules]) == 2
    assert words in capfd.readouterr().err
