"""Time and memory of an inbox scan, by the number of files in it.

``python -m benchmarks.inboxes``

Empty projects with 150 files a night, a folder for each night. A first scan asks the database
about every file, a certain number at a time; later scans do not. Memory is the amount
allocated by Python between scans, and at most during a scan. Last, new files are put one by one
among those that lie there, and the time until `wake` is called and the file handed out is taken.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import delete, insert
from sqlalchemy.orm import Session, sessionmaker

from qc import db
from qc.core.enums import FrameState
from qc.core.file import FileInfo
from qc.db.schema.engine import connect
from qc.db.schema.models import FrameRow
from qc.project import create_project
from qc.service.inboxes import InboxSet
from qc.settings import Settings, read_settings

SIZES = (1_000, 10_000, 100_000)
A_NIGHT = 150
LATER = timedelta(seconds=60)
REPEATS = 5
ARRIVALS = 10


def main() -> None:
    """Measure each size in a process of its own, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, nargs="*", default=SIZES)
    parser.add_argument("--one", type=int, help="measure this number only, and print JSON")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(_measure(arguments.one)))
        return
    rows = [_in_own_process(files) for files in arguments.files]
    table = Table("", *(f"{files:,} files" for files in arguments.files))
    for name in rows[0]:
        table.add_row(name, *(f"{row[name]:.2f}" for row in rows))
    Console().print(table)


def _in_own_process(files: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.inboxes", "--one", str(files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def _measure(files: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        create_project(project)
        inbox = Path(folder) / "inbox"
        paths = list(_files(inbox, files))
        (project / "qc.toml").write_text(f'[[inbox]]\npath = "{inbox}"\n')
        settings = read_settings(project)
        existing = _scans(settings, paths, existing=True)
        new = _scans(settings, paths, existing=False)
        memory = _memory_mb(settings)
        waits = _arrivals(settings, inbox)
    return {
        "first scan, nothing known: s": new[0],
        "first scan, all known: s": existing[0],
        "later scan: s": existing[1],
        "memory between scans: MB": memory[0],
        "memory during a scan, at most: MB": memory[1],
        "file closed to wake, longest: s": max(waits[0]),
        "file closed to handed out, median: s": statistics.median(waits[1]),
        "file closed to handed out, longest: s": max(waits[1]),
    }


def _files(inbox: Path, count: int) -> Iterator[Path]:
    start = datetime(2020, 1, 1, 12, tzinfo=UTC)
    for number in range(count):
        when = start + timedelta(days=number // A_NIGHT, minutes=number % A_NIGHT)
        folder = inbox / f"{when:%Y-%m-%d}"
        if number % A_NIGHT == 0:
            folder.mkdir(parents=True)
        path = folder / f"UVES.{when:%Y-%m-%dT%H:%M:%S}.000.fits.Z"
        path.write_bytes(b"frame")
        os.utime(path, (when.timestamp(), when.timestamp()))
        yield path


def _scans(settings: Settings, paths: list[Path], *, existing: bool) -> tuple[float, float]:
    """Return the seconds of the first scan and of a later one."""
    engine = connect(settings.database_url)
    with Session(engine) as session, session.begin():
        if existing:
            session.execute(insert(FrameRow), list(map(_row, paths)))
        else:
            session.execute(delete(FrameRow))
    reads = sessionmaker(engine)

    def is_known(file: FileInfo) -> bool:
        with reads() as session:
            return db.frames.is_known(session, file)

    inboxes = InboxSet(settings, is_known)
    now = datetime.now(UTC)
    first_s = _seconds(lambda: _to_end(inboxes, now))
    later_s = [_seconds(lambda: inboxes.scan(now + LATER)) for _ in range(REPEATS)]
    inboxes.close()
    engine.dispose()
    return first_s, statistics.median(later_s)


def _memory_mb(settings: Settings) -> tuple[float, float]:
    """Return the MB held between scans, and the most that was held during a later one."""
    tracemalloc.start()
    inboxes = InboxSet(settings, lambda _file: True)
    now = datetime.now(UTC)
    _to_end(inboxes, now)
    tracemalloc.reset_peak()
    inboxes.scan(now + LATER)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    inboxes.close()
    return held / 1e6, most / 1e6


def _row(path: Path) -> dict[str, object]:
    status = path.stat()
    return {
        "state": FrameState.SKIPPED,
        "path": str(path),
        "name": path.name,
        "file_bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "processed_at": datetime.now(UTC),
    }


def _to_end(inboxes: InboxSet, now: datetime) -> None:
    while inboxes.scan(now).pending:
        pass


def _seconds(work: object) -> float:
    assert callable(work)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _arrivals(settings: Settings, inbox: Path) -> tuple[list[float], list[float]]:
    """Return the seconds from a file's closing to the wake, and to its being handed out."""
    rung = threading.Event()
    inboxes = InboxSet(settings, lambda file: not file.path.name.startswith("new"))
    inboxes.watch(rung.set)
    _to_end(inboxes, datetime.now(UTC))
    wakes, handed = [], []
    for number in range(ARRIVALS):
        rung.clear()
        (inbox / f"new-{number}.fits").write_bytes(b"frame")
        start = time.perf_counter()
        assert rung.wait(60)
        wakes.append(time.perf_counter() - start)
        while not (scan := inboxes.scan(datetime.now(UTC))).arrived:
            time.sleep(settings.watch.quiet_s if scan.pending else 0.1)
        handed.append(time.perf_counter() - start)
    inboxes.close()
    return wakes, handed


if __name__ == "__main__":
    main()
