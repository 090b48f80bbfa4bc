"""The hosts on which the others rely: separate, honest about their network, and gone afterwards."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from job import LOGIN
from network import Network

HERE = Path(__file__).parent


def test_hosts_have_names_processes_and_memory_of_their_own_and_reach_each_other_by_ssh(network):
    one, two = network.hosts
    assert one.output("hostname") == "host1\n"
    assert one.output("ssh", "host2", "hostname") == "host2\n"
    assert two.output("ssh", "host1", "echo $TMPDIR") == "/run\n"
    one.output("touch", "/dev/shm/mine", "/run/mine")
    assert two.output("sh", "-c", "find /dev/shm /run -name mine") == ""
    assert len(two.output("ps", "-e", "-o", "pid=").split()) <= 5


def test_what_crosses_the_link_is_counted_at_both_ends(network):
    one, two = network.hosts
    received, sent = two.traffic()[0], one.traffic()[1]
    one.output("sh", "-c", "head -c 3000000 /dev/zero | ssh host2 'cat >/dev/null'")
    assert two.traffic()[0] - received > 3_000_000
    assert one.traffic()[1] - sent > 3_000_000


def test_a_cut_link_lets_nothing_through_until_it_is_mended(network):
    one, two = network.hosts
    network.cut(two)
    with pytest.raises(subprocess.CalledProcessError):
        one.output("ssh", "-o", "ConnectTimeout=2", "host2", "true")
    network.mend(two)
    one.output("ssh", "host2", "true")


def test_what_runs_on_a_host_is_listed_and_the_host_itself_is_not(network):
    one, two = network.hosts
    assert one.processes() == two.processes() == {}
    one.output("ssh", "host2", "sleep 1000 >/dev/null 2>&1 </dev/null &")
    assert list(two.processes().values()) == ["sleep 1000"]
    assert one.processes() == {}


def test_two_networks_at_once_do_not_see_each_other(network, tmp_path):
    with Network(1, tmp_path / "other", LOGIN) as other:
        (lonely,) = other.hosts
        assert lonely.output("hostname") == "host1\n"
        with pytest.raises(subprocess.CalledProcessError):  # it does not know host2, nor may it in
            lonely.output("ssh", "-o", "ConnectTimeout=1", "10.77.0.2", "true")


def test_nothing_is_left_of_the_hosts_when_their_owner_is_killed(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from network import Network\n"
        "with Network(1, Path(sys.argv[1]), {}) as network:\n"
        "    host = network.hosts[0]; host.output('sh', '-c', 'sleep 1000 >/dev/null 2>&1 &')\n"
        "    print(host.pid, *host.processes(), flush=True); time.sleep(1000)\n"
    )
    folders = os.pathsep.join([str(HERE), str(HERE.parent)])
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "etc"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": folders},
        start_new_session=True,
    ) as owner:
        pids = [int(word) for word in owner.stdout.readline().split()]
        assert len(pids) == 2
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
        owner.send_signal(signal.SIGKILL)
    end = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end, "the host outlives its owner"
        time.sleep(0.02)


def test_nothing_is_left_of_the_hosts_when_one_of_them_cannot_start(tmp_path, monkeypatch):
    begun = []

    def boot(self, name, etc):
        if name == "host1":
            raise RuntimeError("a host that does not start")
        original(self, name, etc)
        begun.append(self.pid)

    from network import Host

    original = Host.__init__
    monkeypatch.setattr(Host, "__init__", boot)
    with pytest.raises(RuntimeError, match="does not start"), Network(1, tmp_path / "etc", LOGIN):
        pass
    assert len(begun) == 1
    assert not Path(f"/proc/{begun[0]}").exists()
