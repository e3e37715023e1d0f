"""The real daemon as a process: started, killed, started again, and how much memory it takes."""

import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """Resident megabytes in one life of the daemon, at a second since 1970."""

    life: int
    at: float
    mb: float


class DaemonProcess:
    """``qc service run`` of a project, its log in a file."""

    def __init__(self, project: Path, log: Path) -> None:
        self.project, self.log = project, log
        self.lives = 0
        self.memory: list[Memory] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._ends = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        """Start it, as a supervisor would."""
        stream = self.log.open("ab")
        command = [sys.executable, "-m", "qc", "service", "run", "--project", str(self.project)]
        self._process = subprocess.Popen(command, stderr=stream, stdout=stream)  # noqa: S603
        self.lives += 1
        if not self._sampler.is_alive():
            self._sampler.start()

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        assert self._process is not None
        self._ends.set()
        self._process.terminate()
        return self._process.wait(timeout=300)

    @property
    def is_alive(self) -> bool:
        """Return True if it is running."""
        return self._process is not None and self._process.poll() is None

    def _sample(self) -> None:
        while not self._ends.wait(5):
            if self._process is not None and self.is_alive:
                kb = _resident_kb(self._process.pid)
                self.memory.append(Memory(self.lives, time.time(), kb / 1024))


def _resident_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
