"""Asked to stop, a job finishes its round, keeps its state, says so once, and goes on later with the same bits."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import test_resume
from launch import clean_env, started
from records import round_file
from test_failure import SOON, wait_for
from test_resume import FOLDER, RUN, SLOW, TARGET, assert_same_results, of_my_own, resume

from fempi import RunFile, checkpoint, display, store, sweep
from fempi.check import check
from fempi.signals import ONCE, SIGNALS, STATUS, Stop

here, whole = test_resume.here, test_resume.whole  # fixtures


def ask(number=signal.SIGUSR1):
    """Send this process a signal, and wait until its listener must have heard of it."""
    os.kill(os.getpid(), number)
    time.sleep(0.2)


@pytest.fixture(autouse=True)
def handlers():
    """Those of the tests' own process, which a stopped one no longer wants."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# The flag


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_sets_the_flag_and_is_named(number, capfd):
    with Stop() as stop:
        assert stop.asked == 0
        ask(number)
        assert stop.asked == number
    assert capfd.readouterr().err.count(f"fempi: {number.name}: the run stops after this round") == 1


def test_only_the_first_process_of_a_job_speaks(monkeypatch, capfd):
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    with Stop() as stop:
        ask()
        assert stop.asked
    assert capfd.readouterr().err == ""


def test_the_flag_is_set_while_the_main_thread_waits_in_c():
    """As inside MPI: a call that no signal brings back to Python."""
    libc, mutex, seen = ctypes.CDLL(None), ctypes.create_string_buffer(64), []
    libc.pthread_mutex_lock(mutex)

    def send_and_look():
        os.kill(os.getpid(), signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: stop.asked, 10)
        seen.append(stop.asked)
        libc.pthread_mutex_unlock(mutex)

    with Stop() as stop:
        other = threading.Thread(target=send_and_look)
        other.start()
        libc.pthread_mutex_lock(mutex)  # until the other unlocks it
        other.join()
    assert seen == [signal.SIGTERM]


def test_a_call_that_a_signal_interrupts_goes_on():
    reader, writer = os.pipe()
    with Stop() as stop:
        threading.Timer(0.1, lambda: (ask(), os.write(writer, b"x"))).start()
        assert os.read(reader, 1) == b"x"
        assert stop.asked
    os.close(reader)
    os.close(writer)


def test_signals_at_once_count_once_and_the_first_names_the_stop(monkeypatch, capfd):
    kills = []
    monkeypatch.setattr(os, "kill", lambda *arguments: kills.append(arguments))
    with Stop() as stop:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
            signal.raise_signal(number)
            wait_for(lambda: stop.asked, 5)
        time.sleep(0.2)
        assert stop.asked == signal.SIGTERM
    assert kills == []
    assert capfd.readouterr().err.count("\n") == 1


