from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from qc import db
from qc._text import read_span
from qc.alerts.dispatch import gather_alerts, owe_report
from qc.alerts.notifications import acknowledge, alerts_record, open_notices, silence, silences
from qc.core.enums import LabelName, NotificationKind, Topic
from qc.core.verdict import Status
from qc.db.labels import LabelAnswer
from qc.db.models import AcknowledgementRow, AlertRow, DeliveryRow, NotificationRow, SilenceRow
from qc.errors import InvalidInputError
from qc.io.instruments import read_instruments
from qc.settings import AlertSettings, Settings, Subscription
from tests.support.owed import APART, DIM, JUDGED, LEVEL, NIGHT, NOISE, TAKEN, Shot, a_set, owe

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
KIM, LEE, PAT = "kim@example.org", "lee@example.org", "pat@example.org"
INSTRUMENTS = read_instruments()


def subscribed(settings: Settings, *to: Subscription, **alerts: object) -> Settings:
    subscriptions = to or (Subscription(to=(KIM,)),)
    changed = {"subscription": subscriptions, "alerts": AlertSettings.model_validate(alerts)}
    return settings.model_copy(update=changed)


class Watch:
    """Gathers as the daemon would, at times that the test says."""

    def __init__(self, project, *to: Subscription, **alerts: object) -> None:
        self.project = project
        self.settings = subscribed(project.settings, *to, **alerts)

    def gather(self, minutes: float = 60, start: datetime = JUDGED) -> int:
        now = start + timedelta(minutes=minutes)
        with self.project.writes.begin() as session:
            return gather_alerts(session, self.settings, now, INSTRUMENTS)

    def notices(self) -> list[tuple[NotificationKind, int]]:
        with self.project.reads() as session:
            rows = session.scalars(select(NotificationRow).order_by(NotificationRow.id))
            return [(row.form, len(row.alerts)) for row in rows]

    def subjects(self) -> list[str]:
        with self.project.reads() as session:
            return list(
                session.scalars(select(NotificationRow.subject).order_by(NotificationRow.id))
            )

    def owed(self) -> list[tuple[int, str]]:
        with self.project.reads() as session:
            rows = session.scalars(select(DeliveryRow).order_by(DeliveryRow.id))
            return [(row.notice_id, row.address) for row in rows]

    def told(self, minutes: float = 60) -> None:
        """Let all that is owed be sent."""
        with self.project.writes.begin() as session:
            for row in session.scalars(select(DeliveryRow).where(DeliveryRow.due_at.is_not(None))):
                row.sent_at, row.due_at = JUDGED + timedelta(minutes=minutes), None


@pytest.fixture
def watch(project):
    return Watch(project)


# --- events ---------------------------------------------------------------------------------------


def test_a_bad_set_of_five_is_one_notice_and_one_mail(project, watch):
    owe(project, *a_set(5))
    assert watch.gather() == 1
    assert watch.notices() == [(NotificationKind.EVENT, 5)]
    assert watch.owed() == [(1, KIM)]


def test_the_subject_says_it_all(project, watch):
    owe(project, *a_set(3), *a_set(2, start=2, template="set 0", status=Status.NOMINAL))
    watch.gather()
    [subject] = watch.subjects()
    assert subject == ("[QC] URB1 2026-11-19: 3 of 5 biases anomalous, REDU, bias level 206.20 ADU")


def test_the_frames_of_a_set_are_one_event_whatever_ails_each(project, watch):
    owe(project, *a_set(2), *a_set(2, start=1, template="set 0", reasons=(NOISE,)))
    assert watch.gather() == 1


def test_both_chips_of_a_set_are_one_event_if_they_suffer_alike(project, watch):
    for frame in ("a", "b"):
        both = Shot(frame=frame, template="t", reasons=(DIM,), image_type="URW1", number=1)
        owe(project, both, replace(both, image_type="URW2", chip="REDL", number=2))
    assert watch.gather() == 1


def test_two_unrelated_faults_of_one_arm_in_one_night_are_two_notices(project, watch):
    level = a_set(5)
    noise = a_set(5, start=10, chip="REDL", image_type="URB2", reasons=(NOISE,))
    owe(project, *level, *noise)
    assert watch.gather() == 2


