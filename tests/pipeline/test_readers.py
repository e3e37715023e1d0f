"""Reader processes: results equal those of one process."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from qc import errors
from qc.core.enums import FrameState, LabelName
from qc.core.file import FileInfo
from qc.core.frame import Header
from qc.errors import FrameError, UnreadableFrameError
from qc.io.instruments import Instrument
from qc.pipeline.batch import process_frames
from qc.pipeline.readers import FrameReading, ReaderPool, read_file, workers_for
from tests.support.builders import write
from tests.support.databases import copied_project
from tests.support.snapshots import snapshot_rows
from tests.support.tiny_spectrograph import (
    bias_jump,
    light_leak,
    open_tiny,
    process,
    write_frame,
    write_history,
    write_instrument,
)

GONE_WITHIN_S = 30


@pytest.fixture
def two_projects(empty_project, tmp_path):
    """Two empty projects."""
    with (
        copied_project(empty_project, tmp_path / "one") as first,
        copied_project(empty_project, tmp_path / "two") as second,
    ):
        yield first, second


def file_of(path: Path) -> FileInfo:
    status = path.stat()
    return FileInfo(path, status.st_size, status.st_mtime_ns)


def spoil(folder: Path) -> list[Path]:
    """Write files that fail or are skipped, for different reasons."""
    return [
        write(folder / "TINY.2026-01-02T20:40:00.fits", b"no FITS at all"),
        write_frame(folder, 2, 41, KIND="SCIENCE"),
        write_frame(folder, 2, 42, kind="FLAT", KIND="NOBODY KNOWS"),
        write_frame(folder, 2, 43, change=lambda image: image.fill(7)),
    ]


def a_week(folder: Path) -> list[Path]:
    """Write nights with faults, a repeated read-out, and files that cannot be read."""
    paths = write_history(folder, frames=21)
    for night in range(2, 5):
        paths += [write_frame(folder, night, number, kind="FLAT") for number in range(3)]
        paths += [write_frame(folder, night, 3, change=light_leak)]
        paths += [write_frame(folder, night, number) for number in range(4, 8)]
    paths += [write_frame(folder, 4, 20, change=bias_jump), *spoil(folder)]
    twin = folder / "TINY.2026-01-04T21:30:00.fits"
    repeated = paths[-10].read_bytes().replace(b"ARCFILE = 'TINY.", b"ARCFILE = 'TWIN.")
    return [*paths, write(twin, repeated)]


@pytest.mark.slow
@pytest.mark.once
def test_rows_from_reader_processes_equal_rows_from_one_process(two_projects, inbox, monkeypatch):
    paths = a_week(inbox)
    results = []
    for project_folder, workers in zip(two_projects, ("0", "2"), strict=True):
        monkeypatch.setenv("QC_WORKERS", workers)
        with open_tiny(project_folder) as project:
            history = list(process_frames(paths[:21], project, LabelName.GOOD))
            outcomes = history + process(project, *paths)
            summary = [
                (item.path, item.state, item.reason, len(item.judgements)) for item in outcomes
            ]
            results.append((sorted(summary), snapshot_rows(project)))
    [(first, rows), (second, rows_too)] = results
    assert rows == rows_too
    assert first == second
    assert {state for _, state, _, _ in first} == set(FrameState)
    assert len(rows["frame"]) == len(paths)


def test_duplicate_within_one_night_is_detected(project, inbox):
    first = write_frame(inbox, 2)
    name = b"TINY.2026-01-02T20:00:00"
    content = first.read_bytes().replace(name, name[:-1] + b"5")
    [before, after] = process(
        project, first, write(inbox / "TINY.2026-01-02T20:00:05.fits", content)
    )
    assert before.judgements[0].evidence.duplicate_of == ""
    assert after.judgements[0].evidence.duplicate_of == "TINY.2026-01-02T20:00:00"


def test_killed_reader_processes_lose_no_frame(project_folder, inbox, monkeypatch):
    monkeypatch.setenv("QC_WORKERS", "2")
    paths = write_history(inbox, frames=40)
    with open_tiny(project_folder) as project:
        outcomes = process_frames(paths, project)
        done = [next(outcomes)]
        killed = [child.pid for child in multiprocessing.active_children() if child.pid]
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        done += outcomes
    assert killed
    assert [item.state for item in done] == [FrameState.PROCESSED] * 40
    assert [item.path.name for item in done] == [path.name for path in paths]


class Deadly(Instrument):
    """Instrument that kills the process for one kind of frame."""

    def recognises(self, header: Header) -> bool:
        if header.get("OBJECT") == "DEADLY":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().recognises(header)


def deadly(folder: Path) -> Deadly:
    plain = write_instrument(folder)
    return Deadly(**{item.name: getattr(plain, item.name) for item in fields(plain) if item.init})


@pytest.mark.slow
def test_file_that_kills_readers_is_reported_alone(tmp_path):
    paths = [
        write_frame(tmp_path, 1, number, OBJECT="DEADLY" if number == 3 else "BIAS")
        for number in range(8)
    ]
    with ReaderPool([deadly(tmp_path / "instruments")], workers=2) as readers:
        waits = [readers.begin(file_of(path)) for path in paths]
        for number, (path, wait) in enumerate(zip(paths, waits, strict=True)):
            if number == 3:
                with pytest.raises(
                    UnreadableFrameError, match=f"^{path}: the process .* died, twice"
                ):
                    wait()
            else:
                assert wait().frame.name == path.stem


def test_frame_error_from_reader_process_has_same_message(tmp_path):
    path = write(tmp_path / "x.fits", b"no FITS at all")
    instrument = write_instrument(tmp_path / "instruments")
    with pytest.raises(UnreadableFrameError) as here:
        read_file(file_of(path), [instrument])
    with ReaderPool([instrument], workers=1) as readers:
        wait = readers.begin(file_of(path))
        with pytest.raises(UnreadableFrameError) as there:
            wait()
    assert str(there.value) == str(here.value)


@pytest.mark.parametrize("kind", FrameError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_frame_error_can_be_pickled(kind):
    [message] = pickle.loads(pickle.dumps(kind("a: b"))).args
    assert message == "a: b"
    assert isinstance(kind("a: b"), errors.QCError)


def test_program_error_is_recorded_and_logged(project_folder, inbox, monkeypatch, caplog):
    monkeypatch.setattr(
        "qc.detection.measurement.measure_metrics", lambda extension: 1 // (extension.number or 0)
    )
    [path] = write_history(inbox, frames=1)
    with open_tiny(project_folder) as project:
        [outcome] = process(project, path)
    assert outcome.state is FrameState.FAILED
    assert "a fault of the program: ZeroDivisionError" in outcome.reason
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(("files", "setting", "workers"), [(5, None, 0), (5, 3, 3), (10**6, 0, 0)])
def test_workers_for_few_files_is_zero_or_setting(files, setting, workers):
    assert workers_for(files, setting) == workers


def test_workers_for_many_files_is_number_of_cores():
    assert workers_for(10**6, None) == len(os.sched_getaffinity(0))


def test_reading_ahead_is_bounded(project_folder, inbox, monkeypatch):
    monkeypatch.setenv("QC_WORKERS", "1")
    monkeypatch.setenv("QC_BATCH_FRAMES", "4")
    paths = write_history(inbox, frames=30)
    begun: list[FileInfo] = []
    begin = ReaderPool.begin

    def counted(self: ReaderPool, file: FileInfo) -> Callable[[], FrameReading]:
        begun.append(file)
        return begin(self, file)

    monkeypatch.setattr(ReaderPool, "begin", counted)
    with open_tiny(project_folder) as project:
        for done, _ in enumerate(process_frames(paths, project), start=1):
            assert len(begun) <= done + 2 * 4 + 2 + 1
    assert len(begun) == 30


ORPHANS = """
import multiprocessing, sys
from pathlib import Path
from qc.pipeline.readers import ReaderPool
from tests.pipeline.test_readers import file_of
from tests.support.tiny_spectrograph import write_frame, write_instrument

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with ReaderPool([write_instrument(folder / "instruments")], workers=2) as readers:
        for number in range(4):
            readers.begin(file_of(write_frame(folder, 1, number)))()
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        sys.stdin.read()
"""


def test_reader_processes_end_with_killed_parent(tmp_path):
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, script, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as started:
        assert started.stdout
        pids = [int(pid) for pid in started.stdout.readline().split()]
        started.kill()
    deadline = time.monotonic() + GONE_WITHIN_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        os.sched_yield()
    assert pids
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
