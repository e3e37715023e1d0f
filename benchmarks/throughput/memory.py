"""How much memory a process and all that it began hold together."""

import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

_EVERY_S = 0.5  # to add up the pages of a large process takes milliseconds


def run_watched(
    command: Sequence[str], environment: dict[str, str], limit_s: float
) -> tuple[str, float]:
    """Run a command; return the last line that it printed, and the most MB that it held.

    Pages that processes share are counted once (Pss); Linux only.
    """
    with subprocess.Popen(  # noqa: S603 - our own modules
        command, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        over, peak_mb = threading.Event(), [0.0]

        def watch() -> None:
            while not over.wait(_EVERY_S):
                peak_mb[0] = max(peak_mb[0], sum(map(_pss_mb, _family(process.pid))))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            printed, _ = process.communicate(timeout=limit_s)
        finally:
            over.set()
            watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:3])}: exit code {process.returncode}")
    return printed.strip().splitlines()[-1], peak_mb[0]


def _family(pid: int) -> list[int]:
    """Return a process and all its descendants that are alive."""
    try:
        children = [
            int(token)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for token in (task / "children").read_text().split()
        ]
    except OSError:  # it has just ended
        return []
    return [pid, *(number for child in children for number in _family(child))]


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