def test_two_faults_of_one_file_are_two_if_each_chip_has_its_own(project, watch):
    one = Shot(frame="a", template="t", reasons=(LEVEL,))
    owe(project, one, replace(one, image_type="URB2", chip="REDL", number=2, reasons=(NOISE,)))
    assert watch.gather() == 2


def test_two_unrelated_faults_of_one_image_type_are_two_notices(project, watch):
    owe(project, *a_set(5), *a_set(5, start=10, reasons=(NOISE,)))
    assert watch.gather() == 2


def test_two_faults_that_two_sets_have_in_opposite_directions_are_two_notices(project, watch):
    bright = DIM.replace("-0.510", "0.510").replace("-51.0", "+51.0")
    owe(project, *a_set(2, reasons=(DIM,)), *a_set(2, start=10, reasons=(bright,)))
    assert watch.gather() == 2


def test_a_hot_column_is_one_event_and_another_column_another(project, watch):
    at = "the level of a column around x {}, y {} stands out, 90.0 sigma beyond its references"
    places = [(100, 30), (101, 1900), (800, 40)]
    owe(project, *(Shot(n, reasons=(at.format(x, y),)) for n, (x, y) in enumerate(places)))
    watch.gather()
    assert sorted(count for _, count in watch.notices()) == [1, 2]


def test_one_cause_on_one_chip_is_one_event_whatever_the_image_type(project, watch):
    jump = [
        Shot(0, reasons=(LEVEL,)),
        Shot(5, image_type="URW1", reasons=(LEVEL, DIM)),
        Shot(9, image_type="UD1RF1", reasons=(NOISE, LEVEL)),
    ]
    owe(project, *jump[:2])
    assert watch.gather() == 1
    owe(project, jump[2])  # leads with what the others have not: told again rather than hidden
    assert watch.gather() == 1


def test_a_fault_that_the_classifier_names_is_one_event_on_its_chip(project, watch):
    owe(project, Shot(0, kind="light_leak"), Shot(5, kind="light_leak", reasons=(NOISE,)))
    assert watch.gather() == 1
    assert Watch(project).notices() == [(NotificationKind.EVENT, 2)]


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


def test_a_dead_chip_is_one_notice(project, watch):
    sets = (("URB", NOISE), ("UD1RF", DIM), ("URW", "line count 0 lines, -30.0 sigma from its"))
    for number, (image_type, reason) in enumerate(sets):
        owe(project, *dead_chip(10.0 * number, image_type, reason))
    assert watch.gather() == 1


def test_what_a_dead_chip_gives_later_is_not_told_again(project, watch):
    owe(project, *dead_chip(0, "URB", NOISE))
    watch.gather(5)
    watch.told(5)
    owe(project, *dead_chip(10, "UD1RF", DIM))
    watch.gather(15)
    assert watch.notices() == [(NotificationKind.EVENT, 6)]
    assert watch.owed() == [(1, KIM)]


def test_a_chip_that_was_well_in_between_is_not_dead(project, watch):
    owe(project, *dead_chip(0, "URB", NOISE), Shot(5, status=Status.NOMINAL))
    owe(project, *dead_chip(10, "UD1RF", DIM))
    assert watch.gather() == 2


def looks(*vectors: tuple[float, ...], **told: float) -> list[Shot]:
    return [
        Shot(5.0 * n, vector=vector, reasons=(APART,), merge_height=told.get("apart", 0.02))
        for n, vector in enumerate(vectors)
    ]


def test_neighbours_are_one_event(project, watch):
    owe(project, *looks((1, 0.2, 0), (1, 0.21, 0)))  # 0.00005 apart, the references 0.02
    assert watch.gather() == 1


def test_two_that_differ_from_the_good_in_different_ways_are_two_events(project, watch):
    owe(project, *looks((1, 0.2, 0), (1, 0, 0.2)))  # 0.04 apart, the references 0.02
    assert watch.gather() == 2


def test_two_that_differ_in_one_way_by_different_amounts_are_one_event(project, watch):
    owe(project, *looks((1, 0.2, 0), (1, 0.3, 0)))  # 0.004 apart
    assert watch.gather() == 1


