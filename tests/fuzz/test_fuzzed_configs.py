"""Whatever a configuration file holds, it is refused in one message, or means exactly what it says.

500 files are made from good ones: tables and values are exchanged, or bytes of the text. They are the same ones every
time; `make fuzz N=20` makes twenty times as many others.
"""

import contextlib
import copy
import math
import os
import resource
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from launch import clean_env

from fempi import experiment
from fempi.config import ConfigError

MORE = int(os.environ.get("FEMPI_FUZZ", "1"))
pytestmark = pytest.mark.usefixtures("own_registry")

FULL = """
name = "full"
seed = 3
rounds = 2
skip_invalid = false
[data]
dataset = "synthetic"
size = 4
train_examples = 200
test_examples = 50
clients = 10
root_examples = 20
partition = "dirichlet"
alpha = 0.5
min_examples = 2
[model]
name = "mlp"
hidden = [4]
[train]
cohort = 6
local_epochs = 1
batch_size = 10
lr = 0.1
[attack]
name = "sign_flip"
malicious = 2
scale = 2.0
start_round = 1
on_rounds = 2
off_rounds = 1
active_share = 0.5
[aggregator]
name = "multi_krum"
num_byzantine = 1
m = 3
pre = ["nnm", {name = "clipping", threshold = 2.0}]
[record]
updates = "sketch"
every = 2
sketch_size = 16
pack = true
[evaluation]
every = 2
per_client = true
[plugins]
files = ["mine.py"]
"""
SWEPT = """
name = "swept"
rounds = 1
[data]
dataset = "synthetic"
size = 4
train_examples = 200
test_examples = 50
clients = 8
[model]
name = "mlp"
hidden = []
[train]
cohort = 4
local_epochs = 1
[privacy]
clip = 1.0
noise_multiplier = 0.5
delta = 1e-4
sampling = "poisson"
[[arm]]
name = "clean"
set = {"attack.name" = "none", aggregator = {name = "mean"}}
[[arm]]
name = "poisoned"
set = {"attack.name" = "ipm", "attack.malicious" = 1, "privacy.noise_multiplier" = 1.0}
[grid]
"seed" = [1, 2]
"aggregator.pre" = [[], ["nnm"]]
"""
GOOD = (FULL, SWEPT)
PLUGIN = "import fempi\n"

WORDS = [
    *("name", "label", "seed", "rounds", "arm", "grid", "set", "data", "train", "plugins", "files", "sha256", "pre"),
    *("data.clients", "train.lr", "attack.name", "aggregator.pre", "plugins.files", "record.updates", "a.b.c", "", "."),
]
ODD = [
    *(True, False, 0, 1, -1, 7, 2**31, 2**63 - 1, 2**63, -(2**63), 10**12, 10**400),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, math.nan, math.inf, -math.inf),
    *([], {}, [[]], [{}], [[1], ["a"]], [1, "a"], {"name": "nnm"}, {"name": {}}, {"set": {}}),
    *("", " ", "a/b", "../../x", "/etc/x", "..", ".", "a\0b", "\n", "x\n", "é", "\u202e", "\x1b[31m", "a" * 300),
    *("mine.py", "../mine.py", "/etc/passwd", "none.py", "a" * 300 + ".py", "\0.py", "krum", "fltrust", "mnist", "mlp"),
    *("off", "none", "full", "poisson", "synthetic", "sign_flip", "shards"),
]
KEYS = st.sampled_from(WORDS) | st.text(max_size=8)
VALUES = st.recursive(
    st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=12) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
PLAUSIBLE = {
    bool: st.booleans(),
    int: st.integers(1, 20) | st.sampled_from([0, 180, 10**6, 2**62]),
    float: st.floats(0.001, 1) | st.integers(1, 3),
    str: st.sampled_from(["mean", "median", "iid", "none", "off", "float16", "full", "fixed", "a", "x=1", "mine.py"]),
}
CHANGES = [*["nudge"] * 6, *["replace"] * 2, "remove", "rename", "list", "table", "copy"]


