from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from qc import db
from qc._text import parse_duration
from qc.alerts.gather import gather_alerts
from qc.alerts.notifications import acknowledge, alerts_record, open_notifications
from qc.alerts.report_mail import queue_report
from qc.alerts.silences import read_silences, silence
from qc.core.enums import LabelName, NotificationKind, Topic
from qc.core.verdict import Status
from qc.db.labels import LabelAnswer
from qc.db.schema.models import (
    AcknowledgementRow,
    AlertRow,
    DeliveryRow,
    NotificationRow,
    SilenceRow,
)
from qc.errors import InvalidInputError
from qc.io.instrument_files import read_instruments
from qc.service.job import next_report
from qc.settings import AlertSettings, Settings, Subscription
from tests.support.alert_rows import (
    APART,
    DIM,
    JUDGED,
    LEVEL,
    NIGHT,
    NOISE,
    TAKEN,
    Shot,
    add_alerts,
    template_set,
)

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
KIM, LEE, PAT = "kim@example.org", "lee@example.org", "pat@example.org"
INSTRUMENTS = read_instruments()


def subscribed(settings: Settings, *to: Subscription, **alerts: object) -> Settings:
    subscriptions = to or (Subscription(to=(KIM,)),)
    changed = {"subscription": subscriptions, "alerts": AlertSettings.model_validate(alerts)}
    return settings.model_copy(update=changed)


class Dispatcher:
    """Gathers alerts like the daemon, at given times."""

    def __init__(self, project, *to: Subscription, **alerts: object) -> None:
        self.project = project
        self.settings = subscribed(project.settings, *to, **alerts)

    def gather(self, minutes: float = 60, start: datetime = JUDGED) -> int:
        now = start + timedelta(minutes=minutes)
        with self.project.write_session.begin() as session:
            return gather_alerts(
                session,
                self.settings,
                now,
                INSTRUMENTS,
                lambda after: next_report(self.settings, after),
            )

    def notifications(self) -> list[tuple[NotificationKind, int]]:
        with self.project.read_session() as session:
            rows = session.scalars(select(NotificationRow).order_by(NotificationRow.id))
            return [(row.form, len(row.alerts)) for row in rows]

    def subjects(self) -> list[str]:
        with self.project.read_session() as session:
            return list(
                session.scalars(select(NotificationRow.subject).order_by(NotificationRow.id))
            )

    def recipients(self) -> list[tuple[int, str]]:
        with self.project.read_session() as session:
            rows = session.scalars(select(DeliveryRow).order_by(DeliveryRow.id))
            return [(row.notification_id, row.address) for row in rows]

    def mark_sent(self, minutes: float = 60) -> None:
        """Mark all queued deliveries as sent."""
        with self.project.write_session.begin() as session:
            for row in session.scalars(select(DeliveryRow).where(DeliveryRow.due_at.is_not(None))):
                row.sent_at, row.due_at = JUDGED + timedelta(minutes=minutes), None


@pytest.fixture
def dispatcher(project):
    return Dispatcher(project)


# --- events ---------------------------------------------------------------------------------------


def test_event_of_template_set_is_one_notification_and_one_mail(project, dispatcher):
    add_alerts(project, *template_set(5))
    assert dispatcher.gather() == 1
    assert dispatcher.notifications() == [(NotificationKind.EVENT, 5)]
    assert dispatcher.recipients() == [(1, KIM)]


def test_subject_has_type_night_counts_and_deviation(project, dispatcher):
    add_alerts(
        project,
        *template_set(3),
        *template_set(2, start=2, template="set 0", status=Status.NOMINAL),
    )
    dispatcher.gather()
    [subject] = dispatcher.subjects()
    assert subject == ("[QC] URB1 2026-11-19: 3 of 5 biases anomalous, REDU, bias level 206.20 ADU")


def test_event_of_template_set_with_different_faults(project, dispatcher):
    add_alerts(
        project, *template_set(2), *template_set(2, start=1, template="set 0", reasons=(NOISE,))
    )
    assert dispatcher.gather() == 1


def test_event_of_template_set_with_same_fault_on_both_chips(project, dispatcher):
    for frame in ("a", "b"):
        both = Shot(frame=frame, template="t", reasons=(DIM,), image_type="URW1", number=1)
        add_alerts(project, both, replace(both, image_type="URW2", chip="REDL", number=2))
    assert dispatcher.gather() == 1