def test_images_that_look_like_every_good_one_are_no_neighbours(project, watch):
    owe(project, *looks((1, 0, 0), (1, 0, 0), apart=0.0005))
    assert watch.gather() == 2


def test_the_same_fault_in_another_night_or_on_another_instrument_is_told_again(project, watch):
    tomorrow = NIGHT + DAY
    owe(project, Shot(0), Shot(1, night=tomorrow), Shot(2, instrument="EFOSC2"))
    assert watch.gather() == 3


# --- when -----------------------------------------------------------------------------------------


def test_an_event_is_left_to_gather_its_frames(project, watch):
    owe(project, Shot(0))
    assert watch.gather(0.3) == 0
    assert watch.gather(0.34) == 1  # 20 s


def test_an_event_that_does_not_end_is_told_after_twice_that_time(project, watch):
    shots = a_set(5, step=0.15)  # 9 s after each other: never quiet for 20
    owe(project, *shots[:4])
    assert watch.gather(0.6) == 0
    owe(project, shots[4])
    assert watch.gather(0.67) == 1


def test_a_clock_that_was_set_back_keeps_nobody_waiting(project, watch):
    owe(project, Shot(0))
    assert watch.gather(-24 * 60) == 1


def test_later_frames_of_an_event_join_its_notice_and_nobody_is_told_twice(project, watch):
    owe(project, *a_set(2))
    watch.gather(2)
    watch.told(3)
    owe(project, *a_set(3, start=3, template="set 0"))
    assert watch.gather(4) == 0
    assert watch.notices() == [(NotificationKind.EVENT, 5)]
    assert watch.owed() == [(1, KIM)]
    assert "2 of 2" in watch.subjects()[0]  # as it was told


def test_what_has_not_left_yet_says_how_many_they_are_by_now(project, watch):
    owe(project, *a_set(2))
    watch.gather(2)
    owe(project, *a_set(3, start=3, template="set 0"))
    watch.gather(4)
    assert "5 of 5" in watch.subjects()[0]


def test_who_had_no_interest_in_the_first_frames_hears_of_the_later(project):
    watch = Watch(project, Subscription(to=(KIM,)), Subscription(to=(LEE,), least_score=10))
    owe(project, *a_set(1))
    watch.gather(2)
    watch.told()
    owe(project, *a_set(1, start=3, template="set 0", score=50))
    watch.gather(4)
    assert watch.owed() == [(1, KIM), (1, LEE)]


def test_gathering_twice_changes_nothing(project, watch):
    owe(project, *a_set(5))
    watch.gather()
    before = watch.notices(), watch.owed()
    assert watch.gather(61) == 0
    assert (watch.notices(), watch.owed()) == before


# --- many -----------------------------------------------------------------------------------------


def unrelated(n: int, start: float = 0, step: float = 0) -> list[Shot]:
    """Anomalies of nothing in common."""
    return [
        Shot(start + step * number, reasons=(f"number {'x' * (number + 1)} 5 ADU",))
        for number in range(n)
    ]


def test_many_events_at_once_are_one_digest(project, watch):
    owe(project, *unrelated(6))
    assert watch.gather() == 1
    assert watch.notices() == [(NotificationKind.DIGEST, 6)]
    assert watch.subjects()[0].startswith(
        "[QC] UVES 2026-11-19: 6 frames anomalous in 6 events; worst URB1 REDU, "
    )


def test_as_many_as_are_granted_are_told_one_by_one(project, watch):
    owe(project, *unrelated(5))
    assert watch.gather() == 5


def test_after_a_digest_the_rest_of_a_night_waits_for_the_morning(project, watch):
    owe(project, *unrelated(6))
    watch.gather(1)
    watch.told(1)
    owe(project, Shot(10, image_type="URW1", reasons=(DIM,)))
    assert watch.gather(20) == 0
    eight_in_chile = datetime.fromisoformat("2026-11-21T11:00:00+00:00")  # the next after 12 UT
    assert watch.gather(-1, start=eight_in_chile) == 0
    assert watch.gather(0, start=eight_in_chile) == 1
    assert watch.notices() == [(NotificationKind.DIGEST, 6), (NotificationKind.DIGEST, 1)]


