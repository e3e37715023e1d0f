import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qc.service.systemd import ServiceManager

UNIT = Path(__file__).parents[2] / "docs" / "systemd" / "calibration-qc.service"


@pytest.fixture
def systemd(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def test_notify_sends_ready(systemd):
    ServiceManager({"NOTIFY_SOCKET": systemd.getsockname()}).notify("READY=1")
    assert systemd.recv(100) == b"READY=1"


def test_ping_is_limited_to_three_per_interval(systemd):
    environment = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": str(3600 * 10**6)}
    service_manager = ServiceManager(environment)
    for _ in range(10):
        service_manager.ping()
    assert systemd.recv(100) == b"WATCHDOG=1"
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(100)


def test_first_ping_is_sent_after_boot(systemd, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    environment = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": str(60 * 10**6)}
    ServiceManager(environment).ping()
    assert systemd.recv(100) == b"WATCHDOG=1"


def test_notify_without_systemd_does_nothing():
    service_manager = ServiceManager({})
    service_manager.notify("READY=1")
    service_manager.ping()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_unit_file_is_valid(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/calibration-qc/.venv/bin/qc", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