PATIENT = """
import time
from fempi.signals import Stop
with Stop():
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_a_while_ends_the_process_at_once(second):
    with subprocess.Popen(
        [sys.executable, "-c", PATIENT], env=clean_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            child.stdout.readline()
            child.send_signal(signal.SIGTERM)
            time.sleep(ONCE / 2)
            child.send_signal(second)  # the same request once more
            time.sleep(ONCE)
            assert child.poll() is None
            child.send_signal(second)
            assert child.wait(10) == -signal.SIGKILL
        finally:
            child.kill()
        said = child.stderr.read().splitlines()
    assert len(said) == 2
    assert said[1].startswith(f"fempi: {second.name}: a second signal: ending at once")


def test_everything_is_as_before_afterwards():
    def state():
        return [signal.getsignal(number) for number in SIGNALS], threading.active_count(), descriptors()

    def descriptors():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - iterdir opens one more

    received = []
    old = signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
    try:
        before = state()
        for _ in range(3):
            with Stop() as stop:
                assert state() != before
            wait_for(lambda: state() == before, 5)
        assert signal.set_wakeup_fd(-1) == -1
        ask()
        assert received == [signal.SIGUSR1]
        assert not stop.asked
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_once_stopped_the_way_out_is_not_disturbed():
    """Launchers tell all ranks again when the first is out, and its status is to be the one of a stop."""
    with Stop():
        ask()
    for number in SIGNALS:
        assert signal.getsignal(number) is signal.SIG_IGN
        signal.raise_signal(number)


# Jobs


@pytest.fixture
def slow(here):
    """A command for the experiment with rounds of a quarter of a second, and the folder it leaves."""
    return [sys.executable, "-m", "fempi", *RUN], here / FOLDER


def assert_stopped(folder, name, output):
    """The job said once who stopped it, and left a whole folder from whose last round it can go on."""
    assert output.count(f"stopped by {name}") == 1, output
    assert output.count(f"fempi: {name}: the run stops after this round") <= 1, output
    assert "Traceback" not in output
    verdict = check(folder)
    assert verdict.problems == []
    assert verdict.status == "interrupted"
    assert 2 <= verdict.committed < verdict.rounds
    with RunFile(folder) as run:
        assert checkpoint.load(folder, run.run_id).round == run.rounds_completed
    assert list(folder.parent.iterdir()) == [folder]  # no lock


WAYS = {
    "rank 0": (signal.SIGTERM, lambda job: [job.ranks()[0]]),
    "rank 1": (signal.SIGINT, lambda job: [job.ranks()[1]]),
    "all": (signal.SIGTERM, lambda job: job.ranks().values()),
    "mpirun": (signal.SIGUSR1, lambda job: [job.process.pid]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_job_that_is_asked_to_stop_goes_on_later_with_the_same_bits(way, slow, here, whole):
    number, receivers = WAYS[way]
    command, folder = slow
    with started(2, command, here / "log", env={SLOW: "0.15"}) as job:
        wait_for(lambda: round_file(folder, 2).exists(), SOON)
        for pid in receivers(job):
            os.kill(pid, number)
        assert job.process.wait(SOON) == STATUS
    assert_stopped(folder, number.name, (here / "log").read_text())
    assert resume() == 0
    assert_same_results(whole(here), TARGET)


def test_a_process_without_a_launcher_stops_too(slow):
    command, folder = slow
    with subprocess.Popen(command, env=clean_env() | {SLOW: "0.06"}, stderr=subprocess.PIPE, text=True) as job:
        try:
            wait_for(lambda: round_file(folder, 2).exists(), SOON)
            job.terminate()
            assert job.wait(SOON) == STATUS
        finally:
            job.kill()
        assert_stopped(folder, "SIGTERM", job.stderr.read())


# The moments


def asking(function):
    """Return the function with a signal before it."""

    def ask_and_call(*arguments, **options):
        ask()
        return function(*arguments, **options)

    return ask_and_call


def test_a_stop_during_preparation_leaves_nothing(here, monkeypatch, capfd):
    monkeypatch.setattr(sweep, "prepare", asking(sweep.prepare))
    assert of_my_own(*RUN) == STATUS
    assert capfd.readouterr().err.count("stopped by SIGUSR1") == 1
    assert not Path("out").exists()


def test_a_stop_after_the_last_round_does_not_wait_for_packing(here, monkeypatch, capfd):
    monkeypatch.setattr(store.Recorder, "finish", asking(store.Recorder.finish))
    assert of_my_own(*RUN) == STATUS
    assert list(FOLDER.parent.iterdir()) == [FOLDER]
    assert check(FOLDER).status == "complete"
    capfd.readouterr()
    assert of_my_own(*RUN) == 0
    assert "round 1/6" not in capfd.readouterr().out
    assert list(TARGET.parent.iterdir()) == [TARGET]


def test_a_stop_while_packing_ends_a_sweep_before_its_next_run(here, monkeypatch):
    monkeypatch.setattr(store, "pack", asking(store.pack))
    assert of_my_own(*RUN, "--set", "grid={seed=[1, 2]}") == STATUS
    assert [path.name for path in TARGET.parent.iterdir()] == ["x+seed=1.h5"]


@pytest.mark.parametrize(("place", "name"), [(store, "pack"), (display.Display, "finished")])
def test_a_job_that_has_made_everything_has_not_been_stopped(place, name, here, monkeypatch):
    monkeypatch.setattr(place, name, asking(getattr(place, name)))
    assert of_my_own(*RUN) == 0
    assert check(TARGET).status == "complete"


def test_a_stop_before_the_first_round_leaves_a_run_that_goes_on(here, monkeypatch, whole):
    with monkeypatch.context() as patch:
        patch.setattr(display.Display, "started", asking(display.Display.started))
        assert of_my_own(*RUN) == STATUS
    assert check(FOLDER).committed == 0
    assert resume() == 0
    assert_same_results(whole(here), TARGET)