def test_events_of_different_faults_on_two_chips(project, dispatcher):
    level = template_set(5)
    noise = template_set(5, start=10, chip="REDL", image_type="URB2", reasons=(NOISE,))
    add_alerts(project, *level, *noise)
    assert dispatcher.gather() == 2


def test_events_of_one_file_with_different_faults_on_two_chips(project, dispatcher):
    one = Shot(frame="a", template="t", reasons=(LEVEL,))
    add_alerts(
        project, one, replace(one, image_type="URB2", chip="REDL", number=2, reasons=(NOISE,))
    )
    assert dispatcher.gather() == 2


def test_events_of_different_faults_in_one_image_type(project, dispatcher):
    add_alerts(project, *template_set(5), *template_set(5, start=10, reasons=(NOISE,)))
    assert dispatcher.gather() == 2


def test_events_of_deviations_with_opposite_signs(project, dispatcher):
    bright = DIM.replace("-0.510", "0.510").replace("-51.0", "+51.0")
    add_alerts(
        project, *template_set(2, reasons=(DIM,)), *template_set(2, start=10, reasons=(bright,))
    )
    assert dispatcher.gather() == 2


def test_events_of_hot_columns_by_place(project, dispatcher):
    at = "the level of a column around x {}, y {} stands out, 90.0 sigma beyond its references"
    places = [(100, 30), (101, 1900), (800, 40)]
    add_alerts(project, *(Shot(n, reasons=(at.format(x, y),)) for n, (x, y) in enumerate(places)))
    dispatcher.gather()
    assert sorted(count for _, count in dispatcher.notifications()) == [1, 2]


def test_event_of_one_cause_on_one_chip_spans_image_types(project, dispatcher):
    jump = [
        Shot(0, reasons=(LEVEL,)),
        Shot(5, image_type="URW1", reasons=(LEVEL, DIM)),
        Shot(9, image_type="UD1RF1", reasons=(NOISE, LEVEL)),
    ]
    add_alerts(project, *jump[:2])
    assert dispatcher.gather() == 1
    add_alerts(
        project, jump[2]
    )  # leads with what the others have not: told again rather than hidden
    assert dispatcher.gather() == 1


def test_event_of_classified_fault_kind_on_one_chip(project, dispatcher):
    add_alerts(project, Shot(0, kind="light_leak"), Shot(5, kind="light_leak", reasons=(NOISE,)))
    assert dispatcher.gather() == 1
    assert Dispatcher(project).notifications() == [(NotificationKind.EVENT, 2)]


def dead_chip(minute: float, image_type: str, reason: str) -> list[Shot]:
    """A set of files whose upper chip is bad, and the lower as it should be."""
    upper = [
        Shot(minute + n, image_type=f"{image_type}1", reasons=(reason,), template=f"t{minute}")
        for n in range(3)
    ]
    upper = [replace(one, frame=f"{image_type}{one.minute}") for one in upper]
    lower = [
        replace(one, image_type=f"{image_type}2", chip="REDL", number=2, status=Status.NOMINAL)
        for one in upper
    ]
    return upper + lower


def test_dead_chip_is_one_notification(project, dispatcher):
    sets = (("URB", NOISE), ("UD1RF", DIM), ("URW", "line count 0 lines, -30.0 sigma from its"))
    for number, (image_type, reason) in enumerate(sets):
        add_alerts(project, *dead_chip(10.0 * number, image_type, reason))
    assert dispatcher.gather() == 1


def test_dead_chip_later_frames_join_the_notification(project, dispatcher):
    add_alerts(project, *dead_chip(0, "URB", NOISE))
    dispatcher.gather(5)
    dispatcher.mark_sent(5)
    add_alerts(project, *dead_chip(10, "UD1RF", DIM))
    dispatcher.gather(15)
    assert dispatcher.notifications() == [(NotificationKind.EVENT, 6)]
    assert dispatcher.recipients() == [(1, KIM)]


def test_dead_chip_requires_no_nominal_frame_in_between(project, dispatcher):
    add_alerts(project, *dead_chip(0, "URB", NOISE), Shot(5, status=Status.NOMINAL))
    add_alerts(project, *dead_chip(10, "UD1RF", DIM))
    assert dispatcher.gather() == 2


def looks(*vectors: tuple[float, ...], **told: float) -> list[Shot]:
    return [
        Shot(5.0 * n, vector=vector, reasons=(APART,), merge_height=told.get("apart", 0.02))
        for n, vector in enumerate(vectors)
    ]


