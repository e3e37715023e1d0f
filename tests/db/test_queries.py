import getpass
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from qc import core, db
from qc._time import noon
from qc.core.enums import FrameState, LabelName, Topic
from qc.core.file import FileInfo, RetryPolicy
from qc.core.frame import Frame, Setup
from qc.db.schema.engine import connect
from qc.db.schema.models import (
    AlertRow,
    EmbeddingRow,
    EncoderRow,
    EpochRow,
    ExtensionRow,
    FrameRow,
    LabelRow,
)
from qc.errors import ConfigurationError
from tests.support.tiny_spectrograph import light_leak, process, write_frame, write_history

SETUP = Setup("TB0", "CCD", "1x1", "only")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def session(project):
    with project.write_session() as opened:
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


def test_reference_is_the_newest_200_newest_first(session):
    rows = [nominal(session, number, [1.0, float(number)]) for number in range(203)]
    reference = db.references.find_reference(session, frame_of(date(2026, 2, 1)), SETUP, "e")
    assert reference.extension_ids == tuple(row.id for row in rows[:2:-1])
    assert reference.embeddings[:, 1].tolist() == list(range(202, 2, -1))
    assert reference.metrics[0] == {"bias_level": 202.0}


def test_reference_is_found_among_many_anomalies(session, monkeypatch):
    monkeypatch.setattr(db.references, "_CANDIDATES_PER_QUERY", 7)
    monkeypatch.setattr(core, "REFERENCE_NEWEST", 20)
    rows = [nominal(session, number, [1.0, float(number)]) for number in range(60)]
    for row in rows[::2]:
        session.add(LabelRow(extension_id=row.id, label="bad", kind="", who="me", at=NOON, note=""))
    for row in rows[30:40]:  # taken at one moment, as by many arms
        row.observed_at = row.frame.observed_at = rows[30].observed_at
    reference = db.references.find_reference(session, frame_of(date(2026, 2, 1)), SETUP, "e")
    good = [row for row in rows if row not in rows[::2]]
    good.sort(key=lambda row: (row.observed_at, row.frame.name), reverse=True)
    assert reference.extension_ids == tuple(row.id for row in good[:20])


def test_reference_excludes_other_encoders(session):
    nominal(session, 1, [1.0, 0.0])
    reference = db.references.find_reference(session, frame_of(date(2026, 2, 1)), SETUP, "other")
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
def test_reference_excludes_other_setups(session, other):
    nominal(session, 1, [1.0, 0.0])
    assert (
        db.references.find_reference(session, frame_of(date(2026, 2, 1)), other, "e").extension_ids
        == ()
    )


def test_reference_includes_valid_outliers(session):
    row = nominal(session, 1, [1.0, 0.0])
    for label in (LabelName.BAD, LabelName.VALID_OUTLIER):
        session.add(LabelRow(extension_id=row.id, label=label, kind="", who="me", at=NOON, note=""))
    reference = db.references.find_reference(session, frame_of(date(2026, 2, 1)), SETUP, "e")
    assert reference.extension_ids == (row.id,)


def epoch_at(when) -> EpochRow:
    return EpochRow(scope="UVES", since=date(2026, 1, 1), why="a test", who="me", at=when)


def test_utc_datetime_converts_any_zone(session):
    chile = timezone(timedelta(hours=-3))
    session.add(epoch_at(datetime(2026, 1, 1, 22, 30, tzinfo=chile)))
    session.flush()
    session.expire_all()
    assert session.scalar(select(EpochRow.at)) == datetime(2026, 1, 2, 1, 30, tzinfo=UTC)
    stored = session.scalar(text("SELECT CAST(at AS VARCHAR) FROM epoch"))
    assert stored.startswith("2026-01-02 01:30:00")


def test_utc_datetime_naive_time_is_refused(session):
    session.add(epoch_at(NOON.replace(tzinfo=None)))
    with pytest.raises(Exception, match="expected a datetime with a time zone"):
        session.flush()


@pytest.mark.sqlite
def test_vector_is_stored_as_little_endian_halves(session):
    nominal(session, 1, [0.5, -0.25, 0.125])
    stored = session.scalar(text("SELECT vector FROM embedding"))
    assert stored == np.array([0.5, -0.25, 0.125], "<f2").tobytes()
    assert db.embeddings.embedding_of(session, 1, 1).tolist() == [0.5, -0.25, 0.125]


def test_block_array_round_trips_to_a_thousandth(project, inbox):
    [outcome] = process(project, write_frame(inbox, kind="FLAT"))
    measured = outcome.judgements[0].measurement
    with project.read_session() as opened:
        stored = db.block_statistics.find_block_statistics(opened, 1)
    assert stored is not None
    assert stored.shape == (224, 224, 3)
    zero = np.array([100, 0, 100])
    assert np.allclose(stored, measured.statistics - zero, rtol=1e-3, atol=1e-2)


