"""Run a week of a busy observatory with failures through the real daemon.

``python -m benchmarks.week --work DIR [--speed 100]``

Seven nights of 145 frames, a tenth of them with faults, arrive in a folder at a multiple of real
time. ``qc service run`` is killed twenty times, the mail server is down for a day, the disk is full
and the database locked for minutes. The account then counts frames that were not judged once and
alerts that were not sent once. Writes ``docs/results/week.md`` and a picture. Needs root, for a
small disk of its own.

``python -m benchmarks.week --work DIR --pace 12`` lets a hundred frames of one night arrive at the
pace of an observatory, without failures and with the default settings, and measures the time from
the arrival of a file to the mail. Writes ``docs/results/latency.md``.
"""

import argparse
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.week import report
from benchmarks.week.living import Week
from benchmarks.week.making import NIGHTS, make_frames
from benchmarks.week.trials import DISK_MB


def main() -> None:
    """Prepare, live through the week, take the account, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="for frames; some 6 GB")
    parser.add_argument("--speed", type=float, default=100)
    parser.add_argument("--pace", type=float, default=0, help="seconds between frames; no trials")
    parser.add_argument("--frames", type=int, default=100, help="with --pace")
    parser.add_argument("--nights", type=int, default=NIGHTS, help="fewer, to try it")
    chosen = parser.parse_args()
    last = datetime.now(UTC).date() - timedelta(days=1)
    history, nights = make_frames(chosen.work, last)
    project = _small_disk(chosen.work / "project")
    try:
        lived = [nights[-1][: chosen.frames]] if chosen.pace else nights[: chosen.nights]
        week = Week(chosen.work, project, lived, last, chosen.speed, chosen.pace)
        week.prepare(history)
        account = week.live()
        write = report.write_latency if chosen.pace else report.write
        write(account, week)
    finally:
        subprocess.run(["umount", "-l", project], check=False)  # noqa: S603, S607


def _small_disk(folder: Path) -> Path:
    """Give the project a disk of its own, which can be full without harm to others."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}M", "tmpfs", str(folder)]
    subprocess.run(command, check=True)  # noqa: S603
    return folder


if __name__ == "__main__":
    main()