def test_event_of_nearest_neighbours(project, dispatcher):
    add_alerts(project, *looks((1, 0.2, 0), (1, 0.21, 0)))  # 0.00005 apart, the references 0.02
    assert dispatcher.gather() == 1


def test_events_of_embeddings_in_different_directions(project, dispatcher):
    add_alerts(project, *looks((1, 0.2, 0), (1, 0, 0.2)))  # 0.04 apart, the references 0.02
    assert dispatcher.gather() == 2


def test_event_of_embeddings_in_one_direction(project, dispatcher):
    add_alerts(project, *looks((1, 0.2, 0), (1, 0.3, 0)))  # 0.004 apart
    assert dispatcher.gather() == 1


def test_events_of_embeddings_near_references_are_not_linked(project, dispatcher):
    add_alerts(project, *looks((1, 0, 0), (1, 0, 0), apart=0.0005))
    assert dispatcher.gather() == 2


def test_events_are_separate_by_night_and_instrument(project, dispatcher):
    tomorrow = NIGHT + DAY
    add_alerts(project, Shot(0), Shot(1, night=tomorrow), Shot(2, instrument="EFOSC2"))
    assert dispatcher.gather() == 3


# --- when -----------------------------------------------------------------------------------------


def test_event_waits_for_further_frames(project, dispatcher):
    add_alerts(project, Shot(0))
    assert dispatcher.gather(0.3) == 0
    assert dispatcher.gather(0.34) == 1  # 20 s


def test_event_with_continuous_frames_waits_twice_as_long_at_most(project, dispatcher):
    shots = template_set(5, step=0.15)  # 9 s after each other: never quiet for 20
    add_alerts(project, *shots[:4])
    assert dispatcher.gather(0.6) == 0
    add_alerts(project, shots[4])
    assert dispatcher.gather(0.67) == 1


def test_event_is_ready_when_clock_is_set_back(project, dispatcher):
    add_alerts(project, Shot(0))
    assert dispatcher.gather(-24 * 60) == 1


def test_later_frames_join_the_notification_without_second_mail(project, dispatcher):
    add_alerts(project, *template_set(2))
    dispatcher.gather(2)
    dispatcher.mark_sent(3)
    add_alerts(project, *template_set(3, start=3, template="set 0"))
    assert dispatcher.gather(4) == 0
    assert dispatcher.notifications() == [(NotificationKind.EVENT, 5)]
    assert dispatcher.recipients() == [(1, KIM)]
    assert "2 of 2" in dispatcher.subjects()[0]  # as it was told


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


# --- many -----------------------------------------------------------------------------------------


def unrelated(n: int, start: float = 0, step: float = 0) -> list[Shot]:
    """Anomalies of nothing in common."""
    return [
        Shot(start + step * number, reasons=(f"number {'x' * (number + 1)} 5 ADU",))
        for number in range(n)
    ]


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


# --- who need not be told -------------------------------------------------------------------------


def test_archive_frames_get_notification_without_mail(project, dispatcher):
    old = [replace(one, taken=TAKEN - 8 * DAY) for one in unrelated(30)]
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


# --- what is no verdict ---------------------------------------------------------------------------


def test_alerts_without_verdict_are_grouped_by_topic_and_night(project, dispatcher):
    with project.write_session.begin() as session:
        for topic in (Topic.ABSENCE, Topic.FILE):
            for number in range(7):
                words = f"{topic} number {number}"
                key = f"{topic} {number}"
                db.operations.add_alert(session, topic, key, words, instrument="UVES", night=NIGHT)
        for alert in session.scalars(select(AlertRow)):
            alert.owed_at = JUDGED
    assert dispatcher.gather() == 2
    assert dispatcher.notifications() == [(NotificationKind.EVENT, 7), (NotificationKind.EVENT, 7)]
    assert dispatcher.subjects()[0] == (
        "[QC] UVES 2026-11-19: 7 missing calibrations: absence number 0"
    )


def test_daemon_alert_reaches_subscriptions_of_any_instrument(project):
    dispatcher = Dispatcher(project, Subscription(to=(KIM,), instruments=("UVES",), least_score=5))
    with project.write_session.begin() as session:
        db.operations.add_alert(session, Topic.DAEMON, "disk", "The disk is full.")
        session.scalars(select(AlertRow)).one().owed_at = JUDGED
    assert dispatcher.gather() == 1
    assert dispatcher.recipients() == [(1, KIM)]
    assert dispatcher.subjects() == ["[QC] The disk is full."]


