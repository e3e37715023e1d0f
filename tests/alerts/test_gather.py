from dataclasses import replace
from datetime import datetime

from sqlalchemy import select

from qc import db
from qc.alerts.gather import gather_alerts
from qc.alerts.notifications import open_notifications
from qc.core.enums import LabelName, NotificationKind, Topic
from qc.db.labels import LabelAnswer
from qc.db.schema.models import (
    AlertRow,
    DeliveryRow,
)
from qc.settings import Subscription
from tests.alerts.gathering import (
    DAY,
    HOUR,
    KIM,
    LEE,
    Dispatcher,
    subscribed,
)
from tests.support.alert_rows import (
    DIM,
    JUDGED,
    NIGHT,
    NOISE,
    TAKEN,
    Shot,
    add_alerts,
    template_set,
)


def unrelated(n: int, start: float = 0, step: float = 0) -> list[Shot]:
    """Anomalies of nothing in common."""
    return [
        Shot(start + step * number, reasons=(f"number {'x' * (number + 1)} 5 ADU",))
        for number in range(n)
    ]


def test_later_frames_join_the_notification_without_second_mail(project, dispatcher):
    add_alerts(project, *template_set(2))
    dispatcher.gather(2)
    dispatcher.mark_sent(3)
    add_alerts(project, *template_set(3, start=3, template="set 0"))
    assert dispatcher.gather(4) == 0
    assert dispatcher.notifications() == [(NotificationKind.EVENT, 5)]
    assert dispatcher.recipients() == [(1, KIM)]
    assert "2 of 2" in dispatcher.subjects()[0]  # as sent


def test_subject_is_updated_until_sent(project, dispatcher):
    add_alerts(project, *template_set(2))
    dispatcher.gather(2)
    add_alerts(project, *template_set(3, start=3, template="set 0"))
    dispatcher.gather(4)
    assert "5 of 5" in dispatcher.subjects()[0]


def test_later_frames_add_recipients_by_score(project):
    dispatcher = Dispatcher(
        project, Subscription(to=(KIM,)), Subscription(to=(LEE,), least_score=10)
    )
    add_alerts(project, *template_set(1))
    dispatcher.gather(2)
    dispatcher.mark_sent()
    add_alerts(project, *template_set(1, start=3, template="set 0", score=50))
    dispatcher.gather(4)
    assert dispatcher.recipients() == [(1, KIM), (1, LEE)]


def test_gather_is_idempotent(project, dispatcher):
    add_alerts(project, *template_set(5))
    dispatcher.gather()
    before = dispatcher.notifications(), dispatcher.recipients()
    assert dispatcher.gather(61) == 0
    assert (dispatcher.notifications(), dispatcher.recipients()) == before


def test_digest_of_many_events_at_once(project, dispatcher):
    add_alerts(project, *unrelated(6))
    assert dispatcher.gather() == 1
    assert dispatcher.notifications() == [(NotificationKind.DIGEST, 6)]
    assert dispatcher.subjects()[0].startswith(
        "[QC] UVES 2026-11-19: 6 frames anomalous in 6 events; worst URB1 REDU, "
    )


def test_digest_not_used_up_to_limit(project, dispatcher):
    add_alerts(project, *unrelated(5))
    assert dispatcher.gather() == 5


def test_digest_delays_later_events_until_morning_report(project, dispatcher):
    add_alerts(project, *unrelated(6))
    dispatcher.gather(1)
    dispatcher.mark_sent(1)
    add_alerts(project, Shot(10, image_type="URW1", reasons=(DIM,)))
    assert dispatcher.gather(20) == 0
    eight_in_chile = datetime.fromisoformat("2026-11-21T11:00:00+00:00")  # the next after 12 UT
    assert dispatcher.gather(-1, start=eight_in_chile) == 0
    assert dispatcher.gather(0, start=eight_in_chile) == 1
    assert dispatcher.notifications() == [
        (NotificationKind.DIGEST, 6),
        (NotificationKind.DIGEST, 1),
    ]


def test_digest_is_extended_until_sent(project, dispatcher):
    add_alerts(project, *unrelated(6))
    dispatcher.gather(1)
    add_alerts(project, Shot(10, image_type="URW1", reasons=(DIM,)))
    assert dispatcher.gather(20) == 0
    assert dispatcher.notifications() == [(NotificationKind.DIGEST, 7)]
    assert "7 events" in dispatcher.subjects()[0]


