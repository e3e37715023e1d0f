import getpass
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from qc import db
from qc._time import noon
from qc.core.enums import FrameState, LabelName, Topic
from qc.core.frame import Frame, Setup
from qc.core.measurement import FileInfo, RetryPolicy
from qc.db.engine import connect
from qc.db.models import (
    AlertRow,
    EmbeddingRow,
    EncoderRow,
    EpochRow,
    ExtensionRow,
    FrameRow,
    LabelRow,
)
from qc.errors import ConfigurationError
from tests.support.tiny import light_leak, process, write_frame, write_history

SETUP = Setup("TB0", "CCD", "1x1", "only")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def session(project):
    with project.writes() as opened:
        yield opened


def nominal(session: Session, number: int, embedding: list[float]) -> ExtensionRow:
    """A certified extension taken `number` hours after noon of 2026-01-01"""
    when = NOON + timedelta(hours=number)
    frame = FrameRow(
        state=FrameState.PROCESSED,
        path=f"/archive/{number}.fits",
        file_bytes=1,
        modified_ns=1,
        processed_at=NOON,
        sha256=str(number),
        name=f"TINY.{number}",
        instrument="TINY",
        observed_at=when,
        night=when.date(),
    )
    extension = ExtensionRow(
        frame=frame,
        number=0,
        frame_class="bias",
        ny=224,
        nx=240,
        pixels_sha256=str(number),
        promised_light=0.0,
        zero_adu=100.0,
        stretch_adu=10.0,
        metrics={"bias_level": float(number)},
        **{name: getattr(SETUP, name) for name in Setup.__dataclass_fields__},
    )
    session.add(extension)
    session.flush()
    encoder_id = session.scalar(select(EncoderRow.id))
    if encoder_id is None:
        encoder = EncoderRow(fingerprint="e", name="e", stretch="physical")
        session.add(encoder)
        session.flush()
        encoder_id = encoder.id
    session.add_all(
        [
            EmbeddingRow(
                extension_id=extension.id,
                encoder_id=encoder_id,
                vector=np.array(embedding, np.float32),
            ),
            LabelRow(
                extension_id=extension.id,
                label=LabelName.GOOD,
                kind="",
                who="me",
                at=NOON,
                note="",
            ),
        ]
    )
    return extension


def frame_of(night: date) -> Frame:
    return Frame(
        path=Path("new.fits"),
        name="new",
        sha256="new",
        instrument="TINY",
        observed_at=noon(night),
        night=night,
        exposure_s=0.0,
        template="",
        template_number=1,
        template_size=1,
        extensions=(),
    )


def test_the_reference_is_the_newest_200_newest_first(session):
    rows = [nominal(session, number, [1.0, float(number)]) for number in range(203)]
    reference = db.references.reference_for(session, frame_of(date(2026, 2, 1)), SETUP, "e")
    assert reference.extension_ids == tuple(row.id for row in rows[:2:-1])
    assert reference.embeddings[:, 1].tolist() == list(range(202, 2, -1))
    assert reference.metrics[0] == {"bias_level": 202.0}


def test_a_reference_is_found_through_many_that_are_not_nominal(session, monkeypatch):
    monkeypatch.setattr(db.references, "_CANDIDATES", 7)
    monkeypatch.setattr(db.references, "REFERENCE_NEWEST", 20)
    rows = [nominal(session, number, [1.0, float(number)]) for number in range(60)]
    for row in rows[::2]:
        session.add(LabelRow(extension_id=row.id, label="bad", kind="", who="me", at=NOON, note=""))
    for row in rows[30:40]:  # taken at one moment, as by many arms
        row.observed_at = row.frame.observed_at = rows[30].observed_at
    reference = db.references.reference_for(session, frame_of(date(2026, 2, 1)), SETUP, "e")
    good = [row for row in rows if row not in rows[::2]]
    good.sort(key=lambda row: (row.observed_at, row.frame.name), reverse=True)
    assert reference.extension_ids == tuple(row.id for row in good[:20])


def test_embeddings_of_another_encoder_are_no_reference(session):
    nominal(session, 1, [1.0, 0.0])
    reference = db.references.reference_for(session, frame_of(date(2026, 2, 1)), SETUP, "other")
    assert reference.extension_ids == ()