# --- who is told ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selection", "is_selected"),
    [
        ({}, True),
        ({"instruments": ("uves",)}, True),
        ({"instruments": ("EFOSC*",)}, False),
        ({"arms": ("red",)}, True),
        ({"arms": ("blue",)}, False),
        ({"image_types": ("URB?", "UBB0")}, True),
        ({"image_types": ("URW*",)}, False),
        ({"least_score": 4.0}, True),
        ({"least_score": 4.1}, False),
        ({"topics": ("verdict",)}, True),
        ({"topics": ("absence", "report")}, False),
        ({"arms": ("red",), "image_types": ("URW1",)}, False),
    ],
)
def test_subscription_selects_by_pattern_score_and_topic(project, selection, is_selected):
    dispatcher = Dispatcher(project, Subscription(to=(KIM,), **selection))
    add_alerts(project, Shot())
    assert dispatcher.gather() == 1
    assert dispatcher.recipients() == ([(1, KIM)] if is_selected else [])


def test_address_in_two_subscriptions_gets_one_mail(project):
    other = Subscription(to=("Kim@Example.org",), arms=("red",))
    dispatcher = Dispatcher(project, Subscription(to=(KIM,)), other)
    add_alerts(project, Shot())
    dispatcher.gather()
    assert dispatcher.recipients() == [(1, KIM)]


def test_webhook_is_queued_without_url(project):
    url = "https://chat.example.org/hooks/s3cret"
    dispatcher = Dispatcher(project, Subscription(to=(KIM,), webhook=SecretStr(url)))
    add_alerts(project, Shot())
    dispatcher.gather()
    [_, (_, address)] = dispatcher.recipients()
    assert address.startswith("chat.example.org#")
    assert "s3cret" not in address


# --- escalation -----------------------------------------------------------------------------------

CHAIN = Subscription(to=(KIM, LEE, PAT), escalate_h=4)


@pytest.fixture
def escalating(project):
    """A notice that was sent to the first of three addresses, an hour after the verdict."""
    dispatcher = Dispatcher(project, CHAIN)
    add_alerts(project, Shot())
    dispatcher.gather(1)
    dispatcher.mark_sent(60)
    return dispatcher


def test_escalation_to_next_address_once(escalating):
    escalating.gather(60 + 239)
    assert escalating.recipients() == [(1, KIM)]
    for minutes in (300, 301, 2000):
        escalating.gather(minutes)
    assert escalating.recipients() == [(1, KIM), (1, LEE)]


def test_escalation_to_third_address_after_delivery_to_second(escalating):
    escalating.gather(300)
    escalating.gather(3000)
    assert escalating.recipients() == [(1, KIM), (1, LEE)]
    escalating.mark_sent(3000)
    escalating.gather(3239)
    assert escalating.recipients() == [(1, KIM), (1, LEE)]
    escalating.gather(3240)
    escalating.mark_sent(3240)
    escalating.gather(9000)
    assert escalating.recipients() == [(1, KIM), (1, LEE), (1, PAT)]


def test_escalation_ends_with_acknowledgement(project, escalating):
    with project.write_session.begin() as session:
        acknowledge(session, 1, "kim", JUDGED + 2 * HOUR)
    escalating.gather(3000)
    assert escalating.recipients() == [(1, KIM)]


def test_escalation_ends_with_labels_on_all_frames(project, escalating):
    with project.write_session.begin() as session:
        db.labels.record_label(session, 1, LabelAnswer(LabelName.BAD, "kim", "hot_column"))
        assert open_notifications(session) == []
    escalating.gather(3000)
    assert escalating.recipients() == [(1, KIM)]


def test_escalation_skips_failed_delivery(project):
    dispatcher = Dispatcher(project, CHAIN)
    add_alerts(project, Shot())
    dispatcher.gather(1)
    with project.write_session.begin() as session:
        row = session.scalars(select(DeliveryRow)).one()
        row.gave_up_at, row.due_at = JUDGED + HOUR, None
    dispatcher.gather(61)
    assert dispatcher.recipients() == [(1, KIM), (1, LEE)]


