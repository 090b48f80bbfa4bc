"""A job over two hosts makes the record that one process makes, with its network and through its loss."""

import signal
import subprocess
import sys

import h5py
import launch
from job import STARTED_SECONDS

from fempi import RunFile

WATCHDOG = 10  # seconds; the first round needs a few, for its imports
LIMIT = WATCHDOG + 15


def assert_same_bits(file, other):
    """All that the experiment determines is equal; which rank trained whom, and how fast, it does not."""
    datasets = contents(file)
    assert {"rounds/update", "rounds/gram", "evaluation/accuracy", "final/params"} <= datasets.keys()
    assert datasets == contents(other)


def contents(path):
    """Every dataset that a run determines, as bytes."""
    found = {}

    def take(name, item):
        determined = name.startswith(("rounds/", "evaluation/", "final/")) and name != "rounds/rank"
        if determined and isinstance(item, h5py.Dataset):
            found[name] = item[...].tobytes()

    with h5py.File(path) as file:
        file.visititems(take)
    return found


def fempi(*arguments):
    """Run a command on this machine, in one process."""
    command = [sys.executable, "-m", "fempi", *map(str, arguments)]
    return subprocess.run(command, env=launch.clean_env(), capture_output=True, text=True, timeout=60, check=False)


def test_two_hosts_make_the_bits_of_one_process_and_send_them_over_the_link(mpi, start, network, alone):
    two = network.hosts[1]
    before = two.traffic()
    job = start(mpi, 2, "none")
    job.wait_until_gone(STARTED_SECONDS)
    received, sent = (now - then for now, then in zip(two.traffic(), before, strict=True))
    assert job.launcher.returncode == 0, job.said
    record = job.output / "hosts/hosts.h5"
    with RunFile(record) as run:
        assert run.status == "complete"
        assert run["ranks/host"].asstr()[...].tolist() == [["host1", "host2"]]
        rounds, slots, parameters = run["rounds/update"].shape
        remote = (run.read("rounds/rank") == 1).sum()
    assert remote == rounds * slots / 2
    assert sent > remote * parameters * 4
    assert received > rounds * parameters * 4
    assert_same_bits(record, alone)


def test_a_job_whose_link_is_cut_ends_on_both_hosts_and_goes_on_elsewhere_with_the_same_bits(
    mpi, start, network, alone
):
    job = start(mpi, 2, "pauses", "--watchdog", str(WATCHDOG))
    job.wait_for_the_fault()
    network.cut(network.hosts[1])
    job.wait_until_gone(LIMIT)
    assert job.launcher.returncode != 0
    assert f"rank 0 of 2 on host1 made no progress in {WATCHDOG} s" in job.said
    folder = job.output / "hosts/hosts.run"
    checked = fempi("check", folder)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with RunFile(folder) as run:
        assert run.status == "interrupted"
        assert 1 <= run.rounds_completed < 12
    resumed = fempi("resume", folder, "--allow-plugins")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same_bits(job.output / "hosts/hosts.h5", alone)


def test_a_signal_to_the_launcher_stops_the_ranks_of_both_hosts_after_their_round(mpi, start, alone):
    job = start(mpi, 2, "pauses")
    job.wait_for_the_fault()
    job.signal_launcher(signal.SIGUSR1)
    job.wait_until_gone(LIMIT)
    assert job.launcher.returncode == 75, job.said
    folder = job.output / "hosts/hosts.run"
    with RunFile(folder) as run:
        assert (run.status, run.rounds_completed) == ("interrupted", 3)
    assert fempi("resume", folder, "--allow-plugins").returncode == 0
    assert_same_bits(job.output / "hosts/hosts.h5", alone)
