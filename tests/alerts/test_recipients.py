from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from qc import db
from qc.alerts.notifications import acknowledge, open_notifications
from qc.alerts.report_mail import queue_report
from qc.core.enums import LabelName, Topic
from qc.db.labels import LabelAnswer
from qc.db.schema.models import (
    AlertRow,
    DeliveryRow,
    NotificationRow,
)
from qc.settings import Subscription
from tests.alerts.gathering import CHAIN, HOUR, KIM, LEE, PAT, Dispatcher, subscribed
from tests.support.alert_rows import (
    JUDGED,
    NIGHT,
    Shot,
    add_alerts,
)


def test_daemon_alert_reaches_subscriptions_of_any_instrument(project):
    dispatcher = Dispatcher(project, Subscription(to=(KIM,), instruments=("UVES",), least_score=5))
    with project.write_session.begin() as session:
        db.operations.add_alert(session, Topic.DAEMON, "disk", "The disk is full.")
        session.scalars(select(AlertRow)).one().owed_at = JUDGED
    assert dispatcher.gather() == 1
    assert dispatcher.recipients() == [(1, KIM)]
    assert dispatcher.subjects() == ["[QC] The disk is full."]


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
    second = Subscription(to=("Kim@Example.org",), arms=("red",))
    dispatcher = Dispatcher(project, Subscription(to=(KIM,)), second)
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
