import subprocess

import launch
import mpis
import pytest
from job import LOGIN, Job, fempi_run
from network import Network


def pytest_terminal_summary(terminalreporter):
    """Print what tests have measured."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(f"{value}: {report.nodeid.partition('::')[2]}")


@pytest.fixture
def network(tmp_path):
    with Network(2, tmp_path / "etc", LOGIN) as two_hosts:
        yield two_hosts


@pytest.fixture(params=mpis.ALL)
def mpi(request):
    return mpis.ALL[request.param]()


@pytest.fixture
def start(network, tmp_path):
    """Return a function that starts the experiment on two ranks."""
    jobs = []

    def started(*arguments):
        jobs.append(Job(network, *arguments[:2], tmp_path / "out", *arguments[2:]))
        return jobs[-1]

    yield started
    for job in jobs:
        job.end()


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """Return the record of the experiment as one process makes it, without a fault."""
    output = tmp_path_factory.mktemp("alone")
    subprocess.run(fempi_run(output), env=launch.clean_env(), check=True, capture_output=True, timeout=120)
    return output / "hosts/hosts.h5"
