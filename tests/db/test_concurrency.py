"""Concurrent processes on the same frames: no row is lost or doubled."""

import multiprocessing
import signal
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier

import pytest
from sqlalchemy import event, func, select

from qc import db
from qc.core.enums import FrameState, LabelName, Topic
from qc.core.file import FileInfo
from qc.db.schema.models import (
    AlertRow,
    BlockStatisticsRow,
    EmbeddingRow,
    EncoderRow,
    ExtensionRow,
    FrameRow,
    LabelRow,
    VerdictRow,
)
from qc.detection import embed as embed_frames
from qc.pipeline.batch import find_frames, process_frames
from qc.pipeline.process import judge_frame, read_and_measure, record
from qc.pipeline.rejudge import rejudge_frames
from tests.support.tiny_spectrograph import (
    bias_jump,
    open_tiny,
    process,
    write_frame,
    write_history,
)
from tests.support.waiting import wait_for_end

FRAMES, PROCESSES, PATIENCE_S = 12, 4, 250
SPAWN = multiprocessing.get_context("spawn")
OF_AN_EXTENSION = (ExtensionRow, BlockStatisticsRow, EmbeddingRow, VerdictRow)


def count(project, table) -> int:
    with project.read_session() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


_START: list[Barrier] = []


def remember(barrier):
    _START.append(barrier)


@pytest.fixture(scope="module")
def hosts():
    """Pool of four processes, started once, as TensorFlow is slow to import."""
    barrier = SPAWN.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, SPAWN, initializer=remember, initargs=(barrier,)) as pool:
        yield lambda work, *arguments: at_once(pool, work, *arguments)


def at_once(pool, work, *arguments) -> list[list[str]]:
    """Run a function in every process at once; return the results."""
    running = [pool.submit(work, *arguments) for _ in range(PROCESSES)]
    return [
        item.result() for item in as_completed(running, PATIENCE_S)
    ]  # an error is heard at once


def take_in(project_folder, inbox, label=None):
    """Process a folder when all processes are ready; return the outcomes."""
    with open_tiny(project_folder) as project:
        paths = find_frames([inbox])
        _START[0].wait(PATIENCE_S)
        return [str(item.state) for item in process_frames(paths, project, label)]


def test_process_four_processes_store_each_frame_once(hosts, project_folder, inbox):
    write_history(inbox, FRAMES)
    write_frame(inbox, 2, change=bias_jump)
    (inbox / "broken.fits").write_bytes(b"SIMPLE")
    heard = Counter(state for states in hosts(take_in, project_folder, inbox) for state in states)
    assert heard["processed"] == FRAMES + 1  # reported as new by one process only
    assert heard["known"] == (PROCESSES - 1) * (FRAMES + 1)
    with open_tiny(project_folder) as project:
        assert [count(project, table) for table in OF_AN_EXTENSION] == [FRAMES + 1] * 4
        assert (count(project, EncoderRow), count(project, AlertRow)) == (1, 1)
        with project.read_session() as session:
            states = db.statistics.frame_states(session)
            assert states == {"processed": FRAMES + 1, "failed": 1}
            assert session.scalar(select(func.count(func.distinct(FrameRow.sha256)))) == FRAMES + 1


def test_label_file_four_processes_label_each_extension_once(hosts, project_folder, inbox):
    write_history(inbox, FRAMES)
    hosts(take_in, project_folder, inbox, LabelName.GOOD)
    hosts(take_in, project_folder, inbox, LabelName.GOOD)
    with open_tiny(project_folder) as project:
        assert count(project, LabelRow) == FRAMES


def test_process_repaired_files_four_processes_store_each_once(hosts, project_folder, inbox):
    paths = write_history(inbox, FRAMES)
    whole = [path.read_bytes() for path in paths]
    with open_tiny(project_folder) as project:
        for path in paths:
            path.write_bytes(b"SIMPLE")
        process(project, *paths)
        assert count(project, FrameRow) == FRAMES
    for path, content in zip(paths, whole, strict=True):
        path.write_bytes(content)
    hosts(take_in, project_folder, inbox)
    with open_tiny(project_folder) as project, project.read_session() as session:
        assert db.statistics.frame_states(session) == {"processed": FRAMES}
        assert count(project, VerdictRow) == FRAMES


def judge(project_folder):
    with open_tiny(project_folder) as project:
        _START[0].wait(PATIENCE_S)
        return [item.name for item in rejudge_frames(project)]


def test_rejudge_four_processes_lose_no_verdict(hosts, project_folder, inbox):
    with open_tiny(project_folder) as project:
        process(project, *write_history(inbox, FRAMES))
    hosts(judge, project_folder)
    with open_tiny(project_folder) as project:
        assert count(project, VerdictRow) == (PROCESSES + 1) * FRAMES
        assert count(project, EmbeddingRow) == FRAMES


