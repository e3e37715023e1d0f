"""Several processes, as on several hosts, take in the same frames: none lost, none doubled."""

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
from qc.core.measurement import FileInfo
from qc.db.models import (
    AlertRow,
    BlockStatisticsRow,
    EmbeddingRow,
    EncoderRow,
    ExtensionRow,
    FrameRow,
    LabelRow,
    VerdictRow,
)
from qc.pipeline.process import embed as embed_frames
from qc.pipeline.process import (
    find_frames,
    judge_again,
    judge_frame,
    process_frames,
    read_and_measure,
    record,
)
from tests.support.tiny import bias_jump, open_tiny, process, write_frame, write_history
from tests.support.waiting import wait_for_end

FRAMES, PROCESSES, PATIENCE_S = 12, 4, 250
SPAWN = multiprocessing.get_context("spawn")
OF_AN_EXTENSION = (ExtensionRow, BlockStatisticsRow, EmbeddingRow, VerdictRow)


def count(project, table) -> int:
    with project.reads() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


_START: list[Barrier] = []


def remember(barrier):
    _START.append(barrier)


@pytest.fixture(scope="module")
def hosts():
    """Four processes, loaded once: TensorFlow takes longer than the frames."""
    barrier = SPAWN.Barrier(PROCESSES)
    with ProcessPoolExecutor(PROCESSES, SPAWN, initializer=remember, initargs=(barrier,)) as pool:
        yield lambda work, *given: at_once(pool, work, *given)


def at_once(pool, work, *given) -> list[list[str]]:
    """Run a function in every process, begun together; return what each of them returned."""
    running = [pool.submit(work, *given) for _ in range(PROCESSES)]
    return [one.result() for one in as_completed(running, PATIENCE_S)]  # an error is heard at once


def take_in(project_folder, inbox, label=None):
    """Process a folder as soon as all are ready; return what became of each file."""
    with open_tiny(project_folder) as project:
        paths = find_frames([inbox])
        _START[0].wait(PATIENCE_S)
        return [str(one.state) for one in process_frames(paths, project, label)]


def test_four_processes_on_one_folder_keep_each_frame_and_all_of_it_once(
    hosts, project_folder, inbox
):
    write_history(inbox, FRAMES)
    write_frame(inbox, 2, change=bias_jump)
    (inbox / "broken.fits").write_bytes(b"SIMPLE")
    heard = Counter(state for states in hosts(take_in, project_folder, inbox) for state in states)
    assert heard["processed"] == FRAMES + 1  # told as new by one of them alone
    assert heard["known"] == (PROCESSES - 1) * (FRAMES + 1)
    with open_tiny(project_folder) as project:
        assert [count(project, table) for table in OF_AN_EXTENSION] == [FRAMES + 1] * 4
        assert (count(project, EncoderRow), count(project, AlertRow)) == (1, 1)
        with project.reads() as session:
            states = db.statistics.frame_states(session)
            assert states == {"processed": FRAMES + 1, "failed": 1}
            assert session.scalar(select(func.count(func.distinct(FrameRow.sha256)))) == FRAMES + 1


def test_four_processes_that_certify_a_folder_label_each_extension_once(
    hosts, project_folder, inbox
):
    write_history(inbox, FRAMES)
    hosts(take_in, project_folder, inbox, LabelName.GOOD)
    hosts(take_in, project_folder, inbox, LabelName.GOOD)
    with open_tiny(project_folder) as project:
        assert count(project, LabelRow) == FRAMES


def test_four_processes_that_mend_the_same_failed_files_keep_each_frame_once(
    hosts, project_folder, inbox
):
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
    with open_tiny(project_folder) as project, project.reads() as session:
        assert db.statistics.frame_states(session) == {"processed": FRAMES}
        assert count(project, VerdictRow) == FRAMES


def judge(project_folder):
    with open_tiny(project_folder) as project:
        _START[0].wait(PATIENCE_S)
        return [one.name for one in judge_again(project)]


def test_four_processes_that_judge_again_lose_no_verdict(hosts, project_folder, inbox):
    with open_tiny(project_folder) as project:
        process(project, *write_history(inbox, FRAMES))
    hosts(judge, project_folder)
    with open_tiny(project_folder) as project:
        assert count(project, VerdictRow) == (PROCESSES + 1) * FRAMES
        assert count(project, EmbeddingRow) == FRAMES