def places(value):
    """Yield every (table or list, key) of a document."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


@st.composite
def documents(draw):
    """Good documents in which up to three things were exchanged, removed, renamed, wrapped or copied elsewhere."""
    document = tomllib.loads(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 3))):
        if not document:
            break
        holder, key = draw(st.sampled_from(list(places(document))))
        match draw(st.sampled_from(CHANGES)):
            case "nudge":
                holder[key] = copy.deepcopy(draw(PLAUSIBLE.get(type(holder[key]), VALUES)))
            case "replace":
                holder[key] = copy.deepcopy(draw(VALUES))
            case "remove":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[draw(KEYS)] = holder.pop(key)
            case "list":
                holder[key] = [holder[key]]
            case "table":
                holder[key] = {draw(KEYS): holder[key]}
            case "copy":
                source, place = draw(st.sampled_from(list(places(document))))
                holder[key] = copy.deepcopy(source[place])
    return tomli_w.dumps(document).encode()


@st.composite
def texts(draw):
    """Good files in which up to eight bytes were changed, or that were cut, or in which a piece appears again."""
    content = bytearray(draw(st.sampled_from(GOOD)).encode())
    for _ in range(draw(st.integers(1, 8))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    first, last = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    return bytes(draw(st.sampled_from([content, content[:last], content[:last] + content[first:], content + b"\0"])))


FILES = st.one_of(documents(), documents(), documents(), texts())
FUZZ = settings(
    max_examples=500 * MORE,
    derandomize=MORE == 1,
    database=None,
    deadline=None,  # of a busy machine; `within` ends what does not end
    suppress_health_check=list(HealthCheck),
)


@contextlib.contextmanager
def within(seconds):
    """Raise TimeoutError in what takes longer."""

    def too_late(*_):
        raise TimeoutError(f"not within {seconds} s")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "mine.py").write_text(PLUGIN)
    return tmp_path


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def assert_one_message(text):
    """A heading and a short line a problem, all of it printable."""
    heading, *lines = text.split("\n")
    assert lines, text
    assert all(line.startswith("  ") and len(line) < 1100 for line in lines), text
    assert len(lines) <= 101
    assert all(line.isprintable() for line in [heading, *lines]), ascii(text)


def assert_holds(config, given, where=""):
    """Every setting given in a table is in the configuration as it was given."""
    for key, value in given.items():
        found, path = config[key], f"{where}{key}"
        if isinstance(value, dict):
            assert_holds(found, value, f"{path}.")
        elif path == "aggregator.pre":
            assert [entry["name"] for entry in found] == [e if isinstance(e, str) else e["name"] for e in value]
            for entry, wanted in zip(found, value, strict=True):
                assert isinstance(wanted, str) or entry.items() >= wanted.items()
        else:
            assert found == value, path
            assert isinstance(found, bool) == isinstance(value, bool), path


BOUNDS = {
    "seed": (0, 2**63 - 1),
    "rounds": (1, 10**6),
    "data.clients": (1, math.inf),
    "data.root_examples": (0, math.inf),
    "data.size": (4, math.inf),
    "data.noise": (0, math.inf),
    "train.cohort": (1, math.inf),
    "train.local_epochs": (1, math.inf),
    "train.batch_size": (1, math.inf),
    "train.lr": (1e-323, 1e6),
    "attack.malicious": (0, math.inf),
    "attack.start_round": (1, math.inf),
    "attack.on_rounds": (1, math.inf),
    "attack.off_rounds": (0, math.inf),
    "attack.active_share": (1e-323, 1),
    "aggregator.num_byzantine": (0, math.inf),
    "privacy.noise_multiplier": (0, 1e6),
    "privacy.noise_std": (0, math.inf),
    "privacy.epsilon": (1e-323, math.inf),
    "privacy.delta": (1e-323, 1 - 1e-16),
    "record.every": (1, math.inf),
    "record.sketch_size": (16, math.inf),
    "evaluation.every": (1, math.inf),
}


def assert_in_bounds(value, path=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            assert_in_bounds(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            assert_in_bounds(inner, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        assert math.isfinite(value), path
        assert isinstance(value, float) or -(2**63) <= value < 2**63, path
        least, most = BOUNDS.get(path, (-math.inf, math.inf))
        assert least <= value <= most, path


def assert_means_what_it_says(config, place):
    place.write_text(config.to_toml())
    (again,) = experiment.load(place)
    assert again == config
    assert again.hash == config.hash
    assert_in_bounds(config.model_dump(exclude_none=True))
    assert config.train.cohort <= config.data.clients >= config.attack.malicious
    assert config.aggregator.num_byzantine <= config.train.cohort
    assert len(config.plugins.sha256) == len(config.plugins.files)
    target = Path("/out", config.name, f"{config.label}.h5")
    assert os.path.normpath(target) == str(target)
    assert target.parent.parent == Path("/out")
    assert len(target.name.encode()) <= 200


def check(content, folder):
    """Load a file; True if it was accepted."""
    place = folder / "config" / "x.toml"
    place.write_bytes(content)
    before = everything(folder)
    try:
        with within(30):
            configs = experiment.load(place)
    except ConfigError as error:
        assert_one_message(str(error))
        configs = []
    document = tomllib.loads(content.decode()) if configs else {}
    if not {"arm", "grid"} & document.keys():
        for config in configs:
            assert_holds(config.model_dump(), document)
    for config in configs:
        assert_means_what_it_says(config, place)
    assert everything(folder) == before
    return bool(configs)


def test_a_file_is_refused_in_one_message_or_means_what_it_says(folder):
    outcomes = []

    @FUZZ
    @given(FILES)
    def holds(content):
        outcomes.append(check(content, folder))

    holds()
    # The files are neither all too good nor all too bad to show anything.
    assert 0.05 < sum(outcomes) / len(outcomes) < 0.95, sum(outcomes)


@pytest.mark.parametrize("text", GOOD, ids=["full", "swept"])
def test_the_files_that_all_others_are_made_from_are_accepted(text, folder):
    assert check(text.encode(), folder)


NAME = 'name = "x"\n'
EXTREME = {
    "more digits than Python takes": (NAME + f"rounds = {'9' * 5000}", "5000 digits"),
    "an integer of 20,000 bits": (NAME + f"rounds = 0x{'f' * 5000}", "rounds: has more than 64 bits"),
    "an integer of 65 bits for a float": (NAME + f"train.lr = {2**64}", "train.lr: has more than 64 bits"),
    "lists in lists": (NAME + "a = " + "[" * 20_000, "nested too deeply"),
    "lists in lists that end": (NAME + "a = " + "[" * 400 + "]" * 400, "nested too deeply"),
    "tables in tables": (NAME + ".".join(["a"] * 800) + " = 1", "nested too deeply"),
    "a grid of 10^9 runs": (
        NAME
        + "[grid]\n"
        + "\n".join(f'"train.{key}" = {[*range(1, 1001)]}' for key in ("lr", "batch_size", "local_epochs")),
        "makes 1000000000 runs",
    ),
    "a grid of 10^18 runs": (NAME + "[grid]\n" + "\n".join(f"k{i} = [1, 2]" for i in range(60)), "runs"),
    "a grid that is wrong all over": (NAME + f"[grid]\nseed = {[*range(-9000, 0)]}", "and 8900 more"),
    "a key that paints the terminal": (NAME + '"\\u001b[31m\\nfempi: all is well" = 1', "x1b[31m\\nfempi: all"),
    "a value without an end": (NAME + f'seed = "{"a" * 10**6}"', "seed: "),
    "a name for a path": ('name = "a/../../b"', "name: "),
    "a name that ends a line": ('name = "x\\n"', "name: "),
    "a plugin with too long a name": (NAME + f'plugins.files = ["{"a" * 300}.py"]', "File name too long"),
    "a plugin that is a folder": (NAME + 'plugins.files = ["."]', "no such file"),
    "a plugin that leaves": (NAME + 'plugins.files = ["leaves.py"]', "SystemExit"),
    "plugins of one arm": (
        NAME + '[[arm]]\nname = "a"\nset = {"plugins.files" = ["mine.py"]}',
        "a: plugins: are loaded once for all runs",
    ),
    "sums without plugins": (NAME + 'plugins.sha256 = ["00"]', "plugins.sha256: the files are not those"),
    "10^15 rounds": (NAME + f"rounds = {10**15}", "rounds: input should be less than or equal to 1000000"),
    "a step beyond float32": (NAME + "train.lr = 1e308", "train.lr: input should be less than or equal to"),
}  # fmt: skip


@pytest.mark.parametrize("case", EXTREME)
def test_extremes_are_refused_soon(case, folder):
    text, said = EXTREME[case]
    place = folder / "config" / "x.toml"
    place.write_text(text)
    (folder / "config" / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    with within(30), pytest.raises(ConfigError) as refused:
        experiment.load(place)
    assert_one_message(str(refused.value))
    assert said in str(refused.value)


# The command line

WORKER = """
import os, sys
from pathlib import Path
from fempi import cli
for place in sorted(Path(sys.argv[1]).glob("*.toml")):
    with place.with_suffix(".said").open("wb") as said:
        os.dup2(said.fileno(), 2)
    status = cli.main(["run", str(place), "--output", f"../out/{place.stem}", *sys.argv[2:]])
    place.with_suffix(".status").write_text(str(status))