def stop_at_the_fourth(project_folder, inbox, reached):
    """Block while the fourth frame is half written, until killed."""
    written = []

    def stand_still(_connection, _cursor, statement, *_rest):
        written.extend([statement] if statement.startswith("INSERT INTO verdict") else [])
        if len(written) == 4:
            reached.set()
            signal.pause()

    with open_tiny(project_folder) as project:
        event.listen(project.engine, "after_cursor_execute", stand_still)
        list(process_frames(find_frames([inbox]), project))


def test_process_killed_within_a_frame_loses_no_other_frame(hosts, project_folder, inbox):
    """The other processes wait for its frame at that time."""
    write_history(inbox, FRAMES)
    reached = SPAWN.Event()
    victim = SPAWN.Process(target=stop_at_the_fourth, args=(project_folder, inbox, reached))
    victim.start()
    assert reached.wait(PATIENCE_S)
    with open_tiny(project_folder) as project:
        stored = count(project, FrameRow)  # of the nights that it had finished
    with meanwhile(lambda: hosts(take_in, project_folder, inbox)) as (rest, heard):
        rest.start()
        rest.join(1)
        assert heard == []
        victim.kill()
        wait_for_end(victim)
    states = Counter(state for states in heard[0] for state in states)
    assert states == {"processed": FRAMES - stored, "known": (PROCESSES - 1) * FRAMES + stored}
    with open_tiny(project_folder) as project:
        assert [count(project, table) for table in OF_AN_EXTENSION] == [FRAMES] * 4


# --- one after another, as the worst case would have it -------------------------------------------


@contextmanager
def meanwhile(work):
    """Run a function in a thread during the block; the context is the list of its result."""
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    yield thread, done
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def ready(project, path):
    arrival = read_and_measure(path, project)
    return arrival, judge_frame(
        arrival, embed_frames(arrival.measurements, project.encoder), project
    )


@pytest.mark.parametrize("first_succeeds", [True, False])
def test_second_process_waits_and_stores_the_frame_after_a_rollback(project, inbox, first_succeeds):
    arrival, judged = ready(project, write_frame(inbox))
    session = project.insert_session()
    db.recording.record_frame(
        session, arrival.file, arrival.frame, judged, encoder=project.encoder, thresholds_digest=""
    )
    with meanwhile(lambda: record([(arrival, judged)], project, None)) as (second, done):
        second.start()
        second.join(0.3)
        assert done == []
        session.commit() if first_succeeds else session.rollback()
        session.close()
    [[outcome]] = done
    assert outcome.state == (FrameState.KNOWN if first_succeeds else FrameState.PROCESSED)
    assert [count(project, table) for table in OF_AN_EXTENSION] == [1] * 4


def test_add_alert_concurrent_events_add_one_alert(project):
    def owe(session):
        return db.operations.add_alert(
            session, Topic.ABSENCE, "absence TINY TB0", "No TB0 tonight."
        )

    def owe_too():
        with project.insert_session.begin() as other:
            return owe(other)

    with project.insert_session() as session:
        assert owe(session)
        with meanwhile(owe_too) as (second, done):
            second.start()
            second.join(0.3)
            session.commit()
    assert done == [False]
    assert count(project, AlertRow) == 1


def test_record_unprocessed_concurrent_failures_share_one_row(project, inbox):
    file = FileInfo(inbox / "broken.fits", 6, 1)

    def fail():
        with project.insert_session.begin() as other:
            db.frames.record_unprocessed(other, file, FrameState.FAILED, "broken")

    with project.insert_session() as session:
        db.frames.record_unprocessed(session, file, FrameState.FAILED, "broken")
        session.flush()
        with meanwhile(fail) as (second, _):
            second.start()
            second.join(0.3)
            session.commit()
    with project.read_session() as session:
        assert session.scalars(select(FrameRow.tries)).all() == [2]


def test_label_transactions_are_serial(project):
    """The second transaction sees the rows of the first, committed after its begin."""

    def look():
        with project.write_session.begin() as other:
            return other.scalar(select(func.count()).select_from(EncoderRow))

    with project.write_session() as session:
        session.add(EncoderRow(fingerprint="e", name="e", stretch="physical"))
        session.flush()
        with meanwhile(look) as (second, values):
            second.start()
            second.join(0.3)
            assert values == []
            session.commit()
    assert values == [1]


def test_read_transaction_sees_one_moment(project):
    with project.read_session() as session:
        before = session.scalar(select(func.count()).select_from(EncoderRow))
        with project.write_session.begin() as other:
            other.add(EncoderRow(fingerprint="e", name="e", stretch="physical"))
        assert session.scalar(select(func.count()).select_from(EncoderRow)) == before