def test_what_comes_before_a_digest_has_left_joins_it(project, watch):
    owe(project, *unrelated(6))
    watch.gather(1)
    owe(project, Shot(10, image_type="URW1", reasons=(DIM,)))
    assert watch.gather(20) == 0
    assert watch.notices() == [(NotificationKind.DIGEST, 7)]
    assert "7 events" in watch.subjects()[0]


def test_a_night_of_bad_frames_that_trickle_in_is_20_mails_and_two_digests(project, watch):
    for minute, shot in enumerate(unrelated(50, step=1)):
        owe(project, shot)
        watch.gather(minute + 0.5)
        watch.told(minute + 0.5)
    watch.gather(2 * 24 * 60)
    forms = [form for form, _ in watch.notices()]
    assert forms == [NotificationKind.EVENT] * 20 + [NotificationKind.DIGEST] * 2
    assert sum(count for _, count in watch.notices()) == 50


def test_a_night_of_300_bad_frames_that_come_in_batches_is_one_digest(project, watch):
    shots = unrelated(300, step=0.05)  # 3 s after each other
    for start in range(0, 300, 16):
        owe(project, *shots[start : start + 16])
        watch.gather(shots[start].minute + 1)
        watch.told(shots[start].minute + 1)
    assert [form for form, _ in watch.notices()] == [NotificationKind.DIGEST]


def test_each_night_and_instrument_has_its_own_limits(project, watch):
    owe(project, *unrelated(6), Shot(1, night=NIGHT + DAY), Shot(2, instrument="EFOSC2"))
    watch.gather()
    assert sorted(watch.notices()) == [
        (NotificationKind.DIGEST, 6),
        (NotificationKind.EVENT, 1),
        (NotificationKind.EVENT, 1),
    ]


# --- who need not be told -------------------------------------------------------------------------


def test_frames_of_an_archive_get_a_notice_and_nobody_a_mail(project, watch):
    old = [replace(one, taken=TAKEN - 8 * DAY) for one in unrelated(30)]
    owe(project, *old)
    assert watch.gather() == 1
    assert watch.notices() == [(NotificationKind.ARCHIVE, 30)]
    assert watch.owed() == []
    with project.reads() as session:
        assert open_notices(session) == []
        assert db.statistics.alerts_owed(session) == 0


def test_what_a_person_called_good_in_time_is_not_told(project, watch):
    [good, _] = owe(project, Shot(0), Shot(1, reasons=(NOISE,)))
    with project.writes.begin() as session:
        db.labels.record_label(session, good, LabelAnswer(LabelName.GOOD, "kim"))
    assert watch.gather() == 1
    with project.reads() as session:
        settled = session.scalars(select(AlertRow.settled).order_by(AlertRow.id)).all()
        assert settled == ["called good by kim before it was told", ""]
        assert db.statistics.alerts_owed(session) == 1  # the other's mail


def test_what_a_person_called_bad_is_told(project, watch):
    [bad] = owe(project, Shot(0))
    with project.writes.begin() as session:
        db.labels.record_label(session, bad, LabelAnswer(LabelName.BAD, "kim", "hot_column"))
    assert watch.gather() == 1


# --- what is no verdict ---------------------------------------------------------------------------


def test_what_is_no_verdict_is_one_notice_for_each_topic_and_night(project, watch):
    with project.writes.begin() as session:
        for topic in (Topic.ABSENCE, Topic.FILE):
            for number in range(7):
                words = f"{topic} number {number}"
                key = f"{topic} {number}"
                db.alerts.owe_alert(session, topic, key, words, instrument="UVES", night=NIGHT)
        for alert in session.scalars(select(AlertRow)):
            alert.owed_at = JUDGED
    assert watch.gather() == 2
    assert watch.notices() == [(NotificationKind.EVENT, 7), (NotificationKind.EVENT, 7)]
    assert watch.subjects()[0] == (
        "[QC] UVES 2026-11-19: 7 things that should have come: absence number 0"
    )


