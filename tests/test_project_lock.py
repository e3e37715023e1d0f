import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from qc._project_lock import LOCK_FILE, daemon_lock, read_holder
from qc.errors import ConfigurationError

NOW = datetime(2026, 1, 2, 3, tzinfo=UTC)
HOLDING = """
import sys, time
from datetime import UTC, datetime
from pathlib import Path
from qc._project_lock import daemon_lock
with daemon_lock(Path(sys.argv[1]), datetime(2026, 1, 2, tzinfo=UTC)):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_daemon(tmp_path):
    """A process that holds the lock until it is told to end."""
    command = [sys.executable, "-c", HOLDING, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_daemon_lock_second_daemon_is_refused(tmp_path, other_daemon):
    refused = pytest.raises(ConfigurationError, match=f"process {other_daemon.pid} on")
    with refused, daemon_lock(tmp_path, NOW):
        pytest.fail("two hold one lock")
    assert read_holder(tmp_path)[1]


def test_daemon_lock_of_a_killed_process_is_free(tmp_path, other_daemon):
    other_daemon.send_signal(signal.SIGKILL)
    other_daemon.wait()
    who, is_alive = read_holder(tmp_path)
    assert who is not None
    assert (who.pid, is_alive) == (other_daemon.pid, False)
    with daemon_lock(tmp_path, NOW) as died:
        assert died == who
        who, is_alive = read_holder(tmp_path)
        assert who is not None
        assert (who.pid, is_alive) == (os.getpid(), True)


def test_daemon_lock_released_has_no_holder(tmp_path, other_daemon):
    other_daemon.stdin.close()
    assert other_daemon.wait() == 0
    assert read_holder(tmp_path) == (None, False)
    with daemon_lock(tmp_path, NOW) as died:
        assert died is None


def test_read_holder_without_lock_file_is_none(tmp_path):
    assert read_holder(tmp_path) == (None, False)


def test_daemon_lock_accepts_a_truncated_file(tmp_path):
    (tmp_path / LOCK_FILE).write_text('{"pid": 12')
    with daemon_lock(tmp_path, NOW) as died:
        assert died is None