@pytest.mark.parametrize(
    "other",
    [
        Setup("TF0", "CCD", "1x1", "only"),
        Setup("TB0", "CCD2", "1x1", "only"),
        Setup("TB0", "CCD", "2x2", "only"),
        Setup("TB0", "CCD", "1x1", "fast"),
        Setup("TB0", "CCD", "1x1", "only", wavelength_nm=500.0),
        Setup("TB0", "CCD", "1x1", "only", optics="slicer"),
    ],
)
def test_another_setup_has_other_references(session, other):
    nominal(session, 1, [1.0, 0.0])
    assert (
        db.references.reference_for(session, frame_of(date(2026, 2, 1)), other, "e").extension_ids
        == ()
    )


def test_a_valid_outlier_is_accepted_as_reference(session):
    row = nominal(session, 1, [1.0, 0.0])
    for label in (LabelName.BAD, LabelName.VALID_OUTLIER):
        session.add(LabelRow(extension_id=row.id, label=label, kind="", who="me", at=NOON, note=""))
    reference = db.references.reference_for(session, frame_of(date(2026, 2, 1)), SETUP, "e")
    assert reference.extension_ids == (row.id,)


def epoch_at(when) -> EpochRow:
    return EpochRow(scope="UVES", since=date(2026, 1, 1), why="a test", who="me", at=when)


def test_times_come_back_in_utc_whatever_the_zone_they_went_in_with(session):
    chile = timezone(timedelta(hours=-3))
    session.add(epoch_at(datetime(2026, 1, 1, 22, 30, tzinfo=chile)))
    session.flush()
    session.expire_all()
    assert session.scalar(select(EpochRow.at)) == datetime(2026, 1, 2, 1, 30, tzinfo=UTC)
    stored = session.scalar(text("SELECT CAST(at AS VARCHAR) FROM epoch"))
    assert stored.startswith("2026-01-02 01:30:00")


def test_a_time_without_a_zone_is_refused(session):
    session.add(epoch_at(NOON.replace(tzinfo=None)))
    with pytest.raises(Exception, match="a time without a zone could be any of 24"):
        session.flush()


@pytest.mark.sqlite
def test_an_embedding_is_stored_as_little_endian_halves(session):
    nominal(session, 1, [0.5, -0.25, 0.125])
    stored = session.scalar(text("SELECT vector FROM embedding"))
    assert stored == np.array([0.5, -0.25, 0.125], "<f2").tobytes()
    assert db.embeddings.embedding_of(session, 1, 1).tolist() == [0.5, -0.25, 0.125]


def test_block_statistics_come_back_above_zero_to_a_thousandth(project, inbox):
    [outcome] = process(project, write_frame(inbox, kind="FLAT"))
    measured = outcome.judged[0].measured
    with project.reads() as opened:
        stored = db.block_statistics.block_statistics_of(opened, 1)
    assert stored is not None
    assert stored.shape == (224, 224, 3)
    zero = np.array([100, 0, 100])
    assert np.allclose(stored, measured.statistics - zero, rtol=1e-3, atol=1e-2)


def test_a_file_is_known_by_path_size_and_date(session):
    file = FileInfo(Path("/a.fits"), 10, 20)
    assert not db.frames.is_known(session, file)
    db.frames.record_unprocessed(session, file, FrameState.SKIPPED, "science")
    session.flush()
    assert db.frames.is_known(session, file)
    for other in (("/b.fits", 10, 20), ("/a.fits", 11, 20), ("/a.fits", 10, 21)):
        assert not db.frames.is_known(session, FileInfo(Path(other[0]), *other[1:]))


def test_a_failed_file_is_not_known(session):
    file = FileInfo(Path("/a.fits"), 10, 20)
    db.frames.record_unprocessed(session, file, FrameState.FAILED, "broken")
    session.flush()
    assert not db.frames.is_known(session, file)


def test_a_failed_file_is_tried_again_after_one_two_and_four_minutes_and_at_the_end():
    patience, since = RetryPolicy(timedelta(minutes=1), timedelta(hours=48)), NOON
    tries = [patience.next_try(since, tries, since) for tries in (1, 2, 3)]
    assert tries == [since + timedelta(minutes=minutes) for minutes in (1, 2, 4)]
    late = since + timedelta(hours=47)
    assert patience.next_try(since, 20, late) == since + timedelta(hours=48)
    assert patience.next_try(since, 21, since + timedelta(hours=48)) is None