def test_trouble_of_the_watch_concerns_subscribers_of_any_instrument(project):
    watch = Watch(project, Subscription(to=(KIM,), instruments=("UVES",), least_score=5))
    with project.writes.begin() as session:
        db.alerts.owe_alert(session, Topic.DAEMON, "disk", "The disk is full.")
        session.scalars(select(AlertRow)).one().owed_at = JUDGED
    assert watch.gather() == 1
    assert watch.owed() == [(1, KIM)]
    assert watch.subjects() == ["[QC] The disk is full."]


# --- who is told ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "is_told"),
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
def test_a_subscription_is_told_of_what_it_asks(project, wish, is_told):
    watch = Watch(project, Subscription(to=(KIM,), **wish))
    owe(project, Shot())
    assert watch.gather() == 1
    assert watch.owed() == ([(1, KIM)] if is_told else [])


def test_an_address_is_owed_a_notice_once_however_many_subscriptions_name_it(project):
    other = Subscription(to=("Kim@Example.org",), arms=("red",))
    watch = Watch(project, Subscription(to=(KIM,)), other)
    owe(project, Shot())
    watch.gather()
    assert watch.owed() == [(1, KIM)]


def test_a_webhook_is_told_at_once_and_its_address_is_not_kept(project):
    url = "https://chat.example.org/hooks/s3cret"
    watch = Watch(project, Subscription(to=(KIM,), webhook=SecretStr(url)))
    owe(project, Shot())
    watch.gather()
    [_, (_, address)] = watch.owed()
    assert address.startswith("chat.example.org#")
    assert "s3cret" not in address


# --- escalation -----------------------------------------------------------------------------------

CHAIN = Subscription(to=(KIM, LEE, PAT), escalate_h=4)


@pytest.fixture
def chain(project):
    """A notice that was sent to the first of three addresses, an hour after the verdict."""
    watch = Watch(project, CHAIN)
    owe(project, Shot())
    watch.gather(1)
    watch.told(60)
    return watch


def test_what_nobody_answers_goes_to_the_next_address_once(chain):
    chain.gather(60 + 239)
    assert chain.owed() == [(1, KIM)]
    for minutes in (300, 301, 2000):
        chain.gather(minutes)
    assert chain.owed() == [(1, KIM), (1, LEE)]


def test_it_goes_to_the_third_only_after_the_second_was_told(chain):
    chain.gather(300)
    chain.gather(3000)
    assert chain.owed() == [(1, KIM), (1, LEE)]
    chain.told(3000)
    chain.gather(3239)
    assert chain.owed() == [(1, KIM), (1, LEE)]
    chain.gather(3240)
    chain.told(3240)
    chain.gather(9000)
    assert chain.owed() == [(1, KIM), (1, LEE), (1, PAT)]


def test_what_was_acknowledged_goes_no_further(project, chain):
    with project.writes.begin() as session:
        acknowledge(session, 1, "kim", JUDGED + 2 * HOUR)
    chain.gather(3000)
    assert chain.owed() == [(1, KIM)]


def test_who_labels_all_frames_of_a_notice_has_answered_it(project, chain):
    with project.writes.begin() as session:
        db.labels.record_label(session, 1, LabelAnswer(LabelName.BAD, "kim", "hot_column"))
        assert open_notices(session) == []
    chain.gather(3000)
    assert chain.owed() == [(1, KIM)]


def test_who_cannot_be_told_is_not_waited_for(project):
    watch = Watch(project, CHAIN)
    owe(project, Shot())
    watch.gather(1)
    with project.writes.begin() as session:
        row = session.scalars(select(DeliveryRow)).one()
        row.gave_up_at, row.due_at = JUDGED + HOUR, None
    watch.gather(61)
    assert watch.owed() == [(1, KIM), (1, LEE)]


def test_nobody_is_asked_why_they_did_not_answer_what_never_left(project):
    watch = Watch(project, CHAIN)
    owe(project, Shot())
    watch.gather(1)
    watch.gather(3000)
    assert watch.owed() == [(1, KIM)]


def test_a_new_address_is_not_told_the_past(project):
    watch = Watch(project, Subscription(to=(KIM,)))
    owe(project, Shot())
    watch.gather(1)
    watch.told(1)
    later = Watch(project, CHAIN)
    later.gather(8 * 24 * 60)
    assert later.owed() == [(1, KIM)]