def stop_at_the_fourth(project_folder, inbox, reached):
    """Stand still while the fourth frame is half written, until killed."""
    written = []

    def stand_still(_connection, _cursor, statement, *_rest):
        written.extend([statement] if statement.startswith("INSERT INTO verdict") else [])
        if len(written) == 4:
            reached.set()
            signal.pause()

    with open_tiny(project_folder) as project:
        event.listen(project.engine, "after_cursor_execute", stand_still)
        list(process_frames(find_frames([inbox]), project))


def test_one_that_is_killed_in_the_middle_of_a_frame_loses_none_for_the_others(
    hosts, project_folder, inbox
):
    """The others wait for that very frame when it dies."""
    write_history(inbox, FRAMES)
    reached = SPAWN.Event()
    victim = SPAWN.Process(target=stop_at_the_fourth, args=(project_folder, inbox, reached))
    victim.start()
    assert reached.wait(PATIENCE_S)
    with open_tiny(project_folder) as project:
        kept = count(project, FrameRow)  # of the nights that it had finished
    with meanwhile(lambda: hosts(take_in, project_folder, inbox)) as (others, heard):
        others.start()
        others.join(1)
        assert heard == []
        victim.kill()
        wait_for_end(victim)
    states = Counter(state for states in heard[0] for state in states)
    assert states == {"processed": FRAMES - kept, "known": (PROCESSES - 1) * FRAMES + kept}
    with open_tiny(project_folder) as project:
        assert [count(project, table) for table in OF_AN_EXTENSION] == [FRAMES] * 4


# --- one after another, as the worst case would have it -------------------------------------------


@contextmanager
def meanwhile(work):
    """Let something run beside what is done in the block; give its result's list."""
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    yield thread, done
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def ready(project, path):
    arrival = read_and_measure(path, project)
    return arrival, judge_frame(arrival, embed_frames([arrival], project), project)


@pytest.mark.parametrize("first_succeeds", [True, False])
def test_who_is_second_waits_for_the_first_and_keeps_the_frame_if_that_one_did_not(
    project, inbox, first_succeeds
):
    arrival, judged = ready(project, write_frame(inbox))
    session = project.adds()
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


def test_an_event_that_two_notice_at_once_is_owed_once(project):
    def owe(session):
        return db.alerts.owe_alert(session, Topic.ABSENCE, "absence TINY TB0", "No TB0 tonight.")

    def owe_too():
        with project.adds.begin() as other:
            return owe(other)

    with project.adds() as session:
        assert owe(session)
        with meanwhile(owe_too) as (second, done):
            second.start()
            second.join(0.3)
            session.commit()
    assert done == [False]
    assert count(project, AlertRow) == 1


def test_a_file_that_fails_for_two_at_once_has_one_row_and_two_tries(project, inbox):
    file = FileInfo(inbox / "broken.fits", 6, 1)

    def fail():
        with project.adds.begin() as other:
            db.frames.record_unprocessed(other, file, FrameState.FAILED, "broken")

    with project.adds() as session:
        db.frames.record_unprocessed(session, file, FrameState.FAILED, "broken")
        session.flush()
        with meanwhile(fail) as (second, _):
            second.start()
            second.join(0.3)
            session.commit()
    with project.reads() as session:
        assert session.scalars(select(FrameRow.tries)).all() == [2]


def test_what_people_say_is_written_one_after_another(project):
    """The second sees all that the first wrote, though it began before that was committed."""

    def look():
        with project.writes.begin() as other:
            return other.scalar(select(func.count()).select_from(EncoderRow))

    with project.writes() as session:
        session.add(EncoderRow(fingerprint="e", name="e", stretch="physical"))
        session.flush()
        with meanwhile(look) as (second, seen):
            second.start()
            second.join(0.3)
            assert seen == []
            session.commit()
    assert seen == [1]


def test_what_is_read_in_one_transaction_is_of_one_moment(project):
    with project.reads() as session:
        before = session.scalar(select(func.count()).select_from(EncoderRow))
        with project.writes.begin() as other:
            other.add(EncoderRow(fingerprint="e", name="e", stretch="physical"))
        assert session.scalar(select(func.count()).select_from(EncoderRow)) == before