def test_people_are_told_of_a_failed_file_once_when_patience_ends(session):
    file = FileInfo(Path("/a.fits"), 10, 20)
    over = RetryPolicy(timedelta(minutes=1), timedelta(0))
    for _ in range(2):
        db.frames.record_unprocessed(session, file, FrameState.FAILED, "/a.fits: broken", over)
        session.flush()
    [alert] = session.scalars(select(AlertRow))
    assert (alert.topic, alert.words) == (Topic.FILE, "/a.fits: broken")
    assert not db.frames.files_to_try_again(session, NOON + timedelta(days=9999))


def test_a_failed_file_that_changes_is_a_new_one(session):
    for size in (10, 10, 11):
        file = FileInfo(Path("/a.fits"), size, 20)
        db.frames.record_unprocessed(session, file, FrameState.FAILED, "broken")
        session.flush()
    [row] = session.scalars(select(FrameRow))
    assert (row.tries, row.file_bytes) == (1, 11)
    assert db.frames.is_recorded(session, file)
    assert not db.frames.is_recorded(session, FileInfo(Path("/a.fits"), 12, 20))


def test_counts_and_findings_take_the_newest_verdict_and_label(project, inbox):
    process(project, *write_history(inbox), label=LabelName.GOOD)
    process(project, write_frame(inbox, 2, change=light_leak))
    (inbox / "broken.fits").write_bytes(b"?")
    process(project, inbox / "broken.fits")
    with project.writes.begin() as opened:
        opened.add(LabelRow(extension_id=1, label="bad", kind="k", who="me", at=NOON, note=""))
    with project.reads() as opened:
        assert db.statistics.frame_states(opened) == {"processed": 21, "failed": 1}
        assert db.statistics.verdict_counts(opened) == {"UNDECIDED": 20, "ANOMALOUS": 1}
        assert db.statistics.encoder_counts(opened) == {"stand-in-1": 21}
        assert db.statistics.alerts_owed(opened) == 1
        assert db.statistics.newest_night(opened) == date(2026, 1, 2)
        found = list(db.findings.findings(opened, date.min))
        labels = [one.label.label if one.label else None for one in found]
        assert labels == ["bad", *["good"] * 19, None]
        second = date(2026, 1, 2)
        assert [one.frame.night for one in db.findings.findings(opened, second)] == [second]


@pytest.mark.parametrize(
    "name",
    [
        "TINY.2026-01-01T20:00:00",
        "TINY.2026-01-01T20:00:00.fits",
        "TINY.2026-01-01T20:00:00.fits.Z",
        "inbox/TINY.2026-01-01T20:00:00.fits",
        "elsewhere/TINY.2026-01-01T20:00:00.fits",
    ],
)
def test_a_frame_is_found_by_archive_name_file_name_and_path(project, inbox, name):
    process(project, *write_history(inbox, frames=2))
    with project.reads() as opened:
        assert [row.id for row in db.selection.frames_named(opened, name)] == [1]


@pytest.mark.parametrize("name", ["", "%", "_", "TINY", ".fits", "/"])
def test_a_name_is_no_pattern(project, inbox, name):
    process(project, write_frame(inbox))
    with project.reads() as opened:
        assert list(db.selection.frames_named(opened, name)) == []


def test_a_user_without_a_name_is_a_number(project, inbox, monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nobody)
    process(project, write_frame(inbox), label=LabelName.GOOD)
    with project.reads() as opened:
        assert opened.scalar(select(LabelRow.who)).isdecimal()


@pytest.mark.parametrize("url", ["nonsense", "nodialect://x", "postgresql+nodriver://x/y"])
def test_an_address_that_makes_no_sense_is_told(url):
    with pytest.raises(ConfigurationError, match="database "):
        connect(url)


def test_forty_answers_at_once_do_not_wait_for_a_connection(project):
    pool = project.engine.pool
    assert isinstance(pool, QueuePool)
    with ExitStack() as answers:
        for _ in range(2 * 40):
            answers.enter_context(project.engine.connect())
        assert pool.checkedout() == 80
    assert pool.checkedin() == 5
