from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from qc import db
from qc._text import parse_duration
from qc.alerts.notifications import acknowledge, alerts_record
from qc.alerts.silences import read_silences, silence
from qc.core.enums import Topic
from qc.core.verdict import Status
from qc.db.schema.models import (
    AcknowledgementRow,
    AlertRow,
    SilenceRow,
)
from qc.errors import InvalidInputError
from tests.alerts.gathering import DAY, HOUR, KIM
from tests.support.alert_rows import (
    DIM,
    JUDGED,
    NIGHT,
    NOISE,
    Shot,
    add_alerts,
)


def silence_first(project, until: datetime | None, *, nominal: bool = False) -> None:
    with project.write_session.begin() as session:
        silence(session, 1, until, nominal, "kim", JUDGED + HOUR, "the lamp is old")


def test_silence_suppresses_similar_alerts_until_end(project, notified):
    silence_first(project, JUDGED + 24 * HOUR)
    add_alerts(project, Shot(0, reasons=(NOISE,)), judged=JUDGED + 23 * HOUR)
    assert notified.gather(24 * 60 - 1) == 0
    assert notified.gather(24 * 60 + 1) == 0
    add_alerts(project, Shot(9, reasons=(DIM,)), judged=JUDGED + 25 * HOUR)
    assert notified.gather(26 * 60) == 1
    with project.read_session() as session:
        [ended] = read_silences(session, ended=True)
        assert (ended.ended_at, ended.ended_why) == (JUDGED + 24 * HOUR, "expired")
        assert read_silences(session) == []
        assert session.scalars(select(AlertRow.silence_id).order_by(AlertRow.id)).all() == [
            None,
            1,
            None,
        ]


def test_silence_excludes_other_type_instrument_and_topic(project, notified):
    silence_first(project, JUDGED + 24 * HOUR)
    add_alerts(
        project,
        Shot(70, image_type="URB2", chip="REDL"),
        Shot(71, instrument="EFOSC2"),
    )
    with project.write_session.begin() as session:
        db.operations.add_alert(
            session,
            Topic.ABSENCE,
            "absence",
            "It did not come.",
            instrument="UVES",
            image_type="URB1",
            night=NIGHT,
        )
        row = session.scalars(select(AlertRow).where(AlertRow.key == "absence")).one()
        row.owed_at = JUDGED + HOUR
    assert notified.gather(90) == 3


def test_silence_until_nominal_ends_with_nominal_frame(project, notified):
    silence_first(project, None, nominal=True)
    add_alerts(project, Shot(70, reasons=(NOISE,)))
    notified.gather(75)
    add_alerts(
        project,
        Shot(80, image_type="URB2", chip="REDL", status=Status.NOMINAL),  # of another type
        Shot(90, status=Status.NOMINAL, frame="well"),
        Shot(100, reasons=(DIM,)),
    )
    assert notified.gather(120) == 1
    with project.read_session() as session:
        [ended] = read_silences(session, ended=True)
        assert ended.ended_at == JUDGED + timedelta(minutes=90)
        assert ended.ended_why == "well[1] is nominal"


def test_silence_of_missing_calibration_ends_with_arrival(project, dispatcher):
    with project.write_session.begin() as session:
        message = "No URB1 came for eight days."
        db.operations.add_alert(
            session, Topic.ABSENCE, "URB1", message, instrument="UVES", image_type="URB1"
        )
        session.scalars(select(AlertRow)).one().owed_at = JUDGED
    dispatcher.gather(60)
    silence_first(project, None, nominal=True)
    add_alerts(project, Shot(90, status=Status.NOMINAL, frame="came"))
    dispatcher.gather(95)
    with project.read_session() as session:
        assert [row.ended_why for row in read_silences(session, ended=True)] == [
            "came[1] is nominal"
        ]


def test_silence_with_two_ends_ends_with_first(project, notified):
    with project.write_session.begin() as session:
        silence(session, 1, JUDGED + 2 * HOUR, True, "kim", JUDGED + HOUR)
    add_alerts(project, Shot(150, status=Status.NOMINAL))
    notified.gather(180)
    with project.read_session() as session:
        assert read_silences(session, ended=True)[0].ended_why == "expired"


def test_silence_is_not_ended_by_earlier_nominal_frame(project, notified):
    add_alerts(project, Shot(10, status=Status.NOMINAL))
    silence_first(project, None, nominal=True)
    notified.gather(80)
    with project.read_session() as session:
        assert len(read_silences(session)) == 1


def test_silence_covers_pending_alerts(project, notified):
    add_alerts(project, Shot(59, reasons=(NOISE,)))
    silence_first(project, JUDGED + 24 * HOUR)
    assert notified.gather(61) == 0


@pytest.mark.usefixtures("notified")
def test_acknowledgements_and_silences_are_not_overwritten(project):
    silence_first(project, JUDGED + 24 * HOUR)
    silence_first(project, JUDGED + 48 * HOUR)
    with project.write_session.begin() as session:
        acknowledge(session, 1, "kim", JUDGED, "it is the lamp")
        acknowledge(session, 1, "lee", JUDGED + HOUR)
    with project.read_session() as session:
        answers = session.scalars(select(AcknowledgementRow).order_by(AcknowledgementRow.id))
        assert [(answer.who, answer.note) for answer in answers] == [
            ("kim", "it is the lamp"),
            ("lee", ""),
        ]
        assert len(session.scalars(select(SilenceRow)).all()) == 2


@pytest.mark.parametrize(
    ("until", "nominal", "message"),
    [(None, False, "needs an end"), (JUDGED, False, "would be over already")],
)
def test_silence_without_future_end_is_refused(project, notified, until, nominal, message):
    assert notified.recipients()
    with project.write_session.begin() as session, pytest.raises(InvalidInputError, match=message):
        silence(session, 1, until, nominal, "kim", JUDGED + HOUR)


def test_acknowledge_unknown_notification(project):
    with (
        project.write_session.begin() as session,
        pytest.raises(InvalidInputError, match="no notification 7"),
    ):
        acknowledge(session, 7, "kim", JUDGED)


@pytest.mark.parametrize(
    ("message", "span"), [("30m", HOUR / 2), ("12h", 12 * HOUR), (" 7d ", 7 * DAY)]
)
def test_duration_in_minutes_hours_or_days(message, span):
    assert parse_duration(message) == span


@pytest.mark.parametrize("message", ["", "7", "d", "-1d", "0h", "1w", "1.5h", "999999d", "7d\n7d"])
def test_duration_invalid(message):
    with pytest.raises(InvalidInputError, match="expected a time like 30m, 12h or 7d"):
        parse_duration(message)


def test_record_has_open_notifications_deliveries_and_pending_alerts(project, notified):
    add_alerts(project, Shot(59, image_type="URW1", reasons=(DIM,)))
    with project.read_session() as session:
        record = alerts_record(session)
    assert (record["open"], record["waiting"]) == (1, 1)
    [notification] = record["notices"]
    assert notification["deliveries"][0]["address"] == KIM
    assert notification["deliveries"][0]["sent_at"] == JUDGED + HOUR
    with project.write_session.begin() as session:
        acknowledge(session, 1, "kim", JUDGED)
        assert alerts_record(session)["notices"] == []
        assert len(alerts_record(session, every=True)["notices"]) == 1
    assert notified.recipients()
