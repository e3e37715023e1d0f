import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from qc._project_lock import LOCK_FILE, holder, only_daemon
from qc.errors import ConfigurationError

NOW = datetime(2026, 1, 2, 3, tzinfo=UTC)
HOLDING = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from qc._project_lock import only_daemon
with only_daemon(Path(sys.argv[1]), datetime(2026, 1, 2, tzinfo=UTC)):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock until it is told to end."""
    command = [sys.executable, "-c", HOLDING, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_daemon_is_told_who_runs(tmp_path, other):
    refused = pytest.raises(ConfigurationError, match=f"process {other.pid} on")
    with refused, only_daemon(tmp_path, NOW):
        pytest.fail("two hold one lock")
    assert holder(tmp_path)[1]


def test_the_lock_of_one_that_was_killed_is_free_and_says_whose_it_was(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    who, is_alive = holder(tmp_path)
    assert who is not None
    assert (who.pid, is_alive) == (other.pid, False)
    with only_daemon(tmp_path, NOW) as died:
        assert died == who
        who, is_alive = holder(tmp_path)
        assert who is not None
        assert (who.pid, is_alive) == (os.getpid(), True)


def test_one_that_ended_as_it_should_leaves_no_name(tmp_path, other):
    other.stdin.close()
    assert other.wait() == 0
    assert holder(tmp_path) == (None, False)
    with only_daemon(tmp_path, NOW) as died:
        assert died is None


def test_a_project_without_a_lock_has_no_daemon(tmp_path):
    assert holder(tmp_path) == (None, False)


def test_a_lock_file_cut_short_by_a_full_disk_is_no_obstacle(tmp_path):
    (tmp_path / LOCK_FILE).write_text('{"pid": 12')
    with only_daemon(tmp_path, NOW) as died:
        assert died is None