def test_escalation_waits_for_delivery(project):
    dispatcher = Dispatcher(project, CHAIN)
    add_alerts(project, Shot())
    dispatcher.gather(1)
    dispatcher.gather(3000)
    assert dispatcher.recipients() == [(1, KIM)]


def test_escalation_excludes_old_notifications(project):
    dispatcher = Dispatcher(project, Subscription(to=(KIM,)))
    add_alerts(project, Shot())
    dispatcher.gather(1)
    dispatcher.mark_sent(1)
    later = Dispatcher(project, CHAIN)
    later.gather(8 * 24 * 60)
    assert later.recipients() == [(1, KIM)]


# --- silences -------------------------------------------------------------------------------------


@pytest.fixture
def notified(project, dispatcher):
    """A notice of a bad bias of the upper red chip, an hour after its verdict."""
    add_alerts(project, Shot())
    dispatcher.gather(60)
    dispatcher.mark_sent(60)
    return dispatcher


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
        words = "No URB1 came for eight days."
        db.operations.add_alert(
            session, Topic.ABSENCE, "URB1", words, instrument="UVES", image_type="URB1"
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
    ("until", "nominal", "words"),
    [(None, False, "needs an end"), (JUDGED, False, "would be over already")],
)
def test_silence_without_future_end_is_refused(project, notified, until, nominal, words):
    assert notified.recipients()
    with project.write_session.begin() as session, pytest.raises(InvalidInputError, match=words):
        silence(session, 1, until, nominal, "kim", JUDGED + HOUR)


def test_acknowledge_unknown_notification(project):
    with (
        project.write_session.begin() as session,
        pytest.raises(InvalidInputError, match="no notification 7"),
    ):
        acknowledge(session, 7, "kim", JUDGED)


@pytest.mark.parametrize(
    ("words", "span"), [("30m", HOUR / 2), ("12h", 12 * HOUR), (" 7d ", 7 * DAY)]
)
def test_duration_in_minutes_hours_or_days(words, span):
    assert parse_duration(words) == span


@pytest.mark.parametrize("words", ["", "7", "d", "-1d", "0h", "1w", "1.5h", "999999d", "7d\n7d"])
def test_duration_invalid(words):
    with pytest.raises(InvalidInputError, match="expected a time like 30m, 12h or 7d"):
        parse_duration(words)


# --- reports --------------------------------------------------------------------------------------


def test_report_is_queued_for_subscribers_of_reports(project):
    wants = Subscription(to=(LEE,), topics=("report",), image_types=("URW*",))
    settings = subscribed(project.settings, Subscription(to=(KIM,)), wants)
    page = Path("reports") / "2026-11-19.html"
    with project.write_session.begin() as session:
        assert queue_report(session, settings, page, "[QC] report", NIGHT, JUDGED) == 1
        assert queue_report(session, settings, page, "[QC] report", NIGHT, JUDGED) == 1
    with project.read_session() as session:
        [row] = session.scalars(select(NotificationRow))
        assert (row.topic, row.file, row.deliveries[0].address) == ("report", str(page), LEE)
        assert open_notifications(session) == []


def test_report_without_subscribers_is_not_stored(project):
    settings = subscribed(project.settings)
    with project.write_session.begin() as session:
        assert queue_report(session, settings, Path("x.html"), "[QC] report", NIGHT, JUDGED) == 0
        assert session.scalars(select(NotificationRow)).all() == []


def test_record_has_open_notifications_deliveries_and_pending_alerts(project, notified):
    add_alerts(project, Shot(59, image_type="URW1", reasons=(DIM,)))
    with project.read_session() as session:
        record = alerts_record(session)
    assert (record["open"], record["waiting"]) == (1, 1)
    [notice] = record["notices"]
    assert notice["deliveries"][0]["address"] == KIM
    assert notice["deliveries"][0]["sent_at"] == JUDGED + HOUR
    with project.write_session.begin() as session:
        acknowledge(session, 1, "kim", JUDGED)
        assert alerts_record(session)["notices"] == []
        assert len(alerts_record(session, every=True)["notices"]) == 1
    assert notified.recipients()


def test_gather_reads_instruments_of_settings_by_default(project):
    settings = subscribed(project.settings, Subscription(to=(KIM,), arms=("red",)))
    add_alerts(project, Shot())
    with project.write_session.begin() as session:
        assert gather_alerts(session, settings, JUDGED + HOUR, None, lambda after: after) == 1
        assert session.scalars(select(DeliveryRow.address)).all() == [KIM]