def test_is_known_compares_path_size_and_date(session):
    file = FileInfo(Path("/a.fits"), 10, 20)
    assert not db.frames.is_known(session, file)
    db.frames.record_unprocessed(session, file, FrameState.SKIPPED, "science")
    session.flush()
    assert db.frames.is_known(session, file)
    for other in (("/b.fits", 10, 20), ("/a.fits", 11, 20), ("/a.fits", 10, 21)):
        assert not db.frames.is_known(session, FileInfo(Path(other[0]), *other[1:]))


def test_is_known_failed_file_is_not(session):
    file = FileInfo(Path("/a.fits"), 10, 20)
    db.frames.record_unprocessed(session, file, FrameState.FAILED, "broken")
    session.flush()
    assert not db.frames.is_known(session, file)


def test_retry_policy_doubles_the_delay_until_the_end():
    patience, since = RetryPolicy(timedelta(minutes=1), timedelta(hours=48)), NOON
    tries = [patience.next_try(since, tries, since) for tries in (1, 2, 3)]
    assert tries == [since + timedelta(minutes=minutes) for minutes in (1, 2, 4)]
    late = since + timedelta(hours=47)
    assert patience.next_try(since, 20, late) == since + timedelta(hours=48)
    assert patience.next_try(since, 21, since + timedelta(hours=48)) is None


def test_record_unprocessed_adds_one_alert_after_the_last_retry(session):
    file = FileInfo(Path("/a.fits"), 10, 20)
    over = RetryPolicy(timedelta(minutes=1), timedelta(0))
    for _ in range(2):
        db.frames.record_unprocessed(session, file, FrameState.FAILED, "/a.fits: broken", over)
        session.flush()
    [alert] = session.scalars(select(AlertRow))
    assert (alert.topic, alert.words) == (Topic.FILE, "/a.fits: broken")
    assert not db.frames.files_to_retry(session, NOON + timedelta(days=9999))


def test_record_unprocessed_changed_file_starts_anew(session):
    for size in (10, 10, 11):
        file = FileInfo(Path("/a.fits"), size, 20)
        db.frames.record_unprocessed(session, file, FrameState.FAILED, "broken")
        session.flush()
    [row] = session.scalars(select(FrameRow))
    assert (row.tries, row.file_bytes) == (1, 11)
    assert db.frames.is_recorded(session, file)
    assert not db.frames.is_recorded(session, FileInfo(Path("/a.fits"), 12, 20))


def test_findings_have_newest_verdict_and_label(project, inbox):
    process(project, *write_history(inbox), label=LabelName.GOOD)
    process(project, write_frame(inbox, 2, change=light_leak))
    (inbox / "broken.fits").write_bytes(b"?")
    process(project, inbox / "broken.fits")
    with project.write_session.begin() as opened:
        opened.add(LabelRow(extension_id=1, label="bad", kind="k", who="me", at=NOON, note=""))
    with project.read_session() as opened:
        assert db.statistics.frame_states(opened) == {"processed": 21, "failed": 1}
        assert db.statistics.verdict_counts(opened) == {"UNDECIDED": 20, "ANOMALOUS": 1}
        assert db.statistics.encoder_counts(opened) == {"stand-in-1": 21}
        assert db.statistics.count_pending_alerts(opened) == 1
        assert db.statistics.newest_night(opened) == date(2026, 1, 2)
        results = list(db.findings.findings(opened, date.min))
        labels = [item.label.label if item.label else None for item in results]
        assert labels == ["bad", *["good"] * 19, None]
        second = date(2026, 1, 2)
        assert [item.frame.night for item in db.findings.findings(opened, second)] == [second]


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
def test_frames_named_accepts_archive_name_file_name_and_path(project, inbox, name):
    process(project, *write_history(inbox, frames=2))
    with project.read_session() as opened:
        assert [row.id for row in db.extensions.frames_named(opened, name)] == [1]


@pytest.mark.parametrize("name", ["", "%", "_", "TINY", ".fits", "/"])
def test_frames_named_escapes_patterns(project, inbox, name):
    process(project, write_frame(inbox))
    with project.read_session() as opened:
        assert list(db.extensions.frames_named(opened, name)) == []


def test_user_name_without_entry_is_the_number(project, inbox, monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nobody)
    process(project, write_frame(inbox), label=LabelName.GOOD)
    with project.read_session() as opened:
        assert opened.scalar(select(LabelRow.who)).isdecimal()


@pytest.mark.parametrize("url", ["nonsense", "nodialect://x", "postgresql+nodriver://x/y"])
def test_parse_url_invalid_address_is_refused(url):
    with pytest.raises(ConfigurationError, match="database "):
        connect(url)


def test_connection_pool_serves_forty_threads(project):
    pool = project.engine.pool
    assert isinstance(pool, QueuePool)
    with ExitStack() as answers:
        for _ in range(2 * 40):
            answers.enter_context(project.engine.connect())
        assert pool.checkedout() == 80
    assert pool.checkedin() == 5
