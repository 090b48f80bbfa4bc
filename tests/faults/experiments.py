"""The runs that are cut short, and what is left of them, compared with the same runs made in one go."""

import subprocess
import sys
from pathlib import Path

import launch

from fempi.runfile import RunFile

HERE = Path(__file__).parent
SOON = 120  # seconds for any run from beginning to end, beside other work

CONFIG = """
name = "x"
rounds = {rounds}

[data]
dataset = "synthetic"
size = 4
train_examples = 200
test_examples = 50
clients = 8
root_examples = 0

[model]
name = "mlp"
hidden = [{hidden}]

[train]
cohort = 6
local_epochs = 1

[attack]
name = "grudge"
malicious = 2

[evaluation]
every = 4

[plugins]
files = ["grudge.py"]

{more}
"""

# Each has a rule with a state and an attack with a memory, and in each of them other bits follow from a state that was
# lost (test_folder.py). So the clipping is tight, and the noise is faint: nothing would depend on how far rows are from
# the last ones within the radius, nor on how alike they are in loud noise. Rounds take 50 to 100 ms; those of "wide"
# are 2 MB each.
EXPERIMENTS = {
    "clipping": {"rounds": 40, "hidden": 16, "more": '[aggregator]\nname = "centered_clipping"\ntau = 0.005'},
    "private": {
        "rounds": 50,
        "hidden": 32,
        "more": '[aggregator]\nname = "foolsgold"\n[privacy]\nclip = 0.01\nnoise_multiplier = 0.02',
    },
    "sparse": {
        "rounds": 60,
        "hidden": 16,
        "more": '[aggregator]\nname = "fl_detector"\nwindow = 3\n[record]\nupdates = "float16"\nevery = 3',
    },
    "wide": {"rounds": 30, "hidden": 2000, "more": '[aggregator]\nname = "centered_clipping"\ntau = 0.03'},
}

# How a run was made, and what it has in common with no other.
EXECUTION = ("timing/", "ranks/", "launches/", "rounds/rank", "checksums/execution")


def write(name: str, folder: Path, **changes: object) -> Path:
    """Write an experiment into a folder and return its configuration file."""
    (folder / "grudge.py").write_text((HERE / "grudge.py").read_text())
    config = folder / "x.toml"
    config.write_text(CONFIG.format(**{**EXPERIMENTS[name], **changes}))
    return config


def fempi(*arguments: object, timeout: float = SOON) -> subprocess.CompletedProcess[str]:
    """Run a command of fempi's on this one process."""
    command = [sys.executable, "-m", "fempi", *map(str, arguments)]
    return subprocess.run(command, env=launch.clean_env(), capture_output=True, text=True, timeout=timeout, check=False)


def rounds_of(folder: Path) -> set[int]:
    """Return the numbers of the committed rounds of a run's folder, by the files' names."""
    return {int(path.stem.rpartition("-")[2]) for path in folder.glob("round-*.h5")}


def differences(path: Path, whole: Path) -> list[str]:
    """Return which datasets of a record have other bits than the same run made in one go, as far as it got."""
    with RunFile(path) as some, RunFile(whole) as all_:
        rounds = some.rounds_completed
        lengths = {"rounds": rounds, "checksums": rounds, "evaluation": some.evaluations_completed}
        names = [results(run) for run in (some, all_)]
        found = [f"attribute {a}" for a in ("config", "problem") if some.attributes[a] != all_.attributes[a]]
        found += sorted(names[0] ^ names[1])
        for name in sorted(names[0] & names[1]):
            if name == "final/params" and some.status != "complete":
                continue
            part = slice(lengths.get(name.partition("/")[0]))
            if bits(some, name, part) != bits(all_, name, part):
                found.append(name)
        return found


def assert_same_bits(record: Path, whole: Path) -> None:
    """A packed record is complete, matches its checksums, and holds what the run made in one go does."""
    check = fempi("check", record, "--complete")
    assert check.returncode == 0, check.stdout + check.stderr
    with RunFile(record) as run:
        assert (run.status, run.rounds_completed) == ("complete", run.rounds)
    assert differences(record, whole) == []


def results(run: RunFile) -> set[str]:
    """Return the names of all datasets that the same run always has, however it was made."""
    found: list[str] = []
    run.file.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    return {name for name in found if not name.startswith(EXECUTION)}


def bits(run: RunFile, name: str, part: slice) -> tuple[object, ...]:
    dataset = run[name]
    if dataset.dtype == object:
        return (dataset.asstr()[part].tolist(),)
    length = len(range(len(dataset))[part]) if dataset.shape else 1
    values = dataset[part].tobytes() if length else b""  # HDF5 cannot read nothing of a virtual dataset
    return (dataset.dtype.str, length, dataset.shape[1:], values)