def test_digest_after_20_mails_of_a_night(project, dispatcher):
    for minute, shot in enumerate(unrelated(50, step=1)):
        add_alerts(project, shot)
        dispatcher.gather(minute + 0.5)
        dispatcher.mark_sent(minute + 0.5)
    dispatcher.gather(2 * 24 * 60)
    forms = [form for form, _ in dispatcher.notifications()]
    assert forms == [NotificationKind.EVENT] * 20 + [NotificationKind.DIGEST] * 2
    assert sum(count for _, count in dispatcher.notifications()) == 50


def test_digest_of_300_frames_in_batches(project, dispatcher):
    shots = unrelated(300, step=0.05)  # 3 s after each other
    for start in range(0, 300, 16):
        add_alerts(project, *shots[start : start + 16])
        dispatcher.gather(shots[start].minute + 1)
        dispatcher.mark_sent(shots[start].minute + 1)
    assert [form for form, _ in dispatcher.notifications()] == [NotificationKind.DIGEST]


def test_digest_limits_apply_by_night_and_instrument(project, dispatcher):
    add_alerts(project, *unrelated(6), Shot(1, night=NIGHT + DAY), Shot(2, instrument="EFOSC2"))
    dispatcher.gather()
    assert sorted(dispatcher.notifications()) == [
        (NotificationKind.DIGEST, 6),
        (NotificationKind.EVENT, 1),
        (NotificationKind.EVENT, 1),
    ]


def test_archive_frames_get_notification_without_mail(project, dispatcher):
    old = [replace(shot, taken=TAKEN - 8 * DAY) for shot in unrelated(30)]
    add_alerts(project, *old)
    assert dispatcher.gather() == 1
    assert dispatcher.notifications() == [(NotificationKind.ARCHIVE, 30)]
    assert dispatcher.recipients() == []
    with project.read_session() as session:
        assert open_notifications(session) == []
        assert db.statistics.count_pending_alerts(session) == 0


def test_alert_labelled_good_is_settled(project, dispatcher):
    [good, _] = add_alerts(project, Shot(0), Shot(1, reasons=(NOISE,)))
    with project.write_session.begin() as session:
        db.labels.record_label(session, good, LabelAnswer(LabelName.GOOD, "kim"))
    assert dispatcher.gather() == 1
    with project.read_session() as session:
        settled = session.scalars(select(AlertRow.settled).order_by(AlertRow.id)).all()
        assert settled == ["labelled good by kim before the notification", ""]
        assert db.statistics.count_pending_alerts(session) == 1  # the other's mail


def test_alert_labelled_bad_is_sent(project, dispatcher):
    [bad] = add_alerts(project, Shot(0))
    with project.write_session.begin() as session:
        db.labels.record_label(session, bad, LabelAnswer(LabelName.BAD, "kim", "hot_column"))
    assert dispatcher.gather() == 1


def test_alerts_without_verdict_are_grouped_by_topic_and_night(project, dispatcher):
    with project.write_session.begin() as session:
        for topic in (Topic.ABSENCE, Topic.FILE):
            for number in range(7):
                message = f"{topic} number {number}"
                key = f"{topic} {number}"
                db.operations.add_alert(
                    session, topic, key, message, instrument="UVES", night=NIGHT
                )
        for alert in session.scalars(select(AlertRow)):
            alert.owed_at = JUDGED
    assert dispatcher.gather() == 2
    assert dispatcher.notifications() == [(NotificationKind.EVENT, 7), (NotificationKind.EVENT, 7)]
    assert dispatcher.subjects()[0] == (
        "[QC] UVES 2026-11-19: 7 missing calibrations: absence number 0"
    )


def test_gather_reads_instruments_of_settings_by_default(project):
    settings = subscribed(project.settings, Subscription(to=(KIM,), arms=("red",)))
    add_alerts(project, Shot())
    with project.write_session.begin() as session:
        assert gather_alerts(session, settings, JUDGED + HOUR, None, lambda after: after) == 1
        assert session.scalars(select(DeliveryRow.address)).all() == [KIM]