# --- silences -------------------------------------------------------------------------------------


@pytest.fixture
def noticed(project, watch):
    """A notice of a bad bias of the upper red chip, an hour after its verdict."""
    owe(project, Shot())
    watch.gather(60)
    watch.told(60)
    return watch


def hush(project, until: datetime | None, *, nominal: bool = False) -> None:
    with project.writes.begin() as session:
        silence(session, 1, until, nominal, "kim", JUDGED + HOUR, "the lamp is old")


def test_a_silence_keeps_its_like_quiet_until_its_time(project, noticed):
    hush(project, JUDGED + 24 * HOUR)
    owe(project, Shot(0, reasons=(NOISE,)), judged=JUDGED + 23 * HOUR)
    assert noticed.gather(24 * 60 - 1) == 0
    assert noticed.gather(24 * 60 + 1) == 0
    owe(project, Shot(9, reasons=(DIM,)), judged=JUDGED + 25 * HOUR)
    assert noticed.gather(26 * 60) == 1
    with project.reads() as session:
        [ended] = silences(session, ended=True)
        assert (ended.ended_at, ended.ended_why) == (JUDGED + 24 * HOUR, "its time was over")
        assert silences(session) == []
        assert session.scalars(select(AlertRow.silence_id).order_by(AlertRow.id)).all() == [
            None,
            1,
            None,
        ]