"""
MEMORY = 16 << 30
"""of addresses, of which torch alone takes 3 GB"""


def run_all(files, folder, *arguments):
    """Run files by name one after another in a process of its own; return status and message of each."""
    for name, content in files.items():
        (folder / "config" / f"{name}.toml").write_bytes(content)
    (folder / "cwd").mkdir()
    before = everything(folder)
    job = subprocess.run(
        [sys.executable, "-c", WORKER, str(folder / "config"), *arguments],
        cwd=folder / "cwd",
        env={**clean_env(), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        timeout=120 + 10 * len(files),
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
    )
    answers = {}
    for name, content in files.items():
        said, status = folder / "config" / f"{name}.said", folder / "config" / f"{name}.status"
        told = said.read_text(errors="replace") if said.exists() else ""
        assert status.exists(), f"{job.returncode} at {name}: {told}\n{content!r}"
        answers[name] = int(status.read_text()), told
        said.unlink()
        status.unlink()
    assert [path for path in everything(folder) if path.partition("/")[0] != "out"] == before
    return answers


def test_the_command_line_says_the_same_with_status_2_and_writes_below_its_output_alone(folder):
    drawn = []

    @settings(FUZZ, max_examples=60)
    @given(FILES)
    def draw(content):
        drawn.append(content)

    draw()
    files = {f"c{number:03}": content for number, content in enumerate([*map(str.encode, GOOD), *drawn])}
    # What was made to run long or to name a great data set is none of this test's business.
    answers = run_all(files, folder, "--set", "rounds=1", "--set", "train.local_epochs=1")
    for name, (status, message) in answers.items():
        out = folder / "out" / name
        told = f"{files[name].decode(errors='replace')}\n{status} {message}"
        assert "Traceback" not in message, told
        if status == 0:
            assert list(out.glob("*/*.h5")), told
        else:
            assert status == 2, told
            assert message.startswith(("fempi: ", "Error: ")), told
            assert message.count("fempi: ") + message.count("Error: ") == 1, told
            assert not out.exists(), told
    assert [status for status, _ in answers.values()][: len(GOOD)] == [0] * len(GOOD)
    assert sum(status == 2 for status, _ in answers.values()) > 10


SMALL = tomllib.loads("""
name = "x"
rounds = 1
data = {dataset = "synthetic", size = 4, train_examples = 200, test_examples = 50, clients = 8, root_examples = 0}
model = {name = "mlp", hidden = [4]}
train = {cohort = 4, local_epochs = 1}
""")
GREEDY = {
    "clients": ({"data": {"clients": 10**12}}, "for 1000000000000 clients"),
    "all clients": ({"data": {"clients": 10**12}, "train": {"cohort": 10**12}}, "lower data.root_examples or"),
    "training examples": ({"data": {"train_examples": 10**15}}, "data: "),
    "test examples": ({"data": {"test_examples": 10**12}}, "data: "),
    "pixels": ({"data": {"size": 10**6}}, "data: "),
    "classes": ({"data": {"classes": 10**12}}, "data: "),
    "root examples": ({"data": {"root_examples": 2**62}}, "root examples leave 0 of 200"),
    "a wide layer": ({"model": {"hidden": [10**9]}}, "model: "),
    "a layer beyond addresses": ({"model": {"hidden": [2**62]}}, "model: "),
    "many wide layers": ({"model": {"hidden": [10**4] * 1000}}, "model: "),
    "a sketch": ({"record": {"updates": "sketch", "sketch_size": 10**12}}, "the records need"),
    "shards": ({"data": {"partition": "shards", "shards_per_client": 10**15}}, "too few"),
    "rows to select": ({"aggregator": {"name": "multi_krum", "m": 2**62}}, "aggregator: "),
    "a patch": ({"attack": {"name": "backdoor", "malicious": 1, "size": 2**62}}, "attack.size"),
}


def test_who_asks_for_more_than_any_machine_has_is_refused_soon(folder):
    files = {}
    for name, (changes, _) in GREEDY.items():
        document = copy.deepcopy(SMALL)
        for section, values in changes.items():
            document.setdefault(section, {}).update(values)
        files[name.replace(" ", "-")] = tomli_w.dumps(document).encode()
    answers = run_all(files, folder)
    for name, (_, words) in GREEDY.items():
        status, message = answers[name.replace(" ", "-")]
        assert status == 2, f"{name}: {status} {message}"
        assert words in message, name
    assert not (folder / "out").exists()
