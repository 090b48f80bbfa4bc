import signal

import campaign
import pytest
from experiments import fempi, write


@pytest.fixture(scope="session", autouse=True)
def whoever_ends_the_tests_ends_their_jobs():
    old = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("stopped by SIGTERM", signal.SIGTERM + 128))
    yield
    signal.signal(signal.SIGTERM, old)


@pytest.fixture(scope="session")
def made_in_one_go(tmp_path_factory):
    """Return a function that returns the record of an experiment to which nothing happened, made by one process."""
    records = {}

    def made(name, **changes):
        key = (name, *sorted(changes.items()))
        if key not in records:
            folder = tmp_path_factory.mktemp(name)
            ended = fempi("run", write(name, folder, **changes), "--output", folder / "out")
            assert ended.returncode == 0, ended.stderr
            records[key] = folder / "out/x/x.h5"
        return records[key]

    return made


def pytest_terminal_summary(terminalreporter):
    if campaign.LOG.outcomes:
        terminalreporter.section("kills")
        for line in campaign.LOG.summary():
            terminalreporter.write_line(line)