def test_a_silence_covers_no_other_image_type_instrument_or_topic(project, noticed):
    hush(project, JUDGED + 24 * HOUR)
    owe(
        project,
        Shot(70, image_type="URB2", chip="REDL"),
        Shot(71, instrument="EFOSC2"),
    )
    with project.writes.begin() as session:
        db.alerts.owe_alert(
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
    assert noticed.gather(90) == 3


def test_a_silence_ends_with_the_next_nominal_frame_when_asked_so(project, noticed):
    hush(project, None, nominal=True)
    owe(project, Shot(70, reasons=(NOISE,)))
    noticed.gather(75)
    owe(
        project,
        Shot(80, image_type="URB2", chip="REDL", status=Status.NOMINAL),  # of another type
        Shot(90, status=Status.NOMINAL, frame="well"),
        Shot(100, reasons=(DIM,)),
    )
    assert noticed.gather(120) == 1
    with project.reads() as session:
        [ended] = silences(session, ended=True)
        assert ended.ended_at == JUDGED + timedelta(minutes=90)
        assert ended.ended_why == "well[1] is nominal"


def test_the_silence_of_an_absence_ends_when_it_has_come(project, watch):
    with project.writes.begin() as session:
        words = "No URB1 came for eight days."
        db.alerts.owe_alert(
            session, Topic.ABSENCE, "URB1", words, instrument="UVES", image_type="URB1"
        )
        session.scalars(select(AlertRow)).one().owed_at = JUDGED
    watch.gather(60)
    hush(project, None, nominal=True)
    owe(project, Shot(90, status=Status.NOMINAL, frame="came"))
    watch.gather(95)
    with project.reads() as session:
        assert [row.ended_why for row in silences(session, ended=True)] == ["came[1] is nominal"]


def test_a_silence_with_both_ends_ends_with_the_first(project, noticed):
    with project.writes.begin() as session:
        silence(session, 1, JUDGED + 2 * HOUR, True, "kim", JUDGED + HOUR)
    owe(project, Shot(150, status=Status.NOMINAL))
    noticed.gather(180)
    with project.reads() as session:
        assert silences(session, ended=True)[0].ended_why == "its time was over"


def test_what_was_nominal_before_does_not_end_a_silence(project, noticed):
    owe(project, Shot(10, status=Status.NOMINAL))
    hush(project, None, nominal=True)
    noticed.gather(80)
    with project.reads() as session:
        assert len(silences(session)) == 1


def test_what_waits_when_a_silence_begins_is_silenced_too(project, noticed):
    owe(project, Shot(59, reasons=(NOISE,)))
    hush(project, JUDGED + 24 * HOUR)
    assert noticed.gather(61) == 0


@pytest.mark.usefixtures("noticed")
def test_nothing_that_a_person_said_is_overwritten(project):
    hush(project, JUDGED + 24 * HOUR)
    hush(project, JUDGED + 48 * HOUR)
    with project.writes.begin() as session:
        acknowledge(session, 1, "kim", JUDGED, "it is the lamp")
        acknowledge(session, 1, "lee", JUDGED + HOUR)
    with project.reads() as session:
        said = session.scalars(select(AcknowledgementRow).order_by(AcknowledgementRow.id))
        assert [(one.who, one.note) for one in said] == [("kim", "it is the lamp"), ("lee", "")]
        assert len(session.scalars(select(SilenceRow)).all()) == 2


@pytest.mark.parametrize(
    ("until", "nominal", "words"),
    [(None, False, "needs an end"), (JUDGED, False, "would be over already")],
)
def test_a_silence_that_cannot_be_is_refused(project, noticed, until, nominal, words):
    assert noticed.owed()
    with project.writes.begin() as session, pytest.raises(InvalidInputError, match=words):
        silence(session, 1, until, nominal, "kim", JUDGED + HOUR)


def test_a_notice_that_does_not_exist_is_told(project):
    with project.writes.begin() as session, pytest.raises(InvalidInputError, match="no notice 7"):
        acknowledge(session, 7, "kim", JUDGED)


@pytest.mark.parametrize(
    ("words", "span"), [("30m", HOUR / 2), ("12h", 12 * HOUR), (" 7d ", 7 * DAY)]
)
def test_a_span_is_written_in_minutes_hours_or_days(words, span):
    assert read_span(words) == span


@pytest.mark.parametrize("words", ["", "7", "d", "-1d", "0h", "1w", "1.5h", "999999d", "7d\n7d"])
def test_what_is_no_span_is_refused(words):
    with pytest.raises(InvalidInputError, match="expected a time like 30m, 12h or 7d"):
        read_span(words)


# --- reports --------------------------------------------------------------------------------------


def test_a_report_goes_to_those_who_asked_for_reports(project):
    wants = Subscription(to=(LEE,), topics=("report",), image_types=("URW*",))
    settings = subscribed(project.settings, Subscription(to=(KIM,)), wants)
    page = Path("reports") / "2026-11-19.html"
    with project.writes.begin() as session:
        assert owe_report(session, settings, page, "[QC] report", NIGHT, JUDGED) == 1
        assert owe_report(session, settings, page, "[QC] report", NIGHT, JUDGED) == 1
    with project.reads() as session:
        [row] = session.scalars(select(NotificationRow))
        assert (row.topic, row.file, row.deliveries[0].address) == ("report", str(page), LEE)
        assert open_notices(session) == []


def test_a_report_that_nobody_asked_for_leaves_no_trace(project):
    settings = subscribed(project.settings)
    with project.writes.begin() as session:
        assert owe_report(session, settings, Path("x.html"), "[QC] report", NIGHT, JUDGED) == 0
        assert session.scalars(select(NotificationRow)).all() == []


def test_the_record_says_what_is_open_who_was_told_and_what_waits(project, noticed):
    owe(project, Shot(59, image_type="URW1", reasons=(DIM,)))
    with project.reads() as session:
        record = alerts_record(session)
    assert (record["open"], record["waiting"]) == (1, 1)
    [notice] = record["notices"]
    assert notice["deliveries"][0]["address"] == KIM
    assert notice["deliveries"][0]["sent_at"] == JUDGED + HOUR
    with project.writes.begin() as session:
        acknowledge(session, 1, "kim", JUDGED)
        assert alerts_record(session)["notices"] == []
        assert len(alerts_record(session, every=True)["notices"]) == 1
    assert noticed.owed()


def test_gathering_without_instruments_reads_those_of_the_settings(project):
    settings = subscribed(project.settings, Subscription(to=(KIM,), arms=("red",)))
    owe(project, Shot())
    with project.writes.begin() as session:
        assert gather_alerts(session, settings, JUDGED + HOUR) == 1
        assert session.scalars(select(DeliveryRow.address)).all() == [KIM]
